"""Our reader of safetensors against the reference: the same verdict on every mutant, or a stricter one for a reason."""

import json
import os
import random
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from audited import assert_adds_up
from factory import (
    CONFIG,
    INDEX,
    PREFIX,
    WEIGHTS,
    Stored,
    adapter,
    config,
    container,
    described,
    modules,
    sharded,
    stored,
    zeros,
)
from factory import safetensors as file_bytes
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize

from gradience.adapters.formats import open_adapter
from gradience.adapters.tensors import DTYPES, TensorFile, decode, encode
from gradience.audit.adapter import audit_adapter
from gradience.errors import GradienceError, InputError
from gradience.files.strict_json import loads

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


# ---------------------------------------------------------------- Storage types


REFERENCE = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
}


def all_codes(name):
    """Every word of a type, and its value in torch."""
    words = np.arange(2 ** DTYPES[name].bits, dtype=f"<u{DTYPES[name].bits // 8}")
    values = torch.from_numpy(words.view(f"<i{DTYPES[name].bits // 8}")).view(REFERENCE[name])
    return words.view(DTYPES[name].numpy), values.to(torch.float64).numpy()


@pytest.mark.parametrize("name", REFERENCE)
def test_every_code_is_decoded_bit_for_bit(name):
    words, expected = all_codes(name)
    decoded = decode(words)
    assert decoded.dtype == np.float64
    assert len(decoded) == 2 ** DTYPES[name].bits
    # Two NaNs need not have the same payload; everything else, signed zeros included, has the same bits.
    nan = np.isnan(expected)
    assert (np.isnan(decoded) == nan).all()
    assert (decoded[~nan].view(np.uint64) == expected[~nan].view(np.uint64)).all()


@pytest.mark.parametrize("name", REFERENCE)
def test_the_unit_roundoff_is_that_of_the_type(name):
    """Half the relative distance of the normal numbers 1 and its successor."""
    decoded = decode(all_codes(name)[0])
    successor = decoded[decoded > 1].min()
    assert DTYPES[name].unit_roundoff == (successor - 1) / 2
    assert DTYPES[name].smallest == decoded[decoded > 0].min()


@pytest.mark.parametrize("name", REFERENCE)
def test_every_value_is_rounded_to_the_nearest_word_and_ties_to_even(name):
    """Every finite value, every tie between two neighbors, and values between them."""
    _, values = all_codes(name)
    finite = np.unique(values[np.isfinite(values)])
    ties = (finite[1:] + finite[:-1]) / 2
    between = np.random.default_rng(0).uniform(finite[:-1], finite[1:]).astype(np.float32).astype(np.float64)
    for some in (finite, ties, between):
        nearest = torch.from_numpy(some).to(REFERENCE[name]).to(torch.float64).numpy()
        assert np.array_equal(decode(encode(some, DTYPES[name])), nearest)
    assert np.array_equal(decode(encode(finite, DTYPES[name])), finite)
    assert not np.isfinite(decode(encode(finite[[0, -1]] * 2, DTYPES[name]))).any()


# ---------------------------------------------------------------- Any config and any bytes


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)
NUMBERS = st.sampled_from([0, 1, 4, 8, -1, 65536, 65537, 2.5, 1e300, 10**400, True, None, "4", float("nan")])
TEXTS = st.sampled_from(
    ["", "q_proj", "LORA", "lora", "IA3", "(", "(a|aa)+$b", "\x1b[2J", "\ud800", "all-linear", "pissa"]
)
LISTS = st.lists(TEXTS | st.integers(-2, 40), max_size=3)
MAPS = st.dictionaries(TEXTS, NUMBERS, max_size=3)
VALUES = JSON | NUMBERS | TEXTS | LISTS | MAPS
FIELDS = (
    *("peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "bias", "config"),
    *("init_lora_weights", "target_modules", "target_parameters", "modules_to_save", "layers_to_transform"),
    *("base_model_name_or_path", "task_type", "peft_version", "enable_lora", "use_qalora", "lora_bias"),
    *("fan_in_fan_out", "alora_invocation_tokens", "fine_tune_type", "model_class", "kasa_config"),
    *("lora_B_layout", "unsloth_fused_expert_lora", "auto_mapping"),
)  # fmt: skip


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as path:
        yield Path(path)


def report_or_refusal(folder, named):
    """What the audit says; a refusal must name one of the files `named`."""
    started = time.process_time()
    report = refusal = None
    try:
        report = audit_adapter(folder)
    except GradienceError as error:
        refusal = error
    assert time.process_time() - started < 5
    if refusal:
        places = [str(folder), *(f"{folder}/{name}" for name in named)]
        assert str(refusal).startswith(tuple(f"{place}: " for place in places))
        assert refusal.code
        assert refusal.hint
    if report:
        assert_adds_up(json.loads(report.to_json()))
    return report


@settings(max_examples=400)
@given(st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=4))
def test_any_values_in_the_config(folder, fields):
    text = json.dumps(config(**fields)).encode()
    report_or_refusal(adapter(folder / "config", settings=text), [CONFIG])


def value_text(value):
    return json.dumps(value, ensure_ascii=True).encode()


@settings(max_examples=300)
@given(
    st.sampled_from(list(modules(1))),
    st.sampled_from(["dtype", "shape", "data_offsets"]),
    VALUES | st.lists(st.sampled_from([0, 1, 4, 16, 64, 256, 2**40, 2**63, -1]), max_size=9),
)
def test_any_value_in_a_header(folder, name, field, value):
    header = described(modules(1))
    header[name][field] = value
    data = b"".join(tensor.data for tensor in modules(1).values())
    report_or_refusal(adapter(folder / "value", container(value_text(header), data)), [WEIGHTS])


