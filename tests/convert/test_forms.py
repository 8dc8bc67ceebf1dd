"""The formats that are written beside PEFT's: the same ΔW through our readers, and what a format cannot hold.

The libraries themselves load such folders in tests/conformance/test_written_formats.py.
"""

import copy
import json
import shutil
from functools import partial
from pathlib import Path

import factory
import numpy as np
import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.numpy import load_file, save_file

from gradience import audit_adapter, compare_adapters, compress_adapter, convert_adapter
from gradience.adapters.gguf import ARCHITECTURES, llama_cpp_name
from gradience.cli.app import run
from gradience.convert.gguf import FAMILIES
from gradience.errors import GradienceError

FOREIGN = Path(__file__).resolve().parents[1] / "adapters" / "foreign"
Q, DOWN = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"


def adapter(folder: Path, ranks: dict[str, int], extra=None, **config) -> Path:
    """An adapter of PEFT with modules at these ranks, (6, 8) each."""
    random = np.random.default_rng(0)
    tensors = dict(extra or {})
    for module, rank in ranks.items():
        for side, shape in (("A", (rank, 8)), ("B", (6, rank))):
            tensors[f"base_model.model.{module}.lora_{side}.weight"] = random.standard_normal(shape).astype(
                "<f4"
            )
    folder.mkdir()
    content = {name: factory.stored(value) for name, value in tensors.items()}
    (folder / "adapter_model.safetensors").write_bytes(factory.safetensors(content, {"format": "pt"}))
    fields = {"peft_type": "LORA", "r": max(ranks.values()), "lora_alpha": 10, **config}
    (folder / "adapter_config.json").write_text(json.dumps(fields))
    return folder


def test_mlx_and_back(tmp_path):
    source = adapter(tmp_path / "peft", {Q: 4, DOWN: 4, "lm_head": 4})
    report = convert_adapter(source, tmp_path / "mlx", to="mlx")
    convert_adapter(tmp_path / "mlx", tmp_path / "back")
    assert audit_adapter(tmp_path / "mlx").adapter.format == "mlx"
    assert report.renamed == report.tensors
    assert compare_adapters(source, tmp_path / "back").relative_difference == 0


def test_diffusers_and_back(tmp_path):
    ranks = {"mid_block.attentions.0.to_q": 2, "mid_block.attentions.0.to_k": 1}
    source = adapter(tmp_path / "peft", ranks, rank_pattern={"to_k": 1})
    convert_adapter(source, tmp_path / "new", to="diffusers")
    rows = {row.name: (row.r, row.scale) for row in audit_adapter(tmp_path / "new").layers}
    assert rows == {f"unet.{name}": (rank, 10 / rank) for name, rank in ranks.items()}
    convert_adapter(tmp_path / "new", tmp_path / "back")
    assert compare_adapters(source, tmp_path / "back").relative_difference == 0


def llama(folder: Path, **fields) -> Path:
    folder.mkdir()
    shape = {"architectures": ["LlamaForCausalLM"], "num_hidden_layers": 2, "num_attention_heads": 1}
    (folder / "config.json").write_text(json.dumps({**shape, **fields}))
    return folder


def test_gguf_has_the_names_and_the_rows_of_llama_cpp(tmp_path):
    source = adapter(tmp_path / "peft", {Q: 4, DOWN: 4})
    convert_adapter(source, tmp_path / "new", to="gguf", base_model=llama(tmp_path / "base"))
    before, after = audit_adapter(source), audit_adapter(tmp_path / "new")
    assert {row.name: row.scale for row in after.layers} == {"blk.0.attn_q": 2.5, "blk.1.ffn_down": 2.5}
    assert sorted(row.fro_norm for row in after.layers) == sorted(row.fro_norm for row in before.layers)


@pytest.fixture(scope="module")
def conversions(tmp_path_factory):
    """Class of a base -> two adapters on all of its linear layers, PEFT saved them, and both as GGUF."""
    folders = {}

    def converted(name):
        if name not in folders:
            folder = folders[name] = tmp_path_factory.mktemp(name)
            sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "vocab_size": 48}
            heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
            base = getattr(transformers, name)(getattr(transformers, f"{name[:-11]}Config")(**sizes, **heads))
            base.save_pretrained(folder / "base")
            for adapter, seed in (("first", 0), ("second", 1)):
                torch.manual_seed(seed)
                lora = LoraConfig(target_modules="all-linear", r=4, lora_alpha=6, init_lora_weights=False)
                model = get_peft_model(copy.deepcopy(base), lora)
                model.peft_config["default"].base_model_name_or_path = str(folder / "base")
                model.save_pretrained(folder / adapter)
                convert_adapter(folder / adapter, folder / f"{adapter}-gguf", to="gguf")
        return folders[name]

    return converted


