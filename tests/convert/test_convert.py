"""The same adapter in PEFT's form: what PEFT loads, name by name and bit by bit."""

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
from factor_samples import write
from peft import LoraConfig, PeftModel, get_peft_model
from peft_models import llama
from raising import raises
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_tensors

from gradience import audit_adapter, compare_adapters, compress_adapter, convert_adapter
from gradience.adapters.adapter import Adapter, Factor, LoraPair
from gradience.adapters.config import PeftConfig
from gradience.adapters.gguf import ARCHITECTURES, llama_cpp_name
from gradience.adapters.locate import Location
from gradience.adapters.tensors import TensorFile
from gradience.cli.app import run
from gradience.cli.demo import example_adapter
from gradience.convert.verb import FAMILIES, PeftForm
from gradience.errors import GradienceError, InputError

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return Path(shutil.copytree(example_adapter(), tmp_path / "adapter"))


def test_an_adapter_of_peft_stays_what_it_is(adapter: Path, tmp_path: Path) -> None:
    report = convert_adapter(adapter, tmp_path / "out")
    before, after = audit_adapter(adapter), audit_adapter(tmp_path / "out")
    assert after.layers == before.layers
    assert (report.renamed, report.left_out, report.tensors) == (0, (), before.coverage.tensors)
    assert json.loads((tmp_path / "out" / CONFIG).read_text()) == json.loads((adapter / CONFIG).read_text())
    assert report.output_sha256 == after.adapter.sha256
    assert report.pickle is False


def test_tensors_get_the_names_by_which_peft_finds_them(adapter: Path, tmp_path: Path) -> None:
    original = {name: value.astype(np.float32) for name, value in load_file(adapter / WEIGHTS).items()}
    dumped = {
        f"_orig_mod.{name}".replace(".lora_A.", ".lora_A.mine."): value for name, value in original.items()
    }
    dumped = {name.replace(".lora_B.", ".lora_B.mine."): value for name, value in dumped.items()}
    other = next(name for name in dumped if ".lora_A.mine." in name).replace(".mine.", ".other.")
    save_file({**dumped, other: np.ones((2, 2), np.float32)}, adapter / WEIGHTS)
    report = convert_adapter(adapter, tmp_path / "out", adapter="mine")
    written = load_file(tmp_path / "out" / WEIGHTS)
    assert written.keys() == original.keys()
    assert all(np.array_equal(written[name], original[name]) for name in original)
    assert report.renamed == len(original)
    assert [note.tensor for note in report.left_out] == [other]


def test_factors_of_another_format_are_turned(tmp_path: Path) -> None:
    """MLX's orientation: A (n, r), B (r, m), as a reader hands them out."""
    rng = np.random.default_rng(0)
    A, B = rng.standard_normal((4, 12)).astype(np.float32), rng.standard_normal((9, 4)).astype(np.float32)
    save_file({"layers.0.q_proj/down": A, "layers.0.q_proj/up": B}, tmp_path / "toy.safetensors")
    with TensorFile.open(tmp_path / "toy.safetensors", root=tmp_path) as file:
        a, b = (
            Factor(name, file, file.entries[name]) for name in ("layers.0.q_proj/down", "layers.0.q_proj/up")
        )
        config = PeftConfig(tmp_path / "toy.json", {"peft_type": "LORA", "r": 4, "lora_alpha": 8})
        where = Location(tmp_path, tmp_path, (file.path,), None)
        linear = LoraPair("layers.0.q_proj", "linear", a, b, 4, 9, 12)
        (tmp_path / "out").mkdir()
        PeftForm(Adapter("toy", where, config, [file], None, [linear]), None).written_in(tmp_path / "out")
        written = load_file(tmp_path / "out" / WEIGHTS)
        names = [f"base_model.model.layers.0.q_proj.lora_{side}.weight" for side in "AB"]
        assert sorted(written) == names
        assert np.array_equal(written[names[0]], A)
        assert np.array_equal(written[names[1]], B)
        stacked = LoraPair("layers.0.q_proj", "expert", a, b, 4, 9, 12)
        with raises(InputError, "not-in-format"):
            PeftForm(Adapter("toy", where, config, [file], None, [stacked]), None).written_in(tmp_path)


def no_config(adapter: Path) -> None:
    (adapter / CONFIG).unlink()


