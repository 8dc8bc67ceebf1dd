"""`audit.json` -> blocks. They answer, in this order: can I trust it, how much of its rank does it use, what ranks are
suggested and what they save, where, and what this does not show."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from gradience.artifacts.audit import AuditReport, LayerAudit, PerLayer, Suggestion
from gradience.ranks import percentile
from gradience.report import html, markdown, terminal
from gradience.report.audit_facts import (
    alpha_and_scale,
    caveat,
    decision_sentence,
    fullest,
    gain_sentence,
    k_label,
    kind_of_adapter,
    layer_digits,
    measure_digits,
    number_types,
    spare_params,
    trained_layers,
    trust_notes,
    wasteful,
)
from gradience.report.audit_heat import BLOCKS, HEAT, SIGN_WORDS, LayerMap, heat_map, layer_maps, outside
from gradience.report.audit_layers import layer_blocks
from gradience.report.blocks import (
    Bar,
    Bars,
    Block,
    Column,
    Document,
    Facts,
    Heading,
    Inline,
    Notes,
    Paragraph,
    Span,
    Table,
)
from gradience.report.numbers import count, number_range, percent, plural, sig, size, trimmed

LISTED = 5
"""Modules listed at either end of a document."""
SHOWN_WASTEFUL, SHOWN_FULLEST, SHOWN_NOTES, SHOWN_OUTSIDE = 3, 2, 6, 3
"""What a brief report lists; it counts the rest."""
BESIDE_MAP = 46
"""Columns of a terminal that stand around the signs of a map."""
MAX_MAP = 128
"""Columns of a map in a document."""


def audit_text(
    report: AuditReport,
    *,
    width: int | None = None,
    color: bool = False,
    top_wasteful: int = SHOWN_WASTEFUL,
    layers: bool = False,
) -> str:
    """Return the screen of one adapter, about 45 lines.

    width: columns of the terminal; None for a file or a pipe. top_wasteful: modules listed with most spare rank.
    layers: every module and every finding with its hint, and nothing points to `--layers`.
    """
    blocks = audit_blocks(
        report,
        brief=not layers,
        layers=layers,
        most_spare=top_wasteful,
        least_spare=SHOWN_FULLEST,
        map_columns=max(terminal.MIN_WIDTH, width or terminal.DEFAULT_WIDTH) - BESIDE_MAP,
    )
    steps = ["--layers"] if not layers else []
    steps += ["--suggest-per-layer (a LoraConfig to copy)"] if report.suggestions else []
    following = Paragraph(("Next: ", Span(" · ".join([*steps, "--json"]), "dim")))
    return terminal.render([*blocks, following], width=width, color=color)


def audit_markdown(report: AuditReport) -> str:
    """Return the report as GitHub-flavoured Markdown, for a model card or a pull request."""
    return markdown.render(audit_blocks(report))


def audit_html(report: AuditReport) -> str:
    """Return the report as HTML, as a notebook shows it."""
    return html.render(audit_blocks(report))


def audit_blocks(
    report: AuditReport,
    *,
    brief: bool = False,
    layers: bool = False,
    most_spare: int = LISTED,
    least_spare: int = LISTED,
    map_columns: int = MAX_MAP,
) -> Document:
    """Return the whole report.

    brief: the first findings, without hints but for errors; what is left out is counted. layers: the table of modules
    too. most_spare, least_spare: modules listed at either end. map_columns: columns of the widest map.
    """
    return [
        *title_blocks(report),
        *trust_blocks(report, brief=brief),
        *use_blocks(report),
        *plan_blocks(report),
        *where_blocks(report, map_columns, brief=brief),
        *extreme_blocks(report, most_spare, least_spare),
        Heading("What does this not show?"),
        Paragraph(caveat(report)),
        *(layer_blocks(report) if layers else []),
    ]


def title_blocks(report: AuditReport) -> list[Block]:
    """Path, kind, rank, scale, base; modules, parameters, bytes, storage type, digest."""
    adapter = report.adapter
    base = f"on {adapter.base_model}" if adapter.base_model else "base model not named"
    ranks = f"r {number_range(layer.r for layer in report.layers)}"
    inventory = [
        plural(report.n_layers, "module"),
        f"{count(report.total_lora_params)} LoRA parameters",
        f"{size(adapter.bytes)} {number_types(report)}",
        f"sha256 {adapter.sha256[:12]}",
    ]
    return [
        Heading(("Audit of ", Span(adapter.path, "name")), level=1),
        Paragraph(" · ".join([kind_of_adapter(report), ranks, alpha_and_scale(report), base])),
        Paragraph(Span(" · ".join(inventory), "dim")),
    ]


def trust_blocks(report: AuditReport, *, brief: bool) -> list[Block]:
    """Coverage and precision, and the findings."""
    notes = trust_notes(report)
    heading = Heading("Can I trust it?")
    if not brief:
        return [heading, Notes(notes)]
    shown = [note if note.mark == "error" else replace(note, details=()) for note in notes[:SHOWN_NOTES]]
    return [heading, Notes(shown), *more(len(notes) - len(shown), "more finding", ": --layers or --json")]


def more(number: int, noun: str, where: str, nouns: str | None = None) -> list[Block]:
    """How many are left out, and where they are shown; nothing where none is."""
    if number <= 0:
        return []
    return [Paragraph(Span(f"… {plural(number, noun, nouns)}{where}", "dim"))]


# ---------------------------------------------------------------- how much of its rank does it use?


def use_blocks(report: AuditReport) -> list[Block]:
    """Energy ranks and stable rank over the trained modules, on the scale of r; then what is relative to r."""
    if not trained_layers(report):
        return []
    top = max(layer.r for layer in report.layers)
    scale = f"r = {top}" if all(layer.r == top for layer in report.layers) else f"r ≤ {top}"
    tau = k_label(report.tau)
    meaning = f"{tau}: directions that hold {tau[2:]} % of the energy"
    return [
        Heading("How much of its rank does it use?", aside=meaning),
        Bars(("median", "p90", "max"), use_bars(report), top, scale),
        Facts(relative_use(report)),
    ]


def use_bars(report: AuditReport) -> list[Bar]:
    """Median, 90th percentile and maximum of each measure, the report's own threshold among them."""
    at: dict[float, Callable[[LayerAudit], float | None]] = {
        report.tau: lambda layer: layer.energy_rank_tau,
        0.90: lambda layer: layer.energy_rank_90,
        0.95: lambda layer: layer.energy_rank_95,
        0.99: lambda layer: layer.energy_rank_99,
    }
    digits = measure_digits(report)
    bars = []
    for threshold in sorted(at):
        values = spread(report, at[threshold])
        bars.append(Bar(k_label(threshold), [trimmed(value) for value in values], values))
    values = spread(report, lambda layer: layer.stable_rank)
    bars.append(Bar("stable rank Σσ²/σ₁²", [sig(value, digits) for value in values], values))
    return [bar for bar in bars if bar.values]


