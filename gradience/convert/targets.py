"""Every format that is written, by the name that `gradience convert --to` takes. A new one is a file and a line."""

from __future__ import annotations

from gradience.convert.peft import write_peft
from gradience.convert.written import Target
from gradience.errors import UsageError, did_you_mean

TARGETS: dict[str, Target] = {
    "peft": Target("adapter_config.json and adapter_model.safetensors, as PEFT saves them", write_peft),
}


def target_of(name: str) -> Target:
    """Return the format of this name. Raises UsageError (unknown-target)."""
    if name not in TARGETS:
        raise UsageError(
            f"{name!r} is no format that is written",
            code="unknown-target",
            hint=did_you_mean(name, TARGETS, f"one of: {', '.join(TARGETS)}"),
        )
    return TARGETS[name]
