"""Options that several verbs have in common, as types of their parameters; the defaults stand with the verbs."""

from __future__ import annotations

from typing import Annotated

import typer

AdapterName = Annotated[
    str | None,
    typer.Option(
        "--adapter", metavar="NAME", help="Which adapter, if there are several in one folder or file."
    ),
]
Layers = Annotated[bool, typer.Option("--layers", help="Show every module.")]
ReportAsJson = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No report and no progress bar.")]


def allowed_ranks_of(text: str | None) -> tuple[int, ...] | None:
    """Return `--allowed-ranks 4,8,16` as ranks; None where it was not given. Raises UsageError (code bad-grid)."""
    from gradience.plan.grids import parse_ranks

    return None if text is None else parse_ranks(text)
