"""What a config says beside ranks, scales and targets that a retraining of the same adapter needs as well."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gradience.adapters.config import PeftConfig
from gradience.reports.audit import Setting

MAX_ITEMS = 1000
"""Names or numbers of one setting. Strangers' configs had at most a few dozen."""


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**31


def _list_of(value: Any, kind: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and 0 < len(value) <= MAX_ITEMS and all(map(kind, value))


def _text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_ITEMS


def _texts(value: Any) -> bool:
    return _list_of(value, _text)


def _counts(value: Any) -> bool:
    return _list_of(value, _count)


def _pairs(value: Any) -> bool:
    return _list_of(value, _counts)


def _tokens(value: Any) -> bool:
    named = isinstance(value, dict) and len(value) <= MAX_ITEMS
    return _counts(value) or (named and all(_text(key) and _counts(item) for key, item in value.items()))


def _on(value: Any) -> bool:
    return value is True


SETTINGS: Mapping[str, Callable[[Any], bool]] = {
    "bias": lambda value: value in ("all", "lora_only"),
    "lora_dropout": lambda value: type(value) in (int, float) and 0 < value < 1,
    "modules_to_save": _texts,
    "exclude_modules": lambda value: _text(value) or _texts(value),
    "target_parameters": _texts,
    "fan_in_fan_out": _on,
    "lora_bias": _on,
    "trainable_token_indices": _tokens,
    "ensure_weight_tying": _on,
    "layer_replication": _pairs,
    "alora_invocation_tokens": _counts,
    "init_lora_weights": lambda value: value == "gaussian",
}
"""Field of LoraConfig -> whether a value is one that is not the default and that PEFT 0.21 understands."""


def settings_of(config: PeftConfig) -> dict[str, Setting]:
    """The fields of SETTINGS that say something, in that order. Anything else in the file is left alone."""
    return {name: config.fields[name] for name, fits in SETTINGS.items() if fits(config.fields.get(name))}
