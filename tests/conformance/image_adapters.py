"""LoRAs of image models, as diffusers writes and loads them: today's keys, the old ones, and kohya's.

`python tests/conformance/image_adapters.py FOLDER` writes those that the default tests read, each with the ΔW of every
module in the model that diffusers itself loads it into.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_kohya
from diffusers.utils.state_dict_utils import convert_unet_state_dict_to_peft
from peft import LoraConfig, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file

NAME = "pytorch_lora_weights.safetensors"
ATTENTION = "mid_block.attentions.0.transformer_blocks.0.attn1"
TARGETS = [f"{ATTENTION}.to_q", f"{ATTENTION}.to_v", f"{ATTENTION}.to_out.0", "conv_out"]


def tiny() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=4, in_channels=2, out_channels=2, layers_per_block=1, block_out_channels=(4,),
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), cross_attention_dim=4, norm_num_groups=2,
        attention_head_dim=2,
    )  # fmt: skip


def adapted(**config: object) -> UNet2DConditionModel:
    unet = tiny()
    unet.add_adapter(LoraConfig(**{"r": 2, "lora_alpha": 6, "target_modules": TARGETS, **config}))
    for name, parameter in unet.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    return unet


def deltas(unet: UNet2DConditionModel) -> dict[str, np.ndarray]:
    """Module -> ΔW, a convolution as a matrix."""
    updates = {}
    for name, module in unet.named_modules():
        if isinstance(module, LoraLayer):
            (adapter,) = module.lora_A
            update = module.get_delta_weight(adapter).detach().numpy()
            updates[name] = update.reshape(len(update), -1)
    return updates


def write(folder: Path, kind: str) -> None:
    """One folder of a kind, with `expected.npz`."""
    folder.mkdir(parents=True, exist_ok=True)
    loaded, names = tiny(), {name: f"unet.{name}" for name in TARGETS}
    if kind == "diffusers":
        unet = adapted(rank_pattern={"to_v": 1}, alpha_pattern={"to_v": 5})
        StableDiffusionPipeline.save_lora_weights(
            folder,
            unet_lora_layers=get_peft_model_state_dict(unet),
            unet_lora_adapter_metadata=unet.peft_config["default"].to_dict(),
        )
        state, alphas, metadata = StableDiffusionPipeline.lora_state_dict(
            str(folder), return_lora_metadata=True
        )
        StableDiffusionPipeline.load_lora_into_unet(state, alphas, loaded, metadata=metadata)
    elif kind == "diffusers-old":
        peft = get_peft_model_state_dict(adapted())
        old = {old_key(name): value.contiguous() for name, value in peft.items() if "conv_out" not in name}
        save_file(old, folder / NAME)
        loaded.load_lora_adapter(convert_unet_state_dict_to_peft(plain(old)), prefix=None)
    else:
        peft = get_peft_model_state_dict(adapted())
        state = convert_state_dict_to_kohya({f"unet.{name}": value for name, value in peft.items()})
        state = {
            name: torch.tensor(6.0) if name.endswith(".alpha") else value.contiguous()
            for name, value in state.items()
        }
        save_file(state, folder / "style.safetensors", {"ss_network_dim": "2", "ss_sd_model_name": "tiny"})
        state, alphas = StableDiffusionPipeline.lora_state_dict(dict(state), unet_config=loaded.config)
        StableDiffusionPipeline.load_lora_into_unet(state, alphas, loaded)
        names = {name: f"lora_unet_{name.replace('.', '_')}" for name in TARGETS}
    np.savez(folder / "expected.npz", **{names[name]: update for name, update in deltas(loaded).items()})


def old_key(name: str) -> str:
    """The key that attention processors had: `attn1.processor.to_q_lora.down.weight`."""
    path, _, side = name.removesuffix(".weight").rpartition(".lora_")
    path, _, part = path.removesuffix(".0").rpartition(".")
    return f"{path}.processor.{part}_lora.{'down' if side == 'A' else 'up'}.weight"


def plain(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.replace(".processor.", "."): value for name, value in state.items()}


KINDS = ("diffusers", "diffusers-old", "kohya")

if __name__ == "__main__":
    for kind in KINDS:
        write(Path(sys.argv[1]) / kind, kind)
