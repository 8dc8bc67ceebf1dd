"""`gradience convert`: the same adapter in another format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gradience.cli.options import AdapterName, AllowPickle, Quiet, ReportAsJson, one_of
from gradience.cli.output import command_line, print_result
from gradience.cli.page import Html
from gradience.cli.progress import ProgressBar


def _targets() -> list[str]:
    from gradience.convert.verb import TARGETS

    return list(TARGETS)


def convert(
    adapter: Annotated[
        Path,
        typer.Argument(metavar="ADAPTER", help="In any format that is read, or org/name on the hub."),
    ],
    output: Annotated[Path, typer.Argument(metavar="DIR", help="Where the converted adapter is written.")],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="FORMAT",
            help="Format to write: peft, mlx, gguf or diffusers.",
            autocompletion=one_of(_targets),
        ),
    ] = "peft",
    base_model: Annotated[
        str | None,
        typer.Option(
            "--base-model",
            metavar="NAME",
            help="With --to gguf: base model, a folder or a name on the hub, whose config.json says what modules are "
            "called.",
        ),
    ] = None,
    name: AdapterName = None,
    allow_pickle: AllowPickle = False,
    json: ReportAsJson = False,
    html: Html = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing adapter folder.")] = False,
    quiet: Quiet = False,
) -> None:
    """Values and scales stay what they are. A pickle becomes safetensors, shards become one file, and tensors get the
    names by which PEFT finds them.

    Examples:

      gradience convert ./my_adapter ./as_peft

      gradience convert ./old_adapter ./as_peft --allow-pickle

      gradience convert ./my_adapter ./for_mlx --to mlx
    """
    from gradience.convert.verb import convert_adapter
    from gradience.report.conversion import conversion_text

    with ProgressBar(f"converting {adapter}", quiet=quiet):
        report = convert_adapter(
            adapter,
            output,
            to=to,
            base_model=base_model,
            adapter=name,
            allow_pickle=allow_pickle,
            force=force,
            command=command_line(),
        )
    print_result(conversion_text, report, as_json=json, quiet=quiet, html=html)
