"""A PeftModel in memory, as a folder that the reader knows. torch and PEFT are never imported here: who has such a
model has imported them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gradience.adapters.foreign import refuse_method
from gradience.adapters.locate import WEIGHTS
from gradience.errors import InputError
from gradience.words import listed


def is_peft_model(value: object) -> bool:
    """Whether `value` is a PeftModel."""
    peft = sys.modules.get("peft")
    return peft is not None and isinstance(value, peft.PeftModel)


@contextmanager
def as_folder(model: Any, adapter: str | None) -> Iterator[Path]:
    """Yield a temporary folder with one adapter of `model`, named after its class; the model stays as it is.

    adapter: its name; the active one by default. Raises InputError for one that is not there, or is no LoRA.
    """
    name = adapter or _active(model)
    config = model.peft_config.get(name)
    shown = Path(type(model).__name__)
    if config is None:
        raise InputError(
            f"{shown}: contains no adapter called {name!r}, only {listed(list(model.peft_config))}",
            code="no-such-adapter",
            hint=f"adapter={next(iter(model.peft_config))!r}",
        )
    if config.peft_type != "LORA":
        raise refuse_method(shown, str(getattr(config.peft_type, "value", config.peft_type)))
    # Without the whole embeddings that PEFT may save beside the factors: it would ask the hub about them.
    state = sys.modules["peft"].get_peft_model_state_dict(
        model, adapter_name=name, save_embedding_layers=False
    )
    copies = {key: tensor.detach().to("cpu", copy=True).contiguous() for key, tensor in state.items()}
    with TemporaryDirectory(prefix="gradience-") as scratch:
        folder = Path(scratch) / shown
        config.save_pretrained(str(folder))
        import_module("safetensors.torch").save_file(copies, folder / WEIGHTS)
        yield folder


def _active(model: Any) -> str:
    names: list[str] = list(model.active_adapters)
    if len(names) != 1:
        raise InputError(
            f"{type(model).__name__}: {len(names)} adapters are active: {listed(names)}",
            code="several-adapters",
            hint=f"name one: adapter={names[0]!r}" if names else "call model.set_adapter first",
        )
    return names[0]
