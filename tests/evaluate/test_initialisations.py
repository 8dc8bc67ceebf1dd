"""Each `init_lora_weights` of PEFT, run: what the table of initialisations says of B·A and of the base is what happens.

LoftQ alone is not run: it needs bitsandbytes.
"""

from __future__ import annotations

import json
import typing
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from peft import EvaConfig, LoraConfig, PeftModel, get_peft_model, initialize_lora_eva_weights
from peft.tuners.lora.config import CordaConfig, LoraGAConfig
from peft.tuners.lora.corda import preprocess_corda
from peft.tuners.lora.loraga import preprocess_loraga
from peft_models import llama, qwen_moe
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from tiny_models import letters_tokenizer

from gradience import audit_adapter, compress_adapter, convert_adapter
from gradience.adapters.config import INITIALISATIONS, initialisation_of
from gradience.errors import InputError
from gradience.evaluate.engines.transformers.engine import TransformersEngine
from gradience.live.pairs import find_pairs, starts_at_zero

TOKENS = torch.arange(24).reshape(2, 12)
RUN: dict[str, dict[str, Any]] = {
    "true": {"init_lora_weights": True},
    "false": {"init_lora_weights": False},
    "eva": {"eva_config": EvaConfig()},
    "corda": {"corda_config": CordaConfig()},
    "lora_ga": {"lora_ga_config": LoraGAConfig()},
} | {name: {} for name in ("gaussian", "olora", "pissa", "pissa_niter_4", "orthogonal", "mica")}
LEAVE_THE_BASE = [name for name, start in INITIALISATIONS.items() if start.keeps_base]
CHANGE_THE_BASE = [name for name in RUN if name not in LEAVE_THE_BASE]


