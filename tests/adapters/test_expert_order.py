"""Stacked experts in PEFT's order of lora_B and in Unsloth's, verb by verb; PEFT's dense ΔW of every expert decides.

unsloth_zoo trained lora_B grouped by expert before 2026.9.6, and names the order in adapter_config.json since then
(its temporary_patches/moe_utils.py, read in 2026.10.9).
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel
from peft_kinds import config
from peft_models import gpt_oss, mixtral, peft_updates, qwen_moe, save
from safetensors.numpy import load_file, save_file

from gradience import audit_adapter, compare_adapters, compress_adapter, convert_adapter
from gradience.adapters.config import PeftConfig
from gradience.adapters.formats import open_adapter
from gradience.adapters.peft import fields_in_peft_order, layout_of
from gradience.cli.app import run
from gradience.errors import InputError
from gradience.evaluate.adapters import adapter_input

BASES = {"mixtral": mixtral, "qwen": qwen_moe, "gpt-oss": gpt_oss}
BOTH = ["experts.gate_up_proj", "experts.down_proj"]
RANK = 4
GROUPED, MAJOR = {"lora_B_layout": "grouped_by_expert"}, {"lora_B_layout": "rank_major"}
UNSLOTH = {"base_model_class": "MixtralForCausalLM", "unsloth_fixed": True}


def detail(**layouts):
    parameters = {name: {"lora_B_layout": layout, "num_experts": 3} for name, layout in layouts.items()}
    return {"unsloth_fused_expert_lora": {"lora_A_layout": "grouped_by_expert", "parameters": parameters}}


def rewrite(folder, packed=(), **fields):
    """Group the columns of lora_B by expert, of the tensors with these depths in their names, and add to the config."""
    tensors = load_file(folder / "adapter_model.safetensors")
    for name, value in tensors.items():
        if ".experts." in name and "lora_B" in name and name.count("base_layer") in packed:
            experts = value.shape[1] // RANK
            turned = value.reshape(len(value), RANK, experts).transpose(0, 2, 1).reshape(value.shape)
            tensors[name] = np.ascontiguousarray(turned)
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    return folder


FIRST, SECOND = 1, 0  # the first parameter of the model is the innermost wrapper
MARKERS = {
    "peft": ((), {}),
    "unsloth-rank-major": ((), {**MAJOR, "auto_mapping": UNSLOTH}),
    "unsloth-grouped": ((FIRST, SECOND), {**GROUPED, "auto_mapping": UNSLOTH}),
    "unsloth-in-auto-mapping": ((FIRST, SECOND), {"auto_mapping": {**UNSLOTH, **GROUPED}}),
    "unsloth-detail": (
        (FIRST,),
        {**detail(gate_up_proj="grouped_by_expert", down_proj="rank_major"), "auto_mapping": UNSLOTH},
    ),
}


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """(base, marker) -> folder, and PEFT's updates of the adapter before it was packed otherwise."""
    folders = {}

    def adapter(base, marker):
        if (base, marker) not in folders:
            folder = tmp_path_factory.mktemp(f"{base}-{marker}")
            lora = config(target_modules=["q_proj"], target_parameters=BOTH, r=RANK)
            updates = save(BASES[base](), lora, folder).updates
            packed, fields = MARKERS[marker]
            folders[base, marker] = rewrite(folder, packed, **fields), updates
        return folders[base, marker]

    return adapter


