"""Do the bounds keep what they promise? Errors at the margin, nominal 5 %, and power, on made-up runs.

python benchmarks/evidence_calibration.py [--experiments 20000] [--seeds 1 3 5] [--jobs 1] [--json FILE]

Tango's test is enumerated: every table that can occur, with its probability. The claims about several runs are
simulated: examples that the runs share, runs whose true difference varies. An experiment is drawn as the counts of its
patterns (how the runs differ on one example: 3^S of them), which is the same as drawing its examples one by one.
"These runs" (F) is judged where the runs that were drawn lie at the margin on average, "a new run" (R) where the runs
that might be drawn do. 20,000 experiments know an error of 5 % to ± 0.3 points (two standard errors).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from itertools import product, repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from gradience.statistics.paired import tango_p_value
from gradience.statistics.pooled import Claim, Pooled, pool
from gradience.statistics.power import examples_needed, power
from gradience.statistics.table import PairedTable

MARGIN = 0.025
LEVEL = 0.05
CORRELATION = 0.2
SPREADS = (0.0, 0.005, 0.01)
PROMISED = {"tango": (0.04, 0.055), "these-runs": (0.04, 0.07), "mean-over-trainings": (0.035, 0.075)}
ENOUGH = 8
"""Pairs that differ from which Tango's test promises no less than 4 %: below, it is too discrete."""


class Cell(NamedTuple):
    """One kind of experiment."""

    seeds: int
    n: int
    discordance: float
    spread: float = 0.0


ERRORS = [Cell(*cell) for cell in product((3, 5), (200, 500, 1319), (0.04, 0.06, 0.12, 0.16, 0.20), SPREADS)]
PLANNED = list(product((0.03, 0.06, 0.12, 0.16, 0.20), (1, 3, 5), (0.8, 0.9)))
"""Discordance, seeds and power of claims about these runs."""
PLANNED_NEW = list(product((0.06, 0.16, 0.20), (3, 5), (0.8, 0.9), SPREADS[1:]))
CHUNK = 1000
"""Experiments that are drawn at once."""
MOST = 2500
"""Examples of a cell; what needs more is left out."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--experiments", type=int, default=20_000, help="a cell of the simulated tables")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[1, 3, 5], help="only experiments with so many"
    )
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    many, tables = options.experiments, product((100, 200, 500, 1319), (0.03, 0.06, 0.12, 0.16, 0.20))
    with ProcessPoolExecutor(options.jobs) as workers:
        tango = list(workers.map(tango_row, *zip(*tables, strict=True)))
        errors = list(
            workers.map(errors_row, [cell for cell in ERRORS if cell.seeds in options.seeds], repeat(many))
        )
        plans = [plan for plan in planned() if plan[0].seeds in options.seeds]
        powers = list(workers.map(power_row, *zip(*plans, strict=True), repeat(many)))
    show("Tango: error at the margin, one run, by enumeration", tango)
    show(f"Errors at the margin and power of an equal variant, {many:,} experiments each", errors)
    show("Power with the examples that the planning formulas ask for", powers)
    print("\n" + "\n".join(verdicts(tango, errors)))
    if options.json:
        figures = {"tango": tango, "errors": errors, "powers": powers}
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


def planned() -> Iterator[tuple[Cell, Claim, float]]:
    """The examples that the planning formulas ask for, and the power that they promise with them."""
    for discordance, seeds, wanted in PLANNED:
        needed = examples_needed(discordance, MARGIN, seeds=seeds, wanted=wanted)
        yield Cell(seeds, needed or 0, discordance), "these-runs", wanted
    for discordance, seeds, wanted, spread in PLANNED_NEW:
        needed = examples_needed(
            discordance, MARGIN, seeds=seeds, spread=spread, claim="mean-over-trainings", wanted=wanted
        )
        if needed and needed <= MOST:
            yield Cell(seeds, needed, discordance, spread), "mean-over-trainings", wanted


def tango_row(n: int, discordance: float) -> dict[str, Any]:
    """The chance that Tango's test claims non-inferiority although Δ is −0.025 exactly."""
    lost_share, error = (discordance + MARGIN) / 2, 0.0
    for discordant in range(int(stats.binom.isf(1e-9, n, discordance)) + 1):
        lost = np.arange(discordant + 1)
        chances = stats.binom.pmf(lost, discordant, lost_share / discordance)
        claims = [
            tango_p_value(PairedTable(n11=n - discordant, n10=int(k), n01=discordant - int(k), n00=0), MARGIN)
            <= LEVEL
            for k in lost
        ]
        error += stats.binom.pmf(discordant, n, discordance) * float(chances[claims].sum())
    return {"n": n, "discordance": discordance, "error": round(error, 4)}


