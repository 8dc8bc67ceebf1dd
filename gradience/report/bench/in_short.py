"""What a page of Bench says first."""

from __future__ import annotations

from gradience.bench.verdict.conditions import as_expected
from gradience.reports.base.blocks import Note
from gradience.reports.base.graded import GRADES
from gradience.reports.base.numbers import percent
from gradience.reports.bench import Bench, VariantResult
from gradience.reports.bench_aggregate import BenchAggregate


def in_short(run: Bench | BenchAggregate) -> list[Note] | None:
    """Controls that came out otherwise than they must, since then the others' verdicts mean little; the grade of the
    best; and the smallest rank of the ladder, which is no variant of the policy."""
    if isinstance(run, Bench) and run.smoke:
        return None
    notes = [
        Note("warning", f"{control.name}: not as a control must be. See Controls.")
        for control in run.controls
        if as_expected(control.name, control.status) is False
    ]
    for variant in run.variants:
        evidence = variant.evidence
        if run.best is not None and variant.name == run.best.name and evidence and evidence.grade:
            mark, _ = GRADES[evidence.grade]
            notes.append(Note(mark, f"Grade {evidence.grade}: {evidence.reason}."))
    if run.ladder is not None:
        keeps = ""
        for step in run.steps:
            share = step.reduction if isinstance(step, VariantResult) else step.mean_reduction
            if step.name == run.ladder.smallest_safe and share is not None:
                keeps = f" It has {percent(share)} fewer LoRA parameters."
        sentence = f"Ladder of truncations: {run.ladder.sentence.removesuffix('.')}.{keeps}"
        notes.append(Note("good" if run.ladder.smallest_safe else "unknown", sentence))
    return notes
