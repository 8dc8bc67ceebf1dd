"""What one seed and several say alike: the verdict, the data, the notes on variants and controls, the policy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gradience.bench.arms.registry import ARMS, control_of
from gradience.bench.verdict.conditions import as_expected
from gradience.bench.verdict.policy import exact_percent
from gradience.report.bench.evidence import best_grade
from gradience.reports.base.blocks import (
    Block,
    Facts,
    Heading,
    Inline,
    Note,
    Notes,
    Paragraph,
    Role,
    Span,
    items,
)
from gradience.reports.base.numbers import count, percent
from gradience.reports.bench import Bench, Best, VariantResult
from gradience.reports.bench_aggregate import BenchAggregate, BestVariant, VariantSummary
from gradience.reports.bench_plan import DataSplit, Policy
from gradience.words import points

AS_EXPECTED, NOT_AS_EXPECTED = "as expected", "not as expected"
SMOKE_STATUS = "smoke, no evidence"
ROLES: dict[str, Role] = {
    "PASS": "good",
    "FAIL": "bad",
    "ERROR": "bad",
    "INCONCLUSIVE": "warn",
    "UNDERTRAINED": "warn",
    "SKIPPED": "dim",
    SMOKE_STATUS: "warn",
    AS_EXPECTED: "good",
    NOT_AS_EXPECTED: "bad",
}
NOISE = (
    "Counts are noisy: trainings that differ only in the seed, and even one adapter written twice, differ in some "
    "answers. The control that must pass, and the range of the probe over seeds, show by how much."
)

Result = VariantResult | VariantSummary
Row = tuple[str, Inline]


def title(run: Bench | BenchAggregate, task: str, seeds: str) -> list[Block]:
    """Return the verdict on the run, and the smallest adapter that passes."""
    names = (Span(run.model, "name"), " on ", Span(task, "name"), f", {seeds}")
    return [Heading(("Bench ", status(run.status), ": ", *names), level=1), Paragraph(_best(run))]


def _best(run: Bench | BenchAggregate) -> Inline:
    if run.best is not None:
        saved = percent(reduction(run.best))
        of_best = next((one.evidence for one in run.variants if one.name == run.best.name), None)
        graded = best_grade(of_best, claimable=isinstance(run, BenchAggregate) and run.conditions_met)
        words = f", with {saved} fewer LoRA parameters.{graded}"
        return "Smallest that passes: ", Span(run.best.name, "name"), words
    if run.status in ("UNDERTRAINED", "SKIPPED"):
        return "Nothing was compared, so nothing is concluded."
    return "Nothing can be concluded." if run.status == "INCONCLUSIVE" else "No smaller adapter passes."


def reduction(best: Best | BestVariant) -> float:
    """Return the share of the LoRA parameters that it saves."""
    return best.reduction if isinstance(best, Best) else best.mean_reduction


def data(base_params: int | None, splits: Iterable[DataSplit], role: str) -> list[Row]:
    """Return the size of the base model, and the examples: `7,473 training and 1,319 test examples`."""
    words = {"train": "training", "dev": "dev", "confirm": "test"}
    sizes = [f"{split.n:,} {words[split.role]}" for split in splits if split.role in ("train", role)]
    base = "unknown size" if base_params is None else f"{count(base_params)} parameters"
    return [("base model", base), ("data", f"{' and '.join(sizes)} examples")]


def other_params(number: int) -> list[Row]:
    """Return the parameters beside the LoRA, where there are any."""
    return [("other parameters", f"{count(number)}, not LoRA weights; counted separately")] if number else []


def status(word: str) -> Span:
    """Return a status with its colour."""
    return Span(word, ROLES.get(word, ""))


def status_of(result: Result) -> Span:
    """Return its status; of a control whether it is what it must be, since a PASS of one is no claim."""
    if not result.is_control or result.status not in ("PASS", "FAIL"):
        return status(result.status)
    if isinstance(result, VariantSummary) and not result.complete:
        return status("seeds missing")
    expected = as_expected(result.name, result.status)
    words = {None: "for comparison", True: AS_EXPECTED, False: NOT_AS_EXPECTED}
    return status(words[expected])


def legend(variants: Sequence[Result], columns: str) -> list[Block]:
    """Return how each kind of variant is made, and what the columns mean."""
    rows = ways(variants)
    return [*([Facts(rows)] if rows else []), Paragraph(Span(columns, "dim"))]


def ways(variants: Iterable[Result]) -> list[Row]:
    """Return the suffixes of the names, and how what bears each is made."""
    arms = {result.arm: ARMS[result.arm] for result in variants if result.arm in ARMS}
    return [(f".{arm.name}" if arm.suffix else "no suffix", arm.words) for arm in arms.values() if arm.words]


def controls(results: Sequence[Result], table: Block) -> list[Block]:
    """Return the section of the controls, with what each is for; nothing where there are none."""
    words: dict[str, Inline] = {}
    for result in results:
        if (control := control_of(result.name)) is not None:
            words[control.name] = control.words
    title = Heading(
        "Controls: not candidates", aside="can these examples tell a good adapter from a bad one?"
    )
    return [title, table, Facts(list(words.items()))] if results else []


def reasons(results: Iterable[Result], said: Sequence[str] = ()) -> list[Block]:
    """Return why variants do not simply pass and why controls have no result, without what is `said` already."""
    names: dict[str, list[str]] = {}
    for result in results:
        why = "; ".join(reason for reason in result.reasons if reason not in said)
        measured = result.status in ("PASS", "FAIL")
        passes = result.status == "PASS" and getattr(result, "same_as", None) is None
        if why and not passes and not (result.is_control and measured):
            names.setdefault(why, []).append(result.name)
    return (
        [Heading("Reasons"), items(f"{', '.join(of)}: {why}" for why, of in names.items())] if names else []
    )


def policy(rule: Policy, notes: Iterable[str]) -> list[Block]:
    """Return the safety policy, what it means here, and what limits the verdicts."""
    text = (
        f"A seed passes when its Δ is at least {points(-rule.tolerance)} points. A variant passes when at least "
        f"{exact_percent(rule.pass_rate)} of the planned seeds pass and none has a Δ below {points(-rule.floor)} "
        "points. "
        "A seed without a result counts as failed."
    )
    return [Heading("Policy"), Paragraph(text), Notes([*map(_note, notes), Note("item", NOISE)])]


def _note(text: str) -> Note:
    warning = text.removeprefix("warning: ")
    return Note("item" if warning == text else "warning", warning)


def sources(run: Bench | BenchAggregate, splits: Iterable[DataSplit], more: Iterable[str]) -> list[Block]:
    """Return what the numbers rest on: data, base weights, and `more`."""
    data = [f"{split.role}: {split.n:,} examples, sha256 {split.sha256}" for split in splits]
    return [Heading("What it rests on"), items([*more, *data, f"base weights {run.base_fingerprint}"])]
