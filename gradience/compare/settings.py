"""Settings of a comparison: flags and keywords of Python under the same names."""

from dataclasses import KW_ONLY
from typing import Annotated

from gradience.adapters.settings import WorkSettings
from gradience.settings import Flag, StrPath, settings_model


@settings_model()
class CompareSettings(WorkSettings):
    """Adapters."""

    a: Annotated[StrPath, Flag("A")]
    """The reference: an adapter folder, a .safetensors file or org/name."""
    b: Annotated[StrPath, Flag("B")]
    """The adapter to compare with it."""
    _: KW_ONLY
    adapter_a: Annotated[str | None, Flag("NAME")] = None
    """Name of the reference, if its folder or file contains several adapters."""
    adapter_b: Annotated[str | None, Flag("NAME")] = None
    """Name of the other adapter, if its folder or file contains several."""