@pytest.mark.parametrize("name", FAMILIES)
def test_a_gguf_file_is_compared_module_by_module(name, conversions):
    """With its own source nothing differs; with another adapter the figures are those of both in PEFT's format."""
    folder = conversions(name)
    for order in (("first", "first-gguf"), ("first-gguf", "first")):
        report = compare_adapters(*(folder / each for each in order))
        assert (report.n_both, report.n_only_a, report.n_only_b) == (14, 0, 0)
        assert report.relative_difference == pytest.approx(0, abs=1e-6)
        assert report.cosine == pytest.approx(1)
    expected = compare_adapters(folder / "first", folder / "second")
    for pair in (("first", "second-gguf"), ("first-gguf", "second"), ("first-gguf", "second-gguf")):
        report = compare_adapters(*(folder / each for each in pair))
        assert report.relative_difference == pytest.approx(expected.relative_difference, rel=1e-6)
        assert report.cosine == pytest.approx(expected.cosine, rel=1e-5)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_names_are_those_of_the_library_of_llama_cpp(arch):
    gguf = pytest.importorskip("gguf")
    names = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    known = gguf.get_tensor_name_map(names[arch], 4)
    attention = [f"self_attn.{name}_proj" for name in "qkvo"]
    inner = [*attention, "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    modules = [f"model.layers.3.{each}" for each in inner]
    for module in (*modules, "model.embed_tokens", "lm_head"):
        assert llama_cpp_name(module) == known.get_name(module) is not None
    assert llama_cpp_name("transformer.h.0.attn.attention.q_proj") is None


def test_rows_in_another_order_are_not_compared_as_they_are(conversions, tmp_path):
    folder = conversions("LlamaForCausalLM")
    source = shutil.copytree(folder / "first", tmp_path / "first")
    config = json.loads((source / "adapter_config.json").read_text())
    (source / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "org/base"}))
    with pytest.raises(GradienceError, match="number of heads is unknown") as caught:
        compare_adapters(source, folder / "first-gguf")
    assert caught.value.code == "no-model-config"
    shutil.copy(folder / "base" / "config.json", source)  # as the hint says
    assert compare_adapters(source, folder / "first-gguf").relative_difference == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "verb", [convert_adapter, partial(compress_adapter, rank=2)], ids=["convert", "compress"]
)
def test_an_embedding_that_is_the_head_as_well_is_not_one_to_mlx_and_peft(verb, tied, tmp_path):
    """LoRAEmbedding.as_linear of mlx-lm 0.32.2 adds the update to the head; PEFT's embedding does not."""
    random = np.random.default_rng(0)
    factors = {"A": random.standard_normal((4, 10)), "B": random.standard_normal((8, 4))}
    extra = {
        f"base_model.model.model.embed_tokens.lora_embedding_{side}": value.astype("<f4")
        for side, value in factors.items()
    }
    source = adapter(tmp_path / "peft", {Q: 4}, extra)
    convert_adapter(source, tmp_path / "mlx", to="mlx")  # the base is not on this disk: nothing is known
    for folder, to in ((source, "mlx"), (tmp_path / "mlx", "peft")):
        shutil.copy(llama(tmp_path / f"{to}-base", tie_word_embeddings=tied) / "config.json", folder)
        if not tied:
            verb(folder, tmp_path / f"{to}-new", to=to)
            continue
        with pytest.raises(GradienceError, match="also the head of this base model") as caught:
            verb(folder, tmp_path / f"{to}-new", to=to)
        assert caught.value.code == "not-in-format"