def errors_row(cell: Cell, experiments: int) -> dict[str, Any]:
    """Errors and power of both claims for one kind of experiment."""
    rng = np.random.default_rng(
        [cell.seeds, cell.n, round(cell.discordance * 1000), round(cell.spread * 1000)]
    )
    fixed = pooled(rng, cell, -MARGIN, experiments, centred=True)
    new = pooled(rng, cell, -MARGIN, experiments)
    equal = list(pooled(rng, cell, 0.0, experiments))
    plan = {"seeds": cell.seeds, "spread": cell.spread, "correlation": CORRELATION}
    return cell._asdict() | {
        "F: error": shown(fixed, "these-runs"),
        "R: error": shown(new, "mean-over-trainings"),
        "F: power": shown(equal, "these-runs"),
        "F: planned": round(power(cell.n, cell.discordance, MARGIN, **plan), 3),
        "R: power": shown(equal, "mean-over-trainings"),
        "R: planned": round(power(cell.n, cell.discordance, MARGIN, claim="mean-over-trainings", **plan), 3),
    }


def power_row(cell: Cell, claim: Claim, wanted: float, experiments: int) -> dict[str, Any]:
    """The power that the planned number of examples has, beside the one that was wanted."""
    rng = np.random.default_rng([cell.seeds, cell.n, round(cell.spread * 1000), round(wanted * 100)])
    seen = shown(pooled(rng, cell, 0.0, experiments), claim)
    return {"claim": claim} | cell._asdict() | {"wanted": wanted, "power": seen}


def shown(experiments: Iterable[Pooled], claim: Claim) -> float:
    """The share of experiments in which a claim is shown."""
    return round(float(np.mean([each.p_value(MARGIN, claim) <= LEVEL for each in experiments])), 4)


def pooled(
    rng: np.random.Generator, cell: Cell, delta: float, experiments: int, *, centred: bool = False
) -> Iterator[Pooled]:
    """What `pool` makes of experiments that are drawn; of the first of them it is asked whether it does.

    centred: the drawn runs' true differences have `delta` as their mean.
    """
    patterns = np.array(list(product((-1, 0, 1), repeat=cell.seeds)))
    for done in range(0, experiments, CHUNK):
        deviations = cell.spread * rng.standard_normal((min(CHUNK, experiments - done), cell.seeds))
        if centred:
            deviations -= deviations.mean(axis=1, keepdims=True)
        true = np.clip(delta + deviations, -cell.discordance, cell.discordance)
        chances = chances_of(patterns, true if cell.spread else true[:1], cell.discordance)
        counts = rng.multinomial(cell.n, chances, size=None if cell.spread else len(true))
        experiments_drawn = summarised(patterns, counts, cell.n)
        if not done:  # of each cell the first
            assert_same(next(experiments_drawn), pool(np.repeat(patterns, counts[0], axis=0).T))
            experiments_drawn = summarised(patterns, counts, cell.n)
        yield from experiments_drawn


