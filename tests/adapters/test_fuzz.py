"""Any config and any bytes: a report or a refusal that names the file, never another exception, never a long wait."""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path

import pytest
from audited import assert_adds_up
from factory import (
    CONFIG,
    INDEX,
    WEIGHTS,
    adapter,
    config,
    container,
    described,
    modules,
    sharded,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from gradience.audit.adapter import audit_adapter
from gradience.errors import GradienceError, InputError
from gradience.files.strict_json import loads

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
