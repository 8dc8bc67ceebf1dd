"""Runs where llama_cpp is installed (it imports neither gradience nor PEFT): what does llama.cpp make of each adapter?

    python serve_llama_cpp.py request.json answer.json

The request names the base model and the adapters as GGUF files, and prompts as token ids. The answer holds, for the
base and for each adapter, the log-probability of every next token after each prompt, or the text of the refusal.
"""

import ctypes
import importlib.metadata
import json
import math
import sys
from pathlib import Path
from typing import Any

import llama_cpp

Logprobs = list[list[float]]
F32 = 0
"""GGML_TYPE_F32: keys and values are cached as float16 by default, which would cost three digits here."""


def main(request_path: str, answer_path: str) -> None:
    """Read the request, serve every adapter in turn, write the answer."""
    request = json.loads(Path(request_path).read_text(encoding="utf-8"))
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(
        request["base"].encode(), llama_cpp.llama_model_default_params()
    )
    prompts, length = request["prompts"], request["max_model_len"]
    served = [serve(model, prompts, length, adapter) for adapter in request["adapters"]]
    answer = {
        "versions": {"llama-cpp-python": importlib.metadata.version("llama-cpp-python")},
        "base": next_token_logprobs(model, prompts, length, None),
        "adapters": served,
    }
    Path(answer_path).write_text(json.dumps(answer), encoding="utf-8")


def serve(model: Any, prompts: list[list[int]], length: int, adapter: dict[str, str]) -> dict[str, Any]:
    """Log-probabilities with one adapter, or that llama.cpp refused it (it says why on stderr)."""
    loaded = llama_cpp.llama_adapter_lora_init(model, adapter["path"].encode())
    if not loaded:
        return {"id": adapter["id"], "refusal": "llama_adapter_lora_init failed"}
    return {"id": adapter["id"], "logprobs": next_token_logprobs(model, prompts, length, loaded)}


def next_token_logprobs(model: Any, prompts: list[list[int]], length: int, adapter: Any) -> Logprobs:
    """log p(next token | prompt) for the whole vocabulary; a new context for every prompt."""
    return [one_prompt(model, prompt, length, adapter) for prompt in prompts]


def one_prompt(model: Any, prompt: list[int], length: int, adapter: Any) -> list[float]:
    """The same for one prompt."""
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = length
    params.n_threads = params.n_threads_batch = 1
    params.type_k = params.type_v = F32
    params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED  # it computes in float16
    context = llama_cpp.llama_init_from_model(model, params)
    if adapter is not None:
        adapters = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(adapter)
        scales = (ctypes.c_float * 1)(1.0)
        if llama_cpp.llama_set_adapters_lora(context, adapters, 1, scales) != 0:
            raise RuntimeError("llama_set_adapters_lora failed")
    tokens = (llama_cpp.llama_token * len(prompt))(*prompt)
    if llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(tokens, len(prompt))) != 0:
        raise RuntimeError("llama_decode failed")
    size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    logits = llama_cpp.llama_get_logits_ith(context, -1)[:size]
    llama_cpp.llama_free(context)
    top = max(logits)
    total = top + math.log(math.fsum(math.exp(value - top) for value in logits))
    return [value - total for value in logits]


if __name__ == "__main__":
    main(*sys.argv[1:])
