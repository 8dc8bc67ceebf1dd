"""A forecast of a Bench run: its inputs, stages and memory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fractions import Fraction

from gradience.reports.base import terminal
from gradience.reports.base.blocks import (
    Block,
    Column,
    Document,
    Facts,
    Heading,
    Inline,
    Note,
    Notes,
    Paragraph,
    Span,
    Table,
    items,
)
from gradience.reports.base.numbers import chance, count, in_points, percent, size
from gradience.reports.evaluation import EvaluationPreview
from gradience.reports.forecast import (
    BenchForecast,
    CostEstimate,
    RenderedExample,
    ScoredExample,
)

SHOWN = 400
"""Characters of an example's prompt or response that are shown, from its beginning and its end."""
WANTED = 0.8
"""The chance at which margins are shown."""


def forecast_text(forecast: BenchForecast, *, width: int | None = None, color: bool = False) -> str:
    """What `gradience bench run --dry-run` prints."""
    return terminal.render(forecast_blocks(forecast), width=width, color=color)


def forecast_blocks(forecast: BenchForecast) -> Document:
    """The plan, its inputs, an example, the stages, and what the estimates rest on."""
    blocks: list[Block] = [Heading("Dry run: no model was loaded", level=1)]
    if forecast.smoke:
        blocks.append(Paragraph(Span("SMOKE RUN: no evidence.", "warn")))
    costs = _costs(forecast.cost) if forecast.cost is not None else []
    checks: list[tuple[str, Inline]] = [
        (check.what, (Span(check.name, "name"), f": {check.state}: {check.note}"))
        for check in forecast.checks
    ]
    blocks += [Heading("Plan"), Facts([*_plan(forecast), *costs]), Heading("Inputs"), Facts(checks)]
    if forecast.scenarios:
        blocks += _chances(forecast)
    if forecast.example is not None:
        blocks += [Heading("First training example"), Facts(_example(forecast.example))]
    if forecast.scored:
        blocks += [Heading("First examples that decide"), Facts(_scored(forecast.scored, forecast.scored_by))]
    stages: list[tuple[str, Inline]] = [
        (str(number), name) for number, name in enumerate(forecast.stages, start=1)
    ]
    blocks += [Heading("Stages of a seed"), Facts(stages)]
    blocks += [Heading("Assumptions"), items(forecast.assumptions)] if forecast.assumptions else []
    return [*blocks, Heading("Notes on the config"), items(forecast.notes)] if forecast.notes else blocks


def _plan(forecast: BenchForecast) -> list[tuple[str, Inline]]:
    return [
        ("model", Span(forecast.model, "name")),
        ("task", Span(forecast.task, "name")),
        ("seeds", ", ".join(map(str, forecast.seeds))),
        ("examples", f"{forecast.examples:,}" if forecast.examples else "known when the data are read"),
        ("gate", f"the probe must reach {100 * float(Fraction(forecast.gate)):.3g} %"),
        ("trainings", f"{forecast.trainings} per seed (fewer if variants coincide)"),
        ("evaluations", f"{forecast.evaluations} per seed"),
    ]


def _costs(cost: CostEstimate) -> list[tuple[str, Inline]]:
    training = cost.trained_bytes + cost.activation_bytes
    memory = cost.process_bytes + cost.weights_bytes + max(training, cost.evaluation_bytes)
    parts = (
        f"{size(cost.weights_bytes)} base, {size(training)} training ({size(cost.activation_bytes)} of it activations),"
        f" or {size(cost.evaluation_bytes)} evaluation"
    )
    parts += f"; {size(cost.process_bytes)} Python and libraries" if cost.process_bytes else ""
    return [
        ("base", f"{count(cost.base_params)} parameters"),
        ("probe", f"{count(cost.probe_params)} trained parameters"),
        ("memory", f"about {size(memory)}: {parts}"),
        ("tokens", f"{count(cost.tokens_per_training)} per training, padding included"),
    ]


