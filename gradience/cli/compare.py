"""`gradience compare`: two adapters, module by module."""

from gradience.cli.output import LayersOutput
from gradience.compare.settings import CompareSettings


def compare(settings: CompareSettings, out: LayersOutput) -> None:
    """Reports the distance between the updates and the overlap of their directions.

    Examples:

      gradience compare ./my_adapter ./smaller

      gradience compare ./seed42 ./seed123 --layers
    """
    from gradience.compare.adapters import compare_adapters

    report = out.run(compare_adapters, settings, f"comparing {settings.a}")
    out.show(report, paths=(str(settings.a), str(settings.b)))
