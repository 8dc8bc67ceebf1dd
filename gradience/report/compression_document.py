"""`compression_report.json` -> Markdown, as it lies beside it."""

from __future__ import annotations

from gradience.artifacts.compression import CompressionReport
from gradience.report.compression import error_of, family_rows, step, worst
from gradience.report.names import markdown_name, markdown_text
from gradience.report.numbers import count, percent, sig, size


def compression_markdown(report: CompressionReport) -> str:
    """The whole report: totals, families, worst modules, encoding, runtimes, digests, command."""
    lines = [
        f"# {markdown_text(report.output_path)}",
        "",
        f"Compressed from {markdown_name(report.source_path)}: {markdown_text(report.criterion)}. "
        "Made by truncating the singular values of every module; nothing was trained.",
        "",
        "| | before | after |",
        "|---|---|---|",
        f"| LoRA parameters | {count(report.old_params)} | {count(report.new_params)} |",
        f"| saved | | {percent(report.reduction)} |",
        f"| weights on disk | {size(report.old_bytes)} | {size(report.new_bytes)} |",
        f"| vLLM max_lora_rank | {step(report.old_max_lora_rank)} | {step(report.new_max_lora_rank)} |",
        f"| sha256 | `{report.source_sha256}` | `{report.output_sha256}` |",
        "",
        f"Energy kept: {percent(report.kept_energy)}. Relative error ‖ΔW − ΔW′‖/‖ΔW‖ of the whole adapter: "
        f"{sig(report.measured_error)} as stored, {sig(report.predicted_error)} before rounding to the storage type. "
        "A small error in the weights is no proof of equal quality: evaluate it on the task.",
        "",
        "## Modules",
        "",
        "| modules | number | rank | parameters | energy kept (median) | largest error |",
        "|---|---|---|---|---|---|",
    ]
    for row in family_rows(report.modules):
        lines.append(
            f"| {markdown_name(row.family)} | {row.modules} | {row.old_ranks} → {row.new_ranks} | "
            f"{count(row.new_params)} | {percent(row.kept)} | {sig(row.error)} |"
        )
    lines += ["", "| loses most | rank | error |", "|---|---|---|"]
    for module in worst(report.modules, 10):
        lines.append(
            f"| {markdown_name(module.name)} | {module.old_rank} → {module.new_rank} | {sig(error_of(module))} |"
        )
    lines += [
        "",
        "## How it was written",
        "",
        f"Encoding `{report.encoding}`: {markdown_text(report.encoding_reason)}. "
        f"{report.carried_tensors} other tensors and {len(report.carried_files)} files were copied byte for byte.",
        "",
    ]
    for name, change in report.config_changes.items():
        lines.append(f"- {markdown_name(name)}: {markdown_text(change)}")
    for label, names in (
        ("Dropped at rank 0", report.dropped),
        ("Stripped on request", report.stripped),
        ("Files left out", report.left_out_files),
    ):
        if names:
            lines.append(f"- {label}: {', '.join(markdown_name(name) for name in names)}")
    lines += [f"- Warning: {markdown_text(warning)}" for warning in report.warnings]
    lines += ["", "## Runtimes", "", "| runtime | verdict | why | known by |", "|---|---|---|---|"]
    for runtime in report.runtimes:
        lines.append(
            f"| {markdown_text(f'{runtime.runtime} {runtime.version}')} | {runtime.verdict} | "
            f"{markdown_text(runtime.why)} | {markdown_text(runtime.basis)} |"
        )
    lines += [
        "",
        f"Command: {markdown_name(report.run.command)} (Gradience {report.run.gradience_version})",
        "",
    ]
    return "\n".join(lines)
