"""Every JSON file that Gradience writes, as frozen typed models, versioned by name."""