@given(
    JSON
    | st.fixed_dictionaries({"weight_map": st.dictionaries(st.text(max_size=8), TEXTS, max_size=3) | JSON})
)
def test_any_index(folder, value):
    path = sharded(folder / "index", {"a.safetensors": modules(1)}, value)
    report_or_refusal(path, [INDEX, "a.safetensors"])


@given(st.text(max_size=30) | st.binary(max_size=30).map(os.fsdecode))
def test_any_path(name):
    if "\0" in name:  # no command line can hold it
        return
    path = Path("/nonexistent-folder") / name.lstrip("/")
    with pytest.raises(InputError) as refused:
        audit_adapter(path)
    assert str(path) in str(refused.value)


@given(st.binary(max_size=40))
def test_strict_json_accepts_only_what_the_standard_parser_accepts(content):
    try:
        loaded = loads(content, Path("x"), "text")
    except InputError:
        return
    assert json.dumps(loaded) == json.dumps(json.loads(content))


# ---------------------------------------------------------------- Coverage adds up


MODULES = ("model.layers.0.q_proj", "model.layers.1.q_proj", "classifier", "mlp.experts", "embed_tokens")
PLACES = (
    *("", "", "", "base_layer.", "base_layer.base_layer."),
    *("modules_to_save.", "original_module.", "modules_to_save.x."),
)
FACTORS = (
    *("lora_A.weight", "lora_B.weight", "lora_A.x.weight", "lora_B.x.weight", "lora_A.y.weight"),
    *("lora_embedding_A", "lora_embedding_B", "lora_embedding_B.x"),
)
REST = (
    *("lora_magnitude_vector", "lora_magnitude_vector.x.weight", "lora_B.bias", "lora_B.x.bias", "lora_A.bias"),
    *("weight", "bias", "base_layer.weight", "base_layer.bias", "lora_C.weight", "lora_A", "lora_A.a.b.weight"),
    *("token_adapter.trainable_tokens_delta", "original_module.weight", "modules_to_save.x.weight", "ghost"),
)  # fmt: skip
PREFIXES = (PREFIX, PREFIX, PREFIX, "", "_orig_mod.", "module.")
FACTOR_TYPES = (np.float32, np.float32, np.float32, np.float16, np.float64, np.int8)


@st.composite
def tensors(draw):
    """A few modules with fitting factors, and a few tensors of any name and shape."""
    generator = np.random.default_rng(draw(st.integers(0, 99)))

    def values(*shape):
        array = generator.standard_normal(shape).astype(draw(st.sampled_from(FACTOR_TYPES)))
        array[...] = array if draw(st.integers(0, 4)) else 0
        return stored(np.asarray(array))

    tensors: dict[str, Stored] = {}
    for _ in range(draw(st.integers(0, 4))):
        prefix, module, place = (draw(st.sampled_from(choice)) for choice in (PREFIXES, MODULES, PLACES))
        head = f"{prefix}{module}.{place}"
        rank, rows, columns = (draw(st.integers(1, 4)) for _ in range(3))
        tail = draw(st.sampled_from(("weight", "x.weight", "y.weight")))
        tensors[f"{head}lora_A.{tail}"] = values(rank, columns)
        tensors[f"{head}lora_B.{tail}"] = values(rows, rank)
    for _ in range(draw(st.integers(0, 6))):
        parts = (draw(st.sampled_from(choice)) for choice in (PREFIXES, MODULES, PLACES, FACTORS + REST))
        prefix, module, place, tail = parts
        shape = draw(st.lists(st.integers(0, 4), max_size=4))
        tensors[f"{prefix}{module}.{place}{tail}"] = values(*shape)
    return tensors


CONFIGS = st.fixed_dictionaries(
    {},
    optional={
        "r": st.integers(1, 4),
        "target_parameters": st.lists(st.sampled_from(["mlp.experts.gate_up_proj", "mlp.experts.down_proj"])),
        "modules_to_save": st.lists(st.sampled_from(["classifier", "embed_tokens"]), max_size=2),
        "rank_pattern": st.dictionaries(st.sampled_from(["q_proj", "experts.*", "("]), st.integers(1, 4)),
        "use_dora": st.booleans(),
        "enable_lora": st.just([True, False]),
        "init_lora_weights": st.sampled_from([True, "pissa", "gaussian"]),
    },
)
REFUSALS = ("several-adapters", "no-such-adapter", "no-lora-tensors", "empty-adapter", "full-model")
ADAPTER_NAMES = st.sampled_from([None, None, None, "x", "y"])


@settings(max_examples=300)
@given(tensors(), st.none() | CONFIGS, ADAPTER_NAMES)
def test_every_tensor_is_in_exactly_one_place(content, fields, name):
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as temporary:
        folder = adapter(Path(temporary), content, config(**(fields or {})))
        if fields is None:
            (folder / "adapter_config.json").unlink()
        try:
            with open_adapter(folder, adapter=name) as opened:
                placed = [factor.tensor for pair in opened.pairs for factor in (pair.a, pair.b)]
                placed += [note.tensor for note in (*opened.other, *opened.unaudited)]
        except InputError as refused:
            if refused.code not in REFUSALS:
                raise
            return
        report = audit_adapter(folder, adapter=name)
    assert sorted(placed) == sorted(content)
    assert_adds_up(json.loads(report.to_json()))
    # Modules have different names: suggestions speak of modules by their names.
    rows = [(layer.name, layer.expert) for layer in report.layers]
    assert len(set(rows)) == len(rows)
