"""How far a run is, read from its folder: manifests, running stages, failures. Nothing is touched."""
