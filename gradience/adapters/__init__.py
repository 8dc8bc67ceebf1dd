"""An adapter on disk <-> LoRA modules, one module in memory at a time."""
