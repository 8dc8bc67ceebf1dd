"""A truncated adapter, trained for a few steps to match the reference adapter: distillation without labels."""