class Start(NamedTuple):
    """A model before its first step. change: of the base's weights.   update: ‖B·A‖, the largest of all modules."""

    model: PeftModel
    change: float
    update: float


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """PEFT warns that a base is changed, and shows the progress of EVA."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def base() -> Any:
    torch.manual_seed(7)
    return llama().eval()


def start(name: str) -> Start:
    network = base()
    options = {"init_lora_weights": name} | RUN[name]
    config = LoraConfig(target_modules=["q_proj", "down_proj"], r=4, lora_alpha=8, **options)
    before = {key: weight.detach().clone() for key, weight in network.named_parameters()}
    if name == "corda":
        preprocess_corda(network, config, run_model=lambda: network(TOKENS[:1]))
    if name == "lora_ga":
        preprocess_loraga(network, config, lambda: network(TOKENS, labels=TOKENS).loss.backward())
    model = get_peft_model(network, config)
    if name == "eva":
        initialize_lora_eva_weights(model, dataloader=[{"input_ids": TOKENS}] * 3, show_progress_bar=False)
    after = {key.replace(".base_layer.", "."): weight for key, weight in network.named_parameters()}
    pairs, _ = find_pairs(model)
    return Start(
        model.eval(),
        max(float((after[key] - weight).detach().norm()) for key, weight in before.items()),
        max(float((pair.B @ pair.A).detach().norm()) for pair in pairs),
    )


def trained(name: str, folder: Path) -> PeftModel:
    """What `start` gives, its trainable factors moved, saved."""
    model = start(name).model
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(0.05 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    return model


def outputs(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=TOKENS).logits


def test_the_table_has_all_that_peft_has():
    declared = typing.get_type_hints(LoraConfig)["init_lora_weights"]
    names = {str(name) for part in typing.get_args(declared) for name in typing.get_args(part)}
    names = {"pissa_niter_4" if name.startswith("pissa_niter") else name for name in names}
    assert names | {"true", "false", "lora_ga"} == RUN.keys() | {"loftq"}
    assert {name for name in RUN if name != "pissa_niter_4"} | {"loftq"} == INITIALISATIONS.keys()
    assert initialisation_of("new_idea") is None


@pytest.mark.parametrize("name", RUN)
def test_the_table_says_what_peft_does(name):
    said, measured = initialisation_of(name), start(name)
    assert said is not None
    assert said.zero == (measured.update == 0)
    assert said.keeps_base == (measured.change == 0)
    assert starts_at_zero(measured.model, "default") == said.zero


@pytest.mark.parametrize("name", LEAVE_THE_BASE)
def test_where_the_base_stays_the_file_is_the_update_and_is_compressed(name, tmp_path):
    """The best approximation of what PEFT computed in the training, at an odd rank, in a base that knows nothing."""
    model = trained(name, tmp_path / "probe")
    torch.testing.assert_close(outputs(PeftModel.from_pretrained(base(), tmp_path / "probe")), outputs(model))
    compress_adapter(tmp_path / "probe", tmp_path / "smaller", rank=3)
    smaller = PeftModel.from_pretrained(base(), tmp_path / "smaller")
    before, after = (
        {pair.name: pair.scale * pair.B @ pair.A for pair in find_pairs(m)[0]} for m in (model, smaller)
    )
    for module, update in before.items():
        lost = float((update - after[module]).detach().norm())
        values = np.linalg.svd(update.detach().numpy(), compute_uv=False)
        assert lost == pytest.approx(float(np.linalg.norm(values[3:])), rel=1e-3, abs=1e-6)
    codes = {finding.code for finding in audit_adapter(tmp_path / "probe").findings}
    assert ("init-noise" in codes) != INITIALISATIONS[name].zero


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("name", LEAVE_THE_BASE)
def test_where_the_base_stays_adapters_share_it(name, first, tmp_path):
    engine = TransformersEngine(base(), letters_tokenizer())
    if not first:
        trained("gaussian", tmp_path / "other")
        engine.add("other", tmp_path / "other")
    model = trained(name, tmp_path / "probe")
    engine.add("probe", tmp_path / "probe")
    with engine.using("probe") as network:
        torch.testing.assert_close(outputs(network), outputs(model))


@pytest.mark.parametrize("name", CHANGE_THE_BASE)
def test_where_the_base_changes_the_file_is_refused(name, tmp_path):
    """Its s·B·A on the base is another function than the one that was trained."""
    model = trained(name, tmp_path / "probe")
    with pytest.raises(InputError) as uncompressed:
        compress_adapter(tmp_path / "probe", tmp_path / "smaller", rank=3)
    assert uncompressed.value.code == "init-not-update"
    with pytest.raises(InputError) as unshared:
        TransformersEngine(base(), letters_tokenizer()).add("probe", tmp_path / "probe")
    assert unshared.value.code == "adapter-changes-base"
    path = tmp_path / "probe" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"init_lora_weights": True}))
    plain = outputs(PeftModel.from_pretrained(base(), tmp_path / "probe"))
    assert not torch.allclose(plain, outputs(model), rtol=0, atol=1e-5)


# ---------------------------------------------------------------- formats beside PEFT's

REFUSED = {
    "qalora": {"use_qalora": True},
    "activated": {"alora_invocation_tokens": [1, 2]},
    "replicated": {"layer_replication": [[0, 2], [0, 2]]},
    "unknown": {"init_lora_weights": "new_idea"},
    "loftq": {"init_lora_weights": "loftq"},
}


def mlx_updates(folder: Path) -> dict[str, np.ndarray]:
    """ΔW of each module, by mlx-lm's rule: scale·(lora_a·lora_b)ᵀ."""
    scale = json.loads((folder / "adapter_config.json").read_text())["lora_parameters"]["scale"]
    tensors = load_file(folder / "adapters.safetensors")
    names = [name.removesuffix(".lora_a") for name in tensors if name.endswith(".lora_a")]
    return {name: scale * (tensors[f"{name}.lora_a"] @ tensors[f"{name}.lora_b"]).T for name in names}


