"""Do the intervals and bounds keep what they promise? Errors at the margin, nominal 5 %, and power, on made-up runs.

python benchmarks/evidence_calibration.py [--experiments 4000] [--jobs 2] [--json FILE]

Tango's test is enumerated: every table that can occur, with its probability. The claims about several runs are
simulated: items that several runs share, runs whose true difference varies. "These runs" is judged where the runs that
were drawn lie at the margin on average, "a new run" where the runs that might be drawn do.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from gradience.statistics import PairedTable, items_needed, pool, power, tango_p_value

MARGIN = 0.025
LEVEL = 0.05
CORRELATION = 0.2


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--experiments", type=int, default=4000, help="a cell of the simulated tables")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    with ProcessPoolExecutor(options.jobs) as workers:
        tango = list(workers.map(tango_cell, product((100, 200, 500, 1319), (0.03, 0.06, 0.12, 0.16, 0.20))))
        grid = product((3, 5), (200, 500, 1319), (0.04, 0.06, 0.12, 0.16, 0.20), (0.0, 0.005, 0.01))
        runs = list(workers.map(runs_cell, ((*cell, options.experiments) for cell in grid)))
    show("Tango: error at the margin, one run, by enumeration", tango)
    show(
        f"Several runs: errors at the margin and power of an equal variant, {options.experiments} each", runs
    )
    print("\n" + "\n".join(verdicts(tango, runs)))
    if options.json:
        options.json.write_text(json.dumps({"tango": tango, "runs": runs}, indent=1) + "\n")


def tango_cell(cell: tuple[int, float]) -> dict[str, Any]:
    """The chance that Tango's test claims non-inferiority although Δ is −0.025 exactly."""
    n, discordance = cell
    lost_share, error = (discordance + MARGIN) / 2, 0.0
    for discordant in range(int(stats.binom.isf(1e-9, n, discordance)) + 1):
        lost = np.arange(discordant + 1)
        chances = stats.binom.pmf(lost, discordant, lost_share / discordance)
        claims = [
            tango_p_value(PairedTable(n - discordant, int(k), discordant - int(k), 0), MARGIN) <= LEVEL
            for k in lost
        ]
        error += stats.binom.pmf(discordant, n, discordance) * float(chances[claims].sum())
    return {"n": n, "discordance": discordance, "error": round(error, 4)}


def runs_cell(cell: tuple[int, int, float, float, int]) -> dict[str, Any]:
    """Errors and power of both claims for one kind of experiment."""
    seeds, n, discordance, spread, experiments = cell
    rng = np.random.default_rng([seeds, n, round(discordance * 1000), round(spread * 1000)])
    drawn = {"seeds": seeds, "n": n, "discordance": discordance, "spread": spread}

    def claims(claim: Any, delta: float, *, centred: bool = False) -> float:
        shown = 0
        for _ in range(experiments):
            differences = draw(rng, seeds, n, discordance, delta, spread, centred=centred)
            shown += pool(differences).p_value(MARGIN, claim) <= LEVEL
        return round(shown / experiments, 4)

    plan = {"seeds": seeds, "spread": spread, "correlation": CORRELATION}
    return drawn | {
        "these runs: error": claims("these-runs", -MARGIN, centred=True),
        "a new run: error": claims("new-run", -MARGIN),
        "these runs: power": claims("these-runs", 0.0),
        "planned": round(power(n, discordance, MARGIN, **plan), 3),
        "a new run: power": claims("new-run", 0.0),
    }


def draw(
    rng: np.random.Generator, seeds: int, n: int, discordance: float, delta: float, spread: float, *, centred: bool
) -> NDArray[np.int8]:  # fmt: skip
    """Differences (seeds, n). centred: the drawn runs' true differences have `delta` as their mean."""
    deviations = spread * rng.standard_normal(seeds)
    if centred:
        deviations -= deviations.mean()
    true = np.clip(delta + deviations, -discordance, discordance)[:, None]
    lost, gained = (discordance - true) / 2, (discordance + true) / 2
    is_shared = rng.random((seeds, n), dtype=np.float32) < np.sqrt(CORRELATION)
    position = np.where(is_shared, rng.random(n, dtype=np.float32), rng.random((seeds, n), dtype=np.float32))
    return (position > 1 - gained).astype(np.int8) - (position < lost).astype(np.int8)


def verdicts(tango: list[dict[str, Any]], runs: list[dict[str, Any]]) -> list[str]:
    """What was promised, and the extremes that were seen."""
    enough = [row["error"] for row in tango if row["n"] * row["discordance"] >= 8]
    these = [row["these runs: error"] for row in runs]
    new = [row["a new run: error"] for row in runs]
    return [
        f"Tango: {min(enough):.1%} to {max(row['error'] for row in tango):.1%} (promised 4 to 5.5 %)",
        f"these runs: {min(these):.1%} to {max(these):.1%} (promised 4 to 7 %)",
        f"a new run: {min(new):.1%} to {max(new):.1%} (promised 3.5 to 7.5 %)",
        f"examples for a power of 80 % at discordance 0.16, three seeds: {items_needed(0.16, MARGIN, seeds=3)}",
    ]


def show(title: str, rows: list[dict[str, Any]]) -> None:
    print(f"\n{title}\n\n| {' | '.join(rows[0])} |\n|{'---|' * len(rows[0])}")
    for row in rows:
        print(f"| {' | '.join(str(value) for value in row.values())} |")


if __name__ == "__main__":
    main()