@pytest.mark.parametrize("to", ["peft", "mlx", "gguf"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_is_not_converted(bad, to, tmp_path):
    source = adapter(tmp_path / "peft", {Q: 4, DOWN: 4})
    tensors = load_file(source / "adapter_model.safetensors")
    tensors[f"base_model.model.{DOWN}.lora_B.weight"][2, 1] = bad
    save_file(tensors, source / "adapter_model.safetensors", {"format": "pt"})
    options = {"base_model": llama(tmp_path / "base")} if to == "gguf" else {}
    with pytest.raises(GradienceError, match="lora_B.weight holds NaN".replace(".", r"\.")) as caught:
        convert_adapter(source, tmp_path / "new", to=to, **options)
    assert (caught.value.code, caught.value.exit_code) == ("non-finite", 3)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("module", "fields", "says"),
    [
        ("transformer.h.0.attn.attention.q_proj", {}, "no name for transformer.h.0"),  # GPT-Neo
        ("model.layers.2.self_attn.q_proj", {}, "beyond the 2 layers"),
        (Q, {"hidden_size": 16, "head_dim": 6}, "has 8 columns, and 16 in the base"),
        (Q, {"num_attention_heads": 2, "head_dim": 4}, "has 6 rows, and 8 in the base"),
        (DOWN, {"intermediate_size": 24}, "has 8 columns, and 24 in the base"),
        ("lm_head", {"vocab_size": 48}, "has 6 rows, and 48 in the base"),
    ],
    ids=["gpt-neo", "layers", "width", "heads", "mlp", "vocabulary"],
)
def test_gguf_is_not_written_for_a_base_that_does_not_fit(module, fields, says, tmp_path):
    source = adapter(tmp_path / "peft", {module: 4})
    with pytest.raises(GradienceError, match=says) as caught:
        convert_adapter(source, tmp_path / "new", to="gguf", base_model=llama(tmp_path / "base", **fields))
    assert caught.value.code == "not-in-format"
    assert "--base-model" in caught.value.hint


UNEVEN = {"ranks": {Q: 4, DOWN: 2}, "rank_pattern": {"down_proj": 2}}
HEAD = {"base_model.model.lm_head.weight": np.zeros((3, 8), "<f4")}


@pytest.mark.parametrize(
    ("to", "options", "base", "says"),
    [
        ("mlx", UNEVEN, None, "rank 2"),
        ("mlx", {"ranks": {Q: 4}, "extra": HEAD, "modules_to_save": ["lm_head"]}, None, "lm_head.weight"),
        ("mlx", {"ranks": {Q: 4, "lm_head": 4}, "ensure_weight_tying": True}, None, "ensure_weight_tying in its"),
        ("mlx", {"ranks": {"transformer.h.0.attn.c_attn": 4}}, None, "no known name for transformer.h.0"),
        ("diffusers", {"ranks": {Q: 4}}, None, "not a module of a UNet"),
        ("gguf", {"ranks": {Q: 4, DOWN: 4}, "alpha_pattern": {"down_proj": 1}}, {}, "one α for all"),
        ("gguf", {"ranks": {Q: 4}}, {"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel"),
        ("gguf", {"ranks": {"model.nothing": 4}}, {}, "no name for model.nothing"),
        ("gguf", {"ranks": {Q: 4}}, {"num_attention_heads": 4}, "not those of 4 heads"),
        ("gguf", {"ranks": {"lm_head": 4}}, {"tie_word_embeddings": True}, "lm_head is both head and embedding"),
        ("gguf", {"ranks": {Q: 4}}, None, "no config.json of it"),
        ("mlx", {"ranks": {Q: 4}}, {}, "has no effect with --to mlx"),
    ],
    ids=["mlx-ranks", "mlx-head", "mlx-tied", "mlx-names", "diffusers-names", "gguf-alpha", "gguf-architecture",
         "gguf-names", "gguf-heads", "gguf-tied-head", "gguf-no-base", "mlx-with-base"],
)  # fmt: skip
def test_what_a_format_cannot_hold_is_said(to, options, base, says, tmp_path):
    source = adapter(tmp_path / "peft", **options)
    folder = None if base is None else llama(tmp_path / "base", **base)
    with pytest.raises(GradienceError) as caught:
        convert_adapter(source, tmp_path / "new", to=to, base_model=folder)
    assert says in str(caught.value)
    assert caught.value.hint
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("kind", "file", "says"),
    [
        ("kohya", "style.safetensors", "underscores"),
        ("gguf-f32", "", "llama.cpp's names"),
        ("mlx-dora", "", "DoRA"),
    ],
)
def test_what_peft_has_no_names_for_is_refused(kind, file, says, tmp_path, capsys):
    assert run(["convert", str(FOREIGN / kind / file), str(tmp_path / "new")]) == 3
    assert says in capsys.readouterr().err


def test_adapters_without_a_common_module_are_not_compared(tmp_path, capsys):
    a, b = adapter(tmp_path / "a", {Q: 4}), adapter(tmp_path / "b", {"transformer.h.0.attn.c_attn": 4})
    assert run(["compare", str(a), str(b)]) == 3
    assert "have no module in common" in " ".join(capsys.readouterr().err.split())
