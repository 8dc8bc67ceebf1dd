"""The JSON Schema of an artifact, in which each field is described by the docstring below it.

The sources are read only when a schema is requested: reading them for every class would take longer than reading a
small adapter.
"""

import ast
import inspect
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from gradience.files.artifact import Artifact


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
        if (
            ancestor.__module__.startswith("gradience.") and "[" not in ancestor.__name__
        ):  # Judged[VariantResult]
            for name, text in _docstrings(ancestor).items():
                alias = fields[name].alias if name in fields else None
                schema.get("properties", {}).get(alias or name, {})["description"] = text
    return schema


def _docstrings(cls: type[Any]) -> dict[str, str]:
    """Return the names annotated in the body of a class, each with the string on the line after it."""
    definition = ast.parse(inspect.getsource(cls)).body[0]
    assert isinstance(definition, ast.ClassDef)
    texts = {}
    for field, text in zip(definition.body, definition.body[1:], strict=False):
        match field, text:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(description))),
            ):
                texts[name] = inspect.cleandoc(description)
    return texts
