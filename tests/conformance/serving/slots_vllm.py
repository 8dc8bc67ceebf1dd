"""Runs inside the environment of vLLM (it imports neither gradience nor PEFT): what does vLLM hold for its adapters?

    python slots_vllm.py request.json answer.json

The request names a base model, `max_loras`, `max_lora_rank`, `target_modules` (null: all that vLLM can put LoRA on) and
adapters. Each adapter is loaded and asked for one token; then every layer that vLLM made room in is listed with the
bytes of its stacked factors, slots that are empty included. One process for one set of settings: they are allocated at
start.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

# Before vLLM is imported: it reads these once. Everything runs in this process, where the layers can be looked at.
os.environ.update(
    HF_HUB_OFFLINE="1",
    VLLM_CPU_KVCACHE_SPACE="1",
    VLLM_ENABLE_V1_MULTIPROCESSING="0",
    VLLM_NO_USAGE_STATS="1",
)


def main(request_path: str, answer_path: str) -> None:
    """Read the request, load every adapter, write what the layers hold."""
    import vllm
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest

    request = json.loads(Path(request_path).read_text(encoding="utf-8"))
    restricted = {"lora_target_modules": request["target_modules"]} if request["target_modules"] else {}
    engine = vllm.LLM(
        request["base"],
        skip_tokenizer_init=True,
        dtype="bfloat16",
        enforce_eager=True,
        enable_lora=True,
        max_loras=request["max_loras"],
        max_lora_rank=request["max_lora_rank"],
        max_model_len=64,
        max_num_seqs=4,
        seed=0,
        **restricted,
    )
    one_token = SamplingParams(temperature=0.0, max_tokens=1, detokenize=False)
    tokens = []
    for number, path in enumerate(request["adapters"], 1):
        asked = LoRARequest(f"a{number}", number, path)
        (output,) = engine.generate(
            [{"prompt_token_ids": [1, 2, 3]}], one_token, lora_request=asked, use_tqdm=False
        )
        tokens += output.outputs[0].token_ids
    (layers,) = engine.llm_engine.apply_model(held)
    answer = {"vllm": vllm.__version__, "layers": layers, "tokens": tokens}
    Path(answer_path).write_text(json.dumps(answer), encoding="utf-8")


def held(model: Any) -> list[dict[str, Any]]:
    """Each layer with LoRA: its name, its class, bytes, and the shapes of its stacked factors."""
    from vllm.lora.layers import BaseLayerWithLoRA

    rows = []
    for name, layer in model.named_modules():
        if isinstance(layer, BaseLayerWithLoRA):
            tensors = list(stacked(layer))
            size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
            shapes = [list(tensor.shape) for tensor in tensors]
            rows.append({"layer": name, "class": type(layer).__name__, "bytes": size, "shapes": shapes})
    return rows


def stacked(layer: Any) -> Any:
    """The tensors of all slots: attributes of the layer that end in `_stacked`."""
    import torch

    for name, value in vars(layer).items():
        if name.endswith("_stacked"):
            yield from (value,) if isinstance(value, torch.Tensor) else value


if __name__ == "__main__":
    main(*sys.argv[1:])
