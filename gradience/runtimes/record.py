"""Results of each runtime on the adapters that were run (`runs.json`), and an adapter's content in the same
terms.

>>> sorted(parts_of({"r": 8, "use_rslora": True},
["base_model.model.model.layers.3.mlp.up_proj.lora_A.weight"]))
['LoRA', 'LoRA on model.layers.*.mlp.up_proj', 'use_rslora']
"""

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from gradience.adapters.keys import Key, parse_key
from gradience.ranks import VLLM_MAX_LORA_RANKS
from gradience.reading import MAX_SETTINGS_BYTES, read_file

Parts = frozenset[str]
ON = " on "
"""Between a kind of tensor and its module."""
NEUTRAL = frozenset((
    # The tensors say it better.
    "r", "lora_alpha", "target_modules",
    # Origin and training of the adapter.
    "auto_mapping", "base_model_name_or_path", "inference_mode", "lora_dropout", "peft_type", "peft_version",
    "revision", "runtime_config", "task_type",
    # Read only if another setting requires it.
    "corda_config", "eva_config", "loftq_config", "lora_ga_config", "megatron_core", "qalora_group_size",
))  # fmt: skip
"""Settings that do not affect a runtime."""
SPOKEN = frozenset(("bias", "init_lora_weights", "modules_to_save"))
"""Settings whose value matters; of the others it matters that they are used."""
FACTORS: Mapping[str, str] = {
    "A": "LoRA",
    "B": "LoRA",
    "embedding_A": "LoRA of an embedding",
    "embedding_B": "LoRA of an embedding",
    "magnitude": "DoRA magnitude",
    "lora_bias": "bias of lora_B",
}


def parts_of(config: Mapping[str, Any], tensors: Iterable[str], largest_rank: int = 0) -> Parts:
    """Return the parts of an adapter with this adapter_config.json, tensors of these names, and this largest rank.

    A kind of tensor is a part, and so is each type of module that has it: layers are not distinguished.
    """
    kinds = {_kind(parse_key(name)) for name in tensors}
    parts = {kind for kind, _ in kinds} | {f"{kind}{ON}{module}" for kind, module in kinds}
    parts |= {setting for key, value in config.items() if (setting := _setting(key, value))}
    if largest_rank > VLLM_MAX_LORA_RANKS[-1]:
        parts.add(f"a rank above {VLLM_MAX_LORA_RANKS[-1]}")
    return frozenset(parts)


def is_general(part: str) -> bool:
    """Return True for a kind of tensor wherever it is, and for settings."""
    return ON not in part


def _kind(key: Key) -> tuple[str, str]:
    path = key.module.split(".")
    if key.role != "other":
        return FACTORS[key.role], _starred(path) + ".base_layer" * key.depth
    if path[-1].startswith("trainable_tokens"):
        return "token rows", _starred(path[:-2])
    return "bias" if path[-1] == "bias" else "full weight", _starred(path[:-1])


def _starred(path: list[str]) -> str:
    """`model.layers.3.mlp.up_proj` is one of `model.layers.*.mlp.up_proj`."""
    return ".".join("*" if part.isdecimal() else part for part in path)


def _setting(key: str, value: Any) -> str:
    """A setting that is used, in words; empty for a neutral one, and for PEFT's default."""
    if key == "target_modules" and isinstance(value, str) and value != "all-linear":
        return "target_modules as an expression"
    if key == "lora_alpha" and value == 0:
        return "lora_alpha: 0"
    if key in NEUTRAL or not value or (key, value) in (("bias", "none"), ("init_lora_weights", True)):
        return ""
    if key not in SPOKEN:
        return key
    shown = ", ".join(sorted({str(item) for item in value})) if isinstance(value, list | tuple) else value
    return f"{key}: {shown}"


RUNS = Path(__file__).with_name("runs.json")


class RuntimeFailure(NamedTuple):
    """A failure of a runtime: an error or a wrong result.

    parts: parts of the adapters that failed, beyond those it loads.   says: the runtime's own message.
    No parts: it fails for every adapter.
    """

    parts: Parts
    says: str


class Runs(NamedTuple):
    """The runs of one runtime on one architecture.

    loads: parts of adapters that it loaded with the scale of its rule (see `scales`); only the largest sets.
    """

    loads: tuple[Parts, ...]
    refuses: tuple[RuntimeFailure, ...]
    wrong: tuple[RuntimeFailure, ...]


class RuntimeRecord(NamedTuple):
    """One version of a runtime. page: documentation page of its runs."""

    runtime: str
    version: str
    date: str
    page: str
    architectures: Mapping[str, Runs]


@cache
def read_runs() -> tuple[RuntimeRecord, ...]:
    """Read those that Gradience is shipped with, in the order of the file."""
    return parse_runs(read_file(RUNS, MAX_SETTINGS_BYTES).decode())


def parse_runs(text: str) -> tuple[RuntimeRecord, ...]:
    """Read the records of a file like `runs.json`."""
    return TypeAdapter(tuple[RuntimeRecord, ...]).validate_json(text)
