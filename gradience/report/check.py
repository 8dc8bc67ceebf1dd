"""A CheckReport -> the screen: what was read, then every finding with what to do."""

from __future__ import annotations

from gradience.artifacts.check import CheckFinding, CheckReport
from gradience.report.lines import Line, Span, line, paragraph, render
from gradience.report.monitor_table import MARKS
from gradience.report.names import display_name, display_sentence
from gradience.report.numbers import count, plural, sig, trimmed

MIN_WIDTH, MAX_WIDTH = 60, 100


def check_text(
    report: CheckReport, *, width: int | None = None, color: bool = False, verbose: bool = False
) -> str:
    """The report as terminal text. `verbose` adds sources and the rules that found nothing."""
    room = min(max(width or 80, MIN_WIDTH), MAX_WIDTH)
    lines: list[Line] = [
        line(Span(display_name(file.path), "strong"), Span(f"  read as {file.dialect}", "dim"))
        for file in report.files
    ]
    lines += paragraph(settings_sentence(report), room, style="dim")
    lines.append([])
    for finding in report.findings:
        lines += _finding(finding, room, verbose)
    lines += [line(Span(_verdict(report), "strong"))]
    if verbose:
        for label, codes in (
            ("found nothing", report.passed),
            ("not applicable", report.not_applicable),
        ):
            lines += paragraph(f"{label}: {', '.join(codes) or 'none'}", room, style="dim")
    return render(lines, color=color)


def settings_sentence(report: CheckReport) -> str:
    """What was read, in one sentence."""
    s = report.settings
    targets = s.target_modules if isinstance(s.target_modules, str) else ", ".join(s.target_modules or ())
    parts = [
        display_name(s.base_model) if s.base_model else "",
        f"{s.quantized_bits}-bit base" if s.quantized_bits in (4, 8) else "",
        f"r={s.r}" if s.r is not None else "",
        f"α={trimmed(s.alpha)}" if s.alpha is not None else "",
        f"scale {sig(s.scale)}" if s.scale is not None else "",
        "rsLoRA" if s.use_rslora else "",
        "DoRA" if s.use_dora else "",
        f"on {display_name(targets, 80)}" if targets else "",
        f"{count(report.lora_params)} LoRA parameters" if report.lora_params is not None else "",
        f"lr {sig(s.learning_rate, 2)}" if s.learning_rate is not None else "",
        f"batch {s.effective_batch_size}" if s.effective_batch_size is not None else "",
        f"{trimmed(s.epochs)} epoch{'' if s.epochs == 1 else 's'}" if s.epochs is not None else "",
        f"task {report.task}" if report.task else "",
        _objective(report),
    ]
    return " · ".join(part for part in parts if part) or "no setting was found"


def _objective(report: CheckReport) -> str:
    """`objective rl (grpo)`; nothing where the task says the same."""
    objective, algorithm = report.settings.objective, report.settings.algorithm
    if objective is None or (objective == report.task and algorithm is None):
        return ""
    return f"objective {objective}" + (
        f" ({display_name(algorithm)})" if algorithm not in (None, objective) else ""
    )


def _finding(finding: CheckFinding, width: int, verbose: bool) -> list[Line]:
    mark, style = MARKS[finding.severity]
    where = f", {display_name(finding.where, 60)}" if finding.where else ""
    lines = paragraph(
        f"{display_sentence(finding.message)} ({finding.code}{where})",
        width,
        first=[Span(mark, style), Span(" ")],
        indent=2,
    )
    lines += paragraph(f"found: {display_sentence(finding.seen)}", width, indent=4)
    lines += paragraph(f"advised: {display_sentence(finding.advised)}", width, indent=4)
    lines += paragraph(display_sentence(finding.reason), width, indent=4, style="dim")
    if verbose:
        lines += paragraph(f"source: {display_sentence(finding.source)}", width, indent=4, style="dim")
    return [*lines, []]


def _verdict(report: CheckReport) -> str:
    severities = [finding.severity for finding in report.findings]
    said = [
        plural(severities.count(name), noun, nouns)
        for name, noun, nouns in (
            ("error", "error", None),
            ("warning", "warning", None),
            ("info", "note", None),
        )
        if name in severities
    ]
    judged = len({*report.passed, *(finding.code for finding in report.findings)})
    return f"{', '.join(said) or 'nothing to report'}; {plural(judged, 'rule')} applied"
