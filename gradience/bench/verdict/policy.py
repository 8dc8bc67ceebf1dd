"""The policy: counts of examples -> a verdict and its reasons. Exact: integers and fractions only.

Net loss: the number of examples that only the probe has correct, minus those that only the variant has correct.
A seed passes when it loses at most ⌊tolerance · n⌋. A variant passes when enough of the planned seeds pass and no
seed is below the floor. No seed is dropped. A missing seed or one with an error counts as failed. A seed whose probe
did not train makes the result inconclusive.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from gradience.reports.base.exact import exact_percent
from gradience.reports.bench import Status
from gradience.reports.bench_plan import Policy, allowed_losses
from gradience.words import counted, noun, points

NO_EVIDENCE: tuple[Status, ...] = ("UNDERTRAINED", "SKIPPED", "INCONCLUSIVE")


@dataclass(frozen=True, slots=True)
class Verdict:
    """A status, and the reasons in words."""

    status: Status
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SeedOutcome:
    """Counts of one variant on one planned seed, or the status that explains their absence."""

    seed: int
    status: Status = "PASS"
    """Read only if there are no counts: with counts, they decide."""
    n: int = 0
    only_probe: int = 0
    """Examples that only the probe has correct."""
    only_variant: int = 0
    guard: str = ""
    """Reason why the variant fails a guard; empty if it holds on all guards."""
    why: str = ""
    stopped_early: bool = False
    """Not run, since the variant could no longer pass."""

    @property
    def net_loss(self) -> int:
        """Correct answers of the probe minus those of the variant; negative if the variant has more."""
        return self.only_probe - self.only_variant

    @property
    def delta(self) -> Fraction | None:
        """Variant − probe, as a share of the examples; None without counts."""
        return Fraction(-self.net_loss, self.n) if self.n else None


# ---------------------------------------------------------------- one seed


def passes(n: int, net_loss: int, tolerance: Fraction) -> bool:
    """Return whether at most `tolerance` of `n` examples are lost, net. Exactly at the bound is a pass."""
    return net_loss <= allowed_losses(n, tolerance)


def gate_passed(correct: int, n: int, minimum: Fraction) -> bool:
    """Return whether a probe with `correct` of `n` examples reaches its gate. Without examples, none does."""
    return n > 0 and correct >= minimum * n


def is_ahead(correct: int, base_correct: int, n: int, above: Fraction) -> bool:
    """Return whether a probe has more of `n` examples correct than its base, by more than the share `above`.

    >>> is_ahead(120, 100, 200, Fraction(0)), is_ahead(120, 100, 200, Fraction("0.1"))
    (True, False)
    """
    return correct - base_correct > above * n


def verdict_of_seed(n: int, only_probe: int, only_variant: int, policy: Policy) -> Verdict:
    """Return PASS or FAIL of one variant on one seed, with the reason.

    only_probe, only_variant: how many of `n` examples only the one has correct.
    """
    net_loss = only_probe - only_variant
    if net_loss == 0:
        change = "as many correct as the probe"
    else:
        change = f"{abs(net_loss):,} {'fewer' if net_loss > 0 else 'more'} correct than the probe"
    pairs = f"only probe: {only_probe:,}, only variant: {only_variant:,}"
    share = f"{exact_percent(policy.tolerance)} of {n:,}"
    bound = f"at most {allowed_losses(n, policy.tolerance):,} are allowed ({share})"
    status: Status = "PASS" if passes(n, net_loss, policy.tolerance) else "FAIL"
    return Verdict(status, (f"{change} ({pairs}); {bound}",))


# ---------------------------------------------------------------- all seeds


def verdict_over_seeds(outcomes: Sequence[SeedOutcome], planned: Sequence[int], policy: Policy) -> Verdict:
    """Return the verdict on one variant over the planned seeds; one without an outcome is a failed seed."""
    by_seed = {outcome.seed: outcome for outcome in outcomes}
    rows = [by_seed.get(seed, SeedOutcome(seed, "ERROR")) for seed in planned]
    if all(row.n == 0 and row.status == "SKIPPED" for row in rows):
        return Verdict("SKIPPED", tuple(dict.fromkeys(row.why for row in rows if row.why)))
    unknown = _without_result([row for row in rows if not row.stopped_early])
    if any(row.stopped_early for row in rows):
        return Verdict("FAIL", (*lost_already(rows, policy), *unknown))
    failures = _failures(rows, policy)
    if any(row.n == 0 and row.status in NO_EVIDENCE for row in rows):
        return Verdict("INCONCLUSIVE", (*unknown, *lost_already(rows, policy)))
    if failures:
        return Verdict("FAIL", (*failures, *unknown))
    worst = min(row.delta for row in rows if row.delta is not None)
    return Verdict("PASS", (f"{_pass(passing(rows, policy), len(rows))}, worst Δ {points(worst)} points",))


def passing(rows: Iterable[SeedOutcome], policy: Policy) -> int:
    """Return how many seeds pass."""
    return sum(row.n > 0 and not row.guard and passes(row.n, row.net_loss, policy.tolerance) for row in rows)


def _pass(number: int, planned: int) -> str:
    verb = "passes" if 1 in (number, planned) else "pass"
    return f"{number} of {counted(planned, 'seed')} {verb}"


def _failures(rows: Sequence[SeedOutcome], policy: Policy) -> list[str]:
    """Reason why the policy is not met; empty if it is met."""
    failures = []
    number = passing(rows, policy)
    rate = Fraction(number, len(rows))
    if rate < policy.pass_rate:
        failures.append(
            f"{_pass(number, len(rows))} ({exact_percent(rate)}; {exact_percent(policy.pass_rate)} needed)"
        )
    below = [row for row in rows if row.n and not passes(row.n, row.net_loss, policy.floor)]
    if below:
        worst = max(below, key=lambda row: Fraction(row.net_loss, row.n))
        allowed = f"at most {allowed_losses(worst.n, policy.floor):,} are allowed"
        failures.append(f"seed {worst.seed}: {worst.net_loss:,} fewer correct than the probe; {allowed}")
    failures += [f"seed {row.seed}: {row.guard}" for row in rows if row.guard]
    errors = [row.seed for row in rows if row.n == 0 and row.status not in NO_EVIDENCE]
    if errors and not failures:
        failures.append(
            f"seed {errors[0]} has no result, so the floor of {exact_percent(policy.floor)} cannot be checked"
        )
    return failures


def _without_result(rows: Iterable[SeedOutcome]) -> list[str]:
    """Return sentences on seeds without counts; those of one kind in one sentence."""
    alike: dict[tuple[Status, str], list[str]] = {}
    for row in rows:
        if row.n == 0:
            alike.setdefault((row.status, row.why), []).append(str(row.seed))
    sentences = []
    for (status, why), seeds in alike.items():
        who = f"{noun(len(seeds), 'seed')} {', '.join(seeds)}"
        because = f" ({why})" if why else ""
        if status in NO_EVIDENCE:
            sentences.append(f"{who}: {status}{because}, no evidence")
        else:
            sentences.append(f"{who}: no result{because}, counted as failed")
    return sentences


def lost_already(rows: Sequence[SeedOutcome], policy: Policy) -> list[str]:
    """Return why a variant can no longer pass, whatever the seeds without evidence show; empty if it can.

    >>> lost_already([SeedOutcome(1, n=200, only_probe=9), SeedOutcome(2, "SKIPPED")], Policy())
    ['cannot pass, even if all other seeds were perfect: 1 of 2 seeds passes (50 %; 67 % needed)']
    """
    best = [SeedOutcome(row.seed, n=1) if row.n == 0 and row.status in NO_EVIDENCE else row for row in rows]
    return [
        f"cannot pass, even if all other seeds were perfect: {why}" for why in _failures(best, policy)[:1]
    ]


def overall(statuses: Iterable[Status]) -> Status:
    """Return the status of a run from those of its candidates. Any ERROR decides; otherwise one PASS is enough."""
    present = set(statuses)
    order: tuple[Status, ...] = ("ERROR", "PASS", "FAIL", "INCONCLUSIVE", "UNDERTRAINED")
    return next((status for status in order if status in present), "SKIPPED")
