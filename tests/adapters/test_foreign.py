"""Adapters of other formats, written by their own libraries (`tests/conformance/*_adapters.py`): the same ΔW."""

import json
import warnings
from contextlib import suppress
from pathlib import Path
from shutil import copytree

import factory
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel
from peft_kinds import config
from peft_models import gpt_oss, mixtral, peft_updates, qwen_moe, save
from raising import raises
from safetensors.numpy import load_file, save_file

from gradience import audit_adapter, compare_adapters, compress_adapter, convert_adapter
from gradience.adapters.config import PeftConfig
from gradience.adapters.formats import open_adapter
from gradience.adapters.peft import fields_in_peft_order, layout_of
from gradience.adapters.tensors import decode
from gradience.cli.app import run
from gradience.errors import InputError
from gradience.evaluate.adapters import adapter_input

FOLDER = Path(__file__).parent / "foreign"
TOLERANCE = {"F32": 1e-6, "F16": 1e-6, "BF16": 1e-2}
"""Of what the libraries compute, relative to the largest entry; MLX does so in bfloat16."""
COMPUTED = sorted(path.parent for path in FOLDER.glob("*/expected.npz"))


def adapter_in(folder):
    """The folder, or the file in it where its format has no folders."""
    file = folder / "style.safetensors"
    return file if file.exists() else folder


def updates(path):
    """Module -> s·B·A of every expert, (E, m, n)."""
    with open_adapter(path) as opened:
        loaded = {pair.module: pair.load() for pair in opened.pairs}
        return {
            module: np.stack(
                [
                    each.pair.scale * decode(each.words_B(expert)) @ decode(each.words_A(expert)).T
                    for expert in range(each.pair.experts)
                ]
            )
            for module, each in loaded.items()
        }, TOLERANCE[loaded.popitem()[1].pair.a.entry.dtype.name]


@pytest.mark.parametrize("folder", COMPUTED, ids=lambda folder: folder.name)
def test_the_update_is_the_one_that_its_library_computes(folder):
    computed, tolerance = updates(adapter_in(folder))
    expected = dict(np.load(folder / "expected.npz"))
    assert computed.keys() == expected.keys()
    for module, update in computed.items():
        np.testing.assert_allclose(
            update.reshape(expected[module].shape), expected[module],
            atol=tolerance * np.abs(expected[module]).max(), rtol=0,
        )  # fmt: skip


# ---------------------------------------------------------------- MLX-LM


def settings(folder, **fields):
    """The config of the folder with other fields; None takes one out."""
    path = folder / "adapter_config.json"
    kept = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({name: value for name, value in kept.items() if value is not None}))
    return folder


@pytest.mark.parametrize(
    ("fields", "scale"),
    [
        ({}, 20),
        ({"lora_parameters": {"rank": 3, "scale": 5, "alpha": 6}}, 5),  # as MLX-CLI of a stranger has it
        ({"fine_tune_type": None, "num_layers": None, "lora_layers": 1,
          "lora_parameters": {"rank": 3, "scale": 5, "alpha": 3}}, 5),
        ({"lora_parameters": {"rank": 3}}, None),
    ],
    ids=["0.32", "alpha-left-over", "alpha-is-the-rank", "no-scale"],
)  # fmt: skip
def test_the_scale_of_mlx_by_the_version_that_wrote_it(fields, scale, tmp_path):
    folder = settings(copytree(FOLDER / "mlx", tmp_path / "mlx"), **fields)
    assert {row.scale for row in audit_adapter(folder).layers} == {scale}


