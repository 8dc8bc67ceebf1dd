"""Error rates and examples of the sequential tests: simulated, and replayed on kept records.

python benchmarks/sequential_looks.py [--replicates 20000] > benchmarks/results/sequential_looks.txt

Simulated: candidates that lose exactly the margin. `shown` counts false claims that they stay within it, `worse` false
claims that they lose more. A paired table with discordance d and a loss of m exists if m ≤ d, for every accuracy of the
reference from (d + m)/2 to 1 − (d − m)/2; the test uses only the discordant pairs, so that one cell holds for all of
them. Cells with a single look are left out: that is the fixed test. Both stops (boundary and conditional power) are as
in `gradience shrink`.

Ladders of Bench: all seeds answer each look. The spread of trainings does not shrink with the examples, so that looks
at the mean over trainings are more alike than the boundary assumes, and err less often than one test of all. The output
of `--ladders --replicates 4000` is benchmarks/results/sequential_ladders.txt.

Replayed: the seeds of the kept Bench runs, each as a shrink of its own. `in the seeded order` is the order that
`gradience shrink` uses; `200 orders` are random ones.
"""

import argparse
import hashlib
import json
import tarfile
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
from evidence_calibration import chances_of, summarized
from numpy.typing import NDArray
from scipy import special

from gradience.bench.verdict.evidence import LookRules
from gradience.statistics.paired import constrained, net_loss_tail
from gradience.statistics.pooled import Claim, Pooled
from gradience.statistics.sequential import (
    FUTILITY,
    FUTILITY_FROM,
    fewest_at_first_look,
    nominal_levels,
    plan_looks,
)

RESULTS = Path(__file__).parent / "results"
KEPT = {"minilm_reviews": "uniform_median.truncate", "smollm2_arithmetic": "uniform_median.truncate"}
"""Run -> the variant that holds the answers of a rank that the ladder shares with it."""
RANKS = (16, 8, 4, 2, 1)
PLANNED = (220, 260, 400, 600, 1000, 1319, 2186, 5000)
MARGINS = (0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05)
DISCORDANCES = (0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.06, 0.08, 0.12, 0.16, 0.2, 0.3)
FEW = 80
LADDERS: list[tuple[Claim, int, int, float, float]] = [
    ("these-runs", 3, 2186, 0.06, 0.005),
    ("these-runs", 3, 1000, 0.08, 0.01),
    ("these-runs", 3, 400, 0.03, 0.0),
    ("these-runs", 5, 2186, 0.12, 0.01),
    *(("mean-over-trainings", 3, 2186, 0.06, spread) for spread in (0.0, 0.005, 0.01)),
    ("mean-over-trainings", 3, 1000, 0.08, 0.01),
    ("mean-over-trainings", 3, 400, 0.06, 0.005),
    *(("mean-over-trainings", 5, 2186, 0.06, spread) for spread in (0.005, 0.01)),
    ("mean-over-trainings", 5, 1000, 0.08, 0.005),
    ("next-training", 3, 2186, 0.06, 0.0),
    ("next-training", 5, 2186, 0.06, 0.005),
]
"""Claim, seeds, planned examples, discordance and spread of the simulated ladders."""
Counts = NDArray[np.int64]


def score_of(gained: Counts, lost: Counts, n: Counts, margin: float) -> NDArray[np.float64]:
    """Tango's score against a loss of the margin, as in `gradience.statistics.paired`, for many tables."""
    null = -margin
    linear = -gained - lost + (2 * n - gained + lost) * null
    constant = -lost * null * (1 - null)
    only_reference = (np.sqrt(np.maximum(linear * linear - 8 * n * constant, 0.0)) - linear) / (4 * n)
    variance = np.maximum(2 * only_reference + null * (1 - null), 0.0) / n
    return ((gained - lost) / n - null) / np.sqrt(variance)


@cache
def exact_tail(gained: int, lost: int, n: int, margin: float, at_least: bool) -> float:
    shares = constrained(gained, lost, n, -margin)
    return net_loss_tail(lost - gained, n, *shares, at_least=at_least)


