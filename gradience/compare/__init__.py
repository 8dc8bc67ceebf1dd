"""Two adapters, module by module: how far apart the updates are."""
