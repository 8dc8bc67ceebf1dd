"""Sentences and rankings of an audit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from gradience.artifacts.audit import AuditReport, LayerAudit, Suggestions, TensorNote
from gradience.artifacts.finding import Finding
from gradience.audit.findings.numbers import COARSE_BOUND
from gradience.report.blocks import Mark, Note
from gradience.report.numbers import (
    DIGITS,
    bound,
    count,
    digits_for,
    number_range,
    percent,
    plural,
    sig,
    trimmed,
)

HYPOTHESIS = "Quality: each rank is a hypothesis until evaluated on the task, over seeds."
NO_QUALITY = "Quality: an audit measures weights, not answers."


def caveat(report: AuditReport) -> str:
    """What no audit shows."""
    return HYPOTHESIS if report.suggestions else NO_QUALITY


# ---------------------------------------------------------------- can I trust it?


def incompleteness(report: AuditReport) -> str | None:
    """Why the result is incomplete, in one sentence; None where it is complete.

    Incomplete means: some tensor or module could not be measured, or nothing at all was trained.
    """
    statuses = Counter(layer.status for layer in report.layers)
    parts = []
    if statuses["nonfinite"]:
        parts.append(f"{_of(statuses['nonfinite'], report.n_layers)} hold NaN or infinity")
    if statuses["unsupported"]:
        parts.append(f"{_of(statuses['unsupported'], report.n_layers)} could not be measured")
    if report.coverage.unaudited:
        unaudited = report.coverage.unaudited
        parts.append(
            f"{plural(len(unaudited), 'tensor')} ({count(report.coverage.unaudited_params)} parameters) "
            f"could not be audited: {_reasons(unaudited)}"
        )
    if report.n_layers and statuses["untrained"] == report.n_layers:
        modules = "the one module is" if report.n_layers == 1 else f"all {count(report.n_layers)} modules are"
        parts.append(f"{modules} untrained (ΔW = 0): there is nothing to measure")
    return "; ".join(parts) or None


def trust_notes(report: AuditReport) -> list[Note]:
    """Coverage, errors, warnings, precision, and what is merely good to know, in this order."""
    findings = finding_notes(report.findings)
    notes = [_coverage_note(report), *(note for note in findings if note.mark != "info")]
    if report.n_trained:
        notes.append(_precision_note(report))
    other = report.coverage.other
    if other:
        text = (
            f"{count(report.coverage.other_params)} parameters in {plural(len(other), 'tensor')} "
            f"are not LoRA weights and are counted separately: {_reasons(other)}"
        )
        notes.append(Note("info", text))
    return [*notes, *(note for note in findings if note.mark == "info")]


def _coverage_note(report: AuditReport) -> Note:
    missing = incompleteness(report)
    if missing:
        return Note("error", f"incomplete: {missing}")
    measured = f"all {count(report.n_layers)} modules" if report.n_layers > 1 else "the one module"
    tensors = count(report.coverage.tensors)
    return Note("good", f"complete: {measured} measured, all {tensors} tensors accounted for")


def _precision_note(report: AuditReport) -> Note:
    """How exact the figures are; modules that are not have a finding of their own (`imprecise`)."""
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
    return Note("warning" if coarse else "good", "; ".join(parts))


def finding_notes(findings: Sequence[Finding]) -> list[Note]:
    """One note for each kind of finding, worst first; what repeats is counted, and its first case is told."""
    order: dict[str, Mark] = {"error": "error", "warning": "warning", "info": "info"}
    notes = []
    for severity, mark in order.items():
        groups: dict[str, list[Finding]] = {}
        for finding in findings:
            if finding.severity == severity:
                groups.setdefault(finding.code, []).append(finding)
        notes += [_finding_note(mark, code, group) for code, group in groups.items()]
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


def _reasons(notes: Iterable[TensorNote], most: int = 2) -> str:
    """The most frequent reasons, with how many tensors each has."""
    reasons = Counter(note.reason for note in notes)
    ranked = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{reason} ({count(number)})" for reason, number in ranked[:most]]
    rest = len(ranked) - most
    return ", ".join(shown) + (f" and {plural(rest, 'other reason')}" if rest > 0 else "")


def _of(part: int, whole: int) -> str:
    return f"{count(part)} of {plural(whole, 'module')}"


# ---------------------------------------------------------------- what it is


def kind_of_adapter(report: AuditReport) -> str:
    """`PEFT LoRA`, or what else the file is."""
    adapter = report.adapter
    kind = "PEFT LoRA" if adapter.format == "peft" else f"LoRA from a single {adapter.format} file"
    return f"{kind} (DoRA: magnitudes are not part of this)" if adapter.use_dora else kind


def alpha_and_scale(report: AuditReport) -> str:
    """`α 128, s = α/r = 2`; says so where the file does not tell."""
    alphas = [layer.alpha for layer in report.layers if layer.alpha is not None]
    scales = [layer.scale for layer in report.layers if layer.scale is not None]
    if not alphas or not scales:
        return "α unknown"
    rule = "α/√r" if report.adapter.use_rslora else "α/r"
    return f"α {number_range(alphas)}, s = {rule} = {number_range(scales)}"


def number_types(report: AuditReport) -> str:
    """Storage types in lower case, `bf16` or `f16+f32`."""
    return "+".join(sorted({part.lower() for dtype in report.adapter.dtypes for part in dtype.split("+")}))


# ---------------------------------------------------------------- how much of its rank does it use?


def trained_layers(report: AuditReport) -> list[LayerAudit]:
    """The modules that means and percentiles are over."""
    return [layer for layer in report.layers if layer.status == "ok"]


def k_label(threshold: float) -> str:
    """`k@90` for 0.90, `k@97.5` for 0.975."""
    return f"k@{100 * threshold:.6g}"


def measure_digits(report: AuditReport) -> int:
    """Digits that hold in a measure of every module."""
    return min((layer_digits(layer) for layer in trained_layers(report)), default=DIGITS)


def layer_digits(layer: LayerAudit) -> int:
    """Digits of a module's measures that storage rounding and the error of the computation leave."""
    return digits_for((layer.storage_error or 0.0) + (layer.error_bound or 0.0))


