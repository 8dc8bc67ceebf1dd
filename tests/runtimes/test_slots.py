"""The bytes of a slot: what vLLM held when it was run (docs/conformance/vllm_slots.json) is what the formula says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gradience.models.known import KNOWN
from gradience.runtimes.verdict import engine, slot_bytes, steps_below

RECORD = Path(__file__).resolve().parents[2] / "docs" / "conformance" / "vllm_slots.json"
SETTINGS = json.loads(RECORD.read_text(encoding="utf-8"))["settings"]


def widths():
    """Σ(m + n) over the linear modules, and over embedding and head, of the model that was served."""
    model = KNOWN["embedded:smollm2"]
    hidden, inner = model["hidden_size"], model["intermediate_size"]
    narrow = hidden // model["num_attention_heads"] * model["num_key_value_heads"]
    layer = 2 * (hidden + hidden) + 2 * (narrow + hidden) + 3 * (inner + hidden)
    return model["num_hidden_layers"] * layer, 2 * (model["vocab_size"] + hidden)


@pytest.mark.parametrize("row", [row for row in SETTINGS if row["lora_target_modules"] is None])
def test_vllm_held_what_the_formula_says_of_every_module_that_it_knows(row):
    linear, beside = widths()
    assert row["linear"] == row["max_loras"] * slot_bytes(linear, row["max_lora_rank"])
    assert row["embedding_and_head"] == row["max_loras"] * slot_bytes(beside, row["max_lora_rank"])


def test_what_was_run_is_the_engine_that_fleet_names():
    assert engine() == f"vLLM {json.loads(RECORD.read_text(encoding='utf-8'))['vllm']}"
    assert {(row["max_loras"], row["max_lora_rank"]) for row in SETTINGS} == {
        (loras, rank) for loras in (1, 2, 4) for rank in (8, 16, 32)
    }


def test_steps_go_down_from_the_one_that_holds_the_rank():
    assert steps_below(17) == (16, 8, 1)
    assert steps_below(8) == (1,)
