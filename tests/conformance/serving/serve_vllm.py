"""Runs inside the environment of vLLM (it imports neither gradience nor PEFT): what does vLLM make of each adapter?

    python serve_vllm.py request.json answer.json

The request names the base model, one `max_lora_rank`, prompts as token ids, and adapters. The answer holds, for
the base and for each adapter, the log-probability of every next token after each prompt, or the text of the
refusal; or why vLLM does not serve the base model with adapters at all (`broke`: it started, and the base model alone
failed). One process per `max_lora_rank`: the slots of vLLM are allocated once, at start.
"""

import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

# Before vLLM is imported: it reads these once. Everything runs in this process, so that a refusal arrives here
# as an exception with its own text and not as the death of a worker.
os.environ.update(
    HF_HUB_OFFLINE="1",
    VLLM_CPU_KVCACHE_SPACE="1",
    VLLM_ENABLE_V1_MULTIPROCESSING="0",
    VLLM_NO_USAGE_STATS="1",
)

Logprobs = list[list[float]]
"""One list per prompt, one log-probability per token of the vocabulary."""


def main(request_path: str, answer_path: str) -> None:
    """Read the request, serve every adapter in turn, write the answer."""
    import torch
    import vllm

    request = json.loads(Path(request_path).read_text(encoding="utf-8"))
    started = time.monotonic()
    versions = {"vllm": vllm.__version__, "torch": torch.__version__}
    engine = None
    try:
        engine = start(vllm.LLM, request)
        logprobs_of(engine, request["prompts"], None)
    except Exception as refusal:  # noqa: BLE001  that it does not serve this model with adapters is a result
        words = f"{type(refusal).__name__}: {refusal}"
        answer = {"versions": versions, "not_served": words, "broke": engine is not None}
        Path(answer_path).write_text(json.dumps(answer), encoding="utf-8")
        return
    served = [
        serve(engine, request["prompts"], adapter, number)
        for number, adapter in enumerate(request["adapters"], 1)
    ]
    # Last, so that a refusal which damaged the engine, or an adapter that stayed active, shows here.
    base = logprobs_of(engine, request["prompts"], None)
    answer = {
        "versions": versions,
        "not_served": "",
        "seconds": round(time.monotonic() - started, 1),
        "base": base,
        "adapters": served,
    }
    Path(answer_path).write_text(json.dumps(answer), encoding="utf-8")


def start(engine: Any, request: dict[str, Any]) -> Any:
    """vLLM with the base model, ready for adapters."""
    return engine(
        request["base"],
        runner="pooling" if request["classify"] else "generate",
        skip_tokenizer_init=True,
        dtype="float32",
        enforce_eager=True,
        enable_lora=True,
        max_loras=1,
        max_lora_rank=request["max_lora_rank"],
        max_logprobs=-1,
        max_model_len=request["max_model_len"],
        seed=0,
    )


def serve(engine: Any, prompts: list[list[int]], adapter: dict[str, str], number: int) -> dict[str, Any]:
    """Log-probabilities with one adapter, or vLLM's refusal of it."""
    from vllm.lora.request import LoRARequest

    request = LoRARequest(adapter["id"], number, adapter["path"])
    try:
        engine.llm_engine.add_lora(request)
    except Exception as refusal:  # noqa: BLE001  whatever vLLM says about the adapter is the result
        return {"id": adapter["id"], "refusal": f"{type(refusal).__name__}: {refusal}"}
    logprobs = logprobs_of(engine, prompts, request)
    engine.llm_engine.remove_lora(number)
    return {"id": adapter["id"], "logprobs": logprobs}


def logprobs_of(engine: Any, prompts: list[list[int]], adapter: Any) -> Logprobs:
    """log p after each prompt: of the next token, for the whole vocabulary, or of the classes."""
    from vllm import SamplingParams

    if engine.llm_engine.model_config.runner_type == "pooling":
        classes = engine.classify(
            [{"prompt_token_ids": prompt} for prompt in prompts], lora_request=adapter, use_tqdm=False
        )
        return [[math.log(p) for p in item.outputs.probs] for item in classes]
    greedy = SamplingParams(temperature=0.0, max_tokens=1, logprobs=-1, detokenize=False)
    inputs = [{"prompt_token_ids": prompt} for prompt in prompts]
    outputs = engine.generate(inputs, greedy, lora_request=adapter, use_tqdm=False)
    tables = [output.outputs[0].logprobs[0] for output in outputs]
    return [[table[token].logprob for token in sorted(table)] for table in tables]


if __name__ == "__main__":
    main(*sys.argv[1:])
