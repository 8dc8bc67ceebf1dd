"""What `gradience convert` and `gradience compress` write, loaded by the library of each format: the same ΔW."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import test_foreign

from gradience import compress_adapter, convert_adapter

ROOT = Path(__file__).resolve().parents[1]
LLAMA_CPP = sorted(ROOT.parent.glob(".venv-llama-cpp/source/*/vendor/llama.cpp"))
pytestmark = [pytest.mark.conformance, pytest.mark.filterwarnings("default")]
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "down_proj"]
CONFIGS = {"LlamaForCausalLM": "LlamaConfig", "MistralForCausalLM": "MistralConfig",
           "Qwen2ForCausalLM": "Qwen2Config", "Qwen3ForCausalLM": "Qwen3Config"}  # fmt: skip


def updates(path):
    """Module -> ΔW by our reader, which other tests compare with each library."""
    return test_foreign.updates(path)[0]


def of_peft(folder: Path, architecture: str, **config: object) -> tuple[Path, Path]:
    """A base model and an adapter, as transformers and PEFT save them."""
    import torch
    import transformers
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    settings = getattr(transformers, CONFIGS[architecture])(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=8, vocab_size=40, tie_word_embeddings=False,
    )  # fmt: skip
    base = getattr(transformers, architecture)(settings)
    base.save_pretrained(folder / "base")
    options = {"r": 4, "lora_alpha": 10, "target_modules": PROJECTIONS, "init_lora_weights": False, **config}
    get_peft_model(base, LoraConfig(**options)).save_pretrained(folder / "peft")
    return folder / "base", folder / "peft"


def loaded_by_mlx(base: Path, folder: Path) -> dict[str, np.ndarray]:
    """Module -> what mlx-lm adds to its weights."""
    mx = pytest.importorskip("mlx.core", reason="needs the dependency group `conformance`")
    from mlx_lm.models import llama
    from mlx_lm.tuner.utils import load_adapters

    fields = json.loads((base / "config.json").read_text())
    model = load_adapters(
        llama.Model(llama.ModelArgs.from_dict({**fields, "rope_theta": 10000.0})), str(folder)
    )
    updated = {}
    for name, module in model.named_modules():
        if "lora_a" in module:
            inner = module.embedding if "embedding" in module else module.linear
            update = np.array((module.fuse().weight - inner.weight).astype(mx.float32))
            updated[name] = update.T if "embedding" in module else update
    return {name: update for name, update in updated.items() if np.abs(update).max() > 0}


def same(computed, expected, tolerance=1e-5):
    assert computed.keys() == expected.keys()
    for name, update in expected.items():
        np.testing.assert_allclose(
            computed[name].reshape(update.shape), update, atol=tolerance * np.abs(update).max(), rtol=0
        )


def test_mlx_loads_what_is_converted(tmp_path):
    base, adapter = of_peft(
        tmp_path, "LlamaForCausalLM", target_modules=[*PROJECTIONS, "lm_head", "embed_tokens"]
    )
    convert_adapter(adapter, tmp_path / "mlx", to="mlx")
    expected = updates(adapter)
    same(loaded_by_mlx(base, tmp_path / "mlx"), expected)
    convert_adapter(tmp_path / "mlx", tmp_path / "back")
    same(updates(tmp_path / "back"), expected)
    same(loaded_by_peft(base, tmp_path / "back"), expected)


def loaded_by_peft(base: Path, folder: Path) -> dict[str, np.ndarray]:
    """Module -> what PEFT adds to its weights."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)
    updated = {}
    for name, module in model.base_model.model.named_modules():
        if hasattr(module, "get_delta_weight"):
            update = module.get_delta_weight("default").detach().numpy()
            updated[name] = update.T if name.endswith("embed_tokens") else update
    return updated


@pytest.mark.parametrize(
    "how",
    [
        {"rank": 2},
        {"energy": 0.8, "encoding": "padded"},
        {"reduction": 0.5, "encoding": "padded", "dtype": "BF16"},
    ],
    ids=["one", "padded", "bf16"],
)
def test_mlx_loads_what_is_compressed(how, tmp_path):
    base, adapter = of_peft(
        tmp_path, "LlamaForCausalLM", target_modules=[*PROJECTIONS, "lm_head", "embed_tokens"]
    )
    report = compress_adapter(adapter, tmp_path / "compressed", **how)
    convert_adapter(tmp_path / "compressed", tmp_path / "small", to="mlx")
    smaller = updates(tmp_path / "small")
    # mlx-lm multiplies the factors in the type that they are stored in.
    tolerance = 1e-2 if "dtype" in how else 1e-5
    loaded = loaded_by_mlx(base, tmp_path / "small")
    same(loaded, {name: update for name, update in smaller.items() if np.any(update)}, tolerance)
    check_errors(report, updates(adapter), smaller)


