"""Controls: one file each, registered in `gradience.bench.arms.registry`."""