def peft_reads(folder, base):
    """ΔW of every module and expert of the adapter in `folder`, as PEFT loads it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(BASES[base](), folder)
    return peft_updates(model.double())


def check(updates, expected, tolerance=1e-6):
    assert updates.keys() == expected.keys()
    for key, delta in expected.items():
        assert np.linalg.norm(updates[key] - delta) <= tolerance * np.linalg.norm(delta), key


QUICK = {("mixtral", marker) for marker in MARKERS} | {("gpt-oss", "unsloth-grouped")}
cases = pytest.mark.parametrize(
    ("base", "marker"),
    [
        pytest.param(base, marker, marks=() if (base, marker) in QUICK else pytest.mark.conformance)
        for base in BASES
        for marker in MARKERS
    ],
)


@cases
def test_the_audit_measures_every_expert(base, marker, adapters):
    folder, updates = adapters(base, marker)
    report = audit_adapter(folder)
    norms = {(row.name, row.expert): row.fro_norm for row in report.layers}
    assert norms == pytest.approx({key: np.linalg.norm(delta) for key, delta in updates.items()}, rel=1e-6)
    codes = {finding.code for finding in report.findings}
    assert ("expert-order" in codes) == bool(MARKERS[marker][0])
    assert "expert-order-unknown" not in codes


@cases
def test_the_same_update_in_both_orders_has_no_difference(base, marker, adapters):
    folder, _ = adapters(base, marker)
    assert compare_adapters(adapters(base, "peft")[0], folder).relative_difference == pytest.approx(
        0, abs=1e-7
    )


@cases
def test_peft_reads_what_is_converted(base, marker, adapters, tmp_path):
    folder, updates = adapters(base, marker)
    convert_adapter(folder, tmp_path / "new")
    check(peft_reads(tmp_path / "new", base), updates)
    if MARKERS[marker][0]:  # and PEFT does not read what it was made of
        with pytest.raises(AssertionError):
            check(peft_reads(folder, base), updates, tolerance=0.1)
    with open_adapter(
        tmp_path / "new"
    ) as again:  # what Unsloth would take for the other order, without a marker
        assert {pair.layout for pair in again.pairs} == {"rank_major"}
    if marker == "unsloth-detail":
        written = json.loads((tmp_path / "new" / "adapter_config.json").read_text())
        orders = written["unsloth_fused_expert_lora"]["parameters"]
        assert (
            {entry["lora_B_layout"] for entry in orders.values()}
            == {written["lora_B_layout"]}
            == {"rank_major"}
        )


@cases
def test_peft_reads_what_is_compressed(base, marker, adapters, tmp_path):
    folder, updates = adapters(base, marker)
    compress_adapter(folder, tmp_path / "new", rank=2)

    def best(delta):
        left, values, right = np.linalg.svd(delta, full_matrices=False)
        return left[:, :2] * values[:2] @ right[:2]

    check(
        peft_reads(tmp_path / "new", base),
        {key: best(delta) for key, delta in updates.items()},
        tolerance=1e-5,
    )


@cases
def test_only_peft_s_order_is_put_on_a_model(base, marker, adapters):
    folder, _ = adapters(base, marker)
    if MARKERS[marker][0]:
        with pytest.raises(InputError, match="grouped by expert") as caught:
            adapter_input("adapter", folder)
        assert caught.value.code == "expert-order"
        assert f"gradience convert {folder} converted" in str(caught.value.hint)
    else:
        adapter_input("adapter", folder)


# ---------------------------------------------------------------- an order that is not known


@pytest.fixture
def unmarked(tmp_path):
    lora = config(target_modules=[], target_parameters=BOTH, r=RANK)
    save(mixtral(), lora, tmp_path / "unmarked")
    return rewrite(tmp_path / "unmarked", auto_mapping=UNSLOTH)


def test_an_adapter_of_unsloth_without_a_marker_is_warned_of(unmarked, tmp_path, capsys):
    report = audit_adapter(unmarked)
    (finding,) = [finding for finding in report.findings if finding.code == "expert-order-unknown"]
    assert finding.severity == "warning"
    assert '"lora_B_layout": "grouped_by_expert"' in finding.hint
    assert report.suggested_r_global_90 is None
    notes = compare_adapters(unmarked, unmarked).notes
    assert sum("without lora_B_layout" in note for note in notes) == 2
    for words in (["compress", "--rank", "2", "--output"], ["convert"]):
        assert run([words[0], str(unmarked), *words[1:], str(tmp_path / "new")]) == 3
        assert "lora_B_layout" in capsys.readouterr().err
    with pytest.raises(InputError, match="the order of its experts is unknown"):
        adapter_input("adapter", unmarked)


def test_the_hint_is_what_helps(unmarked, tmp_path):
    packed = rewrite(unmarked, (FIRST, SECOND), **GROUPED)
    convert_adapter(packed, tmp_path / "new")
    adapter_input("adapter", tmp_path / "new")


def test_unsloth_s_adapters_without_stacked_experts_need_no_marker(tmp_path):
    save(mixtral(), config(target_modules=["q_proj"]), tmp_path)
    rewrite(tmp_path, auto_mapping=UNSLOTH)
    assert "expert-order-unknown" not in {finding.code for finding in audit_adapter(tmp_path).findings}
    adapter_input("adapter", tmp_path)


def test_one_direction_has_one_order(tmp_path):
    lora = config(target_modules=[], target_parameters=BOTH, r=1)
    save(mixtral(), lora, tmp_path)
    rewrite(tmp_path, auto_mapping=UNSLOTH)
    adapter_input("adapter", tmp_path)


@pytest.mark.parametrize(
    "marker", [{"lora_B_layout": "mixed"}, {"lora_B_layout": 3}, detail(gate_up_proj="mixed")]
)
def test_an_unknown_order_is_not_read(marker, unmarked):
    report = audit_adapter(rewrite(unmarked, **marker))
    assert report.coverage.unaudited[0].reason.startswith("stacked experts: lora_B_layout is")


ANYTHING = st.none() | st.integers() | st.text(max_size=3) | st.lists(st.text(max_size=3), max_size=2)
ORDERS = st.sampled_from(["rank_major", "grouped_by_expert"]) | ANYTHING
ENTRIES = st.dictionaries(st.sampled_from(["lora_B_layout", "num_experts"]), ORDERS) | ANYTHING
DETAILS = st.dictionaries(st.sampled_from(["gate_up_proj", "down_proj"]), ENTRIES) | ANYTHING
MARKED = st.fixed_dictionaries(
    {},
    optional={
        "lora_B_layout": ORDERS,
        "unsloth_fused_expert_lora": st.fixed_dictionaries({"parameters": DETAILS}) | ANYTHING,
        "unsloth_fixed": st.booleans(),
    },
)


@given(top=MARKED, mapping=MARKED | ANYTHING)
def test_any_marker_is_read_and_what_is_written_in_peft_s_order_says_so(top, mapping):
    fields = {**top, "auto_mapping": mapping}
    new = {**fields, **fields_in_peft_order(fields)}
    for name in ("gate_up_proj", "down_proj"):
        before, after = (layout_of(PeftConfig(Path(), each), f"mlp.experts.{name}") for each in (fields, new))
        assert before is None or isinstance(before, str)
        if before == "grouped_by_expert":
            assert after == "rank_major"
