"""Verbs that draw what other commands wrote: report, plot."""

from collections.abc import Sequence
from dataclasses import KW_ONLY
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from gradience.cli.console import show_written
from gradience.cli.shared import JsonOutput, page_path, print_facts, print_text
from gradience.errors import UsageError
from gradience.settings import Flag, StrPath, paths_of, settings_model


@settings_model()
class PageSettings:
    """Page."""

    files: Annotated[Sequence[StrPath], Flag("FILE_OR_DIR")]
    """Report of any command, run.jsonl, or calibration; or the folder of a run."""
    _: KW_ONLY
    output: Annotated[
        StrPath, AfterValidator(page_path), Field(validate_default=True), Flag("FILE", "-o")
    ] = "report.html"
    """The page; an earlier page is replaced."""
    no_texts: bool = False
    """Leave out examples and answers: for private data."""


@settings_model(kw_only=True)
class WrittenOutput(JsonOutput):
    """Output."""

    quiet: Annotated[bool, Flag(short="-q")] = False
    """Do not print what was written."""


def report(settings: PageSettings, out: WrittenOutput) -> None:
    """Several reports become sections of one page. For a folder, its reports and those directly below it are read;
    checkpoints without an audit.json are audited.

    Examples:

      gradience report audit.json

      gradience report runs/mine -o mine.html

      gradience report checkpoint-*/audit.json run.jsonl -o training.html
    """
    from gradience.digests import sha256_bytes
    from gradience.reports.base.numbers import size
    from gradience.reports.page.render import write_page
    from gradience.sources import read_sources

    sources = read_sources(paths_of(settings.files))
    page = write_page(Path(settings.output), sources, texts=not settings.no_texts)
    if out.json:
        read = [
            {"file": source.name, "schema": source.report.schema_id, "sha256": source.sha256 or None}
            for source in sources
        ]
        facts = {"page": str(settings.output), "bytes": len(page), "sha256": sha256_bytes(page).hex()}
        print_facts({**facts, "from": read})
    elif not out.quiet:
        show_written(f"{settings.output} ({size(len(page))})")


FILES = ("svg", "pdf", "png")


def _kinds() -> list[str]:
    from gradience.reports.registry import reports

    return list(dict.fromkeys(kind for report in reports().values() for kind in report.plots))


@settings_model()
class PlotSettings:
    """Plot."""

    kind: Annotated[str, Flag("KIND", values=_kinds)]
    """heatmap, energy, spectrum (audit); loss, rank (run); forest, pareto (evaluation,
    shrink, evidence, Bench); frontier (evaluation on several data sets)."""
    input: Annotated[StrPath, Flag("INPUT")]
    """Adapter folder, run.jsonl file, or report that Gradience wrote."""
    _: KW_ONLY
    output: Annotated[StrPath, Flag("FILE", "-o")]
    """File to write: .svg, .pdf or .png."""
    force: bool = False
    """Replace an existing file."""


def plot(settings: PlotSettings, out: JsonOutput) -> None:
    """Prints a one-sentence description of the plot. The same input gives the same bytes with one version
    of matplotlib.

    Examples:

      gradience plot energy ./my_adapter -o energy.svg

      gradience plot pareto evaluated/evaluation.json -o pareto.pdf
    """
    from gradience.files.whole import already_exists, write_whole
    from gradience.reports.plots.matplotlib import image_of
    from gradience.reports.plots.plot import plot_of
    from gradience.sources import report_at

    path, output = Path(settings.input), Path(settings.output)
    file = output.suffix.lower().removeprefix(".")
    if file not in FILES:
        raise UsageError(
            f"{output}: unknown file type",
            code="plot-file",
            hint=f"end the name with one of {', '.join(f'.{file}' for file in FILES)}",
        )
    if output.exists() and not settings.force:
        raise already_exists(output)
    try:
        drawn = plot_of(report_at(path), settings.kind)
    except UsageError as error:
        raise UsageError(f"{path}: {error}", code=error.code, hint=error.hint) from None
    write_whole(output, [image_of(drawn, file)])
    if out.json:
        facts = {"name": drawn.name, "title": drawn.title, "sentence": drawn.sentence}
        print_facts({"file": str(output), **facts})
    else:
        print_text(f"{drawn.sentence}\n")
        show_written(str(output))
