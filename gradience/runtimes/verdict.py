"""The verdict of each runtime on an adapter: from runs of adapters that hold the same, and the scale it computes."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from gradience.adapters.adapter import Adapter
from gradience.adapters.config import DEFAULT_RANK, PeftConfig, config_of
from gradience.ranks import VLLM_MAX_LORA_RANKS, max_lora_rank_step, scale_of
from gradience.reports.compression import RuntimeVerdict, Verdict
from gradience.runtimes.architecture import architecture_of
from gradience.runtimes.record import Parts, Runs, RuntimeRecord, is_general, parts_of, read_runs

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
