"""Reports drawn and shared: a figure for a paper, and one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from gradience.errors import UsageError
from gradience.files.shared_names import path_text
from gradience.files.whole import already_exists, write_whole
from gradience.reports.plots.plot import Plot
from gradience.settings import SETTINGS, Flag, Number, StrPath, paths_of, public

if TYPE_CHECKING:
    from gradience.reports.page.parts import PageSource

FILES = ("svg", "pdf", "png")


# ---------------------------------------------------------------- a figure


def _kinds() -> list[str]:
    from gradience.reports.registry import reports

    return list(dict.fromkeys(kind for report in reports().values() for kind in report.plots))


@dataclass(frozen=True, config=SETTINGS)
class PlotSettings:
    """Plot."""

    kind: Annotated[str, Flag("KIND", values=_kinds)]
    """heatmap, energy, spectrum (audit); map (compression); loss, rank (run); forest, pareto (evaluation,
    shrink, evidence, Bench); frontier (strength)."""
    inputs: Annotated[Sequence[StrPath], Flag("INPUT")]
    """Adapter folders, run.jsonl files, or reports that Gradience wrote; several are drawn side by side."""
    _: KW_ONLY
    output: Annotated[StrPath, Flag("FILE", "-o")]
    """File to write: .svg, .pdf or .png."""
    width: Annotated[Number | None, Field(ge=3, le=40), Flag("INCHES")] = None
    """Width of the whole figure, such as 3.25 for a column of a paper or 7 for a page; text keeps its size."""
    no_titles: bool = False
    """No titles, for figures with a caption of their own; with several inputs, plots are titled with input names."""
    force: bool = False
    """Replace an existing file."""


@public(PlotSettings)
def plot_reports(settings: PlotSettings) -> list[Plot]:
    """Write a plot of each input into one file, and return the plots.

    The keywords are the flags of `gradience plot`:

    Raises UsageError (`plot-file`, `output-exists`, `no-plot`), what `report_at` raises, MissingExtra.
    """
    from gradience.reports.plots.kinds import plot_of
    from gradience.reports.plots.matplotlib import image_of
    from gradience.sources import report_at

    output, inputs = Path(settings.output), paths_of(settings.inputs)
    file = output.suffix.lower().removeprefix(".")
    if file not in FILES:
        raise UsageError(
            f"{output}: unknown file type",
            code="plot-file",
            hint=f"end the name with one of {', '.join(f'.{file}' for file in FILES)}",
        )
    if output.exists() and not settings.force:
        raise already_exists(output)
    plots: list[Plot] = []
    for path in inputs:
        try:
            plot = plot_of(report_at(path), settings.kind)
        except UsageError as error:
            raise UsageError(f"{path}: {error}", code=error.code, hint=error.hint) from None
        name = path_text(path)
        named = name if settings.no_titles else f"{name}: {plot.title}"
        plots.append(replace(plot, title=named) if len(inputs) > 1 else plot)
    titles = len(plots) > 1 or not settings.no_titles
    write_whole(output, [image_of(plots, file, width=settings.width, titles=titles)])
    return plots


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
