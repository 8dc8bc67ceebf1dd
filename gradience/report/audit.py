"""`audit.json` -> the screen. It answers, in this order: can I trust it, how much of the rank is used, what ranks
are suggested and what they save, where, and what this does not show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gradience.artifacts.audit import AuditReport, LayerAudit
from gradience.report.audit_document import audit_html, audit_markdown
from gradience.report.audit_facts import (
    Note,
    UseRow,
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
from gradience.report.audit_heat import BLOCKS, Cell, HeatMap, heat_maps, outside, ruler
from gradience.report.lines import (
    Line,
    Span,
    cells,
    columns,
    columns_width,
    fit,
    fit_names,
    line,
    line_cells,
    line_text,
    pad,
    paragraph,
    render,
)
from gradience.report.names import display_name, display_sentence
from gradience.report.numbers import count, number_range, percent, plural, sig, size, trimmed

__all__ = ["audit_html", "audit_markdown", "audit_text"]

MIN_WIDTH, MAX_TEXT = 80, 100
"""The screen is laid out for 80 columns. Sentences do not grow beyond 100, where they are hard to read; names and maps
take what the terminal has."""
SHOWN_NOTES = 6
"""Findings on the first screen; the rest is counted, and shown with the layers."""
SHOWN_WASTEFUL, SHOWN_FULLEST = 3, 2
MEANING, BAR = 34, 20
"""Columns of a measure's name and of its bar, in 80."""
MARKS = {"good": "✓", "info": "·", "warning": "!", "error": "✗"}
MARK_STYLES = {"good": "good", "info": "dim", "warning": "warn", "error": "bad"}


def audit_text(
    report: AuditReport,
    *,
    width: int = MIN_WIDTH,
    color: bool = False,
    top_wasteful: int = SHOWN_WASTEFUL,
    layers: bool = False,
) -> str:
    """The screen of one adapter, about 40 lines.

    width: columns of the terminal. top_wasteful: modules listed with most spare rank. layers: the table of modules
    follows, so every finding is shown with its hint, and nothing points to `--layers`.
    """
    room = max(MIN_WIDTH, width)
    width = min(room, MAX_TEXT)
    more = "" if layers else ": --layers"
    sections = [
        title_lines(report, room),
        trust_lines(report, width, layers),
        use_lines(report, width),
        plan_lines(report, width),
        where_lines(report, room, top_wasteful, more),
        caveat_lines(report, width, layers),
    ]
    lines: list[Line] = []
    for section in sections:
        if section:
            lines += [*([[]] if lines else []), *section]
    return render(lines, color=color)


def title_lines(report: AuditReport, room: int) -> list[Line]:
    """Path, kind, rank, scale, base, inventory."""
    path = display_name(report.adapter.path)
    width = min(room, MAX_TEXT)
    return [
        line(Span(fit(path, room), "strong")),
        *paragraph(display_sentence(headline(report)), width, indent=0),
        *paragraph(display_sentence(inventory(report)), width, indent=0, style="dim"),
    ]


# ---------------------------------------------------------------- can I trust it?


def trust_lines(report: AuditReport, width: int, layers: bool) -> list[Line]:
    """Coverage and precision, then the findings."""
    notes = trust_notes(report)
    shown = notes if layers else notes[:SHOWN_NOTES]
    lines = [heading("Can I trust it?")]
    for note in shown:
        lines += note_lines(note, width, with_hint=layers or note.mark == "error")
    if len(notes) > len(shown):
        rest = f"{plural(len(notes) - len(shown), 'more finding')}: --layers or --json"
        lines.append(line("  ", Span("…", "dim"), " ", Span(rest, "dim")))
    return lines


def note_lines(note: Note, width: int, *, with_hint: bool) -> list[Line]:
    """A mark and a sentence, wrapped."""
    mark = line("  ", Span(MARKS[note.mark], MARK_STYLES[note.mark]), " ")
    lines = paragraph(display_sentence(note.text), width, first=mark, indent=4)
    if with_hint and note.hint:
        lines += paragraph(display_sentence(note.hint), width, indent=4, style="dim")
    return lines


# ---------------------------------------------------------------- how much of the rank is used?


def use_lines(report: AuditReport, width: int) -> list[Line]:
    """Energy ranks and stable rank with their spread, as bars on the scale of r."""
    rows = use_rows(report)
    if not rows:
        return []
    top = max(layer.r for layer in report.layers)
    digits = measure_digits(report)
    title = Span("How much of the rank is used?", "heading")
    scale = f"░ r = {top}" if all(layer.r == top for layer in report.layers) else f"░ r ≤ {top}"
    head = [title, Span("█ median", "bar1"), Span("▓ p90", "bar2"), Span("▒ max", "bar3"), Span(scale, "dim")]
    bar = BAR + width - MIN_WIDTH
    table = [[meaning(row.label), *use_numbers(row, digits), *use_bar(row, top, bar)] for row in rows]
    widths = (MEANING, 8, 6, 6)
    lines = columns([head], "<>>><", indent=0, gap=1, widths=(MEANING + 2, *widths[1:]))
    for row in table:
        numbers = columns([row[:4]], "<>>>", gap=1, widths=widths)[0]
        lines.append([*numbers, Span(" "), *row[4:]])
    return [*lines, *paragraph(use_sentence(report), width)]


