"""A file of another version or of another kind is refused by its schema's name, with what to do about it."""

import base64
import doctest
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from raising import raises

from gradience.errors import InputError
from gradience.files import records
from gradience.files.artifact import Artifact
from gradience.files.records import pack, unpack
from gradience.reports.audit import AuditReport
from gradience.reports.bench import Bench, BenchAggregate
from gradience.reports.comparison import ComparisonReport
from gradience.reports.compression import CompressionReport

EARLIER: dict[type[Artifact], str] = {
    AuditReport: "gradience audit",
    Bench: "gradience bench run",
    BenchAggregate: "gradience bench aggregate",
    ComparisonReport: "gradience compare",
    CompressionReport: "make the file again",
}
"""Artifacts that are no longer of version 1, and what makes them again."""


def refused(artifact: type[Artifact], schema: object, folder: Path) -> InputError:
    path = folder / "file.json"
    path.write_text(json.dumps({"schema": schema, "seeds": [42], "pass_rate": "2 of 3"}))
    with raises(InputError, "artifact-version") as caught:
        artifact.read(path)
    assert str(path) in str(caught.value)
    assert artifact.schema_id in str(caught.value)
    return caught.value


@pytest.mark.parametrize("artifact", EARLIER, ids=lambda artifact: artifact.schema_id)
def test_an_earlier_version_says_how_to_make_the_file_again(artifact: type[Artifact], tmp_path: Path) -> None:
    name, _, number = artifact.schema_id.partition("/")
    for version in range(1, int(number)):
        error = refused(artifact, f"{name}/{version}", tmp_path)
        assert f"this is '{name}/{version}'" in str(error)
        assert EARLIER[artifact] in error.hint


@pytest.mark.parametrize(
    "schema",
    [
        "gradience.bench/9",
        "gradience.bench/x",
        "gradience.bench_plan/3",
        "gradience.audit/1",
        "other",
        2,
        [],
        None,
    ],
    ids=str,
)
def test_a_later_version_or_another_kind_is_named(schema: object, tmp_path: Path) -> None:
    error = refused(Bench, schema, tmp_path)
    assert repr(str(schema)) in str(error)
    assert "name the right file" in error.hint


# ---------------------------------------------------------------- Answers as bits


def test_the_examples_are_true() -> None:
    assert doctest.testmod(records).failed == 0


@given(st.lists(st.booleans(), max_size=200))
def test_it_is_numpys_packing_in_base64(correct: list[bool]) -> None:
    text = pack(correct)
    assert base64.b64decode(text) == np.packbits(np.array(correct, dtype=bool)).tobytes()
    assert unpack(text, len(correct)) == tuple(correct)


@pytest.mark.parametrize(
    ("text", "n"),
    [("gYA=", 8), ("gYA=", 17), ("gYE=", 9), ("gYA", 9), ("g\nYA=", 9), ("", 1), ("AA==", 0)],
    ids=["too long", "too short", "padding set", "no base64", "a line end", "empty", "no examples"],
)
def test_anything_else_is_refused(text: str, n: int) -> None:
    with pytest.raises(ValueError, match=r"answers"):
        unpack(text, n)
