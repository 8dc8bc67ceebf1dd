"""A forecast as text for the terminal. Pure."""

from __future__ import annotations

import json
from fractions import Fraction

from gradience.artifacts.forecast import BenchForecast, CostEstimate, RenderedExample
from gradience.report.names import display_name, printable

SHOWN = 400
"""Characters of the example's prompt and response that are shown."""


def forecast_text(found: BenchForecast) -> str:
    """What would be done, and what it would cost."""
    seeds = ", ".join(map(str, found.seeds))
    rows = [
        ("model", printable(found.model)),
        ("task", printable(found.task)),
        ("seeds", seeds),
        ("examples", f"{found.examples:,}" if found.examples else "known when the data are read"),
        ("gate", f"the probe must reach {100 * float(Fraction(found.gate)):.3g} %"),
        ("trainings", f"{found.trainings} per seed, fewer where variants come to the same"),
        ("evaluations", f"{found.evaluations} per seed"),
    ]
    if found.cost is not None:
        rows += _cost_rows(found.cost, len(found.seeds))
    lines = [
        "Nothing is run: this is the plan." + (" SMOKE RUN: no evidence." if found.smoke else ""),
        "",
        *_table(rows),
    ]
    checked = [
        (check.what, f"{display_name(check.name)}: {check.state}: {check.note}") for check in found.checks
    ]
    lines += ["", "Inputs", *_table([(what, printable(text)) for what, text in checked])]
    if found.example is not None:
        lines += ["", "First training example", *_table(_example_rows(found.example))]
    lines += ["", "Stages of a seed"] + [
        f"  {number:2}  {name}" for number, name in enumerate(found.stages, start=1)
    ]
    lines += ["", "Estimates rest on"] + [f"  {printable(text)}" for text in found.assumptions]
    lines += ["", "Of the config"] * bool(found.notes) + [f"  {printable(text)}" for text in found.notes]
    return "\n".join(lines) + "\n"


def _table(rows: list[tuple[str, str]]) -> list[str]:
    width = max(len(name) for name, _ in rows)
    return [f"  {name:{width}}  {value}" for name, value in rows]


def _cost_rows(cost: CostEstimate, seeds: int) -> list[tuple[str, str]]:
    memory = cost.weights_bytes + cost.trained_bytes + cost.activation_bytes
    parts = (
        f"{size(cost.weights_bytes)} base, {size(cost.trained_bytes)} trained parameters with their moments,"
        f" {size(cost.activation_bytes)} activations"
    )
    kernels = f"{cost.kernels_per_step:,} a step of training"
    if cost.kernels_per_token is not None:
        kernels += f", {cost.kernels_per_token:,} a generated token of a batch"
    rows = [
        ("base", f"{millions(cost.base_params)} parameters"),
        ("probe", f"{millions(cost.probe_params)} trained parameters"),
        ("memory", f"about {size(memory)}: {parts}"),
        ("tokens", f"{millions(cost.tokens_per_training)} per training, padding included"),
        ("kernels", kernels),
    ]
    for time in cost.times:
        each = f"{duration(time.training)} per training, {duration(time.evaluation)} per evaluation"
        total = f"{duration(time.seed)} per seed" + (
            f", {duration(seeds * time.seed)} in all" if seeds > 1 else ""
        )
        rows.append(
            (
                time.machine.partition(",")[0].removeprefix("one "),
                f"{total}: {each}" if time.seed < 1 else f"about {total}: {each}",
            )
        )
    return rows


def _example_rows(example: RenderedExample) -> list[tuple[str, str]]:
    rows = [("prompt", _quoted(example.prompt)), ("response", _quoted(example.response))]
    return rows + ([("tokens", str(example.tokens))] if example.tokens is not None else [])


def _quoted(text: str) -> str:
    r"""On one line: line breaks as `\n`."""
    cut = text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
    return printable(json.dumps(cut, ensure_ascii=False))


def size(count: int) -> str:
    """Bytes in the largest unit that leaves at least 1: `14.5 GB`, `90 MB`.

    >>> size(14_500_000_000), size(90_400_000), size(800)
    ('14.5 GB', '90 MB', '1 kB')
    """
    if count >= 1e9:
        return f"{count / 1e9:.1f} GB"
    return f"{count / 1e6:.0f} MB" if count >= 1e6 else f"{max(1, round(count / 1e3))} kB"


def millions(count: int) -> str:
    """A number of parameters or tokens; millions only where there is one.

    >>> millions(7_241_700_000), millions(3_072)
    ('7,241.7 M', '3,072')
    """
    return f"{count / 1e6:,.1f} M" if count >= 1e6 else f"{count:,}"


def duration(seconds: float) -> str:
    """Seconds in a unit that a person reads: `1.5 h`, `14 min`, `40 s`; an estimate has two digits.

    >>> duration(5_400), duration(840), duration(40), duration(0.2)
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
