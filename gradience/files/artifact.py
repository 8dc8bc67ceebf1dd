"""Base class of all artifacts: frozen, strictly validated, versioned by schema name, written atomically.

Floats are stored with 12 significant digits. The last bits differ between CPU kernels, so more digits would
be noise and would make equal results look different.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeVar, cast, dataclass_transform

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticSerializationError, from_json

from gradience.digests import sha256_text
from gradience.errors import InputError
from gradience.files.whole import write_whole
from gradience.reading import read_file

T = TypeVar("T")

SIGNIFICANT_DIGITS = 12
MAX_ARTIFACT_BYTES = 256 * 2**20
"""An audit of 50,000 modules has about 100 MB."""


def round_significant(value: float) -> float:
    """`value` with 12 significant digits."""
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")


Float12 = Annotated[float, AfterValidator(round_significant)]
"""A float that is stored with 12 significant digits."""


def _round_all(values: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(map(round_significant, values))


Floats12 = Annotated[tuple[float, ...], AfterValidator(_round_all)]
"""Floats that are stored so; validated together, in half of the time."""


@dataclass_transform(frozen_default=True, kw_only_default=True)
def artifact_row(cls: type[T]) -> type[T]:
    """Make a class a row inside an artifact: a pydantic dataclass with slots, because there may be 50,000 of them."""
    rules = ConfigDict(extra="forbid", allow_inf_nan=False)
    return cast("type[T]", dataclass(frozen=True, slots=True, kw_only=True, config=rules)(cls))


def absent_at(default: Any) -> Any:
    """Return a field that is absent from the file while it has this value, its default."""
    initial: dict[str, Any] = {"default_factory": default.copy} if default == {} else {"default": default}
    return Field(**initial, exclude_if=lambda value: value == default)


class Part(BaseModel):
    """A block inside an artifact: frozen, no unknown keys, no NaN."""

    model_config = ConfigDict(
        defer_build=True,  # an audit does not wait for the models of every other report
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        alias_generator=lambda name: name.removesuffix("_"),  # `schema_` is `schema` in the file
    )


class Artifact(Part):
    """A file of its own: read with validation, written whole or not at all.

    A subclass has a field `schema`: a literal such as `gradience.audit/3`, which is its default as well.
    """

    schema_id: ClassVar[str]
    """That literal."""
    repair: ClassVar[str] = "make the file again"
    """Hint for a file that is invalid or was written by an earlier version of Gradience."""

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        if "schema_" in cls.model_fields:
            cls.schema_id = cls.model_fields["schema_"].default

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """Read and validate the artifact at `path`.

        Raises InputError (`artifact-invalid`, `artifact-version`, and what `reading` raises).
        """
        path = Path(path)
        return cls.parse(path, read_file(path, MAX_ARTIFACT_BYTES))

    @classmethod
    def parse(cls, path: Path, text: bytes) -> Self:
        """Validate the JSON `text` from the file at `path`. Raises InputError as `read` does."""
        values = _parsed(path, cls, text)
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise _invalid(path, cls, values, error) from None

    def to_json(self, indent: int | None = 2) -> str:
        """The artifact as strict JSON text, safe to print (see `visible_json`)."""
        with interruptible():
            return visible_json(self.model_dump_json(indent=indent))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the artifact to `path`: temporary file, fsync, rename.

        Raises OutputError if the file cannot be written.
        """
        return write_whole(Path(path), [self.to_json().encode() + b"\n"])


def digest_of(artifact: Artifact) -> str:
    """Return the sha256 of the file that `save` writes."""
    return sha256_text(f"{artifact.to_json()}\n")


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise what a signal raised while pydantic-core wrote JSON: it hides it in a PydanticSerializationError."""
    try:
        yield
    except PydanticSerializationError as error:
        signalled = re.search(r"KeyboardInterrupt|SystemExit: (\d+)", str(error))
        if signalled is None:
            raise
        raise (SystemExit(int(signalled[1])) if signalled[1] else KeyboardInterrupt) from None


_BEYOND_ASCII = re.compile(r"[^\x00-\x7e]")


def visible_json(text: str) -> str:
    r"""Return JSON text of the same value with terminal control characters escaped (`\u009b` for the control
    itself).

    Names come from untrusted files. pydantic escapes only what JSON requires, not controls above U+007E or
    bidirectional overrides. Non-ASCII characters occur only inside JSON strings, where an escape is
    equivalent to the character. Letters of any script stay readable.
    """
    return _BEYOND_ASCII.sub(lambda match: match[0] if match[0].isprintable() else _escaped(match), text)


def ascii_json(text: str) -> str:
    r"""JSON text of the same value in ASCII: `\u03c3` for σ, a pair of surrogates beyond the first plane."""
    return _BEYOND_ASCII.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    return json.dumps(match[0])[1:-1]


_LONG = re.compile(rb"\d{19}")


def _parsed(path: Path, artifact: type[Artifact], text: bytes) -> Any:
    """Return the values of a JSON text. Raises InputError (`artifact-invalid`), also for an integer of 2^63 or more.

    The text is parsed before the validation, because pydantic's errors would otherwise copy the whole object for each
    missing field.
    """
    try:
        if _LONG.search(text):  # such texts are parsed twice
            json.loads(text, parse_int=_counted)
        return from_json(text, allow_inf_nan=False)
    except OverflowError:
        problem = "an integer of 2^63 or more"
    except (ValueError, RecursionError) as error:
        problem = f"Invalid JSON: {error}"
    raise InputError(
        f"{path}: not a valid {artifact.schema_id} file: {problem}",
        code="artifact-invalid",
        hint=artifact.repair,
    )


def _counted(digits: str) -> int:
    if len(digits) > 20 or abs(int(digits)) >= 2**63:
        raise OverflowError
    return int(digits)


def _invalid(path: Path, artifact: type[Artifact], values: Any, error: ValidationError) -> InputError:
    schema = values.get("schema") if isinstance(values, dict) else artifact.schema_id
    if schema != artifact.schema_id:
        is_kind = str(schema).partition("/")[0] == artifact.schema_id.partition("/")[0]
        version = ": another version of Gradience wrote it" if is_kind else ""
        return InputError(
            f"{path}: this is {str(schema)[:120]!r}, not {artifact.schema_id}{version}",
            code="artifact-version",
            hint=f"name the right file, or {artifact.repair}",
        )
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"]) or "the file"
    return InputError(
        f"{path}: not a valid {artifact.schema_id} file: {field}: {first['msg']}",
        code="artifact-invalid",
        hint=artifact.repair,
    )
