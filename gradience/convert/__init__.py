"""An adapter in one format -> the same adapter in another, nothing truncated; one writer a file."""