def spread(report: AuditReport, measure: Callable[[LayerAudit], float | None]) -> tuple[float, ...]:
    """Median, 90th percentile and maximum over the trained modules; nothing where none has the measure."""
    values = [value for layer in trained_layers(report) if (value := measure(layer)) is not None]
    return (float(percentile(values, 50)), float(percentile(values, 90)), max(values)) if values else ()


def relative_use(report: AuditReport) -> list[tuple[str, Inline]]:
    """Utilization, and the two figures that do not mostly measure 1/r."""
    rows: list[tuple[str, Inline]] = [
        ("utilization", f"{percent(report.utilization_median)} (median stable rank / r)")
    ]
    if report.rank_use_median is not None:
        rows.append(("rank use", f"{percent(report.rank_use_median)} (median (stable rank − 1) / (r − 1))"))
    if report.null_position_median is not None:
        position = sig(report.null_position_median, min(2, measure_digits(report)))
        rows.append(("null position", f"{position} (median; 0 is one direction, 1 is random factors)"))
    return rows


# ---------------------------------------------------------------- what ranks are suggested?


def plan_blocks(report: AuditReport) -> list[Block]:
    """Now and three smaller adapters, with what each saves."""
    plan = report.suggestions
    if plan is None:
        why = (
            "None: see the findings above. A rank is suggested only from a trained update that is B·A alone."
        )
        return [Heading("What ranks are suggested?"), Paragraph(why)]
    columns = [
        Column(),
        Column(k_label(report.tau), ">"),
        Column("rank", ">"),
        Column("parameters", ">"),
        Column("size", ">", drop=2),
        Column("saved", ">"),
        Column("max_lora_rank", ">", drop=1),
    ]
    now = number_range(layer.r for layer in report.layers)
    bytes_now = size(sum(layer.bytes for layer in report.layers))
    current = step(plan.current_max_lora_rank)
    each = number_range(plan.per_layer.rank_pattern.values())
    rows: list[list[Inline]] = [
        ["now", "", Span(now, "strong"), count(report.total_lora_params), bytes_now, "", current],
        ["uniform_median", trimmed(plan.median.unrounded), *suggested(str(plan.median.rank), plan.median)],
        ["uniform_p90", trimmed(plan.p90.unrounded), *suggested(str(plan.p90.rank), plan.p90)],
        ["per_layer", "each", *suggested(each, plan.per_layer)],
    ]
    return [
        Heading("What ranks are suggested?", aside="from weight energy, a crude guide to quality"),
        Table(columns, rows),
        Paragraph(Span(decision_sentence(plan), "dim")),
    ]


