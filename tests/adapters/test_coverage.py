"""Coverage adds up: whatever a file holds, every tensor is audited, understood or named, and no input is a crash."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import numpy as np
from audited import assert_adds_up
from factory import PREFIX, Stored, adapter, config, stored
from hypothesis import given, settings
from hypothesis import strategies as st

from gradience.adapters.formats import open_adapter
from gradience.audit.adapter import audit_adapter
from gradience.errors import InputError

MODULES = ("model.layers.0.q_proj", "model.layers.1.q_proj", "classifier", "mlp.experts", "embed_tokens")
PLACES = (
    "",
    "",
    "",
    "base_layer.",
    "base_layer.base_layer.",
    "modules_to_save.",
    "original_module.",
    "modules_to_save.x.",
)
FACTORS = (
    *("lora_A.weight", "lora_B.weight", "lora_A.x.weight", "lora_B.x.weight", "lora_A.y.weight"),
    *("lora_embedding_A", "lora_embedding_B", "lora_embedding_B.x"),
)
REST = (
    *(
        "lora_magnitude_vector",
        "lora_magnitude_vector.x.weight",
        "lora_B.bias",
        "lora_B.x.bias",
        "lora_A.bias",
    ),
    *(
        "weight",
        "bias",
        "base_layer.weight",
        "base_layer.bias",
        "lora_C.weight",
        "lora_A",
        "lora_A.a.b.weight",
    ),
    *("token_adapter.trainable_tokens_delta", "original_module.weight", "modules_to_save.x.weight", "ghost"),
)
PREFIXES = (PREFIX, PREFIX, PREFIX, "", "_orig_mod.", "module.")
DTYPES = (np.float32, np.float32, np.float32, np.float16, np.float64, np.int8)


@st.composite
def tensors(draw):
    """A few modules with fitting factors, and a few tensors of any name and shape."""
    generator = np.random.default_rng(draw(st.integers(0, 99)))

    def values(*shape):
        array = generator.standard_normal(shape).astype(draw(st.sampled_from(DTYPES)))
        array[...] = array if draw(st.integers(0, 4)) else 0
        return stored(np.asarray(array))

    tensors: dict[str, Stored] = {}
    for _ in range(draw(st.integers(0, 4))):
        head = (
            draw(st.sampled_from(PREFIXES))
            + draw(st.sampled_from(MODULES))
            + "."
            + draw(st.sampled_from(PLACES))
        )
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
NAMES = st.sampled_from([None, None, None, "x", "y"])


@settings(max_examples=300)
@given(tensors(), st.none() | CONFIGS, NAMES)
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
