"""The names of the encodings, for the schema and for the command line."""

from typing import Annotated

from pydantic import Field

ENCODING_NAMES = ("uniform", "patterns", "padded", "folded")
"""The names in `compress.layout.ENCODINGS`, which describes each encoding."""
Encoding = Annotated[str, Field(json_schema_extra=lambda schema: schema.update(enum=list(ENCODING_NAMES)))]
"""Encoding of ranks and scales in the config: one of ENCODING_NAMES."""
