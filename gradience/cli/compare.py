"""`gradience compare`: two adapters, module by module."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gradience.cli.options import AllowPickle, Layers, MaxMemory, PairNames, PairScale, Quiet, bytes_of
from gradience.cli.output import command_line, print_result
from gradience.cli.page import Html
from gradience.cli.progress import ProgressBar


def compare(
    a: Annotated[
        Path,
        typer.Argument(
            metavar="A", help="The reference: an adapter folder, a .safetensors file or org/name."
        ),
    ],
    b: Annotated[Path, typer.Argument(metavar="B", help="The adapter to compare with it.")],
    adapter_a: Annotated[
        str | None, typer.Option("--adapter-a", metavar="NAME", help="Which adapter, if A contains several.")
    ] = None,
    adapter_b: Annotated[
        str | None, typer.Option("--adapter-b", metavar="NAME", help="Which adapter, if B contains several.")
    ] = None,
    pairs: PairNames = None,
    scale: PairScale = None,
    layers: Layers = False,
    json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
    allow_pickle: AllowPickle = False,
    html: Html = None,
    max_memory: MaxMemory = None,
    quiet: Quiet = False,
) -> None:
    """Reports the distance between the updates, the overlap of their directions, and if the runs are independent.

    Examples:

      gradience compare ./my_adapter ./smaller

      gradience compare ./seed42 ./seed123 --layers
    """
    from gradience.compare.adapters import compare_adapters
    from gradience.report.comparison import comparison_text

    limit = bytes_of(max_memory)
    with ProgressBar(f"comparing {a}", quiet=quiet) as progress:
        report = compare_adapters(
            a,
            b,
            adapter_a=adapter_a,
            adapter_b=adapter_b,
            allow_pickle=allow_pickle,
            pairs=pairs,
            scale=scale,
            max_memory=limit,
            progress=progress,
            command=command_line(),
        )
    print_result(comparison_text, report, as_json=json, quiet=quiet, html=html, layers=layers)