def suggested(rank: str, suggestion: Suggestion | PerLayer) -> list[Inline]:
    """Rank, parameters, bytes, saving, and the step of vLLM's max_lora_rank."""
    return [
        Span(rank, "strong"),
        count(suggestion.params),
        size(suggestion.bytes),
        Span(percent(suggestion.reduction), "good" if suggestion.reduction else ""),
        step(suggestion.max_lora_rank),
    ]


def step(max_lora_rank: int | None) -> str:
    return "over 512" if max_lora_rank is None else str(max_lora_rank)


# ---------------------------------------------------------------- where?


def where_blocks(report: AuditReport, map_columns: int, *, brief: bool) -> list[Block]:
    """The maps of the largest stacks of layers, what lies outside of them, and where the energy is."""
    if not report.layers:
        return []
    maps, hidden_stacks = layer_maps(report, map_columns)
    uniform = len({layer.r for layer in report.layers}) == 1
    where = ": --layers" if brief else ""
    blocks: list[Block] = [Heading("Where?", aside=legend(report, maps) if maps else "")]
    for layers in maps:
        title = Span(layers.stack, "name") if len(maps) > 1 else "layer"
        blocks.append(heat_map(layers, title, uniform=uniform))
        blocks += more(layers.hidden, "more kind of modules", where, "more kinds of modules")
        if layers.most_modules > 1:
            blocks.append(Paragraph(Span(several(layers), "dim")))
    blocks += more(hidden_stacks, "more stack of layers", where, "more stacks of layers")
    blocks += outside_blocks(report, where)
    sentence = gain_sentence(report)
    return [*blocks, Paragraph(sentence)] if sentence else blocks


def legend(report: AuditReport, maps: Iterable[LayerMap]) -> Inline:
    """What the signs mean, those that are there."""
    signs = {cell for layers in maps for row in layers.rows for cell in row.cells}
    ramp = map(Span, BLOCKS, HEAT)
    others = [f"  {sign.text} {word}" for sign, word in SIGN_WORDS.items() if sign in signs]
    return (f"{k_label(report.tau)} / r in eighths ", *ramp, *others)


def several(layers: LayerMap) -> str:
    """That a sign stands for several modules, and for how many."""
    merged = f"{layers.per_column} layers per column, " if layers.per_column > 1 else ""
    return f"{merged}each sign the median of up to {layers.most_modules} modules"


def outside_blocks(report: AuditReport, where: str) -> list[Block]:
    """Modules that belong to no layer, such as `lm_head`. where: what shows the rest."""
    layers = outside(report)
    parts: list[str | Span] = []
    for layer in layers[:SHOWN_OUTSIDE]:
        k = layer.energy_rank_tau
        said = f"{k_label(report.tau)} {k} of {layer.r}" if k is not None else layer.status
        parts += ["; " if parts else "outside the layers: ", Span(layer.label, "name"), f" {said}"]
    rest = len(layers) - SHOWN_OUTSIDE
    parts += [f"; {count(rest)} more{where}"] if rest > 0 else []
    return [Paragraph(tuple(parts))] if parts else []


def extreme_blocks(report: AuditReport, most_spare: int, least_spare: int) -> list[Block]:
    """Modules with most spare rank, then those with least."""
    spare = wasteful(report, most_spare)
    full = [layer for layer in fullest(report, least_spare) if layer not in spare]
    if not spare and not full:
        return []
    ends = [*(("most", layer) for layer in spare), *(("least", layer) for layer in full)]
    titles = ("r", k_label(report.tau), "stable", "spare params")
    columns = [Column("spare"), Column("module"), *(Column(title, ">") for title in titles)]
    rows: list[list[Inline]] = [
        [
            Span(end, "dim"),
            Span(layer.label, "name"),
            str(layer.r),
            str(layer.energy_rank_tau),
            sig(layer.stable_rank, layer_digits(layer)),
            count(spare_params(layer)),
        ]
        for end, layer in ends
    ]
    return [Table(columns, rows)]
