"""Can I trust it? Coverage, precision, and what is wrong. And the findings: what else was noticed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from textwrap import shorten

from gradience.audit.findings import COARSE_BOUND
from gradience.report.audit.view import View, trained_layers
from gradience.report.incomplete import incompleteness, reasons
from gradience.reports.audit import AuditReport
from gradience.reports.base.blocks import Block, Heading, Mark, Note, Notes, Span
from gradience.reports.base.finding import Finding, Severity
from gradience.reports.base.numbers import bound, count, plural
from gradience.reports.base.view import more

SHOWN_NOTES = 6
"""Findings of a brief report."""
GIST = 80
"""Characters of a warning above the section that says it whole."""
FINDINGS = "Findings"
"""The title of their section."""


def trust_blocks(report: AuditReport, view: View) -> list[Block]:
    """Coverage, what is wrong, and precision; on a screen also what else was noticed, in a file how much of it."""
    heading = Heading("Can I trust it?")
    if view.brief or view.layers:
        notes = trust_notes(report)
        if not view.brief:
            return [heading, Notes(notes)]
        shown = [note if note.mark == "error" else replace(note, details=()) for note in notes[:SHOWN_NOTES]]
        return [heading, Notes(shown), *more(len(notes) - len(shown), "more finding", ": --layers or --json")]
    errors = finding_notes(report.findings, ("error",))
    warnings: dict[str, Note] = {}
    for each in report.findings:
        if each.severity == "warning":
            gist = f"{each.code}: {shorten(each.message, GIST, placeholder=' …')} ("
            warnings.setdefault(each.code, Note("warning", (gist, Span(f"see {FINDINGS}", to=FINDINGS), ")")))
    return [heading, Notes([_coverage_note(report), *errors, *warnings.values(), *_precision_notes(report)])]


def finding_blocks(report: AuditReport, view: View) -> list[Block]:
    """Warnings, and what is merely good to know: in a file, behind the figures that they are about."""
    if view.brief or view.layers:
        return []
    notes = [*finding_notes(report.findings, ("warning",)), *_other_notes(report)]
    notes += finding_notes(report.findings, ("info",))
    if not notes and report.findings:  # errors stand at the top
        return []
    return [Heading(FINDINGS), Notes(notes or [Note("good", "none")])]


def trust_notes(report: AuditReport) -> list[Note]:
    """Coverage, errors, warnings, precision, and what is merely good to know, in this order."""
    worse = finding_notes(report.findings, ("error", "warning"))
    notes = [_coverage_note(report), *worse, *_precision_notes(report), *_other_notes(report)]
    return [*notes, *finding_notes(report.findings, ("info",))]


def _other_notes(report: AuditReport) -> list[Note]:
    other = report.coverage.other
    if not other:
        return []
    text = (
        f"{count(report.coverage.other_params)} parameters in {plural(len(other), 'tensor')} "
        f"are not LoRA weights and are counted separately: {reasons(other)}"
    )
    return [Note("info", text)]


def _coverage_note(report: AuditReport) -> Note:
    missing = incompleteness(report)
    if missing:
        return Note("error", f"incomplete: {missing}")
    measured = f"all {count(report.n_layers)} modules" if report.n_layers > 1 else "the one module"
    tensors = count(report.coverage.tensors)
    return Note("good", f"complete: {measured} measured, all {tensors} tensors accounted for")


def _precision_notes(report: AuditReport) -> list[Note]:
    """How exact the figures are; modules that are not have a finding of their own (`imprecise`)."""
    if not report.n_trained:
        return []
    trained = trained_layers(report)
    exact = [error for layer in trained if (error := layer.error_bound or 0.0) <= COARSE_BOUND]
    coarse = len(trained) - len(exact)
    parts = [f"numerical error ≤ {bound(max(exact, default=COARSE_BOUND))}"] if exact else []
    if coarse:
        worst = max(layer.error_bound or 0.0 for layer in trained)
        others = plural(coarse, "other module") if exact else plural(coarse, "module")
        parts.append(f"numerical error up to {bound(worst)} in {others}")
    storage = max(layer.storage_error or 0.0 for layer in trained)
    if storage:
        parts.append(f"{number_types(report)} storage moves the stable rank by up to {bound(storage)}")
    borderline = sum(layer.borderline for layer in trained)
    if borderline:
        parts.append(f"{plural(borderline, 'module')} borderline: k may be off by one")
    return [Note("warning" if coarse else "good", "; ".join(parts))]


def number_types(report: AuditReport) -> str:
    """Storage types in lower case, `bf16` or `f16+f32`."""
    return "+".join(sorted({part.lower() for dtype in report.adapter.dtypes for part in dtype.split("+")}))


def finding_notes(findings: Sequence[Finding], severities: Sequence[Severity]) -> list[Note]:
    """One note for each kind of finding, in this order; what repeats is counted, and its first case is told."""
    notes = []
    for severity in severities:
        groups: dict[str, list[Finding]] = {}
        for finding in findings:
            if finding.severity == severity:
                groups.setdefault(finding.code, []).append(finding)
        notes += [_finding_note(severity, code, group) for code, group in groups.items()]
    return notes


def _finding_note(mark: Mark, code: str, group: list[Finding]) -> Note:
    first = group[0]
    more = f" (and {count(len(group) - 1)} more like this)" if len(group) > 1 else ""
    return Note(mark, f"{code}: {_located(first)}{more}", [first.hint] if first.hint else [])


def _located(finding: Finding) -> str:
    """The message, led by the module's name unless it says it itself."""
    if finding.module and finding.module not in finding.message:
        return f"{finding.module}: {finding.message}"
    return finding.message
