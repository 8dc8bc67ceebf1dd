"""The verdict of each runtime: the worst that any of its rules says, and what the verdict rests on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
    verdict, reasons = _worst(runtime, adapter)
    return RuntimeVerdict(
        runtime=runtime.name,
        version=runtime.version,
        verdict=verdict,
        basis=_basis(runtime, adapter, verdict, [rule for rule, _ in reasons]),
        why="; ".join(why for _, why in reasons),
    )


def _worst(runtime: Runtime, adapter: Written) -> tuple[Verdict, list[tuple[Rule, str]]]:
    """The worst verdict, and the rules that say so, each with its words."""
    groups: tuple[tuple[Verdict, tuple[Rule, ...]], ...] = (
        ("unknown", (rules.unclear_patterns,)),
        ("refuses", runtime.refuses),
        ("wrong meaning", runtime.leaves_out),
        ("wrong scale", (*runtime.misreads, partial(rules.wrong_scale, runtime.scale))),
        ("unknown", runtime.not_known),
        ("loads", (runtime.advice,)),
    )
    for verdict, group in groups:
        reasons = [(rule, why) for rule in group if (why := rule(adapter))]
        if reasons:
            return verdict, reasons
    return "loads", []


def features(adapter: Written) -> frozenset[str]:
    """What the adapter uses of `FEATURES`."""
    return frozenset(name for name, rule in FEATURES.items() if rule(adapter))


def _basis(runtime: Runtime, adapter: Written, verdict: Verdict, reasons: Sequence[Rule]) -> str:
    """A run where one was recorded: of such a refusal, or of adapters with everything that this one uses."""
    if verdict == "refuses":
        ran = any(rule in runtime.ran_refusals for rule in reasons)
    else:
        ran = verdict != "unknown" and bool(runtime.record) and features(adapter) <= runtime.ran
    return f"run: {runtime.record}" if ran else f"by source of version {runtime.version}, not run"
