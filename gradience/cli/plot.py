"""`gradience plot`: one plot of an adapter, a run or a report, as a file for a paper."""

from dataclasses import KW_ONLY
from pathlib import Path
from typing import Annotated

from gradience.cli.console import show_written
from gradience.cli.output import JsonOutput, print_facts, print_text
from gradience.errors import UsageError
from gradience.settings import Flag, StrPath, settings_model

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
