"""The formats that are written beside PEFT's: the same ΔW through our readers, and what a format cannot hold.

The libraries themselves load such folders in tests/conformance/test_written_formats.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import factory
import numpy as np
import pytest

from gradience import audit_adapter, compare_adapters, convert_adapter
from gradience.cli.app import run
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


def test_an_archive_of_mlx_becomes_safetensors(tmp_path):
    (tmp_path / "npz").mkdir()
    for name in ("adapters.npz", "adapter_config.json"):
        (tmp_path / "npz" / name).write_bytes((FOREIGN / "mlx-npz" / name).read_bytes())
    convert_adapter(tmp_path / "npz", tmp_path / "new", to="mlx")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "adapter_config.json",
        "adapters.safetensors",
    ]
    assert compare_adapters(tmp_path / "npz", tmp_path / "new").relative_difference == 0


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


UNEVEN = {"ranks": {Q: 4, DOWN: 2}, "rank_pattern": {"down_proj": 2}}
HEAD = {"base_model.model.lm_head.weight": np.zeros((3, 8), "<f4")}


@pytest.mark.parametrize(
    ("to", "options", "base", "says"),
    [
        ("mlx", UNEVEN, None, "rank 2"),
        ("mlx", {"ranks": {Q: 4}, "extra": HEAD, "modules_to_save": ["lm_head"]}, None, "lm_head.weight"),
        ("mlx", {"ranks": {"transformer.h.0.attn.c_attn": 4}}, None, "what mlx-lm calls transformer.h.0"),
        ("diffusers", {"ranks": {Q: 4}}, None, "no module of a UNet"),
        ("gguf", {"ranks": {Q: 4, DOWN: 4}, "alpha_pattern": {"down_proj": 1}}, {}, "one α for all"),
        ("gguf", {"ranks": {Q: 4}}, {"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel"),
        ("gguf", {"ranks": {"model.nothing": 4}}, {}, "no name for model.nothing"),
        ("gguf", {"ranks": {Q: 4}}, {"num_attention_heads": 4}, "not those of 4 heads"),
        ("gguf", {"ranks": {"lm_head": 4}}, {"tie_word_embeddings": True}, "lm_head is the head and the embedding"),
        ("gguf", {"ranks": {Q: 4}}, None, "no config.json of it"),
        ("mlx", {"ranks": {Q: 4}}, {}, "does not depend on it"),
    ],
    ids=["mlx-ranks", "mlx-head", "mlx-names", "diffusers-names", "gguf-alpha", "gguf-architecture", "gguf-names",
         "gguf-heads", "gguf-tied-head", "gguf-no-base", "mlx-with-base"],
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
