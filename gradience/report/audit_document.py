"""`audit.json` -> Markdown for a model card or a pull request, and the HTML table that a notebook shows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gradience.artifacts.audit import AuditReport
from gradience.report.audit_facts import (
    caveat,
    decision_sentence,
    fullest,
    gain_sentence,
    headline,
    inventory,
    k_label,
    layer_digits,
    measure_digits,
    plan_rows,
    spare_params,
    trust_notes,
    use_rows,
    use_sentence,
    wasteful,
)
from gradience.report.markdown import escaped, markdown_table
from gradience.report.names import html_name, html_text, markdown_name, markdown_text
from gradience.report.numbers import count, percent, sig, size, trimmed

LISTED = 5
"""Modules listed at either end."""
MARK_WORDS = {"good": "ok", "info": "note", "warning": "**warning**", "error": "**error**"}


def audit_markdown(report: AuditReport) -> str:
    """The report as GitHub-flavoured Markdown. Everything that came from the adapter is escaped."""
    label = k_label(report.tau)
    parts = [
        f"## Audit of {markdown_name(report.adapter.path)}",
        f"{markdown_text(headline(report))}  \n{markdown_text(inventory(report))}",
        "### Can I trust it?",
        "\n".join(f"- {MARK_WORDS[note.mark]}: {markdown_text(note.text)}" for note in trust_notes(report)),
    ]
    uses = use_table(report)
    if uses:
        parts += [
            "### How much of the rank is used?",
            markdown_table(("over trained modules", "median", "p90", "largest"), uses, "<>>>"),
            markdown_text(use_sentence(report)) + ".",
        ]
    parts.append("### What ranks are suggested?")
    plans = plan_table(report)
    if plans:
        head = ("", label, "rank", "LoRA parameters", "size", "saved", "vLLM max_lora_rank")
        decided = markdown_text(f"Rounding: {decision_sentence(report)}.")
        parts += [markdown_table(tuple(map(markdown_text, head)), escaped(plans), "<>>>>>>"), decided]
    else:
        parts.append("None: see the findings above.")
    extremes = extreme_table(report)
    if extremes:
        parts += [
            "### Where?",
            markdown_table(
                ("", "module", "r", label, "stable rank", "spare parameters"),
                [(where, markdown_name(name), *numbers) for where, name, *numbers in extremes],
                "<<>>>>",
            ),
        ]
        gain = gain_sentence(report)
        parts += [markdown_text(gain) + "."] if gain else []
    parts += ["### What does this not show?", markdown_text(caveat(report))]
    return "\n\n".join(parts) + "\n"


# ---------------------------------------------------------------- the tables, as plain strings


def use_table(report: AuditReport) -> list[tuple[str, ...]]:
    """Measure, median, p90, largest."""
    digits = measure_digits(report)
    rows = []
    for row in use_rows(report):
        values = (row.median, row.p90, row.largest)
        whole = row.label.startswith("k@")
        rows.append((row.label, *(trimmed(value) if whole else sig(value, digits) for value in values)))
    return rows


def plan_table(report: AuditReport) -> list[tuple[str, ...]]:
    """Variant, evidence, rank, parameters, bytes, saving, vLLM step."""
    return [
        (
            row.label,
            row.evidence,
            row.rank,
            count(row.params),
            size(row.bytes),
            "" if row.reduction is None else percent(row.reduction),
            "over 512" if row.max_lora_rank is None else str(row.max_lora_rank),
        )
        for row in plan_rows(report)
    ]


def extreme_table(report: AuditReport) -> list[tuple[str, ...]]:
    """Both ends: modules with most spare rank, and those with least. Names are not escaped yet."""
    ends = (("most spare rank", wasteful(report, LISTED)), ("least spare rank", fullest(report, LISTED)))
    return [
        (
            where if position == 0 else "",
            layer.label,
            str(layer.r),
            str(layer.energy_rank_tau),
            sig(layer.stable_rank, layer_digits(layer)),
            count(spare_params(report, layer)),
        )
        for where, layers in ends
        for position, layer in enumerate(layers)
    ]


# ---------------------------------------------------------------- HTML


def audit_html(report: AuditReport) -> str:
    """A few small tables for a notebook: no script, no remote resource, colours of the page around it."""
    label = html_text(k_label(report.tau))
    notes = "".join(f"<li>{_html_mark(note.mark)}{html_text(note.text)}</li>" for note in trust_notes(report))
    parts = [
        f"<strong>{html_name(report.adapter.path)}</strong><br>",
        f"{html_text(headline(report))}<br>{html_text(inventory(report))}",
        f"<ul>{notes}</ul>",
    ]
    uses = use_table(report)
    if uses:
        parts.append(html_table("Rank used", ("", "median", "p90", "largest"), _html_cells(uses)))
        parts.append(f"<p>{html_text(use_sentence(report))}.</p>")
    plans = plan_table(report)
    if plans:
        head = ("", label, "rank", "LoRA parameters", "size", "saved", "vLLM max_lora_rank")
        parts.append(html_table("Suggested ranks", head, _html_cells(plans)))
        parts.append(f"<p>Rounding: {html_text(decision_sentence(report))}.</p>")
    extremes = [(where, html_name(name), *numbers) for where, name, *numbers in extreme_table(report)]
    if extremes:
        where = ("", "module", "r", label, "stable rank", "spare parameters")
        parts.append(html_table("Where", where, extremes))
    parts.append(f"<p>{html_text(caveat(report))}</p>")
    return f'<div class="gradience-audit">{"".join(parts)}</div>'


def html_table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the cells are escaped already. The first column is a row header."""
    columns = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>'
        for row in rows
    )
    return (
        f"<table><caption>{caption}</caption><thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table>"
    )


def _html_cells(rows: Iterable[Sequence[str]]) -> list[list[str]]:
    return [[html_text(cell) for cell in row] for row in rows]


def _html_mark(mark: str) -> str:
    return f"<strong>{mark}:</strong> " if mark in ("warning", "error") else ""