def meaning(label: str) -> Span:
    """What a measure counts."""
    if not label.startswith("k@"):
        return Span("stable rank  Σσ²/σ₁²")
    long = f"{label}  directions for {label[2:]} % energy"
    return Span(long if len(long) <= MEANING else f"{label}  directions")


def use_numbers(row: UseRow, digits: int) -> list[Span]:
    """Median, 90th percentile, largest."""
    if row.label.startswith("k@"):
        return [Span(trimmed(row.median), "strong"), Span(trimmed(row.p90)), Span(trimmed(row.largest))]
    return [
        Span(sig(row.median, digits), "strong"),
        Span(sig(row.p90, digits)),
        Span(sig(row.largest, digits)),
    ]


def use_bar(row: UseRow, top: int, length: int) -> Line:
    """Median, p90 and maximum on the scale 0 … r; each is at least one sign wide where it is more than the last."""
    ends = [max(1, round(length * min(1.0, value / top))) for value in (row.median, row.p90, row.largest)]
    median, p90, largest = ends[0], max(ends[0], ends[1]), max(ends)
    return [
        Span("█" * median, "bar1"),
        Span("▓" * (p90 - median), "bar2"),
        Span("▒" * (largest - p90), "bar3"),
        Span("░" * (length - largest), "dim"),
    ]


# ---------------------------------------------------------------- what ranks are suggested?


def plan_lines(report: AuditReport, width: int) -> list[Line]:
    """Now and three smaller adapters, with what each saves."""
    rows = plan_rows(report)
    if not rows:
        why = (
            "None: see the findings above. A rank is suggested only from a trained update that is B·A alone."
        )
        return [heading("What ranks are suggested?"), *paragraph(why, width)]
    head = [Span("What ranks are suggested?", "heading")]
    head += [Span(text, "dim") for text in ("rank", "parameters", "size", "saved", "max_lora_rank")]
    table: list[list[str | Span]] = [list(head)]
    for row in rows:
        label = f"  {row.label:<16}"
        evidence = f"{k_label(report.tau)} {row.evidence}" if row.evidence else ""
        saved = Span("" if row.reduction is None else percent(row.reduction), "good" if row.reduction else "")
        step = "over 512" if row.max_lora_rank is None else str(row.max_lora_rank)
        table.append(
            [label + evidence, Span(row.rank, "strong"), count(row.params), size(row.bytes), saved, step]
        )
    lines = columns(table, "<>>>>>", indent=0, gap=2, widths=(28,))
    return [*lines, *paragraph(decision_sentence(report), width, style="dim")]


# ---------------------------------------------------------------- where?


def where_lines(report: AuditReport, room: int, top_wasteful: int, more: str) -> list[Line]:
    """The map, where the energy is, and the modules at both ends. more: where the rest is shown."""
    lines: list[Line] = []
    maps, hidden = heat_maps(report, room - LABEL - BESIDE_MAP)
    signs = {cell.sign for heat in maps for row in heat.rows for cell in row.cells}
    if maps:
        legend = [Span(f"  {k_label(report.tau)} / r in eighths ", "dim")]
        legend += [Span(block, f"heat{level}") for level, block in enumerate(BLOCKS, start=1)]
        legend += [Span(f"  {sign} {word}", "dim") for sign, word in SIGN_WORDS.items() if sign in signs]
        lines += [line(Span("Where?", "heading"), *legend), *map_lines(report, maps, hidden, more)]
    elif report.layers:
        lines.append(heading("Where?"))
    lines += outside_lines(report, room, more)
    sentence = gain_sentence(report)
    lines += paragraph(sentence, min(room, MAX_TEXT)) if sentence else []
    return [*lines, *extreme_lines(report, room, top_wasteful)]


LABEL, BESIDE_MAP = 18, 26
"""Columns of a kind's name, and of what stands around its row of the map."""
SIGN_WORDS = {"·": "none", "○": "untrained", "✗": "not measured"}
SHOWN_OUTSIDE = 3


def map_lines(report: AuditReport, maps: Sequence[HeatMap], hidden: int, more: str) -> list[Line]:
    """The maps of the largest stacks of layers."""
    uniform = len({layer.r for layer in report.layers}) == 1
    lines: list[Line] = []
    for heat in maps:
        title = heat.stack if len(maps) > 1 else "layer"
        lines += one_map(heat, title, uniform, more)
    if hidden:
        lines.append(line(Span(f"  … {plural(hidden, 'more stack')} of layers{more}", "dim")))
    return lines