@pytest.mark.parametrize("use_dora", [None, False], ids=["up-to-0.13.0", "0.13.1-to-0.18.1"])
def test_a_scale_that_two_versions_of_mlx_read_differently_is_not_used(use_dora, tmp_path, command):
    """For rank 8, alpha 16 and scale 10, its defaults up to 0.19, the LoRALinear of mlx-lm multiplies by 20.0 in
    0.12.1, 0.13.1, 0.14.0 and 0.14.1, by 10.0 in 0.14.2, 0.14.3, 0.15.0, 0.18.1 and 0.19.0. The keys of its configs are
    the same from 0.13.1 to 0.18.1."""
    unclear = {"fine_tune_type": None, "num_layers": None, "lora_layers": 1, "use_dora": use_dora}
    unclear["lora_parameters"] = {"rank": 3, "alpha": 6, "scale": 10.0}
    folder = settings(copytree(FOLDER / "mlx", tmp_path / "mlx"), **unclear)
    report = audit_adapter(folder)
    assert {(row.scale, row.fro_norm) for row in report.layers} == {(None, None)}
    assert {row.energy_rank_90 for row in report.layers} == {
        row.energy_rank_90 for row in audit_adapter(FOLDER / "mlx").layers
    }
    (finding,) = [finding for finding in report.findings if finding.code == "unclear-scale"]
    assert "up to 0.14.1 multiplies by scale·alpha/rank" in finding.message
    out = str(tmp_path / "out")
    for words in (["convert", str(folder), out, "--to", "mlx"], ["compare", str(folder), str(folder)]):
        assert "set lora_parameters.scale to the factor" in " ".join(command(*words, code=3).err.split())


def test_a_checkpoint_of_mlx_is_read_by_its_name_and_by_itself(tmp_path):
    folder = copytree(FOLDER / "mlx", tmp_path / "mlx")
    (folder / "adapters.safetensors").rename(folder / "0000100_adapters.safetensors")
    reports = [
        audit_adapter(path) for path in (folder, folder / "0000100_adapters.safetensors", FOLDER / "mlx")
    ]
    assert len({report.adapter.sha256 for report in reports}) == 1
    assert [report.layers[0].scale for report in reports] == [20, 20, 20]
    other = tmp_path / "elsewhere.safetensors"
    other.write_bytes((FOLDER / "mlx" / "adapters.safetensors").read_bytes())
    assert (audit_adapter(other).adapter.format, audit_adapter(other).layers[0].scale) == ("mlx", None)


def plain_mlx(folder):
    """An adapter of one module, with a checkpoint beside it."""
    folder.mkdir()
    from gradience.adapters.tensors import NewTensor, header_bytes

    random = np.random.default_rng(0)
    factors = {"model.layers.0.q_proj.lora_a": (16, 4), "model.layers.0.q_proj.lora_b": (4, 12)}
    head = header_bytes({name: NewTensor("F32", shape) for name, shape in factors.items()}, {})
    data = b"".join(random.standard_normal(shape).astype("<f4").tobytes() for shape in factors.values())
    (folder / "adapters.safetensors").write_bytes(head + data)
    (folder / "0000100_adapters.safetensors").write_bytes(head + data)
    (folder / "adapter_config.json").write_text(
        '{"fine_tune_type": "lora", "lora_parameters": {"rank": 4, "scale": 2.5}, "model": "org/base"}'
    )
    return folder