def statistics(gained: Counts, lost: Counts, n: int, margin: float) -> tuple[NDArray[np.float64], ...]:
    """Return the tests of "not shown" and of "not worse" as normal statistics, for many tables of `n` examples.

    As in `gradience.statistics.pooled` for one run: of score and exact chance the one that rejects less. With more than
    `FEW` discordant pairs only the score is computed, which rejects at least as often.
    """
    score = score_of(gained, lost, np.array(n), margin)
    better, worse = score.copy(), -score
    pairs, places = np.unique(np.stack([gained, lost]), axis=1, return_inverse=True)
    few = pairs.sum(axis=0) <= FEW
    for statistic, at_least in ((better, False), (worse, True)):
        tails = [
            exact_tail(int(won), int(gone), n, margin, at_least) if some else 0.0
            for won, gone, some in zip(*pairs, few, strict=True)
        ]
        np.minimum(statistic, -special.ndtri(np.array(tails))[places.reshape(-1)], out=statistic)
    return better, worse


def decide(
    gained: Counts, lost: Counts, looks: Sequence[int], margin: float
) -> tuple[NDArray[np.int64], NDArray[np.str_]]:
    """Return examples and grade of each replicate. gained, lost: (replicates, looks), cumulative."""
    n, bounds = np.array(looks), -special.ndtri(nominal_levels(tuple(looks)))
    tested = [statistics(gained[:, k], lost[:, k], int(n[k]), margin) for k in range(len(n))]
    up, down = (np.stack(columns, axis=1) for columns in zip(*tested, strict=True))
    used, grades = np.full(len(up), n[-1]), np.full(len(up), "C")
    open_ = np.ones(len(up), dtype=bool)
    for k, share in enumerate(n / n[-1]):
        for crossed, grade in ((up[:, k] > bounds[k], "B"), (down[:, k] > bounds[k], "D")):
            used[open_ & crossed], grades[open_ & crossed] = n[k], grade
            open_ &= ~crossed
        if FUTILITY_FROM <= share < 1:
            left = np.sqrt(1 - share)
            power = special.ndtr((np.maximum(up[:, k], down[:, k]) / np.sqrt(share) - bounds[-1]) / left)
            futile = open_ & (power < FUTILITY)
            used[futile] = n[k]
            open_ &= ~futile
    return used, grades


def simulated(planned: int, discordance: float, delta: float, margin: float, replicates: int, seed: int = 0):  # type: ignore[no-untyped-def]
    """Return examples and grades of replicates whose true difference is `delta`."""
    looks = plan_looks(planned, fewest_at_first_look(margin))
    rng = np.random.default_rng([seed, planned, round(1e6 * discordance), round(1e6 * margin)])
    steps = np.diff((0, *looks))
    differing = rng.binomial(steps, discordance, (replicates, len(looks)))
    gained = rng.binomial(differing, (discordance + delta) / 2 / discordance)
    return decide(gained.cumsum(axis=1), (differing - gained).cumsum(axis=1), looks, margin)


def error_rates(replicates: int) -> None:
    print(f"# Error rates at the margin, {replicates:,} replicates a cell (limit 5.5 %)")
    print("planned\tmargin\tdiscordance\taccuracy\tshown\tworse")
    highest: dict[str, tuple[float, str]] = {}
    cells, over = 0, []
    for planned in PLANNED:
        for margin in MARGINS:
            for discordance in DISCORDANCES:
                low, high = (discordance + margin) / 2, 1 - (discordance - margin) / 2
                one_look = len(plan_looks(planned, fewest_at_first_look(margin))) == 1
                if discordance < margin or low > 0.98 or one_look:
                    continue
                _, grades = simulated(planned, discordance, -margin, margin, replicates)
                cell = f"{planned}\t{100 * margin:g}\t{100 * discordance:g}"
                rates = {
                    name: float((grades == grade).mean()) for name, grade in (("shown", "B"), ("worse", "D"))
                }
                spans = f"{max(low, 0.02):.3f}-{min(high, 0.98):.3f}"
                print(f"{cell}\t{spans}\t{100 * rates['shown']:.2f}\t{100 * rates['worse']:.2f}")
                cells += 1
                for name, rate in rates.items():
                    highest[name] = max(highest.get(name, (0.0, "")), (rate, cell))
                    if rate > 0.055:
                        over.append(f"{name}: {100 * rate:.2f} at {cell}")
    print(f"\n{cells} cells")
    for name, (rate, cell) in highest.items():
        print(f"highest {name}: {100 * rate:.2f} % at {cell}")
    print("\n".join(["above 5.5 %:", *(over or ["none"])]))


