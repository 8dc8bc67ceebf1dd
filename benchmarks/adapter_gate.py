"""Verdicts of the adapter gate on simulated changes: wrong passes at the margin, and regressions that are caught.

python benchmarks/adapter_gate.py [--replicates 1000] [--json FILE]

A change is drawn from kept answers of SmolLM2-135M (benchmarks/results/smollm2_arithmetic, three seeds, 1,000 questions
each): rows are drawn with replacement; a share of them is answered by the base model without its adapter, and the
others by the rewrite control, the same update in other factors. The share is chosen so that the true drop is 0, the
margin, or 5 points. Every look is judged by the code of `gradience evaluate`, with its stops.
"""

import argparse
import json
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradience.evaluate.outcome import _tested
from gradience.statistics.paired import pair_grade
from gradience.statistics.pooled import pool
from gradience.statistics.power import Assumptions
from gradience.statistics.sequential import Look, fewest_at_first_look, plan_looks

KEPT = Path(__file__).parent / "results" / "smollm2_arithmetic" / "everything.tar.xz"
SEEDS = (42, 123, 456)
MARGIN = Fraction("0.025")
REGRESSION = 0.05
VERDICTS = {"B": "PASS", "D": "FAIL", "C": "INCONCLUSIVE"}
Differences = NDArray[np.int64]


def kept_answers() -> tuple[Differences, Differences]:
    """Return candidate − reference of the base and of the rewrite control, on all questions of all seeds."""
    columns: dict[str, list[int]] = {"base": [], "rewrite_control": []}
    with tarfile.open(KEPT) as archive:

        def correct(name: str) -> dict[str, bool]:
            file = archive.extractfile(f"{name}/eval/answers.records.jsonl")
            assert file is not None
            return {row["id"]: row["correct"] for row in map(json.loads, file.read().splitlines()[1:])}

        for seed in SEEDS:
            reference = correct(f"seed_{seed}/probe")
            for name, column in columns.items():
                answers = correct(f"seed_{seed}/{name}")
                column += [int(answers[row]) - int(reference[row]) for row in reference]
    base, rewrite = (np.array(column) for column in columns.values())
    return base, rewrite


def verdict(differences: Differences, looks: Sequence[int]) -> tuple[str, int]:
    """Return the gate's verdict on a change, and the rows that were answered before it."""
    request = SimpleNamespace(limit=None)
    inputs: Any = SimpleNamespace(
        margin=MARGIN, adapters=("released", "change"), request=request, looks=looks
    )
    for number, n in enumerate(looks, 1):
        planned = Look(tuple(looks), number) if len(looks) > 1 else None
        tested = _tested(inputs, planned, pool([differences[:n]]))
        bounds, look = tested["bounds"], tested.get("look")
        if look is None or look.stopped is not None:
            return VERDICTS[pair_grade(bounds.low, bounds.high, MARGIN, bounds.p_value)], n
    raise AssertionError("the last look stops")


def cells(replicates: int) -> Iterator[dict[str, Any]]:
    base, rewrite = kept_answers()
    unchanged, worse = rewrite.mean(), base.mean()
    rng = np.random.default_rng(20261129)
    for n in (500, 1000, 2000, 3000):
        looks = plan_looks(n, fewest_at_first_look(float(MARGIN)))
        for drop in (0.0, float(MARGIN), REGRESSION):
            share = 0.0 if drop == 0 else (-drop - unchanged) / (worse - unchanged)
            verdicts: Counter[str] = Counter()
            used = 0
            for _ in range(replicates):
                rows = rng.integers(0, len(base), n)
                # Without a planted drop the true difference is 0: the sign of each changed answer is drawn.
                same = rewrite[rows] * rng.choice((-1, 1), n) if drop == 0 else rewrite[rows]
                label, answered = verdict(np.where(rng.random(n) < share, base[rows], same), looks)
                verdicts[label] += 1
                used += answered
            discordance = share * np.abs(base).mean() + (1 - share) * np.abs(rewrite).mean()
            yield {
                "rows": n,
                "true_drop_points": round(100 * drop, 2),
                "discordance": round(float(discordance), 4),
                **{name: verdicts[name] / replicates for name in VERDICTS.values()},
                "mean_rows": used / replicates,
            }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    print("rows\ttrue drop\tdiscordance\tPASS\tFAIL\tINCONCLUSIVE\tmean rows")
    table = []
    for cell in cells(asked.replicates):
        table.append(cell)
        verdicts = "\t".join(f"{100 * cell[name]:.1f} %" for name in VERDICTS.values())
        print(f"{cell['rows']}\t{cell['true_drop_points']}\t{100 * cell['discordance']:.1f} %\t{verdicts}"
              f"\t{cell['mean_rows']:.0f}", flush=True)  # fmt: skip
    needed = {str(d): Assumptions(d).examples_needed(float(MARGIN)) for d in (0.02, 0.03, 0.05, 0.1)}
    print(f"rows for 80 % passes of an equally good change, by discordance: {needed}")
    if asked.json:
        facts = {
            "margin_points": 2.5,
            "replicates": asked.replicates,
            "cells": table,
            "rows_for_80_percent": needed,
        }
        asked.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