def outside_lines(report: AuditReport, room: int, more: str) -> list[Line]:
    """Modules that belong to no layer, such as `lm_head`."""
    label = k_label(report.tau)
    rest = outside(report)
    shown = rest[:SHOWN_OUTSIDE]
    names = fit_names([display_name(layer.label) for layer in shown], room - 30)
    lines = []
    for layer, name in zip(shown, names, strict=True):
        said = (
            f"{label} {layer.energy_rank_tau} of {layer.r}"
            if layer.energy_rank_tau is not None
            else layer.status
        )
        lines.append(line("  ", Span(name, "name"), f"  {said}"))
    if len(rest) > len(shown):
        lines.append(line(Span(f"  … {count(len(rest) - len(shown))} more outside the layers{more}", "dim")))
    return lines


def one_map(heat: HeatMap, title: str, uniform: bool, more: str) -> list[Line]:
    """Ruler, one row a kind of module with its median and largest energy rank, and the energy of each layer.

    uniform: all modules have the same rank, so that it need not be said in each row.
    """
    wide = max(len(ruler(heat)), len(heat.indices) * heat.cell_width)
    labels = fit_names([display_name(row.label) for row in heat.rows], LABEL)
    room = max(LABEL, *map(cells, labels))

    def head(text: str) -> Line:
        return [Span("  "), *pad(Span(text), room, "<"), Span(" ")]

    title = fit(display_name(title), room)
    lines = [line(Span(f"{line_text(head(title))}{ruler(heat):<{wide}}  median   max", "dim"))]
    for row, label in zip(heat.rows, labels, strict=True):
        rank = "" if uniform else f" of {number_range(row.r)}"
        number = f"  {trimmed(row.k_median):>6}  {trimmed(row.k_largest):>4}{rank}"
        lines.append([*head(label), *pad_line(cell_spans(row.cells, heat.cell_width), wide), Span(number)])
    if heat.hidden:
        lines.append(line(Span(f"  … {plural(heat.hidden, 'more kind')} of modules{more}", "dim")))
    if heat.energy:
        signs = "".join(cell.sign * heat.cell_width for cell in heat.energy)
        lines.append(line(Span(line_text(head("energy ‖ΔW‖²")) + signs, "dim")))
    if heat.most_modules > 1:
        lines.append(line(Span(line_text(head("")) + several(heat), "dim")))
    return lines


def several(heat: HeatMap) -> str:
    """That a sign stands for several modules, and for how many."""
    merged = f"{heat.per_column} layers a column, " if heat.per_column > 1 else ""
    return f"{merged}each sign the median of up to {heat.most_modules} modules"


def cell_spans(cells: Iterable[Cell], width: int) -> Line:
    """Each sign drawn `width` times, in the colour of its level."""
    return [Span(cell.sign * width, f"heat{cell.level}" if cell.level else "dim") for cell in cells]


def pad_line(spans: Line, width: int) -> Line:
    return [*spans, Span(" " * max(0, width - line_cells(spans)))]


def extreme_lines(report: AuditReport, width: int, top_wasteful: int) -> list[Line]:
    """Modules with most spare rank, then those with least."""
    spare = wasteful(report, top_wasteful)
    full = [layer for layer in fullest(report, SHOWN_FULLEST) if layer not in spare]
    if not spare and not full:
        return []

    def numbers(layer: LayerAudit) -> list[str | Span]:
        k, unused = layer.energy_rank_tau, spare_params(report, layer)
        return [str(layer.r), str(k), sig(layer.stable_rank, layer_digits(layer)), count(unused)]

    titles = ("r", k_label(report.tau), "stable", "spare params")
    right: list[list[str | Span]] = [[Span(text, "dim") for text in titles]]
    right += map(numbers, [*spare, *full])
    room = width - columns_width(right, gap=2) - 9
    names = fit_names([display_name(layer.label) for layer in (*spare, *full)], room)
    left = [[Span("spare", "dim"), Span("module", "dim")]]
    ends = ["most"] * len(spare) + ["least"] * len(full)
    left += [[Span(where, "dim"), Span(name, "name")] for where, name in zip(ends, names, strict=True)]
    return columns([[*a, *b] for a, b in zip(left, right, strict=True)], "<<>>>>", widths=(5,))


# ---------------------------------------------------------------- what it does not show, and the layers


def caveat_lines(report: AuditReport, width: int, layers: bool) -> list[Line]:
    """The limits, and what to do next."""
    config = "--suggest-per-layer (a LoraConfig to copy) · " if report.suggestions else ""
    following = f"{'' if layers else '--layers · '}{config}--json"
    return [
        heading("What does this not show?"),
        *paragraph(caveat(report), width),
        line("  Next: ", Span(following, "dim")),
    ]


def heading(text: str) -> Line:
    return line(Span(text, "heading"))
