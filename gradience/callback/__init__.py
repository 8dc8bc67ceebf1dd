"""The Trainer callback: one line in a training script, `callbacks=[GradienceCallback()]`."""

from gradience.callback.hooks import GradienceCallback

__all__ = ["GradienceCallback"]