def check_errors(report, old, new):
    """The errors that are reported are those of what was written."""
    for row in report.modules:
        written = new.get(row.name, np.zeros(1))
        lost = np.linalg.norm(old[row.name] - written) / np.linalg.norm(old[row.name])
        assert row.measured_error == pytest.approx(lost, abs=1e-6)


def unet_of(folder):
    from conformance import image_adapters as image

    unet, loaded = image.StableDiffusionPipeline, image.tiny()
    state, alphas, config = unet.lora_state_dict(str(folder), return_lora_metadata=True)
    unet.load_lora_into_unet(state, alphas, loaded, metadata=config)
    return {f"unet.{name}": update for name, update in image.deltas(loaded).items()}


@pytest.mark.parametrize(
    "pattern", [{}, {"rank_pattern": {"to_v": 1}, "alpha_pattern": {"to_v": 5}}], ids=["one", "two ranks"]
)
def test_diffusers_loads_what_is_converted(pattern, tmp_path):
    pytest.importorskip("diffusers", reason="needs the dependency group `conformance`")
    from peft import LoraConfig, PeftModel, get_peft_model

    from conformance import image_adapters as image

    options = {
        "r": 2,
        "lora_alpha": 6,
        "target_modules": image.TARGETS,
        "init_lora_weights": False,
        **pattern,
    }
    get_peft_model(image.tiny(), LoraConfig(**options)).save_pretrained(tmp_path / "peft")
    expected = {f"unet.{name}": update for name, update in updates(tmp_path / "peft").items()}
    convert_adapter(tmp_path / "peft", tmp_path / "diffusers", to="diffusers")
    same(unet_of(tmp_path / "diffusers"), expected)
    convert_adapter(tmp_path / "diffusers", tmp_path / "back")
    again = PeftModel.from_pretrained(image.tiny(), tmp_path / "back").base_model.model
    same({f"unet.{name}": update for name, update in image.deltas(again).items()}, expected)


@pytest.mark.parametrize("kind", ["diffusers", "diffusers-old"])
def test_diffusers_loads_what_is_written_again(kind, tmp_path):
    pytest.importorskip("diffusers", reason="needs the dependency group `conformance`")
    source = ROOT / "adapters" / "foreign" / kind
    convert_adapter(source, tmp_path / "new", to="diffusers")
    same(unet_of(tmp_path / "new"), updates(source))


@pytest.mark.parametrize("architecture", CONFIGS)
def test_gguf_is_what_llama_cpp_converts(architecture, tmp_path):
    """Every tensor and setting that llama.cpp's converter writes of the same adapter, to the bit."""
    gguf = pytest.importorskip("gguf", reason="needs the dependency group `conformance`")
    if not LLAMA_CPP:
        pytest.skip("needs llama.cpp's source: make conformance-llama-cpp")
    base, adapter = of_peft(tmp_path, architecture, target_modules=[*PROJECTIONS, "lm_head"])
    convert_adapter(adapter, tmp_path / "ours", to="gguf", base_model=base)
    script = ROOT / "conformance" / "serving" / "convert_adapters_to_gguf.py"
    request = [{"adapter": str(adapter), "out": str(tmp_path / "theirs.gguf"), "log": str(tmp_path / "log")}]
    (tmp_path / "request.json").write_text(json.dumps(request))
    subprocess.run([sys.executable, script, LLAMA_CPP[0], base, tmp_path / "request.json"], check=True)
    ours, theirs = (
        gguf.GGUFReader(path) for path in (tmp_path / "ours" / "adapter.gguf", tmp_path / "theirs.gguf")
    )
    tensors = [{tensor.name: tensor.data for tensor in file.tensors} for file in (ours, theirs)]
    assert tensors[0].keys() == tensors[1].keys()
    assert all(np.array_equal(tensors[0][name], tensors[1][name]) for name in tensors[1])
    for name in ("general.architecture", "general.type", "adapter.type", "adapter.lora.alpha"):
        assert ours.fields[name].contents() == theirs.fields[name].contents()
