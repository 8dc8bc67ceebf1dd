"""Type I error of the joint grade over several data sets, simulated with looks.

python benchmarks/joint_sets.py [--replicates 20000] > benchmarks/results/joint_sets.txt

A false claim is a B for a candidate that loses exactly the margin on at least one data set. Accuracy is tested at the
planned looks with both stops, as in `gradience evaluate`; likelihoods once, with Student's test. `joint` is the rule of
`gradience evaluate` with guards: Holm's adjustment of each candidate's largest p-value. `set by set` is Holm's
adjustment on each data set by itself, with a B on every set: Gradience does not use it, and the figures show why.

The second table simulates Bench: drawn answers to the task and to two guards become a run of 3 or 5 seeds, which
`gradience.bench.verdict` judges like any other run. `PASS` is the policy's verdict. `B` is a grade of B or A. `false B`
is one with a false claim: these adapters lose the margin on the task (mean over seeds), or on a guard on a seed. With
several variants, a run counts if any losing variant has the verdict. The luck of an example is drawn for each seed, or
is the same on every seed. `spread` is the standard deviation of true losses between trainings, in margins: 0.4 is
1 point of accuracy and 0.02 nats per token.
"""

import argparse
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats
from sequential_looks import score_of

from gradience.bench.verdict.aggregate import aggregate
from gradience.bench.verdict.grade import SeedOutcome, failed_guards, joint_p_value, verdict_over_seeds
from gradience.evaluate.verb import joint_rows
from gradience.files.records import pack
from gradience.reports.base.graded import Bounds, LikelihoodEvidence
from gradience.reports.bench import Bench, VariantResult
from gradience.reports.bench_plan import PlannedSet
from gradience.reports.evaluation import CANDIDATE, EvaluatedAdapter, EvaluationReport
from gradience.statistics.paired import FEWEST_GROUPS, LEVEL, pair_grade
from gradience.statistics.pooled import pool
from gradience.statistics.sequential import FUTILITY, Look, fewest_at_first_look, plan_looks
from gradience.statistics.table import PairedTable

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

EVERY, FIRST = (1.0, 1.0, 1.0, 1.0, 1.0), (1.0, 0.0, 0.0, 0.0, 0.0)
NONE = (0.0, 0.0, 0.0, 0.0, 0.0)
BENCH_CASES: Sequence[tuple[str, Sequence[Sequence[Sequence[float]]]]] = (
    ("the task", [[EVERY, NONE, NONE]]),
    ("the accuracy guard, on every seed", [[NONE, EVERY, NONE]]),
    ("the accuracy guard, on one seed", [[NONE, FIRST, NONE]]),
    ("the likelihood guard, on every seed", [[NONE, NONE, EVERY]]),
    ("the likelihood guard, on one seed", [[NONE, NONE, FIRST]]),
    ("the task and the accuracy guard, on every seed", [[EVERY, EVERY, NONE]]),
    ("the task and the likelihood guard, on every seed", [[EVERY, NONE, EVERY]]),
    ("2 variants, each on another guard, on one seed", [[NONE, FIRST, NONE], [NONE, NONE, FIRST]]),
    ("the task, in a run without guards", [[EVERY]]),
)
"""Mean losses of each variant on the task, the accuracy guard and the likelihood guard: one per seed, in margins."""
SETS = (ACCURACY, ACCURACY, (FEWEST_GROUPS, 0.05, 0.2))
"""The task and the two guards; fewer documents than these give no grade above C."""
CORRECT = 0.8
"""Share of the examples that the probe has correct."""
SCENARIOS = (
    (3, False, 0.0),
    (3, True, 0.0),
    (5, False, 0.0),
    (5, True, 0.0),
    (3, False, 0.4),
    (5, False, 0.4),
)
"""Seeds, the same luck on every seed, and the spread between trainings."""
RESULTS = Path(__file__).parent / "results"
LIKE = "uniform_median.truncate"
"""Variant of the kept run in whose place the simulated ones are."""


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


def draw(
    random: np.random.Generator, of_set: tuple[int, float, float], losses: Values, *, same: bool,
    probe: NDArray[np.bool_] | None = None,
) -> Values:  # fmt: skip
    """Return candidate − probe for each seed and example. losses: one per seed.   probe: its correct examples."""
    examples, margin, spread = of_set
    shape, drop = (1 if same else len(losses), examples), losses[:, None] * margin
    if of_set is not ACCURACY:
        return random.normal(0, spread, shape) - drop
    right = random.random(shape) < CORRECT if probe is None else probe
    luck = random.random(shape)
    lost, gained = (spread + drop) / 2 / CORRECT, (spread - drop) / 2 / (1 - CORRECT)
    return np.where(right, -1.0 * (luck < lost), 1.0 * (luck < gained))