def gguf_updates(folder: Path) -> dict[str, np.ndarray]:
    """ΔW of each module, by llama.cpp's rule, read by the library gguf. Rows of q are put back, of 2 heads."""
    reader = pytest.importorskip("gguf").GGUFReader(folder / "adapter.gguf")
    alpha = float(reader.fields["adapter.lora.alpha"].contents())
    tensors = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
    places = {"attn_q": "self_attn.q_proj", "ffn_down": "mlp.down_proj"}
    updates = {}
    for name in [name.removesuffix(".lora_a") for name in tensors if name.endswith(".lora_a")]:
        a, b = tensors[f"{name}.lora_a"], tensors[f"{name}.lora_b"]
        _, layer, part, _ = name.split(".")
        if part == "attn_q":
            b = b.reshape(2, len(b) // 4, 2, -1).swapaxes(1, 2).reshape(b.shape)
        updates[f"model.layers.{layer}.{places[part]}"] = alpha / len(a) * b @ a
    return updates


def diffusers_updates(folder: Path) -> dict[str, np.ndarray]:
    """ΔW of each module, with r and α of the header."""
    with safe_open(folder / "pytorch_lora_weights.safetensors", "np") as file:
        header = json.loads(file.metadata()["lora_adapter_metadata"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    scale = header["unet.lora_alpha"] / header["unet.r"]
    names = [name.removesuffix(".lora_A.weight") for name in tensors if name.endswith("A.weight")]
    return {
        name.removeprefix("unet."): scale
        * tensors[f"{name}.lora_B.weight"]
        @ tensors[f"{name}.lora_A.weight"]
        for name in names
    }


READERS = {"mlx": mlx_updates, "gguf": gguf_updates, "diffusers": diffusers_updates}


def of_a_unet(folder: Path) -> None:
    """Let the modules of the adapter in `folder` have names of a UNet of diffusers."""
    path = folder / "adapter_model.safetensors"
    names = {"model.layers.": "down_blocks.", "self_attn.q_proj": "to_q", "mlp.down_proj": "to_out"}
    tensors = load_file(path)
    for old, new in names.items():
        tensors = {name.replace(old, new): value for name, value in tensors.items()}
    save_file(tensors, path, {"format": "pt"})


@pytest.mark.parametrize("to", READERS)
@pytest.mark.parametrize("name", [*RUN, *REFUSED])
def test_a_format_beside_peft_s_holds_the_trained_function_or_nothing(name, to, tmp_path):
    """What the written file adds to the base as it was gives the logits of the model that was trained."""
    model = trained(name if name in RUN else "true", tmp_path / "probe")
    expected = outputs(model)
    network = base()
    network.config.save_pretrained(tmp_path / "base")
    path = tmp_path / "probe" / "adapter_config.json"
    fields = json.loads(path.read_text()) | REFUSED.get(name, {})
    path.write_text(json.dumps(fields))
    if to == "diffusers":
        of_a_unet(tmp_path / "probe")
    options = {"base_model": tmp_path / "base"} if to == "gguf" else {}
    if to == "gguf":
        config = tmp_path / "base" / "config.json"
        config.write_text(
            json.dumps({**json.loads(config.read_text()), "architectures": ["LlamaForCausalLM"]})
        )
    if name in REFUSED or name in CHANGE_THE_BASE:
        with pytest.raises(InputError) as caught:
            convert_adapter(tmp_path / "probe", tmp_path / "new", to=to, **options)
        assert caught.value.code == "not-in-format"
        if name in CHANGE_THE_BASE:
            assert f"compress {tmp_path / 'probe'} --initial-adapter INITIAL --rank 8" in caught.value.hint
        assert not (tmp_path / "new").exists()
        return
    convert_adapter(tmp_path / "probe", tmp_path / "new", to=to, **options)
    back = {"down_blocks.": "model.layers.", "to_q": "self_attn.q_proj", "to_out": "mlp.down_proj"}
    with torch.no_grad():
        for module, update in READERS[to](tmp_path / "new").items():
            for new, old in back.items():
                module = module.replace(new, old)
            network.get_submodule(module).weight += torch.from_numpy(update)
    torch.testing.assert_close(outputs(network), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("verb", "options"),
    [(convert_adapter, {}), (compress_adapter, {"rank": 2, "allow_untrained": True})],
    ids=["convert", "compress"],
)
def test_a_wrapped_parameter_is_no_module_of_mlx(verb, options, tmp_path):
    """PEFT itself no longer applied it there: `gate.weight` would be a module of this name."""
    model = get_peft_model(qwen_moe(), LoraConfig(target_parameters=["gate.weight"], target_modules=[], r=4))
    model.save_pretrained(tmp_path / "probe")
    with pytest.raises(InputError, match=r"gate\.weight is a parameter, not a module") as caught:
        verb(tmp_path / "probe", tmp_path / "new", to="mlx", **options)
    assert caught.value.code == "not-in-format"
