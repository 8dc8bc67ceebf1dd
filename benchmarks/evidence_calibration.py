"""Do the bounds keep what they promise? Errors at the margin, nominal 5 %, and power, on made-up runs.

python benchmarks/evidence_calibration.py [--experiments 20000] [--seeds 1 2 3 5] [--jobs 1] [--json FILE]

The test of one run is enumerated: every table that can occur, with its probability, for grades B and D, beside Tango's
test alone. Accuracy enters only by the tables that it allows: at an accuracy of 0.02 or 0.98, at most 2 % can be lost
or gained. Clustered changes are simulated, and several claims with a fifth of the experiments; `skewed_scores.py`
measures scores other than 0/1, and `next_training.py` is a part of this. The claims about several runs are simulated:
examples that the runs share, runs whose true difference varies. An experiment is drawn as the counts of its patterns
(how the runs differ on one example: 3^S of them), which is the same as drawing its examples one by one.
"These runs" (F) is judged where the runs that were drawn lie at the margin on average, "a new run" (R) where the runs
that might be drawn do. 20,000 experiments know an error of 5 % to ± 0.3 points (two standard errors).
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from itertools import product, repeat
from pathlib import Path
from typing import Any, NamedTuple

import next_training
import numpy as np
from numpy.typing import NDArray
from scipy import stats

from gradience.statistics.paired import adjusted_p_values, tango_p_value
from gradience.statistics.pooled import Claim, Pooled, pool
from gradience.statistics.power import Assumptions
from gradience.statistics.table import PairedTable

MARGIN = 0.025
LEVEL = 0.05
CORRELATION = 0.2
SPREADS = (0.0, 0.005, 0.01)
PROMISED = {
    "one run": 0.055,
    "these-runs": 0.055,
    "mean-over-trainings": 0.075,
    "clusters": 0.055,
    "any claim": 0.055,
}
"""Largest error that is promised. For simulated cells two standard errors are added."""


class Cell(NamedTuple):
    """One kind of experiment."""

    seeds: int
    n: int
    discordance: float
    spread: float = 0.0


ERRORS = [
    *(Cell(*cell) for cell in product((3,), (200, 500, 1319), (0.04, 0.06, 0.12, 0.16, 0.20), SPREADS)),
    *(Cell(*cell) for cell in product((5,), (500, 1319), (0.06, 0.16), SPREADS)),
    *(Cell(2, 1319, discordance, 0.01) for discordance in (0.06, 0.12)),
]
"""With two seeds, a claim about trainings is not made; how far off it would be."""
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
        "--seeds",
        type=int,
        nargs="+",
        default=[1, 2, 3, 5],
        help="simulate only experiments with these numbers of seeds",
    )
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    many, tables = options.experiments, list(one_run_cells())
    with ProcessPoolExecutor(options.jobs) as workers:
        one = list(workers.map(one_run_row, *zip(*tables, strict=True)))
        clusters = list(workers.map(cluster_row, CLUSTERS, repeat(many)))
        several = [several_row(*kind, many // 5) for kind in ((2, 0), (4, 0), (0, 4), (4, 4))]
        errors = list(
            workers.map(errors_row, [cell for cell in ERRORS if cell.seeds in options.seeds], repeat(many))
        )
        plans = [plan for plan in planned() if plan[0].seeds in options.seeds]
        powers = list(workers.map(power_row, *zip(*plans, strict=True), repeat(many)))
    show("One run: error at the margin, by enumeration", one)
    show(f"Clustered changes: error at the margin, {many:,} experiments each", clusters)
    show(f"Several claims, all false: any false B, {many // 5:,} experiments each", several)
    show(f"Errors at the margin and power of an equal variant, {many:,} experiments each", errors)
    following = list(next_training.rows())
    show("The next training below its bound, and below that of the mean over trainings", following)
    show("Power with the examples that the planning formulas ask for", powers)
    tables = {
        "one": one,
        "clusters": clusters,
        "several": several,
        "errors": errors,
        "powers": powers,
        "next": following,
    }
    print("\n" + "\n".join(verdicts(tables, many)))
    if options.json:
        figures = {"command": " ".join(["python", *sys.argv]), **tables}
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


def planned() -> Iterator[tuple[Cell, Claim, float]]:
    """The examples that the planning formulas ask for, and the power that they promise with them."""
    for discordance, seeds, wanted in PLANNED:
        needed = Assumptions(discordance, seeds=seeds).examples_needed(MARGIN, wanted)
        yield Cell(seeds, needed or 0, discordance), "these-runs", wanted
    for discordance, seeds, wanted, spread in PLANNED_NEW:
        assumed = Assumptions(discordance, seeds=seeds, spread=spread, claim="mean-over-trainings")
        needed = assumed.examples_needed(MARGIN, wanted)
        if needed and needed <= MOST:
            yield Cell(seeds, needed, discordance, spread), "mean-over-trainings", wanted


def one_run_cells() -> Iterator[tuple[int, float, float]]:
    """Examples, margin and discordance: below the margin, a loss of it is impossible."""
    for margin in (0.01, 0.025, 0.05):
        for n, share in product(
            (50, 106, 119, 150, 200, 300, 500, 1319), (0.005, 0.01, 0.015, 0.025, 0.03, 0.05, 0.08, 0.3)
        ):
            if share >= margin and n * share <= 66:
                yield n, margin, share


def one_run_row(n: int, margin: float, discordance: float) -> dict[str, Any]:
    """The chance of a false B and of a false D where Δ is −margin exactly, beside that of Tango's test alone."""
    errors, lost_share = {"B": 0.0, "D": 0.0, "Tango alone: B": 0.0}, (discordance + margin) / 2
    for discordant in range(min(n, int(stats.binom.isf(1e-7, n, discordance))) + 1):
        chances = stats.binom.pmf(discordant, n, discordance) * stats.binom.pmf(
            np.arange(discordant + 1), discordant, lost_share / discordance
        )
        for lost, chance in enumerate(chances):
            if chance < 1e-9:
                continue
            gained = discordant - lost
            one = Pooled(1, n, n, (gained - lost) / n, gained, lost, 0.0, 1.0, None, None)
            errors["B"] += chance * (one.p_value(margin) <= LEVEL)
            errors["D"] += chance * (one.worse_p_value(margin) <= LEVEL)
            table = PairedTable(n11=n - discordant, n10=lost, n01=gained, n00=0)
            errors["Tango alone: B"] += chance * (tango_p_value(table, margin) <= LEVEL)
    rounded = {name: round(float(error), 4) for name, error in errors.items()}
    return {"n": n, "margin": margin, "discordance": discordance} | rounded


