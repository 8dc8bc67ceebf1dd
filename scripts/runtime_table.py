"""The table of docs/runtimes.md that follows from the rules: ways to write an adapter, and who reads them right."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

from gradience.adapters.encodings import Encoding, Target, encode_modules
from gradience.runtimes import verdicts

SHAPES = {
    "self_attn.q_proj": (64, 64),
    "self_attn.k_proj": (32, 64),
    "self_attn.v_proj": (32, 64),
    "self_attn.o_proj": (64, 64),
    "mlp.gate_proj": (96, 64),
    "mlp.up_proj": (96, 64),
    "mlp.down_proj": (64, 96),
}
"""Projections of a small Llama: (rows, columns)."""
NAMES = tuple(f"model.layers.{layer}.{name}" for layer, name in itertools.product(range(2), SHAPES))
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


def runtime_table() -> str:
    """Markdown: one row per example, one column per runtime; `*` marks what was run."""
    rows = [
        [f"{found.verdict}{' *' if found.basis.startswith('run') else ''}" for found in _verdicts(example)]
        for example in EXAMPLES.values()
    ]
    heads = [f"{found.runtime} {found.version}" for found in _verdicts(next(iter(EXAMPLES.values())))]
    lines = [f"| adapter | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    lines += [f"| {name} | {' | '.join(cells)} |" for name, cells in zip(EXAMPLES, rows, strict=True)]
    return "\n".join(lines)


def _verdicts(example: Example) -> tuple[Any, ...]:
    fields, ranks = example
    modules = [(name, rank, *SHAPES[name.split(".", 3)[3]], "linear") for name, rank in ranks.items()]
    return verdicts(fields, modules)
