"""`gradience plot`: one plot of an adapter, a run or a report, as a file for a paper."""

from gradience.cli.console import show_written
from gradience.cli.output import JsonOutput, print_facts, print_text
from gradience.settings import call
from gradience.sharing import PlotSettings, plot_report


def plot(settings: PlotSettings, out: JsonOutput) -> None:
    """Prints a one-sentence description of the plot. The same input gives the same bytes with one version
    of matplotlib.

    Examples:

      gradience plot energy ./my_adapter -o energy.svg

      gradience plot pareto evaluated/evaluation.json -o pareto.pdf
    """
    drawn = call(plot_report, settings)
    if out.json:
        facts = {"name": drawn.name, "title": drawn.title, "sentence": drawn.sentence}
        print_facts({"file": str(settings.output), **facts})
    else:
        print_text(f"{drawn.sentence}\n")
        show_written(str(settings.output))