def bounds_of(gains: Values, margin: float) -> Bounds:
    """Return the evidence of one evaluation."""
    pooled = pool(gains[None])
    return Bounds.of(pooled.interval(), pooled.p_value(margin))


@cache
def bounds_of_counts(lost: int, gained: int) -> Bounds:
    """Return the same for accuracy, where only the counts matter."""
    n, margin, _ = ACCURACY
    return bounds_of(np.repeat([-1.0, 1.0, 0.0], [lost, gained, n - lost - gained]), margin)


class SimulatedBench:
    """Runs of Bench: those of a kept run, with other answers."""

    def __init__(self, seeds: int) -> None:
        kept = sorted((RESULTS / "minilm_reviews").glob("seed_*/bench.json"))[:seeds]
        self.kept = [Bench.read(path) for path in kept]
        self.evaluation = EvaluationReport.read(RESULTS / "minilm_evaluation" / "evaluation.json")

    def verdicts(
        self, random: np.random.Generator, losses: Values, *, same: bool
    ) -> tuple[list[str], list[str | None]]:
        """Return status and grade of each variant. losses: (variants, sets, seeds), in margins."""
        shape, names = (len(self.kept), ACCURACY[0]), [f"variant{place}" for place in range(len(losses))]
        probes = np.broadcast_to(random.random((1, shape[1]) if same else shape) < CORRECT, shape)
        tasks = [draw(random, ACCURACY, row[0], same=same, probe=probes) for row in losses]
        gains = [
            [draw(random, of_set, drop, same=same) for of_set, drop in zip(SETS[1:], row[1:], strict=False)]
            for row in losses
        ]
        guards = tuple(
            self.guard(number, of_set) for number, of_set in enumerate(SETS[1 : 1 + len(gains[0])])
        )
        planned = {"guards": guards, "planned_seeds": tuple(bench.seed for bench in self.kept)}
        benches = [bench.model_copy(update=planned) for bench in self.kept]
        statuses = [self.status(benches, rows, self.on_guards(name, of_variant, tested=False))
                    for name, rows, of_variant in zip(names, tasks, gains, strict=True)]  # fmt: skip
        grades: list[str | None] = [None] * len(names)
        if "PASS" not in statuses:  # no grade is above C
            return statuses, grades
        on_guards = [self.on_guards(name, each, tested=True) for name, each in zip(names, gains, strict=True)]
        largest = [max(map(joint_p_value, of_variant)) for of_variant in on_guards]
        if min(largest) > LEVEL:  # no grade is above C
            return statuses, grades
        for place, (bench, probe) in enumerate(zip(benches, probes, strict=True)):
            like = bench.variant(LIKE)
            rows = [result(like, probe, probe + task[place] > 0, name=name, guards=of_variant[place])
                    for name, task, of_variant in zip(names, tasks, on_guards, strict=True)]  # fmt: skip
            if not bench.guards:  # an A needs a control; with guards there is no A
                rows.append(result(bench.variant("head_only"), probe, np.zeros_like(probe)))
            changes = {"probe": bench.probe.model_copy(update=answers(probe)), "variants": rows}
            benches[place] = bench.model_copy(update=changes)
        judged = aggregate(benches, records_verified=True).candidates
        assert [row.status for row in judged] == statuses
        return statuses, [row.evidence.grade for row in judged]

    def status(
        self, benches: Sequence[Bench], rows: Values, on_guards: Sequence[dict[str, EvaluatedAdapter]]
    ) -> str:
        """Return the policy's verdict. rows: candidate − probe on the task, for each seed and example."""
        outcomes = [
            SeedOutcome(
                bench.seed, n=len(row), only_probe=int((row < 0).sum()), only_variant=int((row > 0).sum()),
                guard="; ".join(failed_guards(bench.guards, of_seed)),
            )
            for bench, row, of_seed in zip(benches, rows, on_guards, strict=True)
        ]  # fmt: skip
        return verdict_over_seeds(outcomes, benches[0].planned_seeds, benches[0].policy).status

    def guard(self, number: int, of_set: tuple[int, float, float]) -> PlannedSet:
        """Return a guard as described in a plan."""
        return PlannedSet(
            name=f"guard {number}", guard=True, task=f"guard {number}", role=None, examples=of_set[0],
            examples_sha256="", compares="correct" if of_set is ACCURACY else "nll",
            margin=Fraction(str(of_set[1])),
        )  # fmt: skip

    def on_guards(
        self, name: str, gains: Sequence[Values], *, tested: bool
    ) -> list[dict[str, EvaluatedAdapter]]:
        """Return a variant's rows on the guards for each seed. tested: with bounds and grades."""
        return [
            {f"guard {number}": self.row(name, of_set, of_guard[place], tested=tested)
             for number, (of_set, of_guard) in enumerate(zip(SETS[1:], gains, strict=False))}
            for place in range(len(self.kept))
        ]  # fmt: skip

    def row(
        self, name: str, of_set: tuple[int, float, float], gains: Values, *, tested: bool
    ) -> EvaluatedAdapter:
        """Return a variant's row in a seed's evaluation on a guard."""
        n, margin, _ = of_set
        lost, gained = int((gains < 0).sum()), int((gains > 0).sum())
        changes: dict[str, Any] = {"name": name, "n": n, "pairs": None, "likelihood": None}
        if of_set is ACCURACY:
            changes["pairs"] = PairedTable(n11=n - lost - gained, n10=lost, n01=gained, n00=0)
        else:
            changes["likelihood"] = LikelihoodEvidence(tokens=n, nll=1.0, delta=-gains.mean())
        if tested:
            bounds = bounds_of_counts(lost, gained) if of_set is ACCURACY else bounds_of(gains, margin)
            grade = pair_grade(bounds.low, bounds.high, Fraction(str(margin)), bounds.p_value)
            changes |= {"bounds": bounds, "grade": grade}
        return self.evaluation.candidates[0].model_copy(update=changes)


