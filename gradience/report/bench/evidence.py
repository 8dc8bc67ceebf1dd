"""How sure the verdicts are: grades with their reasons, intervals, what the next grade needs, noise."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gradience.bench.verdict.conditions import MIN_SEEDS
from gradience.report.bench.intervals import drawing
from gradience.report.bench.numbers import points
from gradience.reports.base.blocks import Block, Column, Facts, Heading, Inline, Paragraph, Role, Span, Table
from gradience.reports.base.exact import exact_text
from gradience.reports.base.graded import (
    AnswerCounts,
    Bounds,
    Grade,
    NextGrade,
    NoiseFloor,
    PooledEvidence,
    VariantEvidence,
)
from gradience.reports.base.numbers import MISSING, percent, plural, sig
from gradience.reports.bench import VariantResult
from gradience.reports.bench_aggregate import BenchAggregate, VariantSummary

Result = VariantResult | VariantSummary
GRADE_ROLES: dict[Grade, Role] = {"A": "good", "B": "good", "C": "warn", "D": "bad", "X": "bad"}
MEANING = "A certified, B supported for these runs, C neither shown, D inferior, X invalid"


def letter(result: Result) -> Inline:
    """Return the grade of a variant, or a dash."""
    if result.evidence is None or result.evidence.grade is None:
        return MISSING
    return Span(result.evidence.grade, GRADE_ROLES[result.evidence.grade])


def is_graded(results: Iterable[Result]) -> bool:
    """Return whether any of them has a grade: files of earlier versions have none."""
    return any(result.evidence is not None and result.evidence.grade is not None for result in results)


def grades(results: Sequence[Result]) -> list[Block]:
    """Return the section of the grades: who has which, and why; nothing without any."""
    alike: dict[tuple[Grade, str], list[str]] = {}
    for result in results:
        if result.evidence is not None and result.evidence.grade is not None:
            alike.setdefault((result.evidence.grade, result.evidence.reason), []).append(result.name)
    rows: list[tuple[str, Inline]] = [
        (grade, (*_names(names), f": {reason}")) for (grade, reason), names in alike.items()
    ]
    return [Heading("Grades: how sure is the verdict?", aside=MEANING), Facts(rows)] if rows else []


def _names(names: Sequence[str]) -> list[str | Span]:
    """Names, with commas between them."""
    parts: list[str | Span] = [Span(names[0], "name")]
    for name in names[1:]:
        parts += [", ", Span(name, "name")]
    return parts


def differences(results: Sequence[Result]) -> list[Block]:
    """Return the section of Δ with its intervals, as figures and drawn; nothing where none is known."""
    rows = [(one.name, one.evidence.pooled) for one in results if one.evidence and one.evidence.pooled]
    if not rows:
        return []
    margin = rows[0][1].margin
    twice = f"−{exact_text(200 * margin)}"
    several = any(evidence.new_run for _, evidence in rows)
    columns = [
        Column(),
        Column("Δ", ">"),
        Column("these runs", ">"),
        *([Column("new run", ">", drop=7)] if several else []),
        Column("discordant", ">", drop=4),
        *([Column("between runs", ">", drop=1)] if several else []),
        Column("equal passes", ">", drop=6),
        Column(f"{twice} passes", ">", drop=5),
        *([Column("adjusted p", ">", drop=2)] if several else []),
    ]
    cells = [_cells(one, several) for one in results if one.evidence and one.evidence.pooled]
    legend = (
        "These runs: with 90 % confidence Δ lies between these, so each end alone holds with 95 %. "
        + (
            "New run: the same for the adapters of another seed. Between runs: spread of the true Δ, in points. "
            if several
            else ""
        )
        + "Discordant: examples on which exactly one of the two is correct. Equal passes: chance that an adapter which"
        f" is exactly as good passes the policy; {twice} passes: that one which loses twice the margin does."
        + (
            " Adjusted p: of a loss of the margin in a new run, for all that are tested together."
            if several
            else ""
        )
    )
    lines = "Heavy line: these runs; light line: a new run. " if several else ""
    return [
        Heading("Δ and how sure it is", aside="in percentage points"),
        Table(columns, cells),
        Paragraph(Span(legend, "dim")),
        drawing(rows, margin),
        Paragraph(
            Span(
                f"{lines}To the right of −{exact_text(100 * margin)}: a loss of the margin is ruled out.",
                "dim",
            )
        ),
    ]


def _cells(result: Result, several: bool) -> list[Inline]:
    evidence = result.evidence
    assert evidence is not None
    pooled = evidence.pooled
    assert pooled is not None
    policy = evidence.policy
    return [
        Span(result.name, "name"),
        points(pooled.delta),
        _interval(pooled.these_runs),
        *([_interval(pooled.new_run)] if several else []),
        percent(pooled.discordance),
        *([MISSING if pooled.run_spread is None else f"{100 * pooled.run_spread:.2f}"] if several else []),
        chance(policy.pass_if_equal) if policy else MISSING,
        chance(policy.pass_if_twice_margin) if policy else MISSING,
        *([p_value(evidence.adjusted_p)] if several else []),
    ]


def _interval(bounds: Bounds | None) -> str:
    return MISSING if bounds is None else f"{points(bounds.low)} … {points(bounds.high)}"


def chance(share: float) -> str:
    """Return a probability as a percentage; what is next to nothing is not counted out."""
    return "< 0.1 %" if 0 < share < 0.001 else percent(share)


def p_value(value: float | None) -> str:
    """Return a p-value with two digits, from 0.001 on."""
    return "< 0.001" if value is not None and value < 0.001 else sig(value, 2)


# ---------------------------------------------------------------- what the next grade needs


def next_grades(results: Sequence[Result]) -> list[Block]:
    """Return the section of what a better grade needs; nothing where none can have a better one."""
    alike: dict[tuple[Grade, str], list[str]] = {}
    for result in results:
        if (evidence := result.evidence) and (needs := evidence.next_grade) and evidence.pooled:
            alike.setdefault((needs.grade, _needs(needs, evidence.pooled)), []).append(result.name)
    rows: list[tuple[str, Inline]] = [
        (grade, (*_names(names), f": {text}")) for (grade, text), names in alike.items()
    ]
    aside = "for an 80 % chance, if the Δ and the noise seen are the true ones"
    return [Heading("What would the next grade need?", aside=aside), Facts(rows)] if rows else []


def _needs(needs: NextGrade, pooled: PooledEvidence) -> str:
    seeds = max(pooled.runs, MIN_SEEDS) if needs.grade == "A" else pooled.runs
    unknown = "; how much runs differ is not known yet" if needs.grade == "A" and pooled.runs == 1 else ""
    return "; ".join([*needs.obstacles, amount(needs.examples, needs.seeds, pooled, seeds) + unknown])


def amount(examples: int | None, seeds: int | None, pooled: PooledEvidence, runs: int) -> str:
    """Say how many examples or seeds are needed. runs: seeds that are counted with."""
    now = pooled.examples
    if pooled.delta <= -pooled.margin:
        return "out of reach, since Δ itself is a loss of the margin or more"
    if examples is not None and examples <= now:
        return f"{now:,} examples and {plural(runs, 'seed')} are enough"
    ways = [
        f"about {round_up(examples):,} examples ({now:,} now) with {plural(runs, 'seed')}"
        if examples
        else "",
        f"{plural(seeds, 'seed')} with these examples" if seeds else "",
    ]
    return ", or ".join(filter(None, ways)) or "out of reach of any number of examples, and of 100 seeds"


def round_up(number: int) -> int:
    """Round up to two digits: 1,063 to 1,100.

    >>> round_up(1063), round_up(78), round_up(2401)
    (1100, 78, 2500)
    """
    unit: int = 10 ** max(0, len(str(number)) - 2)
    return -(-number // unit) * unit


# ---------------------------------------------------------------- what differs anyway, what failed


def noise(report: BenchAggregate) -> list[tuple[str, Inline]]:
    """Return how much differs although nothing was made smaller, as rows."""
    if report.noise is None:
        return []
    rows = (
        ("noise: between seeds", report.noise.probes, "two probes that differ in their seed"),
        ("noise: rewritten", report.noise.rewrite, "the probe and the same update in other factors (aa)"),
    )
    return [(label, _floor(floor, who)) for label, floor, who in rows if floor is not None]


def _floor(floor: NoiseFloor, who: str) -> str:
    return (
        f"{who} disagree on {percent(floor.discordance)} of the examples; scores differ by up to"
        f" {points(floor.largest_delta).removeprefix('+')} points"
    )


def answer_problems(report: BenchAggregate) -> list[tuple[str, Inline]]:
    """Return the shares of answers without a result, cut off or truncated, as one row; none where nothing is known."""
    counts = [("probe", report.probe_answers), *((one.name, one.answers) for one in report.variants)]
    known = [(name, answers) for name, answers in counts if answers is not None]
    alike: dict[str, list[str]] = {}
    for name, answers in known:
        if said := _problems(answers):
            alike.setdefault(said, []).append(name)
    bad = [f"{said} ({'all' if len(of) == len(known) else ', '.join(of)})" for said, of in alike.items()]
    return (
        [("answers", "; ".join(bad) or "none was without an answer, cut off or truncated")] if known else []
    )


def _problems(answers: AnswerCounts) -> str:
    shares = [
        (answers.failed_extractions, "without an answer"),
        (answers.cut_off, "cut off"),
        (answers.truncated, "truncated"),
    ]
    return ", ".join(f"{percent(number / answers.n)} {what}" for number, what in shares if number)


def best_grade(evidence: VariantEvidence | None, *, claimable: bool) -> str:
    """Return what is said of the smallest that passes: its grade, and whether that certifies it.

    claimable: whether the run meets the conditions of a claim.
    """
    if evidence is None or evidence.grade is None:
        return ""
    return f" Its grade is {evidence.grade}{': certifiable' if evidence.grade == 'A' and claimable else ''}."
