"""The verdict of each runtime on an adapter: from runs of adapters that hold the same, and the scale it computes.

`runs.json` holds what each runtime did with the adapters that were run. `parts_of` describes an adapter in the same
terms:

>>> sorted(parts_of({"r": 8, "use_rslora": True},
["base_model.model.model.layers.3.mlp.up_proj.lora_A.weight"]))
['LoRA', 'LoRA on model.layers.*.mlp.up_proj', 'use_rslora']
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from gradience.adapters.adapter import Adapter
from gradience.adapters.base import architecture_of
from gradience.adapters.config import DEFAULT_RANK, PeftConfig, config_of
from gradience.adapters.keys import Key, parse_key
from gradience.ranks import VLLM_MAX_LORA_RANKS, max_lora_rank_step, scale_of
from gradience.reading import MAX_SETTINGS_BYTES, read_file
from gradience.reports.compression import RuntimeVerdict, Verdict

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


# ---------------------------------------------------------------- scales

SCALE_SLACK = 1e-9
"""Two scales this close (relatively) are the same: they came from divisions."""


@dataclass(frozen=True)
class LoadedAdapter:
    """An adapter as a runtime finds it: its config, and the rank of every LoRA module on disk (per expert)."""

    config: Mapping[str, Any]
    ranks: Mapping[str, int]

    @cached_property
    def settings(self) -> PeftConfig:
        """The config as PEFT reads it."""
        return config_of(Path("adapter_config.json"), {"peft_type": "LORA", **self.config})

    @property
    def largest(self) -> int:
        """The largest rank, of the config and of the tensors."""
        return max((self.settings.r or DEFAULT_RANK, *self.ranks.values()))


Scale = Callable[[LoadedAdapter, str], float]
"""The scale that a runtime gives the module of this name."""


def peft_scale(adapter: LoadedAdapter, module: str) -> float:
    """Return the scale in PEFT (0.21, tuners/lora/layer.py) and in vLLM 0.32 (lora/peft_helper.py).

    The first pattern that matches a module gives its α and its rank.
    """
    settings = adapter.settings
    alpha, rank = settings.alpha_of(module), settings.rank_of(module)
    return settings.scale(settings.lora_alpha if alpha is None else alpha, rank or DEFAULT_RANK) or 0.0


def config_scale(adapter: LoadedAdapter, module: str) -> float:
    """Return the scale in PEFT's hotswap: the config's α and r for every module, with rsLoRA."""
    return adapter.settings.scale(adapter.settings.lora_alpha, adapter.settings.r or DEFAULT_RANK) or 0.0


def gguf_scale(adapter: LoadedAdapter, module: str) -> float:
    """Return the scale in llama.cpp (llama-adapter.h): the config's α over the tensor's rank; 1 if α = 0."""
    alpha = adapter.settings.lora_alpha
    return scale_of(alpha, adapter.ranks[module], use_rslora=False) if alpha else 1.0


def wrong_scale(scale: Scale, adapter: LoadedAdapter) -> str:
    """Describe the modules whose scale differs from PEFT's; empty if there are none."""
    wrong = [
        module
        for module in adapter.ranks
        if not math.isclose(scale(adapter, module), peft_scale(adapter, module), rel_tol=SCALE_SLACK)
    ]
    if not wrong:
        return ""
    first = wrong[0]
    used, meant = scale(adapter, first), peft_scale(adapter, first)
    return f"{len(wrong)} of {len(adapter.ranks)} modules; {first} gets {used:.4g}, not {meant:.4g}"


class Runtime(NamedTuple):
    """A runtime. `scale` was checked against the runtime's output; `needs` lists its requirements, in words."""

    scale: Scale
    needs: Callable[[LoadedAdapter], str] = lambda adapter: ""


def _slot(adapter: LoadedAdapter) -> str:
    return (
        f"in place of an adapter of use_rslora {adapter.settings.use_rslora}, rank {adapter.largest} or more, "
        "and the same lora_dropout"
    )


def _allocated(adapter: LoadedAdapter) -> str:
    return f"with --max-lora-rank {max_lora_rank_step(adapter.largest)} or more"


RUNTIMES: dict[str, Runtime] = {
    "PEFT": Runtime(peft_scale),
    "PEFT hotswap": Runtime(config_scale, _slot),
    "vLLM": Runtime(peft_scale, _allocated),
    "llama.cpp": Runtime(gguf_scale),
}
"""By the names of `runs.json`."""


ENGINE = "vLLM"
SLOT_BYTES = 2
"""Bytes per number: adapters are stored in the base's 16-bit type (`lora_dtype: auto`)."""


def engine() -> str:
    """Return the engine and its version that was run: `vLLM 0.32.0`."""
    return next(f"{ENGINE} {record.version}" for record in read_runs() if record.runtime == ENGINE)


