"""The names of the encodings, for the schema and for the command line, whose help must not wait for pydantic."""

ENCODING_NAMES = ("uniform", "patterns", "padded", "folded")
"""The names in `compress.encodings.ENCODINGS`, which describes each encoding."""
