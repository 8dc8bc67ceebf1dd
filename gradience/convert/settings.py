"""Settings of a conversion: flags and keywords of Python under the same names."""

from dataclasses import KW_ONLY
from typing import Annotated

from gradience.adapters.settings import NameSettings, ReadSettings
from gradience.settings import Flag, OutputPath, StrPath, settings_model


def _targets() -> list[str]:
    from gradience.convert.verb import TARGETS

    return list(TARGETS)


@settings_model()
class ConvertSettings(ReadSettings, NameSettings):
    """Conversion."""

    path: Annotated[StrPath, Flag("ADAPTER")]
    """Adapter in any supported format, or org/name on the hub."""
    output: Annotated[OutputPath, Flag("DIR", positional=True)]
    """Folder of the converted adapter."""
    _: KW_ONLY
    to: Annotated[str, Flag("FORMAT", values=_targets)] = "peft"
    """Format to write: peft, mlx, gguf or diffusers."""
    base_model: Annotated[StrPath | None, Flag("NAME")] = None
    """For gguf: base model, a folder or a name on the hub, whose config.json determines the module names."""
    force: bool = False
    """Replace an existing adapter folder."""
