"""The formats that `gradience convert` writes."""

from gradience.compress.forms import FORMS
from gradience.convert.gguf import write_gguf
from gradience.convert.peft import write_peft
from gradience.convert.written import OutputFormat, write_form
from gradience.errors import UsageError, did_you_mean


def _formed(name: str) -> OutputFormat:
    return OutputFormat(lambda opened, folder, base: write_form(FORMS[name], opened, folder))


TARGETS: dict[str, OutputFormat] = {
    "peft": OutputFormat(write_peft),
    "mlx": _formed("mlx"),
    "gguf": OutputFormat(write_gguf, asks_base=True),
    "diffusers": _formed("diffusers"),
}


def target_of(name: str) -> OutputFormat:
    """Return the format of this name. Raises UsageError (unknown-target)."""
    if name not in TARGETS:
        raise UsageError(
            f"{name!r} is not a format that convert can write",
            code="unknown-target",
            hint=did_you_mean(name, TARGETS, f"one of: {', '.join(TARGETS)}"),
        )
    return TARGETS[name]
