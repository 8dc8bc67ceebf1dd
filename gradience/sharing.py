"""Reports drawn and shared: a figure for a paper, and one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

from pydantic import AfterValidator, Field

from gradience.errors import UsageError
from gradience.files.whole import already_exists, write_whole
from gradience.reports.plots.plot import Plot
from gradience.settings import Flag, StrPath, paths_of, public, settings_model

if TYPE_CHECKING:
    from gradience.reports.page.parts import PageSource

FILES = ("svg", "pdf", "png")


# ---------------------------------------------------------------- a figure


def _kinds() -> list[str]:
    from gradience.reports.registry import reports

    return list(dict.fromkeys(kind for report in reports().values() for kind in report.plots))


@settings_model()
class PlotSettings:
    """Plot."""

    kind: Annotated[str, Flag("KIND", values=_kinds)]
    """heatmap, energy, spectrum (audit); loss, rank (run); forest, pareto (evaluation,
    shrink, evidence, Bench); frontier (strength)."""
    input: Annotated[StrPath, Flag("INPUT")]
    """Adapter folder, run.jsonl file, or report that Gradience wrote."""
    _: KW_ONLY
    output: Annotated[StrPath, Flag("FILE", "-o")]
    """File to write: .svg, .pdf or .png."""
    force: bool = False
    """Replace an existing file."""


@public(PlotSettings)
def plot_report(settings: PlotSettings) -> Plot:
    """Write a plot of an adapter, a run or a report, and return it.

    Keywords, named like the flags of `gradience plot`:

    Raises UsageError (`plot-file`, `output-exists`, `no-plot`), what `report_at` raises, MissingExtra.
    """
    from gradience.reports.plots.matplotlib import image_of
    from gradience.reports.plots.plot import plot_of
    from gradience.sources import report_at

    output = Path(settings.output)
    file = output.suffix.lower().removeprefix(".")
    if file not in FILES:
        raise UsageError(
            f"{output}: unknown file type",
            code="plot-file",
            hint=f"end the name with one of {', '.join(f'.{file}' for file in FILES)}",
        )
    if output.exists() and not settings.force:
        raise already_exists(output)
    path = Path(settings.input)
    try:
        plot = plot_of(report_at(path), settings.kind)
    except UsageError as error:
        raise UsageError(f"{path}: {error}", code=error.code, hint=error.hint) from None
    write_whole(output, [image_of(plot, file)])
    return plot


# ---------------------------------------------------------------- a page


def _checked(output: Path) -> Path:
    from gradience.reports.page.render import check_page

    return check_page(output)


@settings_model()
class PageSettings:
    """Page."""

    files: Annotated[Sequence[StrPath], Flag("FILE_OR_DIR")]
    """Report of any command, run.jsonl, or calibration; or the folder of a run."""
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

    Keywords, named like the flags of `gradience report`:

    Raises what `read_sources` raises, UsageError (`not-ours`), OutputError (`write-failed`), and MissingExtra.
    """
    from gradience.reports.page.render import write_page
    from gradience.sources import read_sources

    sources = read_sources(paths_of(settings.files))
    return WrittenPage(write_page(Path(settings.output), sources, texts=not settings.no_texts), sources)
