"""A truncated adapter, trained for a few steps to answer as the original does: distillation without labels."""