# ---------------------------------------------------------------- what ranks are suggested?


def decision_sentence(plan: Suggestions) -> str:
    """How each uniform rank came from its evidence: as measured, rounded up, or limited."""
    words = {
        "evidence": "as measured",
        "grid": f"rounded up (allowed: {shown_grid(plan.grid)})",
        "cap": "limited by the current rank",
    }
    chosen = {"median": plan.median, "p90": plan.p90}
    said = {name: f"{name} {trimmed(s.unrounded)} → {s.rank}" for name, s in chosen.items()}
    if plan.median.decided_by == plan.p90.decided_by:
        return f"{said['median']}, {said['p90']}: {words[plan.median.decided_by]}"
    return "; ".join(f"{said[name]}: {words[s.decided_by]}" for name, s in chosen.items())


def shown_grid(grid: Sequence[int], most: int = 5) -> str:
    """`1, 2, 4 … 64`: all allowed ranks, or the ends of a long list."""
    if len(grid) <= most:
        return ", ".join(map(str, grid))
    return f"{', '.join(map(str, grid[:3]))} … {grid[-1]}"


# ---------------------------------------------------------------- where?


def spare_params(layer: LayerAudit) -> int:
    """Parameters of the directions beyond the energy rank."""
    k = layer.energy_rank_tau
    return 0 if k is None else layer.params // layer.r * (layer.r - k)


def wasteful(report: AuditReport, number: int) -> list[LayerAudit]:
    """Trained modules with the most parameters beyond their energy rank; none where nothing may be suggested."""
    if report.suggestions is None:
        return []
    ranked = sorted(
        (layer for layer in trained_layers(report) if spare_params(layer) > 0),
        key=lambda layer: (-spare_params(layer), layer.stable_rank or 0.0, layer.label),
    )
    return ranked[:number]


def fullest(report: AuditReport, number: int) -> list[LayerAudit]:
    """Trained modules whose energy rank is nearest to r: there a smaller rank costs most."""
    if report.suggestions is None:
        return []
    ranked = sorted(
        trained_layers(report),
        key=lambda layer: (-(layer.energy_rank_tau or 0) / layer.r, -(layer.stable_rank or 0.0), layer.label),
    )
    return ranked[:number]


def gain_sentence(report: AuditReport) -> str:
    """How large the update is and where it sits; empty where the scale is unknown."""
    gain = report.gain
    if gain is None or not gain.per_layer:
        return ""
    digits = measure_digits(report)
    parts = [f"‖ΔW‖_F {sig(gain.fro_norm_total, digits)}", f"‖ΔW‖₂ ≤ {sig(gain.sigma_max, digits)}"]
    if len(gain.per_layer) > 1:
        top = max(gain.per_layer, key=lambda layer: layer.share)
        parts.append(f"{short_layer(report, top.layer)} has {percent(top.share)} of the energy")
        parts.append(f"HHI {sig(gain.hhi, 2)}")
    return " · ".join(parts)


def short_layer(report: AuditReport, layer: str) -> str:
    """`layer 31` where all layers are of one stack, else the path."""
    stacks = {row.layer.rpartition(".")[0] for row in report.layers if row.layer}
    stack, _, number = layer.rpartition(".")
    return f"layer {number}" if stacks == {stack} else layer