def not_served(adapter: Adapter) -> str:
    """Return why the engine cannot load an adapter; empty if it loads such adapters, or if that was not run.

    GPT-2 is recognized without its config: only its Conv1D modules are called `c_attn` and have `fan_in_fan_out`.
    """
    config = adapter.config
    if not adapter.loads_in_peft or config is None:
        return f"{adapter.format} format; vLLM loads only PEFT adapters"
    mapping = config.fields.get("auto_mapping")
    library = mapping.get("parent_library") if isinstance(mapping, dict) else None
    if isinstance(library, str) and library.partition(".")[0] != "transformers":
        return f"its base model is a class of {library}, not of transformers; not tested in vLLM"
    architecture = architecture_of(config, adapter.location.root)
    if architecture is None and config.fields.get("fan_in_fan_out") is True:
        conv1d = any(pair.module.endswith(".attn.c_attn") for pair in adapter.pairs)
        architecture = "GPT2LMHeadModel" if conv1d else None
    verdict = next(row for row in verdicts(adapter, architecture) if row.runtime == ENGINE)
    if verdict.verdict in ("loads", "not run"):
        return ""
    return verdict.why if verdict.verdict == "refuses" else f"{verdict.verdict}: {verdict.why}"


def slot_bytes(width: float, max_lora_rank: int) -> int:
    """Return the bytes of one slot: A is (max_lora_rank, n) and B (m, max_lora_rank) of every module, zeros
    included.

    width: Σ(m + n) over the modules with LoRA. The result is a lower bound, since vLLM allocates memory for
    every module of the model that can have LoRA (or those in `lora_target_modules`, if set), embedding and
    head included, even if no adapter uses it. Source: `create_lora_weights` of vLLM 0.32.0,
    lora/layers/base_linear.py; checked against its allocation for every linear module of SmolLM2-135M
    (docs/conformance/vllm_slots.json).
    """
    return math.ceil(SLOT_BYTES * width * max_lora_rank)


def steps_below(rank: int) -> tuple[int, ...]:
    """Return vLLM's permitted max_lora_rank below the one that holds `rank`, from the next one down."""
    holding = next((step for step in VLLM_MAX_LORA_RANKS if rank <= step), math.inf)
    return tuple(step for step in reversed(VLLM_MAX_LORA_RANKS) if step < holding)


UNKNOWN = "the architecture is unknown. Add --base-model DIR, the folder with the base model's config.json"
USUAL_TYPES = frozenset(("F32", "F16", "BF16"))
"""Storage types that need no run of their own; any other type counts as tested only if a run used it."""
NAMED_PARTS = 2
"""Parts that a sentence names before it counts."""


def verdicts(adapter: Adapter, architecture: str | None) -> tuple[RuntimeVerdict, ...]:
    """Return one verdict per tested runtime on an open PEFT adapter.

    architecture: class of the base model (see `architecture_of`); if None, every verdict is "not run".
    """
    fields = adapter.config.fields if adapter.config else {}
    written = LoadedAdapter(fields, {pair.module: pair.rank for pair in adapter.pairs})
    parts = parts_of(fields, (name for name, _ in adapter.entries()), written.largest)
    types = {factor.entry.dtype.name for pair in adapter.pairs for factor in (pair.a, pair.b)}
    parts |= {f"factors stored as {name}" for name in types - USUAL_TYPES}
    return tuple(verdict_of(record, written, parts, architecture) for record in read_runs())


def verdict_of(
    record: RuntimeRecord, adapter: LoadedAdapter, parts: Parts, architecture: str | None
) -> RuntimeVerdict:
    """Return the verdict of one runtime. Pure."""
    runs = record.architectures.get(architecture or "")
    if runs is None:
        verdict: Verdict = "not run"
        why = UNKNOWN if architecture is None else f"with {architecture}"
    else:
        verdict, why = _from_runs(record.runtime, runs, adapter, parts)
    page = "" if verdict == "not run" else record.page
    return RuntimeVerdict(runtime=record.runtime, version=record.version, verdict=verdict, why=why, run=page)


def _from_runs(runtime: str, runs: Runs, adapter: LoadedAdapter, parts: Parts) -> tuple[Verdict, str]:
    for finding in runs.refuses:
        if finding.parts <= parts:
            return "refuses", f"{named(finding.parts)}: {finding.says}" if finding.parts else finding.says
    for finding in runs.wrong:
        if finding.parts <= parts:
            return "wrong meaning", named(finding.parts)
    if not any(parts <= loaded for loaded in runs.loads):
        missing = min((parts - loaded for loaded in runs.loads), key=len, default=parts)
        return "not run", f"with {named(missing)}"
    wrong = wrong_scale(RUNTIMES[runtime].scale, adapter)
    return ("wrong scale", wrong) if wrong else ("loads", RUNTIMES[runtime].needs(adapter))


def named(parts: Parts) -> str:
    """Return the parts in words, those that say most first."""
    general = sorted(part for part in parts if is_general(part))
    words: Sequence[str] = general or sorted(parts)
    rest = len(words) - NAMED_PARTS
    return ", ".join(words[:NAMED_PARTS]) + (f" and {rest} more" if rest > 0 else "")
