"""`gradience schema`: the JSON Schema of an artifact."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class ArtifactName(StrEnum):
    """The artifacts that have a schema."""

    AUDIT = "audit"


def schema(artifact: Annotated[ArtifactName, typer.Argument(help="Which artifact.")]) -> None:
    """Print the JSON Schema of an artifact.

    The same files are in the repository, under docs/schemas/.
    """
    print(schema_text(artifact), end="")


def schema_text(artifact: ArtifactName) -> str:
    """The schema as it is printed and committed: indented JSON and a final newline."""
    import json

    from gradience.artifacts.audit import AuditReport
    from gradience.artifacts.base import json_schema

    models = {ArtifactName.AUDIT: AuditReport}
    return json.dumps(json_schema(models[artifact]), indent=2, ensure_ascii=False) + "\n"
