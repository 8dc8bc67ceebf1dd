"""Reports drawn and shared: a figure for a paper, and one HTML file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from gradience.errors import UsageError
from gradience.files.shared_names import paths_text
from gradience.files.whole import already_exists, write_whole
from gradience.reports.plots.plot import Plot
from gradience.settings import SETTINGS, Flag, Number, PythonOnly, StrPath, paths_of, public

if TYPE_CHECKING:
    from gradience.reports.base.report import Report
    from gradience.reports.page.parts import PageSource

FILES = ("svg", "pdf", "png")
NARROWEST, WIDEST = 3.0, 40.0
"""Inches of a figure."""
EVOLUTION = "evolution"
"""All that is drawn over steps: of a run, or of several audits in their order."""


# ---------------------------------------------------------------- a figure


def _kinds() -> list[str]:
    from gradience.reports.registry import reports

    return [EVOLUTION, *dict.fromkeys(kind for report in reports().values() for kind in report.plots)]


@dataclass(frozen=True, config=SETTINGS)
class PlotSettings:
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
    left_out: Annotated[Callable[[UsageError], None] | None, PythonOnly] = None
    """A callback for each input without such a plot, if others have one."""


@public(PlotSettings)
def plot_reports(settings: PlotSettings) -> list[Plot]:
    """Write a plot of each input into one file, and return the plots.

    The keywords are the flags of `gradience plot`:

    Raises UsageError (`plot-file`, `plot-width`, `output-exists`, `no-plot`), what `report_at` raises, MissingExtra.
    """
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
    titles, several = not settings.no_titles, len(inputs) > 1
    plots, without = _plots_of_inputs(
        settings.kind, inputs, [report_at(path) for path in inputs], titles=titles
    )
    if settings.left_out is not None:
        for reason in without:
            settings.left_out(reason)
    write_whole(output, [image_of(plots, file, width=width, titles=titles or several)])
    return plots


def _plots_of_inputs(
    kind: str, inputs: Sequence[Path], reports: Sequence[Report], *, titles: bool
) -> tuple[list[Plot], list[UsageError]]:
    """Return one plot of each report, with its name if there are several, and why the others have none.

    Of checkpoints, return what changed over them. Raises UsageError (`no-plot`) if no report has one.
    """
    from gradience.reports.audit import AuditReport
    from gradience.reports.plots.audits import evolution_plots

    audits = [report for report in reports if isinstance(report, AuditReport)]
    if kind == EVOLUTION and audits:
        if len(audits) < len(reports) or len(audits) < 2:
            raise UsageError(
                "evolution needs two or more audits, or a run.jsonl",
                code="no-plot",
                hint="name the checkpoints of one run in order, or its run.jsonl",
            )
        return evolution_plots(audits), []
    if len(reports) == 1:
        return _plots_of_one(kind, reports[0]), []
    drawn: list[Plot] = []
    without: list[UsageError] = []
    for path, name, report in zip(inputs, _names(inputs), reports, strict=True):
        try:
            plots = _plots_of_one(kind, report)
        except UsageError as error:
            without.append(UsageError(f"{path}: {error}", code=error.code, hint=error.hint))
            continue
        drawn += [replace(plot, title=f"{name}: {plot.title}" if titles else name) for plot in plots]
    if not drawn:
        raise without[0]
    return drawn, without


def _plots_of_one(kind: str, report: Report) -> list[Plot]:
    """Return the plots of a kind; for `evolution` all plots of a run. Raises UsageError (`no-plot`) if none exists."""
    from gradience.reports.plots.kinds import plot_of, plots_of

    if kind == EVOLUTION:
        return list(plots_of(report).values()) or [plot_of(report)]
    return [plot_of(report, kind)]


def _names(inputs: Sequence[Path]) -> list[str]:
    """Return the names of the inputs in titles: the last parts of their paths if these differ."""
    names = [path.name for path in inputs]
    if len(set(names)) == len(names):
        return names
    parted = paths_text([path.absolute() for path in inputs])
    return parted if len(set(parted)) == len(parted) else paths_text(inputs)


# ---------------------------------------------------------------- a page


def _checked(output: Path) -> Path:
    from gradience.reports.page.render import check_page

    return check_page(output)


@dataclass(frozen=True, config=SETTINGS)
class PageSettings:
    """Page."""

    files: Annotated[Sequence[StrPath], Flag("FILE_OR_DIR")]
    """audit.json and what other verbs write, run.jsonl, a calibration; or the folder of a run."""
    _: KW_ONLY
    output: Annotated[StrPath, AfterValidator(_checked), Field(validate_default=True), Flag("FILE", "-o")] = (
        "report.html"
    )
    """The page; an earlier page is replaced."""
    no_texts: bool = False
    """Leave out examples and answers: for private data."""


class WrittenPage(NamedTuple):
    """A page, and the reports that it was made from."""

    content: bytes
    sources: Sequence[PageSource]


@public(PageSettings)
def report_page(settings: PageSettings) -> WrittenPage:
    """Write reports as one HTML file, and return it.

    The keywords are the flags of `gradience report`:

    Raises what `read_sources` raises, UsageError (`not-ours`), OutputError (`write-failed`), MissingExtra.
    """
    from gradience.reports.page.render import write_page
    from gradience.sources import read_sources

    sources = read_sources(paths_of(settings.files))
    return WrittenPage(write_page(Path(settings.output), sources, texts=not settings.no_texts), sources)