def chances_of(patterns: NDArray[Any], true: NDArray[Any], discordance: float) -> NDArray[Any]:
    """The chance of each pattern (experiments, patterns), by the runs' true differences (experiments, runs).

    On a share CORRELATION of the examples all runs take one random number, on the others each its own: so much the
    differences of two runs on one example correlate.
    """
    lost, gained = ((discordance - true) / 2)[:, None], ((discordance + true) / 2)[:, None]
    zeros, ones = np.zeros_like(lost), np.ones_like(lost)
    low = np.choose(patterns + 1, [zeros, lost, 1 - gained])  # where the random number must lie
    high = np.choose(patterns + 1, [lost, 1 - gained, ones])
    alike = np.maximum(high.min(axis=2) - low.max(axis=2), 0)
    chances = CORRELATION * alike + (1 - CORRELATION) * (high - low).prod(axis=2)
    shares: NDArray[Any] = chances / chances.sum(axis=1, keepdims=True)
    return shares


def summarised(patterns: NDArray[Any], counts: NDArray[Any], n: int) -> Iterator[Pooled]:
    """`pool` by counts of patterns, for many experiments at once."""
    runs, means = patterns.shape[1], patterns.mean(axis=1)
    of_run = counts @ patterns / n
    mean = of_run.mean(axis=1)
    squares = counts @ (patterns**2).sum(axis=1)
    item_squares = counts @ means**2
    item_variance = (item_squares - n * mean**2) / (n - 1) / n
    residual = squares - runs * item_squares - n * (of_run**2).sum(axis=1) + n * runs * mean**2
    spread = of_run.var(axis=1, ddof=min(1, runs - 1)) - residual / (max(runs - 1, 1) * (n - 1)) / n
    independent = (squares / (runs * n) - mean**2) / (runs * n)
    gained, lost = counts @ (patterns > 0).sum(axis=1), counts @ (patterns < 0).sum(axis=1)
    effect = np.clip(item_variance / np.where(independent > 0, independent, 1), 1, runs)
    effect = np.where(independent > 0, effect, runs)
    for row in range(len(counts)):
        yield Pooled(
            runs, n, float(mean[row]), int(gained[row]), int(lost[row]), float(item_variance[row]),
            float(effect[row]), max(0.0, float(spread[row])) if runs > 1 else None,
        )  # fmt: skip


def assert_same(summary: Pooled, expected: Pooled) -> None:
    """Raise AssertionError where the two differ by more than rounding."""
    for name, value in asdict(expected).items():
        assert value is None or abs(value - getattr(summary, name)) < 1e-9, (name, summary, expected)


# ---------------------------------------------------------------- what is said of it


def verdicts(tango: list[dict[str, Any]], errors: list[dict[str, Any]]) -> list[str]:
    """What was promised, the extremes that were seen, and each cell outside."""
    columns: list[tuple[str, str, list[dict[str, Any]], Callable[[dict[str, Any]], bool]]] = [
        ("tango", "error", tango, lambda row: row["n"] * row["discordance"] >= ENOUGH),
        ("these-runs", "F: error", errors, lambda row: True),
        ("mean-over-trainings", "R: error", errors, lambda row: True),
    ]
    said = []
    for name, key, rows, is_enough in columns:
        low, high = PROMISED[name]
        seen = [row[key] for row in rows if is_enough(row)]
        most = max(row[key] for row in rows)
        said.append(f"{name}: {min(seen):.1%} to {most:.1%} (promised {low:.1%} to {high:.1%})")
        said += [
            f"  outside: {row}" for row in rows if row[key] > high or (is_enough(row) and row[key] < low)
        ]
    return said


def show(title: str, rows: list[dict[str, Any]]) -> None:
    print(f"\n{title}\n\n| {' | '.join(rows[0])} |\n|{'---|' * len(rows[0])}")
    for row in rows:
        print(f"| {' | '.join(str(value) for value in row.values())} |")


if __name__ == "__main__":
    main()
