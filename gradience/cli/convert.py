"""`gradience convert`: the same adapter in another format."""

from gradience.cli.options import with_base
from gradience.cli.output import ReportOutput
from gradience.convert.settings import ConvertSettings


def convert(settings: ConvertSettings, out: ReportOutput) -> None:
    """Weights and scales do not change. A pickle becomes safetensors, shards become one file, and tensors get the
    names by which PEFT finds them.

    Examples:

      gradience convert ./my_adapter ./as_peft

      gradience convert ./old_adapter ./as_peft --allow-pickle

      gradience convert ./my_adapter ./for_mlx --to mlx
    """
    from gradience.convert.verb import convert_adapter

    report = out.run(convert_adapter, with_base(settings), f"converting {settings.path}")
    out.show(report, paths=(str(settings.output),))
