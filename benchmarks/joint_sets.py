"""Type I error of the joint grade over several data sets, simulated with looks.

python benchmarks/joint_sets.py [--replicates 20000] > benchmarks/results/joint_sets.txt

A false claim is a B for a candidate that loses exactly the margin on at least one data set. Accuracy is tested at the
planned looks with both stops, as in `gradience evaluate`; likelihoods once, with Student's test. `joint` is the rule of
`gradience evaluate` with guards: Holm's adjustment of each candidate's largest p-value. `set by set` is Holm's
adjustment on each data set by itself, with a B on every set: Gradience does not use it, and the figures show why.

The second table is the rule of Bench's guards with three seeds, without looks: Holm's adjustment of each variant's
largest p-value over its task (pooled over seeds) and every guard on every seed. Bench also requires every seed to pass,
which is left out here and makes a B rarer.
"""

import argparse
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats
from sequential_looks import score_of
from sequential_looks import statistics as score_tests

from gradience.evaluate.verb import joint_rows
from gradience.reports.base.graded import Bounds
from gradience.reports.evaluation import CANDIDATE, EvaluatedAdapter, EvaluationReport
from gradience.statistics.paired import LEVEL
from gradience.statistics.pooled import pool
from gradience.statistics.sequential import FUTILITY, Look, fewest_at_first_look, plan_looks

Values = NDArray[np.float64]
ACCURACY, NLL = (2000, 0.025, 0.05), (400, 0.05, 0.2)
"""Examples, margin, and discordance or standard deviation of a set."""
LOSES, HOLDS = 1.0, 0.0
"""Loss of a candidate on a set, in margins."""
CASES: Sequence[tuple[str, Sequence[tuple[int, float, float]], Sequence[Sequence[float]]]] = (
    ("1 candidate loses on accuracy", [ACCURACY, NLL], [[LOSES, HOLDS]]),
    ("1 candidate loses on likelihood", [ACCURACY, NLL], [[HOLDS, LOSES]]),
    ("1 candidate loses on both", [ACCURACY, NLL], [[LOSES, LOSES]]),
    ("2 candidates, each loses on another accuracy", [ACCURACY, ACCURACY], [[LOSES, HOLDS], [HOLDS, LOSES]]),
    ("2 candidates, accuracy and likelihood", [ACCURACY, NLL], [[LOSES, HOLDS], [HOLDS, LOSES]]),
    ("3 candidates, one loses", [ACCURACY, ACCURACY, NLL], [[LOSES, 0, 0], [0, 0, 0], [0, 0, 0]]),
    ("3 candidates, each loses on another set", [ACCURACY, ACCURACY, NLL], np.eye(3).tolist()),
)

BENCH_CASES: Sequence[tuple[str, Sequence[Sequence[float]]]] = (
    ("1 variant loses on the task", [[LOSES, 0, 0, 0, 0, 0, 0]]),
    ("1 variant loses on accuracy, on one seed", [[0, LOSES, 0, 0, 0, 0, 0]]),
    ("1 variant loses on accuracy, on every seed", [[0, LOSES, LOSES, LOSES, 0, 0, 0]]),
    ("1 variant loses on likelihood, on one seed", [[0, 0, 0, 0, LOSES, 0, 0]]),
    ("1 variant loses on both guards, on one seed", [[0, LOSES, 0, 0, LOSES, 0, 0]]),
    ("2 variants, each on another guard, on one seed", [[0, LOSES, 0, 0, 0, 0, 0], [0, 0, 0, 0, LOSES, 0, 0]]),
    ("3 variants, one on the task, two on a guard",
     [[LOSES, 0, 0, 0, 0, 0, 0], [0, LOSES, 0, 0, 0, 0, 0], [0, 0, 0, 0, LOSES, 0, 0]]),
)  # fmt: skip
"""Losses of each variant: its task, then the accuracy guard and the likelihood guard on seeds 1 to 3."""


@cache
def p_grid(looks: tuple[int, ...]) -> list[tuple[Values, Values]]:
    """Return for each look z-scores and the p-values of the whole test, to interpolate in."""
    scores = np.linspace(-1, 5, 80)
    return [
        (scores, np.array([Look(looks, number + 1).p_value(special.ndtr(-score)) for score in scores]))
        for number in range(len(looks))
    ]


def accuracy(
    random: np.random.Generator, replicates: int, examples: int, margin: float, discordance: float, loss: float,
    claims: int,
) -> Values:  # fmt: skip
    """Return the p-value at the look at which each replicate stops."""
    looks = plan_looks(examples, fewest_at_first_look(margin))
    net = loss * margin
    cells = [(discordance + net) / 2, (discordance - net) / 2, 1 - discordance]
    counts = np.cumsum(
        [random.multinomial(n, cells, size=replicates) for n in np.diff(looks, prepend=0)], axis=0
    )
    p_values, stopped = np.ones(replicates), np.zeros(replicates, bool)
    for number, n in enumerate(looks):
        look = Look(looks, number + 1)
        scores = score_of(counts[number, :, 1], counts[number, :, 0], np.full(replicates, n), margin)
        worse = score_of(counts[number, :, 0], counts[number, :, 1], np.full(replicates, n), -margin)
        values = np.interp(scores, *p_grid(looks)[number])
        p_values = np.where(stopped, p_values, values)
        stopped |= claims * values <= LEVEL
        stopped |= special.ndtr(-worse) <= look.nominal_level()
        if look.may_be_futile:
            powers = [
                [look.conditional_power(p, level) for p in special.ndtr(-some)]
                for some, level in ((scores, LEVEL / claims), (worse, LEVEL))
            ]
            stopped |= np.max(powers, axis=0) < FUTILITY
    return p_values