def power_and_cost(replicates: int) -> None:
    print(
        "\n# Power and mean share of the examples, margin 2.5 points (all at once: power of the fixed test)"
    )
    print("planned\tdiscordance\tdelta\tall at once\tsequential\tmean share")
    for planned in (600, 1000, 2186):
        for discordance in (0.01, 0.03, 0.06, 0.12):
            for delta in (0.0, -0.005, -0.0125, -0.025, -0.05):
                if abs(delta) > discordance:
                    continue
                used, grades = simulated(planned, discordance, delta, 0.025, replicates, seed=1)
                rng = np.random.default_rng([2, planned, round(1e4 * discordance)])
                differing = rng.binomial(planned, discordance, replicates)
                gained = rng.binomial(differing, (discordance + delta) / 2 / discordance)
                fixed = statistics(gained, differing - gained, planned, 0.025)[0] > 1.6449
                print(
                    f"{planned}\t{100 * discordance:g}\t{100 * delta:g}\t{100 * fixed.mean():.1f}"
                    f"\t{100 * (grades == 'B').mean():.1f}\t{100 * used.mean() / planned:.0f}"
                )


def correct_of(archive: tarfile.TarFile, name: str) -> dict[str, bool]:
    file = archive.extractfile(name)
    assert file is not None
    return {row["id"]: row["correct"] for row in map(json.loads, file.read().splitlines()[1:])}


def kept_differences(run: str) -> Iterator[tuple[str, int, Counts]]:
    """Yield seed, rank and the differences in the seeded order."""
    with tarfile.open(RESULTS / run / "everything.tar.xz") as archive:
        names = set(archive.getnames())
        for seed in sorted(name for name in names if name.startswith("seed_") and "/" not in name) or sorted(
            {name.split("/")[0] for name in names if name.startswith("seed_")}
        ):
            probe = correct_of(archive, f"{seed}/probe/eval/answers.records.jsonl")
            ids = sorted(probe, key=lambda one: hashlib.sha256(f"looks\0{one}".encode()).hexdigest())
            for rank in RANKS:
                name = f"{seed}/ladder.r{rank}/eval/answers.records.jsonl"
                if name not in names:
                    name = f"{seed}/{KEPT[run]}/eval/answers.records.jsonl"
                answers = correct_of(archive, name)
                yield seed, rank, np.array([int(answers[one]) - int(probe[one]) for one in ids])


def replayed(rows: Counts, looks: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.str_]]:
    at = np.array(looks) - 1
    return decide((rows > 0).cumsum(axis=1)[:, at], (rows < 0).cumsum(axis=1)[:, at], looks, 0.025)


def replay() -> None:
    print("\n# Replay on kept records, margin 2.5 points: mean over the seeds")
    print(
        "run\trank\tgrades, all at once\tgrades, sequential\texamples in the seeded order\tof\t200 orders\tsame grade"
    )
    for run in KEPT:
        of_rank: dict[int, list[tuple[str, str, int, float, float]]] = {}
        total = 0
        for number, (_, rank, row) in enumerate(kept_differences(run)):
            total, looks = len(row), plan_looks(len(row), fewest_at_first_look(0.025))
            _, fixed = replayed(row[None, :], (total,))
            used, grade = replayed(row[None, :], looks)
            rng = np.random.default_rng(number)
            orders = np.array([rng.permutation(row) for _ in range(200)])
            mean, grades = replayed(orders, looks)
            same = float((grades == fixed[0]).mean())
            of_rank.setdefault(rank, []).append((fixed[0], grade[0], int(used[0]), float(mean.mean()), same))
        for rank, rows in of_rank.items():
            fixed_, grades_, used_, mean_, same_ = zip(*rows, strict=True)
            print(
                f"{run}\t{rank}\t{''.join(fixed_)}\t{''.join(grades_)}\t{np.mean(used_):.0f}\t{total}"
                f"\t{np.mean(mean_):.0f}\t{100 * np.mean(same_):.0f} %"
            )
        every = [row for rows in of_rank.values() for row in rows]
        seeded, orders_ = (float(np.mean([row[place] for row in every])) / total for place in (2, 3))
        print(
            f"{run}: {100 * seeded:.1f} % of all examples for each size; over 200 orders {100 * orders_:.1f} %"
        )


