"""`from gradience.vnext.integrations.hf import GradienceCallback`: the published name of the callback."""

from gradience.live.callback import GradienceCallback

__all__ = ["GradienceCallback"]