def answers(correct: NDArray[np.bool_]) -> dict[str, Any]:
    """Return the fields of an adapter's measures that hold its answers."""
    return {"n": len(correct), "correct": int(correct.sum()), "correct_examples": pack(correct.tolist())}


def result(
    like: VariantResult, probe: NDArray[np.bool_], correct: NDArray[np.bool_], **changes: Any
) -> VariantResult:
    """Return a variant's result on one seed."""
    pairs = PairedTable.of(probe.tolist(), correct.tolist())
    measures = like.measures.model_copy(update=answers(correct))
    return like.model_copy(update={"measures": measures, "pairs": pairs, **changes})


def bench(replicates: int) -> None:
    """Print the second table."""
    print(f"Bench, {replicates} replicates")
    print(f"{'a variant loses the margin on':50}seeds   luck  spread     PASS        B  false B        A")
    for name, means in BENCH_CASES:
        for seeds, same, spread in SCENARIOS:
            shares = bench_shares(replicates, np.array(means)[..., :seeds], spread, same=same)
            figures = "".join(f"{share:9.2%}" for share in shares)
            print(f"{name:50}{seeds:5}{'same' if same else 'own':>7}{spread:8}{figures}", flush=True)


def bench_shares(replicates: int, means: Values, spread: float, *, same: bool) -> Values:
    """Return how often a losing variant passes, has a B or A, has one with a false claim, and has an A."""
    simulated, random = SimulatedBench(means.shape[-1]), np.random.default_rng(0)
    losing = np.flatnonzero(means.max(axis=(1, 2)) >= LOSES)
    most = ACCURACY[2] / ACCURACY[1]  # a larger loss is more than the examples on which the answers differ
    counts = np.zeros(4)
    for _ in range(replicates):
        losses = np.clip(means + random.normal(0, spread, means.shape), -most, most)
        statuses, grades = simulated.verdicts(random, losses, same=same)
        false = (losses[:, 0].mean(axis=1) >= LOSES) | (losses[:, 1:] >= LOSES).any(axis=(1, 2))
        shown = [place for place in losing if grades[place] in ("A", "B")]
        counts += (
            any(statuses[place] == "PASS" for place in losing),
            bool(shown),
            any(false[shown]),
            any(grades[place] == "A" for place in losing),
        )
    return counts / replicates


def main() -> None:
    """Print one line for each case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicates", type=int, default=20_000)
    parser.add_argument("--bench-replicates", type=int, default=2_000)
    options = parser.parse_args()
    replicates = options.replicates
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
    bench(options.bench_replicates)


if __name__ == "__main__":
    main()