def replay_ladders() -> None:
    """Print the examples that Bench's ladder needs, as `gradience bench run` tests it."""
    print("\n# Ladders of the kept runs, all seeds pooled, mean over trainings, margin 2.5 points")
    print("run\trank\tstopped, all at once\tstopped, at looks\texamples of each seed\tof")
    for run in KEPT:
        of_rank: dict[int, list[Counts]] = {}
        for _, rank, row in kept_differences(run):
            of_rank.setdefault(rank, []).append(row)
        used = []
        for rank, rows in of_rank.items():
            total = len(rows[0])
            at_looks, at_once = (
                LookRules(looks, None, Fraction("0.025"), "mean-over-trainings", 0.05).decide(np.stack(rows))
                for looks in (plan_looks(total, fewest_at_first_look(0.025)), (total,))
            )
            used.append(at_looks.look.examples)
            print(f"{run}\t{rank}\t{at_once.stopped}\t{at_looks.stopped}\t{used[-1]}\t{total}")
        print(f"{run}: {100 * np.mean(used) / total:.1f} % of the examples for each size")


def ladders(replicates: int) -> None:
    """Print error and power of a step that several seeds answer, at once and at looks (boundary only)."""
    print(f"\n# Steps of several seeds, margin 2.5 points, {replicates:,} replicates a cell (limit 5.5 %)")
    print(
        "claim\tseeds\tplanned\tdiscordance\tspread\terror: at once\tlooks\tpower: at once\tlooks\tmean share"
    )
    for claim, seeds, planned, discordance, spread in LADDERS:
        cells = [
            several_seeds(claim, seeds, planned, discordance, spread, delta, replicates)
            for delta in (-0.025, 0.0)
        ]
        (error, looked, _), (power, reached, share) = cells
        figures = "\t".join(f"{100 * value:.1f}" for value in (error, looked, power, reached, share))
        print(f"{claim}\t{seeds}\t{planned}\t{100 * discordance:g}\t{100 * spread:g}\t{figures}", flush=True)


def several_seeds(
    claim: Claim, seeds: int, planned: int, discordance: float, spread: float, delta: float, replicates: int
) -> tuple[float, float, float]:
    """Return the share that is shown at once, the share at looks, and the mean share of the examples.

    `delta`: of these runs their mean, else that of all trainings.
    """
    looks = plan_looks(planned, fewest_at_first_look(0.025))
    rng = np.random.default_rng([seeds, planned, round(1e4 * discordance), round(1e4 * spread), delta < 0])
    patterns = np.array(list(product((-1, 0, 1), repeat=seeds)))
    deviations = spread * rng.standard_normal((replicates, seeds))
    if claim == "these-runs":
        deviations -= deviations.mean(axis=1, keepdims=True)
    true = np.clip(delta + deviations, -discordance, discordance)
    chances = chances_of(patterns, true, discordance)
    counts, used = np.zeros((replicates, len(patterns)), dtype=np.int64), np.full(replicates, planned)
    shown = np.zeros(replicates, dtype=bool)

    def is_shown(pooled: Pooled, level: float) -> bool:
        """Return whether the margin is excluded; the exact chance is computed only where the score excludes it."""
        return pooled._student(-0.025, claim, low=True) <= level and pooled.p_value(0.025, claim) <= level

    for end, step, level in zip(looks, np.diff((0, *looks)), nominal_levels(looks), strict=True):
        counts += rng.multinomial(step, chances)
        now = np.array([is_shown(pooled, level) for pooled in summarized(patterns, counts, end)])
        used[now & ~shown] = end
        shown |= now
    at_once = [is_shown(pooled, 0.05) for pooled in summarized(patterns, counts, planned)]
    return float(np.mean(at_once)), float(shown.mean()), float(used.mean() / planned)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--replicates", type=int, default=20_000)
    parser.add_argument("--ladders", action="store_true", help="only what concerns Bench's ladder")
    asked = parser.parse_args()
    replay_ladders()
    ladders(asked.replicates)
    if asked.ladders:
        return
    replay()
    power_and_cost(asked.replicates)
    error_rates(asked.replicates)


if __name__ == "__main__":
    main()
