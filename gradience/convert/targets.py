"""Every format that is written, by the name that `gradience convert --to` takes. A new one is a file and a line."""

from __future__ import annotations

from gradience.compress.forms import FORMS
from gradience.convert.formed import write_form
from gradience.convert.gguf import write_gguf
from gradience.convert.peft import write_peft
from gradience.convert.written import Target
from gradience.errors import UsageError, did_you_mean


def _formed(words: str, name: str) -> Target:
    return Target(words, lambda opened, folder, base: write_form(FORMS[name], opened, folder))


TARGETS: dict[str, Target] = {
    "peft": Target("adapter_config.json and adapter_model.safetensors, as PEFT saves them", write_peft),
    "mlx": _formed("adapter_config.json and adapters.safetensors, as mlx-lm saves them", "mlx"),
    "gguf": Target("adapter.gguf, as llama.cpp's converter writes it", write_gguf, asks_base=True),
    "diffusers": _formed("pytorch_lora_weights.safetensors, as diffusers saves it", "diffusers"),
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
