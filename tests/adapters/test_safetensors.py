"""Our reader of safetensors against the reference: the same verdict on every mutant, or a stricter one for a reason."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from factory import Stored, container, described, modules, stored, zeros
from factory import safetensors as file_bytes
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize

from gradience.adapters.tensors import TensorFile
from gradience.errors import InputError

STRICTER = {"bad-json", "bad-header"}
"""Codes with which ours may refuse what the reference accepts (see `test_stricter_for_a_reason`)."""
REPLACEMENTS = b'{}[]:,"\\0129-+.eE tfnuF\0\x1b\x7f\xff'


@pytest.fixture
def scratch():
    """A file in memory: on a slow disk thousands of mutants take half a minute."""
    handle = os.memfd_create("mutant")
    yield Path(f"/proc/self/fd/{handle}")
    os.close(handle)


def ours(path, content):
    """The tensors that our reader sees, or the code of its refusal."""
    path.write_bytes(content)
    try:
        with TensorFile.open(path) as file:
            return {
                name: (entry.dtype.name, entry.shape, bytes(file.read_bytes(name)))
                for name, entry in file.entries.items()
            }
    except InputError as error:
        return error.code


def theirs(content):
    """The tensors that the reference sees, or None where it refuses."""
    try:
        return {
            name: (tensor["dtype"], tuple(tensor["shape"]), bytes(tensor["data"]))
            for name, tensor in deserialize(content)
        }
    except SafetensorError:
        return None
    except Exception as error:
        raise AssertionError(f"the reference fails in a new way: {error!r}") from error


SMALL = {
    "two factors and metadata": file_bytes(
        {"a.lora_A.weight": stored(np.arange(6, dtype=np.float32).reshape(2, 3)),
         "a.lora_B.weight": stored(np.arange(8, dtype=np.float16).reshape(4, 2))},
        {"format": "pt"},
    ),
    "bf16, a scalar, an empty tensor": file_bytes(
        {"x": Stored("BF16", (2, 2), bytes(range(8))), "alpha": stored(np.float32(4.0).reshape(())),
         "e": zeros(0, 5), "é": Stored("BOOL", (3,), b"\0\1\1")}
    ),
    "padded as the reference pads": safetensors.numpy.save({"w": np.ones((3, 2), np.float32)}, {"k": "v"}),
}  # fmt: skip


def mutants(content):
    """Every truncation; every byte of the header removed, doubled, replaced, each of its bits flipped; bytes added;
    and 3,000 with several bytes replaced."""
    header_end = 8 + int.from_bytes(content[:8], "little")
    for end in range(len(content)):
        yield content[:end]
    for position in range(header_end):
        byte = content[position]
        for other in {*REPLACEMENTS, *(byte ^ 1 << bit for bit in range(8))} - {byte}:
            yield content[:position] + bytes([other]) + content[position + 1 :]
        yield content[:position] + content[position + 1 :]
        yield content[:position] + content[position : position + 1] + content[position:]
    for extra in (b"\0", b"\0" * 8, b"}"):
        yield content + extra
    chance = random.Random(0)
    for _ in range(3000):
        mutant = bytearray(content)
        for _ in range(chance.randint(2, 4)):
            mutant[chance.randrange(header_end)] = chance.choice(REPLACEMENTS)
        yield bytes(mutant)


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="files in memory are a matter of Linux")
@pytest.mark.parametrize("name", SMALL)
def test_every_mutant_gets_the_verdict_of_the_reference_or_a_stricter_one(name, scratch):
    stricter = Counter()
    count = 0
    for content in mutants(SMALL[name]):
        count += 1
        verdict, expected = ours(scratch, content), theirs(content)
        if isinstance(verdict, dict):
            # Ours accepts only what the reference accepts, and sees the same bytes.
            assert verdict == expected, content
        elif expected is not None:
            stricter[verdict] += 1
    assert count > 6000
    assert set(stricter) <= STRICTER
    assert sum(stricter.values()) <= count / 1000


def entry(size=0, **fields):
    return {"dtype": "U8", "shape": [size], "data_offsets": [0, size], **fields}


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"I8","shape":[0],"data_offsets":[0,0]}}',
         "bad-json"),
        ({"a": entry(extra=1)}, "bad-header"),
        ({"a": entry(shape=[0] * 9)}, "bad-header"),
        ({"a" * 1025: entry()}, "bad-header"),
    ],
    ids=["the-same-name-twice", "a-fourth-field", "nine-dimensions", "a-long-name"],
)  # fmt: skip
def test_stricter_for_a_reason(header, code, tmp_path):
    content = container(header)
    assert theirs(content) is not None
    assert ours(tmp_path / "a.safetensors", content) == code


@pytest.mark.parametrize("length", [640, 896, 1152, 1408, 0x8B1F, 66176])
def test_a_header_length_that_looks_like_a_pickle_or_gzip_is_just_a_length(length, tmp_path):
    header = json.dumps(described({"a": zeros(2, 2)})).encode()
    content = container(header.ljust(length), bytes(16))
    assert content[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"\x1f\x8b")
    assert ours(tmp_path / "a.safetensors", content) == theirs(content) == {"a": ("F32", (2, 2), bytes(16))}


NAMES = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=20).filter(
    lambda name: name != "__metadata__"
)


# ---------------------------------------------------------------- while it is read


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(file_bytes(modules()))
    return path


def test_a_file_that_shrinks_while_it_is_open_is_an_error(weights):
    with TensorFile.open(weights) as file:
        last = list(file.entries)[-1]
        os.truncate(weights, weights.stat().st_size - 1)
        with pytest.raises(
            InputError, match=r"weights\.safetensors: truncated: .* bytes expected"
        ) as refused:
            file.read_words(last)
        assert refused.value.code == "truncated"
        with pytest.raises(InputError, match="truncated"):
            file.sha256()
