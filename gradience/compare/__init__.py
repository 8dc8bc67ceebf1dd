"""Two adapters, module by module: how far apart the updates are, and whether the runs are independent."""
