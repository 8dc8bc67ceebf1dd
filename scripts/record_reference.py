"""The tables of docs/reference/files.md on files of records: every key, from the docstrings of their models."""

import inspect

from artifact_reference import key_table
from pydantic import TypeAdapter

from gradience.files.records import RECORD_TYPES, ExamplesRun
from gradience.reports.registry import DescribedFields


def record_reference() -> str:
    """One Markdown table for the header and one for each kind of record."""
    tables = [("The first line", ExamplesRun)]
    tables += [(f"Lines of kind `{kind}`", model) for kind, model in RECORD_TYPES.items()]
    return "\n\n".join(_section(title, model) for title, model in tables)


def _section(title: str, model: type) -> str:
    schema = TypeAdapter(model).json_schema(
        by_alias=True, mode="serialization", schema_generator=DescribedFields
    )
    schema.setdefault("description", inspect.getdoc(model))
    return f"### {title}\n\n{' '.join(schema['description'].split())}\n\n{key_table(schema)}"
