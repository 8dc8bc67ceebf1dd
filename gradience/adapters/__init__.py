"""Reading: an adapter on disk becomes LoRA modules, one module in memory at a time."""