def one_tensor_twice(adapter: Path) -> None:
    tensors = {name: value.astype(np.float32) for name, value in load_file(adapter / WEIGHTS).items()}
    name = next(name for name in tensors if "lora_A" not in name and "lora_B" not in name)
    save_file({**tensors, f"_orig_mod.{name}": tensors[name]}, adapter / WEIGHTS)


@pytest.mark.parametrize(
    ("change", "options", "code"),
    [
        (no_config, {}, "no-config"),
        (one_tensor_twice, {}, "same-tensor"),
        (None, {"to": "pef"}, "unknown-target"),
    ],
    ids=["no config", "one tensor twice", "no such format"],
)
def test_what_cannot_be_converted(change, options, code, adapter: Path, tmp_path: Path) -> None:
    if change:
        change(adapter)
    with raises(GradienceError, code) as caught:
        convert_adapter(adapter, tmp_path / "out", **options)
    assert caught.value.hint
    assert not (tmp_path / "out").exists()


def test_a_folder_is_not_named_like_a_gguf_file_by_mistake(adapter: Path, tmp_path: Path) -> None:
    with raises(GradienceError, "output-name", "looks like a GGUF file"):
        convert_adapter(adapter, tmp_path / "adapter.gguf")


def test_an_output_is_replaced_with_force_alone(adapter: Path, tmp_path: Path, command) -> None:
    words = ["convert", str(adapter), str(tmp_path / "out")]
    assert "Converted to" in command(*words, "--to", "peft").out
    assert run(words) == 2
    assert json.loads(command(*words, "--force", "--json").out)["to"] == "peft"


def test_peft_loads_a_pickle_that_was_converted(tmp_path: Path) -> None:
    """Of a file that torch.save wrote: the same logits as from the adapter that PEFT saved, to the bit."""
    torch.manual_seed(0)
    model = get_peft_model(
        llama(), LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"], init_lora_weights=False)
    )
    model.save_pretrained(tmp_path / "saved")
    base = dict(llama().state_dict())
    shutil.copytree(tmp_path / "saved", tmp_path / "pickled")
    (tmp_path / "pickled" / "README.md").write_text("# mine\n")
    torch.save(load_tensors(tmp_path / "saved" / WEIGHTS), tmp_path / "pickled" / "adapter_model.bin")
    (tmp_path / "pickled" / WEIGHTS).unlink()
    with raises(InputError, "pickle"):
        convert_adapter(tmp_path / "pickled", tmp_path / "out")
    report = convert_adapter(tmp_path / "pickled", tmp_path / "out", allow_pickle=True)
    assert report.pickle
    assert "README.md" in report.carried_files
    tokens, logits = torch.arange(8)[None], []
    for folder in ("saved", "out"):
        plain = llama()
        plain.load_state_dict(base)
        with torch.no_grad():
            logits.append(PeftModel.from_pretrained(plain, tmp_path / folder).eval()(tokens).logits)
    assert torch.equal(*logits)


# ---------------------------------------------------------------- Formats beside PEFT's


FOREIGN = Path(__file__).resolve().parents[1] / "adapters" / "foreign"
Q, DOWN = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"


def peft_adapter(folder: Path, ranks: dict[str, int], extra=None, **config) -> Path:
    """An adapter of PEFT with modules at these ranks, (6, 8) each."""
    random = np.random.default_rng(0)
    factors = {
        module: (random.standard_normal((rank, 8)), random.standard_normal((6, rank)))
        for module, rank in ranks.items()
    }
    kept = {name: factory.stored(value) for name, value in (extra or {}).items()}
    return write(folder, factors, extra=kept, lora_alpha=10, **config)


def test_mlx_and_back(tmp_path):
    source = peft_adapter(tmp_path / "peft", {Q: 4, DOWN: 4, "lm_head": 4})
    report = convert_adapter(source, tmp_path / "mlx", to="mlx")
    convert_adapter(tmp_path / "mlx", tmp_path / "back")
    assert audit_adapter(tmp_path / "mlx").adapter.format == "mlx"
    assert report.renamed == report.tensors
    assert compare_adapters(source, tmp_path / "back").relative_difference == 0