def test_mlx_becomes_a_smaller_adapter_of_peft_and_of_mlx_again(tmp_path, capsys, command):
    folder, smaller, back = (plain_mlx(tmp_path / "plain"), tmp_path / "smaller", tmp_path / "back")
    assert run(["compress", str(folder), "--rank", "2", "-o", str(smaller)]) == 0
    assert "for mlx-lm: gradience convert" in " ".join(capsys.readouterr().out.split())
    command("convert", smaller, back, "--to", "mlx")
    config = json.loads((smaller / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (2, 5, "org/base")
    settings = json.loads((back / "adapter_config.json").read_text())
    assert settings["lora_parameters"] == {"rank": 2, "scale": 2.5, "dropout": 0.0, "keys": ["q_proj"]}
    error = json.loads((smaller / "compression_report.json").read_text())["measured_error"]
    assert compare_adapters(folder, back).relative_difference == pytest.approx(error, rel=1e-6)


def test_what_peft_cannot_hold_is_not_compressed(tmp_path, command):
    for kind, says in (
        ("mlx", "experts in one tensor"),
        ("mlx-dora", "its DoRA magnitudes"),
        ("diffusers", "part of the pipeline"),
    ):
        assert says in command("compress", FOLDER / kind, "--rank", "2", "-o", tmp_path / "out", code=3).err
        assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- what their keys and numbers mean


def stored(path, tensors, metadata=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {name: factory.stored(value) for name, value in tensors.items()}
    path.write_bytes(factory.safetensors(content, metadata))
    return path


def factors(rank, *, rows=6, columns=8):
    random = np.random.default_rng(rank)
    return [random.standard_normal(shape).astype("<f4") for shape in ((rank, columns), (rows, rank))]


def test_old_keys_of_diffusers_name_the_modules_of_today(tmp_path):
    keys = {
        "down_blocks.0.attn1.processor.to_out_lora": "down_blocks.0.attn1.to_out.0",
        "unet.mid_block.attn1.to_k.lora": "unet.mid_block.attn1.to_k",
        "text_encoder.layers.0.self_attn.q_proj.lora_linear_layer": "text_encoder.layers.0.self_attn.q_proj",
    }
    tensors = {}
    for key in keys:
        for side, factor in zip(("down", "up"), factors(2), strict=True):
            tensors[f"{key}.{side}.weight"] = factor
    report = audit_adapter(stored(tmp_path / "old.safetensors", tensors))
    assert {row.name for row in report.layers} == {*keys.values()}
    assert {row.module_type for row in report.layers} == {"attn"}


@pytest.mark.parametrize(
    ("module", "part"),
    [
        ("down_blocks.0.attn1", "unet."),
        ("single_transformer_blocks.3.attn", "transformer."),
        ("layers.0.attn", ""),
    ],
    ids=["UNet", "transformer", "neither"],
)
def test_old_keys_that_name_no_part_have_that_of_modules_that_only_it_has(tmp_path, module, part):
    tensors = {f"{module}.processor.to_q_lora.alpha": np.array(6, np.float32)}
    for side, factor in zip(("down", "up"), factors(2), strict=True):
        tensors[f"{module}.processor.to_q_lora.{side}.weight"] = factor
        tensors[f"{module}.to_k.lora.{side}.weight"] = factor
    tensors[f"{module}.to_k.alpha"] = np.array(6, np.float32)
    report = audit_adapter(stored(tmp_path / "old.safetensors", tensors))
    assert {row.name: row.scale for row in report.layers} == {
        f"{part}{module}.to_q": 1.0,
        f"{part}{module}.to_k": 3.0,
    }


def test_a_gguf_file_that_is_cut_is_refused_and_a_changed_one_is_refused_or_read(tmp_path):
    path = tmp_path / "adapter.gguf"
    whole = (FOLDER / "gguf-f32" / "adapter.gguf").read_bytes()
    for cut in range(0, len(whole), 61):
        path.write_bytes(whole[:cut])
        with pytest.raises(InputError):
            audit_adapter(path)
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        with suppress(InputError):
            audit_adapter(path)


# ---------------------------------------------------------------- Stacked experts in PEFT's order of lora_B


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
        with raises(InputError, "expert-order", "grouped by expert") as caught:
            adapter_input("adapter", folder)
        assert f"gradience convert {folder} converted" in str(caught.value.hint)
    else:
        adapter_input("adapter", folder)


# ---------------------------------------------------------------- an order that is not known


@pytest.fixture
def unmarked(tmp_path):
    lora = config(target_modules=[], target_parameters=BOTH, r=RANK)
    save(mixtral(), lora, tmp_path / "unmarked")
    return rewrite(tmp_path / "unmarked", auto_mapping=UNSLOTH)


def test_an_adapter_of_unsloth_without_a_marker_is_warned_of(unmarked, tmp_path, command):
    report = audit_adapter(unmarked)
    (finding,) = [finding for finding in report.findings if finding.code == "expert-order-unknown"]
    assert finding.severity == "warning"
    assert '"lora_B_layout": "grouped_by_expert"' in finding.hint
    assert report.suggested_r_global_90 is None
    notes = compare_adapters(unmarked, unmarked).notes
    assert sum("without lora_B_layout" in note for note in notes) == 2
    for words in (["compress", "--rank", "2", "--output"], ["convert"]):
        assert "lora_B_layout" in command(words[0], unmarked, *words[1:], tmp_path / "new", code=3).err
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
