"""`gradience plot`: one plot of an adapter, a run or a report, as a file for a paper."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gradience.cli.console import show_written
from gradience.cli.options import one_of
from gradience.cli.output import print_text
from gradience.errors import UsageError

if TYPE_CHECKING:
    from gradience.report.plots.plot import Plot
    from gradience.reports.base.report import Report

FILES = ("svg", "pdf", "png")
NARROWEST, WIDEST = 3.0, 40.0
"""Inches of a figure."""
EVOLUTION = "evolution"
"""All that is drawn over steps: of a run, or of several audits in their order."""


def _kinds() -> list[str]:
    from gradience.report.plots.kinds import KINDS

    return [EVOLUTION, *dict.fromkeys(kind for kinds in KINDS.values() for kind in kinds)]


def plot(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help="heatmap, energy, spectrum, use, stable-rank (audit); loss, reward, rank, evolution (run); error,"
            " ranks, kl (compression); forest, pareto, pairs, ladder, operating (evaluation, Bench); importance,"
            " difference.",
            autocompletion=one_of(_kinds),
        ),
    ],
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="INPUT…",
            help="Adapter folders, run.jsonl files, or reports that Gradience wrote; several stand beside each other.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Where it is written: .svg, .pdf or .png.")
    ],
    width: Annotated[
        float | None,
        typer.Option(
            "--width",
            metavar="INCHES",
            help="Width of the whole figure, such as 3.25 for a column of a paper; text keeps its size.",
        ),
    ] = None,
    no_titles: Annotated[
        bool,
        typer.Option(
            "--no-titles",
            help="No title above a plot, of several the name of the input: the caption of a paper says it.",
        ),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Prints a one-sentence description of the plot. The same input gives the same bytes with one version
    of matplotlib.

    Examples:

      gradience plot energy ./my_adapter -o energy.svg

      gradience plot evolution ./run/checkpoint-100 ./run/checkpoint-200 -o steps.pdf

      gradience plot pareto evaluated/evaluation.json -o pareto.pdf --width 3.25 --no-titles
    """
    from gradience.files.whole import write_whole
    from gradience.report.inputs import report_at
    from gradience.report.plots.matplotlib import image_of

    file = _file_kind(output, force=force)
    if width is not None and not NARROWEST <= width <= WIDEST:
        raise UsageError(
            f"--width {width:g}: not between {NARROWEST:g} and {WIDEST:g} inches",
            code="plot-width",
            hint="a column of a paper is 3 to 3.5 inches wide, a page about 7",
        )
    plots = _plots(kind, inputs, [report_at(path) for path in inputs], titles=not no_titles)
    write_whole(output, [image_of(plots, file, width=width, titles=not no_titles or len(inputs) > 1)])
    if json:
        import json as json_module

        drawn = [{"name": one.name, "title": one.title, "sentence": one.sentence} for one in plots]
        print(json_module.dumps({"file": str(output), "plots": drawn}, indent=2))
        return
    print_text("".join(f"{one.sentence}\n" for one in plots))
    show_written(output)


def _file_kind(output: Path, *, force: bool) -> str:
    kind = output.suffix.lower().removeprefix(".")
    if kind not in FILES:
        raise UsageError(
            f"{output}: not a kind of file that is drawn",
            code="plot-file",
            hint=f"end the name with one of {', '.join(f'.{file}' for file in FILES)}",
        )
    if output.exists() and not force:
        raise UsageError(
            f"{output}: exists already",
            code="output-exists",
            hint="give --force to replace it, or another --output",
        )
    return kind


def _plots(kind: str, inputs: Sequence[Path], reports: Sequence[Report], *, titles: bool) -> list[Plot]:
    """One plot of each report, with its name where there are several; of checkpoints what changed over them."""
    from dataclasses import replace

    from gradience.report.plots.audits import evolution_plots
    from gradience.reports.audit import AuditReport

    audits = [report for report in reports if isinstance(report, AuditReport)]
    if kind == EVOLUTION and audits:
        if len(audits) < len(reports) or len(audits) < 2:
            raise UsageError(
                "evolution is drawn of two audits or more, or of runs",
                code="no-plot",
                hint="name the checkpoints of one run in their order, or a run.jsonl",
            )
        return evolution_plots(audits)
    if len(reports) == 1:
        return _plots_of_one(kind, reports[0])
    drawn: list[Plot] = []
    without: list[UsageError] = []
    for path, name, report in zip(inputs, _names(inputs), reports, strict=True):
        try:
            plots = _plots_of_one(kind, report)
        except UsageError as error:
            without.append(UsageError(f"{path}: {error}", code=error.code, hint=error.hint))
            continue
        drawn += [replace(one, title=f"{name}: {one.title}" if titles else name) for one in plots]
    if not drawn:
        raise without[0]
    for each in without:
        show_written(each, "left out")
    return drawn


def _plots_of_one(kind: str, report: Report) -> list[Plot]:
    """Of a kind; `evolution` of a run is all that it has. Raises UsageError (`no-plot`) where there is none."""
    from gradience.report.plots.kinds import plot_of, plots_of

    if kind == EVOLUTION:
        return list(plots_of(report).values()) or [plot_of(report)]
    return [plot_of(report, kind)]


def _names(inputs: Sequence[Path]) -> list[str]:
    """What the inputs are called in titles: by their last part where these differ."""
    from gradience.files.shared_names import paths_text

    names = [path.name for path in inputs]
    if len(set(names)) == len(names):
        return names
    parted = paths_text([path.absolute() for path in inputs])
    return parted if len(set(parted)) == len(parted) else paths_text(inputs)
