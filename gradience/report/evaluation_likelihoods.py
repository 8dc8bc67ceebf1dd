"""Adapters by the likelihoods of given responses, as a document: what differs from counts of correct answers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gradience.reports.base.blocks import (
    Block,
    Column,
    Facts,
    Heading,
    Inline,
    Note,
    Notes,
    Paragraph,
    Span,
    Table,
)
from gradience.reports.base.numbers import MISSING, count, number_range, percent, sig
from gradience.reports.evaluation import BASE, EvaluatedAdapter, EvaluationReport, OutputChange


def likelihood_table(report: EvaluationReport) -> list[Block]:
    """Return one row for each adapter: how likely it finds the responses, and how that differs from the reference."""
    columns = [
        Column(),
        Column("rank", ">", drop=3),
        Column("saved", ">", drop=4),
        Column("NLL", ">"),
        Column("ΔNLL", ">"),
        Column("95 % interval", ">"),
        Column("KL", ">", drop=2),
        *([Column("KL/token", ">", drop=2)] if by_token(report) else []),
        Column("flips", ">", drop=1),
        Column("grade", ">"),
    ]
    heading = (
        Heading(("Does each find the responses as likely as ", Span(report.adapters[0].name, "name"), "?"))
        if report.candidates
        else Heading("How likely are the responses?")
    )
    return [heading, Table(columns, [_cells(row, by_token(report)) for row in report.adapters])]


def likelihood_legend(report: EvaluationReport) -> list[Block]:
    """Return what the columns are."""
    tokens = report.adapters[0].likelihood
    assert tokens is not None
    rows: list[tuple[str, Inline]] = [
        ("NLL", f"negative log-likelihood in nats per token, of {count(tokens.tokens)} tokens"),
    ]
    if len(report.adapters) > 1:
        rows += [
            ("ΔNLL", "NLL beyond the reference's, with Student's 95 % interval over examples"),
            ("KL", "divergence of its predictions from the reference's, in nats per response"),
            *(
                [("KL/token", "the same per token, as `gradience calibrate` predicts it")]
                if by_token(report)
                else []
            ),
            ("flips", "responses with a different most likely token at one position or more"),
        ]
    return [Facts(rows)]


def likelihood_of_base(report: EvaluationReport, base: EvaluatedAdapter) -> list[Block]:
    """Return whether the reference does anything."""
    evidence = base.likelihood
    assert evidence is not None
    heading = Heading(("Does ", Span(report.adapters[0].name, "name"), " do anything?"))
    if evidence.delta is None or evidence.low is None or evidence.high is None:
        return []
    gain = -evidence.delta
    interval = (
        f"{_signed(gain)} nats per token beside the base alone"
        f" (95 % interval {_signed(-evidence.high)} … {_signed(-evidence.low)})"
    )
    if evidence.low > 0:
        note = Note("good", f"yes: it finds the responses likelier, NLL {_signed(-gain)}: {interval}")
    elif evidence.high < 0:
        note = Note("error", f"it finds the responses less likely: {interval}")
    else:
        note = Note("unknown", f"its predictions differ, and likelier responses are not shown: {interval}")
    return [heading, Notes([note])]


def likelihood_caveats(report: EvaluationReport) -> list[Block]:
    """Return what likelihoods never show."""
    margin = float(report.margin)
    return [
        Heading("What does this not show?"),
        Paragraph(
            "Whether what it writes itself is correct: nothing was generated. Whether another training run would come"
            f" out the same: one adapter each gives at most grade B. And the margin ({margin:g} nats per token: a"
            f" perplexity {100 * math.expm1(margin):.1f} % higher) counts only if it was chosen before anybody saw"
            " these figures."
        ),
    ]


def loses_nothing(row: EvaluatedAdapter) -> bool:
    """Return whether it finds the responses at least as likely as the reference does."""
    return row.likelihood is None or (row.likelihood.delta or 0.0) <= 0


def by_token(report: EvaluationReport) -> bool:
    """Return whether the KL per token is known and differs from the KL per example."""
    return any(row.change is not None and row.change.has_tokens for row in report.adapters)


def change_cells(change: OutputChange | None, tokens: bool) -> Sequence[str]:
    """Return the cells of KL, KL per token if `tokens`, and flips."""
    if change is None:
        return [MISSING] * (2 + tokens)
    per_token = MISSING if change.kl_per_token is None else sig(change.kl_per_token, 2)
    flips = MISSING if change.flipped_examples is None else count(change.flipped_examples)
    return (sig(change.kl_mean, 2), *([per_token] if tokens else []), flips)


def _cells(row: EvaluatedAdapter, tokens: bool) -> Sequence[Inline]:
    ranks = MISSING if row.smallest_rank is None else number_range([row.smallest_rank, row.largest_rank or 0])
    label: Inline = "base alone" if row.role == BASE else Span(row.name, "name")
    saved = "" if row.params_saved is None else percent(row.params_saved)
    evidence, nothing = row.likelihood, [""] * (4 + tokens)
    if evidence is None:
        return (label, ranks, saved, MISSING, *nothing, row.grade or "")
    first = (label, ranks, saved, f"{evidence.nll:.4f}")
    if evidence.delta is None:
        return (*first, *nothing, row.grade or "")
    known = evidence.low is not None and evidence.high is not None
    return (
        *first,
        _signed(evidence.delta),
        f"{_signed(evidence.low or 0.0)} … {_signed(evidence.high or 0.0)}" if known else MISSING,
        *change_cells(row.change, tokens),
        row.grade or "",
    )


def _signed(nats: float) -> str:
    """`+0.0012`, `−0.3400`; 0 without a sign."""
    text = f"{abs(nats):.4f}"
    return text if not float(text) else f"{'−' if nats < 0 else '+'}{text}"
