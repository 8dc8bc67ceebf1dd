"""`gradience plot`: one plot of an adapter, a run or a report, as a file for a paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY
from pathlib import Path
from typing import Annotated

from pydantic.dataclasses import dataclass

from gradience.cli.console import show_written
from gradience.cli.output import JsonOutput, print_facts, print_text
from gradience.errors import UsageError
from gradience.settings import SETTINGS, Flag, Number, StrPath, paths_of

FILES = ("svg", "pdf", "png")
NARROWEST, WIDEST = 3.0, 40.0
"""Inches of a figure."""


def _kinds() -> list[str]:
    from gradience.reports.plots.inputs import EVOLUTION
    from gradience.reports.registry import reports

    return [EVOLUTION, *dict.fromkeys(kind for report in reports().values() for kind in report.plots)]


@dataclass(frozen=True, config=SETTINGS)
class PlotSettings(JsonOutput):
    """Plot."""

    kind: Annotated[str, Flag("KIND", values=_kinds)]
    """heatmap, energy, spectrum, use, stable-rank (audit); loss, reward, rank, evolution (run); error, ranks, kl
    (compression); forest, pareto, pairs, ladder, operating (evaluation, Bench); importance, difference."""
    inputs: Annotated[Sequence[StrPath], Flag("INPUT")]
    """Adapter folders, run.jsonl files, or reports that Gradience wrote; several are drawn side by side."""
    _: KW_ONLY
    output: Annotated[StrPath, Flag("FILE", "-o")]
    """File to write: .svg, .pdf or .png."""
    width: Annotated[Number | None, Flag("INCHES")] = None
    """Width of the whole figure, such as 3.25 for a column of a paper; text keeps its size."""
    no_titles: bool = False
    """No titles, for figures with a caption of their own; with several inputs, plots are titled with input names."""
    force: bool = False
    """Replace an existing file."""


def plot(settings: PlotSettings) -> None:
    """Prints a one-sentence description of the plot. The same input gives the same bytes with one version
    of matplotlib.

    Examples:

      gradience plot energy ./my_adapter -o energy.svg

      gradience plot evolution ./run/checkpoint-100 ./run/checkpoint-200 -o steps.pdf

      gradience plot pareto evaluated/evaluation.json -o pareto.pdf --width 3.25 --no-titles
    """
    from gradience.files.whole import already_exists, write_whole
    from gradience.reports.plots.inputs import plots_of_inputs
    from gradience.reports.plots.matplotlib import image_of
    from gradience.sources import report_at

    output, inputs, width = Path(settings.output), paths_of(settings.inputs), settings.width
    file = output.suffix.lower().removeprefix(".")
    if file not in FILES:
        raise UsageError(
            f"{output}: unknown file type",
            code="plot-file",
            hint=f"end the name with one of {', '.join(f'.{file}' for file in FILES)}",
        )
    if output.exists() and not settings.force:
        raise already_exists(output)
    if width is not None and not NARROWEST <= width <= WIDEST:
        raise UsageError(
            f"--width {width:g}: must be between {NARROWEST:g} and {WIDEST:g} inches",
            code="plot-width",
            hint="a column of a paper is 3 to 3.5 inches wide, a page about 7",
        )
    titles = not settings.no_titles
    reports = [report_at(path) for path in inputs]
    plots, without = plots_of_inputs(settings.kind, inputs, reports, titles=titles)
    for reason in without:
        show_written(reason, "left out")
    write_whole(output, [image_of(plots, file, width=width, titles=titles or len(inputs) > 1)])
    if settings.json:
        drawn = [{"name": plot.name, "title": plot.title, "sentence": plot.sentence} for plot in plots]
        print_facts({"file": str(output), "plots": drawn})
    else:
        print_text("".join(f"{plot.sentence}\n" for plot in plots))
        show_written(output)
