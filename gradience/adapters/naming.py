"""The one name under which PEFT saves a tensor, and finds it again.

Other tools, and dumps of a live model, write the same tensor under other names: an adapter's name in the middle,
`_orig_mod` of torch.compile, no `base_model.model.` in front. `PeftModel.from_pretrained` looks tensors up by their
exact name and skips what it does not find, so that such an adapter does nothing, in silence.
Source: PEFT 0.21, tuners/tuners_utils.py, `_remap_adapter_state_dict_for_load`; utils/save_and_load.py.
"""

from __future__ import annotations

from typing import Literal

from gradience.adapters.keys import Kind, Role, parse_key

PREFIX = "base_model.model."
DEFAULT_ADAPTER = "default"
"""The name that `PeftModel.from_pretrained` gives an adapter where no other is asked for."""

_SUFFIX: dict[Role, str] = {
    "A": ".lora_A.weight",
    "B": ".lora_B.weight",
    "embedding_A": ".lora_embedding_A",
    "embedding_B": ".lora_embedding_B",
    "magnitude": ".lora_magnitude_vector",
    "lora_bias": ".lora_B.bias",
}
_NAMED_AFTER = frozenset(("modules_to_save", "trainable_tokens_delta"))
"""Parts of a live model's names that the adapter's name follows; in a saved file it is gone."""


def peft_name(name: str, adapter: str | None = None) -> str:
    """The name of the tensor in a file that PEFT saves.

    >>> peft_name("_orig_mod.base_model.model.layers.0.q_proj.lora_A.ranking.weight", "ranking")
    'base_model.model.layers.0.q_proj.lora_A.weight'

    adapter: name of the adapter that the tensor belongs to, where the file carries one.
    """
    key = parse_key(name)
    if key.role != "other":
        return PREFIX + key.module + ".base_layer" * key.depth + _SUFFIX[key.role]
    parts: list[str] = []
    for part in key.module.split("."):
        if parts and parts[-1] in _NAMED_AFTER and part in (adapter, DEFAULT_ADAPTER):
            continue
        parts.append(part)
    # `classifier.modules_to_save.default.weight` is saved as `classifier.weight`.
    return PREFIX + ".".join(
        part for index, part in enumerate(parts) if not index or part != "modules_to_save"
    )


def factor_name(tensor: str, module: str, kind: Kind, side: Literal["A", "B"]) -> str:
    """The name, in a file that PEFT saves, of a module's factor `side`, which another format calls `tensor`.

    >>> factor_name("layers.0.q_proj/down", "layers.0.q_proj", "linear", "A")
    'base_model.model.layers.0.q_proj.lora_A.weight'
    """
    if parse_key(tensor).role != "other":
        return peft_name(tensor)
    return PREFIX + module + (f".lora_embedding_{side}" if kind == "embedding" else f".lora_{side}.weight")


def is_applied(name: str, adapter: str | None = None) -> bool:
    """Whether `PeftModel.from_pretrained` finds a tensor of this name: PEFT's own, or a live model's with `default`."""
    key = parse_key(name)
    saved = peft_name(name, adapter)
    if key.role == "other":
        return name == saved
    names = (saved, saved + ".weight") if key.role == "magnitude" else (saved,)
    return (name.replace(f".{DEFAULT_ADAPTER}", "") if key.adapter == DEFAULT_ADAPTER else name) in names
