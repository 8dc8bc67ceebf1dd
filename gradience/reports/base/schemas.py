"""The JSON Schema of an artifact, in which each field is described by the docstring below it.

The sources are read only when a schema is requested: reading them for every class would take longer than reading a
small adapter.
"""

from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from gradience.files.artifact import Artifact
from gradience.settings import field_docstrings


def json_schema(artifact: type[Artifact]) -> dict[str, Any]:
    """Return the JSON Schema of an artifact, as committed under docs/schemas/; without the example of its docstring."""
    schema = artifact.model_json_schema(by_alias=True, mode="serialization", schema_generator=DescribedFields)
    if schema.pop("$ref", None):  # a report that holds reports of its kind
        schema = {**schema["$defs"][artifact.__name__], **schema}
    schema["description"] = schema["description"].partition("\n\n")[0]
    return {"$id": artifact.schema_id, **schema}


class DescribedFields(GenerateJsonSchema):
    """A schema generator of pydantic that takes the descriptions of fields from the sources."""

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        return _described(schema["cls"], super().model_schema(schema))

    def dataclass_schema(self, schema: core_schema.DataclassSchema) -> JsonSchemaValue:
        return _described(schema["cls"], super().dataclass_schema(schema))


def _described(cls: type[Any], schema: JsonSchemaValue) -> JsonSchemaValue:
    fields = getattr(cls, "model_fields", {})
    for ancestor in reversed(cls.__mro__):
        if ancestor.__module__.startswith("gradience."):
            for (owner, name), text in field_docstrings(ancestor.__module__).items():
                if owner == ancestor.__name__:
                    alias = fields[name].alias if name in fields else None
                    schema.get("properties", {}).get(alias or name, {})["description"] = text
    return schema