CLUSTERS = [
    *((seeds, n, 1, False) for seeds in (3, 5) for n in (106, 250)),
    *(
        (1, groups, size, unequal)
        for groups in (20, 40, 120)
        for size in (3, 10)
        for unequal in (False, True)
    ),
]
"""Seeds, groups, examples of a group (on average), and whether groups differ in size."""


def cluster_row(cell: tuple[int, int, int, bool], experiments: int) -> dict[str, Any]:
    """The largest error over how much pairs of a group change together, discordance and margin.

    The worst combination is found with a tenth of the experiments, and drawn again with all of them.
    """
    seeds, groups, size, unequal = cell
    rng = np.random.default_rng([seeds, groups, size, unequal])
    sizes = np.full(groups, size) if not unequal else np.ceil(size * rng.exponential(size=groups)).astype(int)
    group_of = np.repeat(np.arange(groups), sizes)

    def false_claims(margin: float, together: float, discordance: float, times: int) -> NDArray[Any]:
        false = np.zeros(2)
        lost, gained = (discordance + margin) / 2, (discordance - margin) / 2
        for _ in range(times):
            shared, single = rng.random(groups)[group_of], rng.random((seeds, len(group_of)))
            values = np.where(rng.random(len(group_of)) < together, shared, single)
            one = pool((values > 1 - gained).astype(int) - (values < lost), group_of)
            false += np.array([one.p_value(margin), one.worse_p_value(margin)]) <= LEVEL
        return false / times

    kinds = [
        (margin, together, margin * times)
        for margin, together, times in product((0.025, 0.05), (0.0, 0.2, 0.5, 0.8, 1.0), (1, 1.5, 5))
    ]
    screened = np.array([false_claims(*kind, max(experiments // 10, 1)) for kind in kinds])
    row = {"seeds": seeds, "groups": groups, "examples": len(group_of), "unequal": unequal}
    for place, letter in enumerate("BD"):
        margin, together, discordance = kinds[int(screened[:, place].argmax())]
        error = float(false_claims(margin, together, discordance, experiments)[place])
        row[f"{letter} error"] = round(error, 4)
        row[f"{letter} at"] = f"margin {margin:g}, together {together:g}, discordance {discordance:g}"
    return row


def several_row(candidates: int, steps: int, experiments: int) -> dict[str, Any]:
    """The chance of any false B among candidates and the steps of a ladder, of which each loses the margin."""
    rng, cell, false, plain = np.random.default_rng([candidates, steps]), Cell(3, 500, 0.06), 0, 0
    p_values = [
        [one.p_value(MARGIN) for one in pooled(rng, cell, -MARGIN, experiments)]
        for _ in range(candidates + steps)
    ]
    for row in zip(*p_values, strict=True):
        claims = [*([value] for value in row[:candidates]), *([row[candidates:]] if steps else [])]
        false += any(values[0] <= LEVEL for values in adjusted_p_values(claims))
        plain += any(values[0] <= LEVEL for values in claims)
    return {
        "candidates": candidates,
        "steps": steps,
        "any false B": round(false / experiments, 4),
        "unadjusted": round(plain / experiments, 4),
    }


def errors_row(cell: Cell, experiments: int) -> dict[str, Any]:
    """Errors and power of both claims for one kind of experiment."""
    rng = np.random.default_rng(
        [cell.seeds, cell.n, round(cell.discordance * 1000), round(cell.spread * 1000)]
    )
    fixed = pooled(rng, cell, -MARGIN, experiments, centered=True)
    new = pooled(rng, cell, -MARGIN, experiments)
    equal = list(pooled(rng, cell, 0.0, experiments))
    assumed = Assumptions(cell.discordance, seeds=cell.seeds, spread=cell.spread, correlation=CORRELATION)
    return cell._asdict() | {
        "F: error": shown(fixed, "these-runs"),
        "R: error": shown(new, "mean-over-trainings"),
        "F: power": shown(equal, "these-runs"),
        "F: planned": round(assumed.power(cell.n, MARGIN), 3),
        "R: power": shown(equal, "mean-over-trainings"),
        "R: planned": round(replace(assumed, claim="mean-over-trainings").power(cell.n, MARGIN), 3),
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
    rng: np.random.Generator, cell: Cell, delta: float, experiments: int, *, centered: bool = False
) -> Iterator[Pooled]:
    """What `pool` makes of experiments that are drawn; of the first of them it is asked whether it does.

    centered: the drawn runs' true differences have `delta` as their mean.
    """
    patterns = np.array(list(product((-1, 0, 1), repeat=cell.seeds)))
    for done in range(0, experiments, CHUNK):
        deviations = cell.spread * rng.standard_normal((min(CHUNK, experiments - done), cell.seeds))
        if centered:
            deviations -= deviations.mean(axis=1, keepdims=True)
        true = np.clip(delta + deviations, -cell.discordance, cell.discordance)
        chances = chances_of(patterns, true if cell.spread else true[:1], cell.discordance)
        counts = rng.multinomial(cell.n, chances, size=None if cell.spread else len(true))
        experiments_drawn = summarized(patterns, counts, cell.n)
        if not done:  # of each cell the first
            assert_same(next(experiments_drawn), pool(np.repeat(patterns, counts[0], axis=0).T))
            experiments_drawn = summarized(patterns, counts, cell.n)
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


def summarized(patterns: NDArray[Any], counts: NDArray[Any], n: int) -> Iterator[Pooled]:
    """`pool` by counts of patterns, for many experiments at once."""
    runs, means = patterns.shape[1], patterns.mean(axis=1)
    of_run = counts @ patterns / n
    mean = of_run.mean(axis=1)
    squares = counts @ (patterns**2).sum(axis=1)
    item_squares = counts @ means**2
    item_variance = (item_squares - n * mean**2) / (n - 1) / n
    residual = squares - runs * item_squares - n * (of_run**2).sum(axis=1) + n * runs * mean**2
    spread = of_run.var(axis=1, ddof=min(1, runs - 1)) - residual / (max(runs - 1, 1) * (n - 1)) / n
    gained, lost = counts @ (patterns > 0).sum(axis=1), counts @ (patterns < 0).sum(axis=1)
    together, apart = item_variance * (runs * n) ** 2, squares - runs * n * mean**2
    effect = np.clip((together + runs**2) / (apart + runs), 1, runs)
    of_seeds = of_run.var(axis=1, ddof=min(1, runs - 1))
    for row in range(len(counts)):
        yield Pooled(
            runs, n, n, float(mean[row]), int(gained[row]), int(lost[row]), float(item_variance[row]),
            float(effect[row]), max(0.0, float(spread[row])) if runs > 1 else None,
            float(of_seeds[row]) if runs > 1 else None,
        )  # fmt: skip


def assert_same(summary: Pooled, expected: Pooled) -> None:
    """Raise AssertionError where the two differ by more than rounding."""
    for name, value in asdict(expected).items():
        assert value is None or abs(value - getattr(summary, name)) < 1e-9, (name, summary, expected)


# ---------------------------------------------------------------- what is said of it


def verdicts(tables: dict[str, list[dict[str, Any]]], experiments: int) -> list[str]:
    """The largest errors that were seen, against what is promised, and each cell outside."""
    columns = [
        ("one run", "one", ("B", "D"), 0),
        ("clusters", "clusters", ("B error", "D error"), experiments),
        ("any claim", "several", ("any false B",), experiments // 5),
        ("these-runs", "errors", ("F: error",), experiments),
        ("mean-over-trainings", "errors", ("R: error",), experiments),
    ]
    said = []
    for name, table, keys, drawn in columns:
        most = PROMISED[name] + (2 * (0.05 * 0.95 / drawn) ** 0.5 if drawn else 0)
        rows = [row for row in tables[table] if name != "mean-over-trainings" or row["seeds"] > 2]
        seen = [row[key] for row in rows for key in keys]
        if seen:
            said.append(f"{name}: at most {max(seen):.1%} (promised {PROMISED[name]:.1%})")
        said += [f"  outside: {row}" for row in rows if any(row[key] > most for key in keys)]
    return said


def show(title: str, rows: list[dict[str, Any]]) -> None:
    print(f"\n{title}\n\n| {' | '.join(rows[0])} |\n|{'---|' * len(rows[0])}")
    for row in rows:
        print(f"| {' | '.join(str(value) for value in row.values())} |")


if __name__ == "__main__":
    main()
