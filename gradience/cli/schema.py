"""`gradience schema`: the JSON Schema of an artifact."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from gradience.reports.registry import ArtifactName


def schema(
    artifact: Annotated[
        ArtifactName, typer.Argument(metavar="ARTIFACT", help=f"One of {', '.join(ArtifactName)}.")
    ],
) -> None:
    """The same files are in the repository, under docs/schemas/."""
    print(schema_text(artifact), end="")


def schema_text(artifact: ArtifactName) -> str:
    """Return the schema as it is printed and committed: indented JSON and a final newline."""
    from gradience.reports.base.schemas import json_schema

    return json.dumps(json_schema(artifact.load()), indent=2, ensure_ascii=False) + "\n"
