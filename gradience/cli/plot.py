"""`gradience plot`: one plot of an adapter, a run or a report, as a file for a paper."""

from gradience.cli.console import show_written
from gradience.cli.output import JsonOutput, print_facts, print_text
from gradience.settings import call
from gradience.sharing import PlotSettings, plot_reports


def plot(settings: PlotSettings, out: JsonOutput) -> None:
    """Prints a one-sentence description of the plot. The same input gives the same bytes with one version
    of matplotlib.

    Examples:

      gradience plot energy ./my_adapter -o energy.svg

      gradience plot spectrum ./my_adapter ./smaller -o spectra.pdf

      gradience plot pareto evaluated/evaluation.json -o pareto.pdf --width 3.25 --no-titles
    """
    plots = call(plot_reports, settings)
    if out.json:
        drawn = [{"name": plot.name, "title": plot.title, "sentence": plot.sentence} for plot in plots]
        print_facts({"file": str(settings.output), "plots": drawn})
    else:
        print_text("".join(f"{plot.sentence}\n" for plot in plots))
        show_written(str(settings.output))
