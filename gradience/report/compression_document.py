"""`compression_report.json` -> Markdown, as it lies beside it."""

from __future__ import annotations

from collections.abc import Iterator

from gradience.artifacts.compression import CompressionReport, ModuleResult
from gradience.report.compression_facts import (
    QUALITY,
    arrow,
    carried,
    config_changes,
    encoding_sentence,
    factors_sentence,
    family_rows,
    lists,
    losses,
    nothing_truncated,
    peft_sentence,
    predicted,
    rank_change,
    spread,
    totals,
    worst,
    zeros_sentence,
)
from gradience.report.markdown import escaped, markdown_table
from gradience.report.names import markdown_name, markdown_text
from gradience.report.numbers import count, percent, sig, size
from gradience.report.runtimes import sections

LISTED_WORST = 10
LISTED_MODULES = 1000
"""Rows of the last table; an adapter of many experts has more, and the JSON has them."""
LISTED_NAMES = 100


def compression_markdown(report: CompressionReport) -> str:
    """The whole report as GitHub-flavoured Markdown. Everything that came from the adapter is escaped."""
    return "\n\n".join(_parts(report)) + "\n"


def _parts(report: CompressionReport) -> Iterator[str]:
    yield f"# {markdown_name(report.output_path)}"
    yield (
        f"Compressed from {markdown_name(report.source_path)}: {markdown_text(report.criterion)}. Nothing was trained: "
        "each module is the best approximation of its new rank."
    )
    yield "## What is saved?"
    yield _totals(report)
    if zeros_sentence(report):
        yield f"{markdown_text(zeros_sentence(report))}."
    yield "## What is lost?"
    yield "\n".join(
        f"- {markdown_text(row.label)}: **{markdown_text(row.value)}** {markdown_text(row.meaning)}"
        for row in losses(report)
    )
    said = nothing_truncated(report.modules)
    if said:
        yield f"{markdown_text(said)}."
    yield "## Which runtimes load it?"
    for section in sections(report):
        yield f"{markdown_text(section.title[0].upper() + section.title[1:])}:"
        yield "\n".join(f"- {markdown_text(group.sentence)}" for group in section.groups)
    yield "## Where?"
    yield _families(report)
    if spread(report.modules):
        yield f"{markdown_text(spread(report.modules))}."
    yield from _worst(report)
    yield "## How was it written?"
    yield "\n".join(_written(report))
    yield "## What does this not show?"
    yield markdown_text(QUALITY)
    yield "## Every module"
    yield from _modules(report)
    yield f"Made by {markdown_name(report.run.command)} (Gradience {markdown_text(report.run.gradience_version)})."


def _totals(report: CompressionReport) -> str:
    rows = [[row.label, row.before, row.after, row.change] for row in totals(report)]
    digests = ["sha256 of the weights", f"`{report.source_sha256}`", f"`{report.output_sha256}`", ""]
    return markdown_table(("", "before", "after", ""), [*escaped(rows), digests], "<>><")


def _families(report: CompressionReport) -> str:
    rows = [
        [
            markdown_name(row.family),
            count(row.modules),
            row.ranks + (f" ({row.stored} on disk)" if row.stored else ""),
            f"{count(row.old_params)} → {count(row.new_params)}",
            row.kept,
            row.error,
        ]
        for row in family_rows(report.modules)[0]
    ]
    head = ("modules", "number", "rank", "parameters", "energy kept, median", "worst error")
    return markdown_table(head, rows, "<>>>>>")


def _worst(report: CompressionReport) -> Iterator[str]:
    rows = [
        [
            markdown_name(module.name),
            rank_change(module),
            percent(module.kept_energy),
            sig(module.measured_error),
        ]
        for module in worst(report.modules, LISTED_WORST)
        if isinstance(module, ModuleResult)
    ]
    if rows:
        yield markdown_table(("loses most", "rank", "energy kept", "error"), rows, "<>>>")


def _written(report: CompressionReport) -> Iterator[str]:
    yield f"- encoding: {markdown_text(encoding_sentence(report))}"
    yield f"- factors: {markdown_text(factors_sentence(report))}"
    for name, change in config_changes(report):
        yield f"- config: {markdown_name(name)} {markdown_text(change)}"
    yield f"- carried over: {markdown_text(carried(report))}"
    if peft_sentence(report):
        yield f"- loaded: {markdown_text(peft_sentence(report))}"
    for label, names in lists(report):
        shown = ", ".join(markdown_name(name) for name in names[:LISTED_NAMES])
        rest = f" and {count(len(names) - LISTED_NAMES)} more" if len(names) > LISTED_NAMES else ""
        yield f"- {label}: {shown}{rest}"
    for warning in report.warnings:
        yield f"- **warning**: {markdown_text(warning)}"


def _modules(report: CompressionReport) -> Iterator[str]:
    layers = any(module.output_error is not None for module in report.modules)
    head = ["module", "rank", "on disk", "energy kept", "error predicted", "error as stored"]
    head += [*(["error of the DoRA layer"] if layers else []), "parameters", "bytes"]
    rows = []
    for module in report.modules[:LISTED_MODULES]:
        rows.append(
            [
                markdown_name(module.name),
                rank_change(module),
                str(module.stored_rank),
                percent(module.kept_energy),
                predicted(module.predicted_error),
                sig(module.measured_error),
                *([sig(module.output_error)] if layers else []),
                arrow(count(module.old_params), count(module.new_params)),
                arrow(size(module.old_bytes), size(module.new_bytes)),
            ]
        )
    yield markdown_table(head, rows, "<" + ">" * (len(head) - 1))
    rest = len(report.modules) - len(rows)
    if rest:
        yield f"{count(rest)} more modules are in `compression_report.json`."