def _chances(forecast: BenchForecast) -> list[Block]:
    """What the run can show of a variant that is as good as the probe, and how often it passes."""
    columns = [Column("variant"), Column("discordance", ">"), Column("spread", ">")]
    columns += [Column("margin, these runs", ">"), Column("a new run", ">"), Column("PASS if equal", ">")]
    rows: list[tuple[Inline, ...]] = []
    for each in forecast.scenarios:
        of_claim = {need.claim: need for need in each.needs if need.wanted == WANTED}
        margins = [in_points(of_claim[claim].smallest_margin) for claim in ("these-runs", "new-run")]
        name = Span(each.name, "name")
        rows.append(
            (name, percent(each.discordance), in_points(each.spread), *margins, chance(each.pass_if_equal))
        )
    legend = (
        "Margin: the smallest that is shown with a chance of 80 % if the variant is exactly as good as the probe, in"
        " points; a new run: with another seed as well. Plausible variants, not measured: `gradience bench power` says"
        " what they rest on and what more would need."
    )
    return [Heading("What it can show"), Table(columns, rows), Paragraph(legend)]


def _example(example: RenderedExample) -> list[tuple[str, Inline]]:
    rows: list[tuple[str, Inline]] = [
        ("prompt", _quoted(example.prompt)),
        ("response", _quoted(example.response)),
    ]
    return rows + ([("tokens", str(example.tokens))] if example.tokens is not None else [])


def preview_text(preview: EvaluationPreview, *, width: int | None = None, color: bool = False) -> str:
    """Return what `gradience evaluate --preview` prints."""
    return terminal.render(preview_blocks(preview), width=width, color=color)


def preview_blocks(preview: EvaluationPreview) -> Document:
    """Return the first examples as the model sees them, and what is scored in them."""
    rows: list[tuple[str, Inline]] = [
        ("base", Span(preview.base, "name")),
        ("task", Span(preview.task, "name")),
        ("examples", count(preview.examples)),
    ]
    blocks: list[Block] = [Heading("No model is loaded: this is what it would see.", level=1), Facts(rows)]
    if preview.notes:
        blocks.append(Notes([Note("warning", note) for note in preview.notes]))
    if not preview.scored:
        return blocks
    blocks += [Heading("First examples"), Facts(_scored(preview.scored, preview.scored_by))]
    legend = (
        "Special tokens are spelt out, a line break is \\n. response: the gold one, on which likelihood and KL are"
        " measured; scored: what an output is compared with; extracted: what the scorer finds in the gold response."
    )
    return [*blocks, Paragraph(legend)]


def _scored(examples: Sequence[ScoredExample], scored_by: str) -> list[tuple[str, Inline]]:
    """Prompts, and behind each what its answer is compared with."""
    rows: list[tuple[str, Inline]] = [("scored by", scored_by)] if scored_by else []
    for example in examples:
        rows.append(("prompt", _quoted(example.prompt)))
        if example.response is not None:
            rows.append(("response", _quoted(example.response)))
        rows.append(("scored", _quoted(example.scored)))
        if example.correct is not None:
            text = "nothing" if example.extracted is None else _quoted(example.extracted)
            verdict = Span(": correct", "good") if example.correct else Span(": wrong", "bad")
            rows.append(("extracted", (text, verdict)))
    return rows


def _quoted(text: str) -> str:
    r"""On one line: line breaks as `\n`."""
    half = SHOWN // 2
    cut = text if len(text) <= SHOWN else f"{text[:half]}…{text[-half:]}"
    return json.dumps(cut, ensure_ascii=False)


def rough_duration(seconds: float) -> str:
    """Seconds in a unit that a person reads: `1.5 h`, `14 min`, `40 s`; an estimate has two digits.

    >>> rough_duration(5_400), rough_duration(840), rough_duration(40), rough_duration(0.2)
    ('1.5 h', '14 min', '40 s', 'less than 1 s')
    """
    if seconds < 1:
        return "less than 1 s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.2g} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 10 else f"{hours:,.0f} h" if hours < 72 else f"{hours / 24:,.0f} days"