def likelihood(
    random: np.random.Generator, replicates: int, examples: int, margin: float, spread: float, loss: float
) -> Values:
    """Return the p-values of Student's test."""
    gains = random.normal(-loss * margin, spread, size=(replicates, examples))
    t = (gains.mean(axis=1) + margin) / (gains.std(axis=1, ddof=1) / np.sqrt(examples))
    return np.asarray(stats.t.sf(t, examples - 1))


def holm(p: Values) -> NDArray[np.bool_]:
    """Return which claims Holm's adjustment shows. p: one row for each replicate."""
    order = np.argsort(p, axis=1)
    steps = np.arange(p.shape[1], 0, -1)
    passed = np.logical_and.accumulate(np.take_along_axis(p, order, axis=1) * steps <= LEVEL, axis=1)
    shown = np.empty_like(passed)
    np.put_along_axis(shown, order, passed, axis=1)
    return shown


def agrees(p: Values, shown: NDArray[np.bool_]) -> bool:
    """Compare with the grades of Gradience. p: candidates × sets of one replicate."""
    reports = {}
    for number, column in enumerate(p.T):
        graded = holm(column[None])[0]
        rows = [
            EvaluatedAdapter.model_construct(
                name=f"c{place}", role=CANDIDATE, grade="B" if graded[place] else "C", reason="",
                bounds=Bounds(low=0, high=0, p_value=value),
            )
            for place, value in enumerate(column)
        ]  # fmt: skip
        reports[f"s{number}"] = EvaluationReport.model_construct(adapters=tuple(rows))
    return [row.grade == "B" for row in joint_rows(reports)] == shown.tolist()


def bench_p(random: np.random.Generator, replicates: int, losses: Sequence[float]) -> tuple[Values, Values]:
    """Return the largest p-values of one variant in Bench; the second assumes the same answers to a guard on all seeds.

    The task is tested only where every guard rejects: elsewhere the largest p-value is above the level.
    """
    examples, margin, discordance = ACCURACY

    def cells(loss: float) -> list[float]:
        return [(discordance + loss * margin) / 2, (discordance - loss * margin) / 2, 1 - discordance]

    guards = []
    for loss in losses[1:4]:
        lost, gained, _ = random.multinomial(examples, cells(loss), size=replicates).T
        guards.append(special.ndtr(-score_tests(gained, lost, examples, margin)[0]))
    guards += [likelihood(random, replicates, *NLL, loss) for loss in losses[4:]]
    worst = [int(np.argmax(losses[1:4])), 3 + int(np.argmax(losses[4:]))]
    columns = np.max(guards, axis=0), np.max([guards[place] for place in worst], axis=0)
    for largest in columns:
        for place in np.flatnonzero(largest <= LEVEL):
            answers = random.choice([-1, 1, 0], p=cells(losses[0]), size=(3, examples))
            largest[place] = max(largest[place], pool(answers).p_value(margin))
    return columns


def bench(replicates: int) -> None:
    """Print the second table."""
    print(f"{'Bench, 3 seeds':48}{'B':>8}{'same answers':>14}")
    for name, losses in BENCH_CASES:
        random = np.random.default_rng(0)
        wrong = [max(row) >= LOSES for row in losses]
        p = np.array([bench_p(random, replicates, row) for row in losses])
        errors = [holm(p[:, place].T)[:, wrong].any(axis=1).mean() for place in (0, 1)]
        print(f"{name:48}{errors[0]:8.2%}{errors[1]:14.2%}", flush=True)


def main() -> None:
    """Print one line for each case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicates", type=int, default=20_000)
    replicates = parser.parse_args().replicates
    print(f"{replicates} replicates, seed 0; accuracy: {ACCURACY}, likelihood: {NLL}; level {LEVEL:.0%}")
    print(f"{'':48}{'joint':>8}{'set by set':>12}{'shown if all hold':>20}")
    for name, sets, losses in CASES:
        random = np.random.default_rng(0)

        def p_of(losses: Sequence[Sequence[float]], sets: Sequence[tuple[int, float, float]] = sets,
                 random: np.random.Generator = random) -> Values:  # fmt: skip
            claims = len(losses)
            columns = [
                accuracy(random, replicates, *some, loss, claims)
                if some is ACCURACY
                else likelihood(random, replicates, *some, loss)
                for row in losses
                for some, loss in zip(sets, row, strict=True)
            ]
            return np.array(columns).T.reshape(replicates, claims, len(sets))

        p = p_of(losses)
        joint = holm(p.max(axis=2))
        alone = np.all([holm(p[:, :, place]) for place in range(len(sets))], axis=0)
        assert all(agrees(p[place], joint[place]) for place in range(100))
        wrong = [max(row) >= LOSES for row in losses]
        errors = [shown[:, wrong].any(axis=1).mean() for shown in (joint, alone)]
        power = holm(p_of(np.zeros_like(losses).tolist()).max(axis=2)).any(axis=1).mean()
        print(f"{name:48}{errors[0]:8.2%}{errors[1]:12.2%}{power:20.1%}", flush=True)
    bench(replicates)


if __name__ == "__main__":
    main()
