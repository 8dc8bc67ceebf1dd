"""The verdict of each runtime: the worst that any of its rules says, and what the verdict rests on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from gradience.artifacts.compression import RuntimeVerdict, Verdict
from gradience.runtimes import rules
from gradience.runtimes.rules import Rule
from gradience.runtimes.table import RUNTIMES, Runtime
from gradience.runtimes.written import Module, Written

FEATURES: Mapping[str, Rule] = {
    "DoRA": rules.dora,
    "lora_bias": rules.lora_bias,
    "bias": rules.bias,
    "token rows": rules.token_rows,
    "modules_to_save": rules.saved_modules,
    "embedding": rules.embedding,
    "convolution": rules.convolution,
    "experts": rules.experts,
    "changed base": rules.changed_base,
    "aLoRA": rules.alora,
    "layer_replication": rules.replication,
    "BD-LoRA": rules.block_diagonal,
    "QA-LoRA": rules.qalora,
}
"""What an adapter can use, beside ranks and scales of linear layers."""


def verdicts(
    config_after: Mapping[str, Any], modules: Iterable[tuple[str, int, int, int, str]]
) -> tuple[RuntimeVerdict, ...]:
    """One verdict per runtime on an adapter with this adapter_config.json and these modules.

    modules: (name, rank on disk per expert, rows, columns, kind); kind is linear, embedding, conv or expert.
    """
    adapter = Written(config_after, [Module(*module) for module in modules])
    return tuple(judge(runtime, adapter) for runtime in RUNTIMES)


def judge(runtime: Runtime, adapter: Written) -> RuntimeVerdict:
    """The verdict of one runtime."""
    verdict, why = _worst(runtime, adapter)
    return RuntimeVerdict(
        runtime=runtime.name,
        version=runtime.version,
        verdict=verdict,
        basis=_basis(runtime, adapter),
        why=why,
    )


def _worst(runtime: Runtime, adapter: Written) -> tuple[Verdict, str]:
    if not adapter.certain:
        return "unknown", "a key of rank_pattern or alpha_pattern could not be evaluated"
    groups: tuple[tuple[Verdict, tuple[Rule, ...]], ...] = (
        ("refuses", runtime.refuses),
        ("wrong meaning", runtime.leaves_out),
        ("wrong scale", (*runtime.misreads, partial(rules.wrong_scale, runtime.scale))),
        ("unknown", runtime.not_known),
    )
    for verdict, group in groups:
        reasons = [why for rule in group if (why := rule(adapter))]
        if reasons:
            return verdict, "; ".join(reasons)
    return "loads", runtime.advice(adapter)


def features(adapter: Written) -> frozenset[str]:
    """What the adapter uses of `FEATURES`."""
    return frozenset(name for name, rule in FEATURES.items() if rule(adapter))


def _basis(runtime: Runtime, adapter: Written) -> str:
    """A run, where recorded runs cover everything that the adapter uses."""
    if runtime.record and features(adapter) <= runtime.ran:
        return f"run: {runtime.record}"
    return f"by source of version {runtime.version}, not run"
