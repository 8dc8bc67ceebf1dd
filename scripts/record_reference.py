"""The tables of docs/evaluation.md: every key of a file of records, from the docstrings of its models."""

from __future__ import annotations

from artifact_reference import type_text

from gradience.artifacts.records import RECORD_TYPES, ExamplesRun
from gradience.artifacts.schemas import DescribedFields


def record_reference() -> str:
    """One Markdown table for the header and one for each kind of record."""
    tables = [("The first line", ExamplesRun)]
    tables += [(f"A line of the kind `{kind}`", model) for kind, model in RECORD_TYPES.items()]
    return "\n".join(_table(title, model) for title, model in tables)


def _table(title: str, model: type) -> str:
    schema = model.model_json_schema(by_alias=True, mode="serialization", schema_generator=DescribedFields)
    rows = [
        f"| `{key}` | {type_text(field)} | {' '.join(field.get('description', '').split())} |"
        for key, field in schema["properties"].items()
    ]
    return (
        f"### {title}\n\n{' '.join(schema['description'].split())}\n\n| key | type | meaning |\n|---|---|---|\n"
        + "\n".join(rows)
        + "\n"
    )