def test_diffusers_and_back(tmp_path):
    ranks = {"mid_block.attentions.0.to_q": 2, "mid_block.attentions.0.to_k": 1}
    source = peft_adapter(tmp_path / "peft", ranks, rank_pattern={"to_k": 1})
    convert_adapter(source, tmp_path / "new", to="diffusers")
    rows = {row.name: (row.r, row.scale) for row in audit_adapter(tmp_path / "new").layers}
    assert rows == {f"unet.{name}": (rank, 10 / rank) for name, rank in ranks.items()}
    convert_adapter(tmp_path / "new", tmp_path / "back")
    assert compare_adapters(source, tmp_path / "back").relative_difference == 0


def small_llama(folder: Path, **fields) -> Path:
    folder.mkdir()
    shape = {"architectures": ["LlamaForCausalLM"], "num_hidden_layers": 2, "num_attention_heads": 1}
    (folder / "config.json").write_text(json.dumps({**shape, **fields}))
    return folder


def test_gguf_has_the_names_and_the_rows_of_llama_cpp(tmp_path):
    source = peft_adapter(tmp_path / "peft", {Q: 4, DOWN: 4})
    convert_adapter(source, tmp_path / "new", to="gguf", base_model=small_llama(tmp_path / "base"))
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
    factory.edit_config(source, base_model_name_or_path="org/base")
    with raises(GradienceError, "no-model-config", "number of heads is unknown"):
        compare_adapters(source, folder / "first-gguf")
    shutil.copy(folder / "base" / "config.json", source)  # as the hint says
    assert compare_adapters(source, folder / "first-gguf").relative_difference == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("tied", [True, False])
def test_an_embedding_that_is_the_head_as_well_is_not_one_to_mlx_and_peft(tied, tmp_path):
    """LoRAEmbedding.as_linear of mlx-lm 0.32.2 adds the update to the head; PEFT's embedding does not."""
    random = np.random.default_rng(0)
    factors = {"A": random.standard_normal((4, 10)), "B": random.standard_normal((8, 4))}
    extra = {
        f"base_model.model.model.embed_tokens.lora_embedding_{side}": value.astype("<f4")
        for side, value in factors.items()
    }
    source = peft_adapter(tmp_path / "peft", {Q: 4}, extra)
    convert_adapter(source, tmp_path / "mlx", to="mlx")  # the base is not on this disk: nothing is known
    for name, folder, verb in (
        ("to-mlx", source, partial(convert_adapter, to="mlx")),
        ("to-peft", tmp_path / "mlx", convert_adapter),
        ("smaller", tmp_path / "mlx", partial(compress_adapter, rank=2)),
    ):
        shutil.copy(small_llama(tmp_path / f"{name}-base", tie_word_embeddings=tied) / "config.json", folder)
        if not tied:
            verb(folder, tmp_path / name)
            continue
        with raises(GradienceError, "not-in-format", "also the head of this base model"):
            verb(folder, tmp_path / name)


@pytest.mark.parametrize("to", ["peft", "mlx", "gguf"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_is_not_converted(bad, to, tmp_path):
    source = peft_adapter(tmp_path / "peft", {Q: 4, DOWN: 4})
    tensors = load_file(source / "adapter_model.safetensors")
    tensors[f"base_model.model.{DOWN}.lora_B.weight"][2, 1] = bad
    save_file(tensors, source / "adapter_model.safetensors", {"format": "pt"})
    options = {"base_model": small_llama(tmp_path / "base")} if to == "gguf" else {}
    with raises(InputError, "non-finite", r"lora_B\.weight holds NaN"):
        convert_adapter(source, tmp_path / "new", to=to, **options)
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
    source = peft_adapter(tmp_path / "peft", {module: 4})
    with raises(GradienceError, "not-in-format", says) as caught:
        convert_adapter(
            source, tmp_path / "new", to="gguf", base_model=small_llama(tmp_path / "base", **fields)
        )
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
    source = peft_adapter(tmp_path / "peft", **options)
    folder = None if base is None else small_llama(tmp_path / "base", **base)
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
def test_what_peft_has_no_names_for_is_refused(kind, file, says, tmp_path, command):
    assert says in command("convert", FOREIGN / kind / file, tmp_path / "new", code=3).err


def test_adapters_without_a_common_module_are_not_compared(tmp_path, command):
    a, b = (
        peft_adapter(tmp_path / "a", {Q: 4}),
        peft_adapter(tmp_path / "b", {"transformer.h.0.attn.c_attn": 4}),
    )
    assert "have no module in common" in " ".join(command("compare", a, b, code=3).err.split())
