"""Single values as files have them: typed, or named as unreadable with what they should be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gradience.adapters.strict_json import LARGEST, SMALLEST
from gradience.arguments import is_number


class Unreadable(ValueError):
    """The value is of the wrong kind; the message says what it should be."""


def text(value: Any) -> str:
    if isinstance(value, (str, bool, int, float)):
        return str(value)
    raise Unreadable("a word")


def integer(value: Any) -> int:
    """Read 16 and 16.0, not true, not "16"."""
    if not is_number(value) or not abs(value) <= LARGEST or value % 1:
        raise Unreadable("a whole number")
    return int(value)


def number(value: Any) -> float:
    """Read a number; "2e-4" as a string is what YAML 1.1 makes of 2e-4, and is taken."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise Unreadable("a number") from None
    if not is_number(value):
        raise Unreadable("a number")
    if value and not SMALLEST <= abs(value) <= LARGEST:
        raise Unreadable(f"0, or a number between {SMALLEST:g} and {LARGEST:g}")
    return float(value)


def flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise Unreadable("true or false")


def negated(value: Any) -> bool:
    """Read the opposite of a switch: `completion_only_loss` against "the prompt is trained as well"."""
    return not flag(value)


def off_if_on(value: Any) -> bool | None:
    """Return False for a switch that is on; nothing for one that is off, which leaves the question to others."""
    return False if flag(value) else None


def given(value: Any) -> bool:
    """Return whether anything is set at all."""
    return bool(value)


def names(value: Any) -> tuple[str, ...]:
    """Read a list of names, or names between commas."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise Unreadable("a list of names")


def targets(value: Any) -> tuple[str, ...] | str:
    """Read a list of names, or one string: a regular expression or `all-linear`."""
    return value if isinstance(value, str) else names(value)


def targets_or_names(value: Any) -> tuple[str, ...] | str:
    """Read as `targets` does, where a plain string holds names between commas."""
    if isinstance(value, str) and value in ("all", "all-linear"):
        return "all-linear"
    return names(value)


def pattern(value: Any) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return {str(key): item for key, item in value.items()}
    raise Unreadable("a mapping of module patterns to numbers")


def init(value: Any) -> str:
    """Read `init_lora_weights`: a switch or a name."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return text(value)


def strategy(value: Any) -> str:
    """Read `no`, `steps` or `epoch`; YAML 1.1 reads `no` as false."""
    return "no" if value is False else text(value).lower()


Reader = Callable[[Any], Any]
READERS: Mapping[str, Reader] = {
    name: reader
    for reader, names in (
        (text, "base_model peft_type task_type bias optimizer schedule"),
        (integer, "r batch_size accumulation max_steps quantized_bits"),
        (number, "alpha dropout learning_rate weight_decay max_grad_norm epochs eval_steps save_steps"),
        (flag, "use_rslora use_dora lora_bias load_best prompt_loss"),
        (given, "target_parameters layers_to_transform layers_pattern loftq_config megatron"),
        (names, "modules_to_save"),
        (targets, "target_modules"),
        (pattern, "rank_pattern alpha_pattern"),
        (init, "init"),
        (strategy, "evaluation saving"),
    )
    for name in names.split()
}
"""Setting -> how its values are read, unless a dialect says otherwise."""
