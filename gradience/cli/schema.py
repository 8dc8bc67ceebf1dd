"""`gradience schema`: the JSON Schema of an artifact."""

import json
from typing import Annotated

import typer

from gradience.reports.registry import ARTIFACTS, model_of


def _known(name: str) -> str:
    if name not in ARTIFACTS:
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(map(repr, ARTIFACTS))}.")
    return name


def schema(
    artifact: Annotated[
        str,
        typer.Argument(
            metavar="ARTIFACT",
            help=f"One of {', '.join(ARTIFACTS)}.",
            parser=_known,
            autocompletion=lambda: list(ARTIFACTS),
        ),
    ],
) -> None:
    """The same files are in the repository, under docs/schemas/."""
    print(schema_text(artifact), end="")


def schema_text(artifact: str) -> str:
    """Return the schema as indented JSON with a final newline."""
    from gradience.reports.registry import json_schema

    return json.dumps(json_schema(model_of(artifact)), indent=2, ensure_ascii=False) + "\n"
