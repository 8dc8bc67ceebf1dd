"""A CheckReport -> blocks: what was read, then every finding with what to do."""

from __future__ import annotations

from gradience.reports.base import terminal
from gradience.reports.base.blocks import (
    Block,
    Document,
    Facts,
    Heading,
    Inline,
    Note,
    Notes,
    Paragraph,
    Span,
)
from gradience.reports.base.numbers import count, plural, sig, trimmed
from gradience.reports.check import CheckFinding, CheckReport


def check_text(
    report: CheckReport, *, width: int | None = None, color: bool = False, verbose: bool = False
) -> str:
    """Return the report as terminal text. `verbose` adds sources and the rules that found nothing."""
    return terminal.render(check_blocks(report, verbose=verbose), width=width, color=color)


def check_blocks(report: CheckReport, *, verbose: bool = False) -> Document:
    """Return the files and settings, the findings and the count of them; `verbose` as in `check_text`."""
    files: list[tuple[str, Inline]] = [
        (f"read as {file.dialect}", Span(file.path, "name")) for file in report.files
    ]
    blocks: list[Block] = [Heading("Check before training", level=1)]
    blocks += [Facts(files)] if files else []
    blocks.append(Paragraph(Span(settings_sentence(report), "dim")))
    if report.findings:
        blocks += [Heading("Findings"), Notes([_note(finding, verbose) for finding in report.findings])]
    blocks.append(Paragraph(Span(_counts(report), "strong")))
    return [*blocks, Facts(_rules_without_finding(report))] if verbose else blocks


def settings_sentence(report: CheckReport) -> str:
    """Return what was read, in one sentence."""
    s = report.settings
    targets = s.target_modules if isinstance(s.target_modules, str) else ", ".join(s.target_modules or ())
    parts = [
        s.base_model or "",
        f"{s.quantized_bits}-bit base" if s.quantized_bits in (4, 8) else "",
        f"r={s.r}" if s.r is not None else "",
        f"α={trimmed(s.alpha)}" if s.alpha is not None else "",
        f"scale {sig(s.scale)}" if s.scale is not None else "",
        "rsLoRA" if s.use_rslora else "",
        "DoRA" if s.use_dora else "",
        f"on {targets}" if targets else "",
        f"{count(report.lora_params)} LoRA parameters" if report.lora_params is not None else "",
        f"lr {sig(s.learning_rate, 2)}" if s.learning_rate is not None else "",
        f"batch {s.effective_batch_size}" if s.effective_batch_size is not None else "",
        f"{trimmed(s.epochs)} epoch{'' if s.epochs == 1 else 's'}" if s.epochs is not None else "",
        f"task {report.task}" if report.task else "",
        _objective(report),
    ]
    return " · ".join(part for part in parts if part) or "no setting was recognized"


def _objective(report: CheckReport) -> str:
    """`objective rl (grpo)`; nothing where the task says the same."""
    objective, algorithm = report.settings.objective, report.settings.algorithm
    if objective is None or (objective == report.task and algorithm is None):
        return ""
    return f"objective {objective}" + (f" ({algorithm})" if algorithm not in (None, objective) else "")


def _note(finding: CheckFinding, verbose: bool) -> Note:
    where = f", {finding.where}" if finding.where else ""
    details = [f"now: {finding.seen}", f"advised: {finding.advised}", finding.reason]
    details += [f"source: {finding.source}"] if verbose else []
    return Note(finding.severity, f"{finding.message} ({finding.code}{where})", details)


def _counts(report: CheckReport) -> str:
    """`1 warning, 2 notes; 31 rules applied`."""
    severities = [finding.severity for finding in report.findings]
    nouns = {"error": "error", "warning": "warning", "info": "note"}
    counts = [plural(severities.count(name), noun) for name, noun in nouns.items() if name in severities]
    applied = len({*report.passed, *(finding.code for finding in report.findings)})
    return f"{', '.join(counts) or 'nothing to report'}; {plural(applied, 'rule')} applied"


def _rules_without_finding(report: CheckReport) -> list[tuple[str, Inline]]:
    return [
        ("no finding", ", ".join(report.passed) or "none"),
        ("not applicable", ", ".join(report.not_applicable) or "none"),
    ]
