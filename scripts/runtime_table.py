"""The tables of docs/runtimes.md and docs/results/runtimes.md: ways to write an adapter, and what was run."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gradience.compress.layout import Target, encode_modules
from gradience.reports.compression import Encoding, RuntimeVerdict
from gradience.runtimes.verdict import (
    LoadedAdapter,
    Parts,
    Runs,
    RuntimeFailure,
    RuntimeRecord,
    is_general,
    parts_of,
    verdict_of,
)

ARCHITECTURE = "LlamaForCausalLM"
PROJECTIONS = (
    *(f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "o_proj")),
    *(f"mlp.{name}" for name in ("gate_proj", "up_proj", "down_proj")),
)
NAMES = tuple(f"model.layers.{layer}.{name}" for layer, name in itertools.product(range(2), PROJECTIONS))
LEFT_OUT = "model.layers.1.self_attn.q_proj"

Example = tuple[Mapping[str, Any], Mapping[str, int]]
"""Config fields, and module -> rank on disk."""


def written(
    encoding: Encoding, rank: Callable[[int], int], scale: float = 2.0, leave_out: str = ""
) -> Example:
    """What `gradience compress` writes for modules of these ranks and this scale."""
    names = [name for name in NAMES if name != leave_out]
    targets = [Target(name, rank(position), scale) for position, name in enumerate(names)]
    encoded = encode_modules(targets, encoding)
    return encoded.fields, encoded.stored_rank


def mixed(position: int) -> int:
    """Ranks that differ: 8, 5, 3, 8, 5, 3 …"""
    return (8, 5, 3)[position % 3]


EXAMPLES: Mapping[str, Example] = {
    "rank 8, one scale": written("uniform", lambda _: 8),
    "rank 8, α not an integer": written("uniform", lambda _: 8, scale=2.1),
    "rank 4, one scale": written("uniform", lambda _: 4),
    "rank 8, one module left out": written("uniform", lambda _: 8, leave_out=LEFT_OUT),
    "ranks differ, `patterns`": written("patterns", mixed),
    "ranks differ, `padded`": written("padded", mixed),
    "ranks differ, `folded`": written("folded", mixed),
    "an rsLoRA original, rank 8": ({"r": 8, "lora_alpha": 16, "use_rslora": True}, dict.fromkeys(NAMES, 8)),
}


def runtime_table(records: Sequence[RuntimeRecord]) -> str:
    """One row per example, one column per runtime."""
    heads = [f"{record.runtime} {record.version}" for record in records]
    lines = [f"| adapter | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    lines += [
        f"| {name} | {' | '.join(verdict.verdict for verdict in _verdicts(example, records))} |"
        for name, example in EXAMPLES.items()
    ]
    return "\n".join(lines)


def _verdicts(example: Example, records: Sequence[RuntimeRecord]) -> list[RuntimeVerdict]:
    fields, ranks = example
    written = LoadedAdapter(fields, ranks)
    tensors = [f"base_model.model.{name}.lora_{factor}.weight" for name in ranks for factor in "AB"]
    parts = parts_of(fields, tensors)
    return [verdict_of(record, written, parts, ARCHITECTURE) for record in records]


def ran_table(records: Sequence[RuntimeRecord]) -> str:
    """One row per runtime, for the architectures of which it loads and refuses the same."""
    lines = ["| runtime | architecture | loaded | not loaded |", "|---|---|---|---|"]
    for record in records:
        alike: dict[tuple[str, str], list[str]] = {}
        for architecture, runs in record.architectures.items():
            alike.setdefault((_loaded(runs), _not_loaded(runs)), []).append(architecture)
        for cells, architectures in alike.items():
            name = f"{record.runtime} {record.version}"
            lines.append(f"| {name} | {', '.join(architectures)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _loaded(runs: Runs) -> str:
    parts: Parts = frozenset().union(*runs.loads)
    return ", ".join(sorted(part for part in parts if is_general(part))) or "nothing"


def _not_loaded(runs: Runs) -> str:
    groups = (("refused", runs.refuses), ("wrong", runs.wrong))
    return "; ".join(f"{what}: {_findings(findings)}" for what, findings in groups if findings) or "–"


def _findings(findings: Sequence[RuntimeFailure]) -> str:
    return ", ".join(sorted(" with ".join(sorted(finding.parts)) or "every adapter" for finding in findings))
