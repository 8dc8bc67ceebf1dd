"""What one decoding step of a 7B model costs: kernels, bytes and operations, counted on torch's meta device.

    python benchmarks/decoding_step.py [--rank 16] [--cached 256]
    python benchmarks/decoding_step.py --measure [--rows 16] [--steps 48] [--rounds 3]

Mistral-7B's shapes in bfloat16, PEFT's LoRA with factors in float32 on all linear layers, one token for each of so
many rows. Nothing is computed and no weight is loaded: torch dispatches every kernel on tensors without numbers, and
they are counted. `dynamic` is the cache that grows by concatenation, `static` one of a fixed length that is written in
place. The milliseconds are an estimate for an H100 (assumed rates, stated in the output), not a measurement.

`--measure` decodes with SmolLM2-135M on this processor with either cache, in turn, with one thread: processor seconds
a step, and whether all tokens are the same.
"""

from __future__ import annotations

import argparse
import json
import time
from statistics import median
from typing import Any

import torch
from transformers import AutoModelForCausalLM, MistralConfig, StaticCache, __version__

from gradience.evaluate.counting import Work, network_on_meta, work_of
from gradience.evaluate.engines.transformers.forward import next_logits
from gradience.evaluate.machines import H100
from gradience.models.embedded import smollm2

MISTRAL = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 32768,
    "sliding_window": None,
}


def step(network: Any, rows: int, cached: int, cache: Any) -> Work:
    """One token for each row behind `cached` tokens, in the given cache; None: the one that transformers makes."""
    network.eval()
    ids = torch.zeros(rows, cached, dtype=torch.long, device="meta")
    mask = torch.ones(rows, cached + 1, dtype=torch.long, device="meta")
    with torch.no_grad():
        _, filled = next_logits(network, ids, mask[:, :-1], cache)
    return work_of(lambda: next_logits(network, ids[:, :1], mask, filled))


def row(work: Work) -> dict[str, Any]:
    """Its figures."""
    read = sum(size * count for (_, size, _), count in work.kernels.items())
    launching = work.count * H100.launch
    return {
        "kernels": work.count,
        "GB read and written": round(read / 1e9, 2),
        "GFLOP": round(work.flops / 1e9, 1),
        "estimate, ms": round(1000 * H100.seconds(work), 1),
        "of which Python and launches, ms": round(1000 * launching, 1),
    }


def measured(rows: int, steps: int, rounds: int, dtype: str) -> dict[str, Any]:
    """Processor seconds a step with either cache, on this processor, and how many tokens are the same."""
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(smollm2(), dtype=dtype).eval()
    seconds: dict[str, list[float]] = {"dynamic": [], "static": []}
    tokens: dict[str, list[list[int]]] = {"dynamic": [], "static": []}
    for number in range(rounds + 1):  # the first is not counted
        torch.manual_seed(number)
        ids, mask = torch.randint(100, 40000, (rows, 64)), torch.ones(rows, 64, dtype=torch.long)
        for row, blank in enumerate(torch.randint(0, 32, (rows,)).tolist()):
            mask[row, :blank] = 0  # prompts of unequal lengths, padded on the left
        for kind in ("dynamic", "static") if number % 2 else ("static", "dynamic"):
            cache = StaticCache(config=model.config, max_cache_len=64 + steps) if kind == "static" else None
            spent, chosen = decoded(model, ids, mask, steps, cache)
            tokens[kind] += chosen
            seconds[kind] += [spent / steps] if number else []
    ratios = [static / dynamic for dynamic, static in zip(*seconds.values(), strict=True)]
    same = sum(one == other for one, other in zip(*tokens.values(), strict=True))
    return {
        **{f"{kind}, s a step": round(median(values), 4) for kind, values in seconds.items()},
        "static / dynamic": round(median(ratios), 2),
        "rows with the same tokens": f"{same} of {len(tokens['static'])}",
    }


def decoded(
    model: Any, ids: torch.Tensor, mask: torch.Tensor, steps: int, cache: Any
) -> tuple[float, list[list[int]]]:
    """Processor seconds of so many steps behind the prompts, and the tokens of each row."""
    chosen = []
    with torch.inference_mode():
        logits, cache = next_logits(model, ids, mask, cache)
        started = time.process_time()
        for _ in range(steps):
            ids = logits.argmax(dim=-1, keepdim=True)
            chosen.append(ids)
            mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
            logits, cache = next_logits(model, ids, mask, cache)
        spent = time.process_time() - started
    return spent, torch.cat(chosen, dim=1).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--cached", type=int, default=256)
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--steps", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="bfloat16")
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measured(options.rows, options.steps, options.rounds, options.dtype), indent=2))
        return
    config = MistralConfig(**MISTRAL)
    lora = {"r": options.rank, "lora_alpha": options.rank, "target_modules": "all-linear"}
    base, network = network_on_meta(config, lora, dtype=torch.bfloat16, labels=None)
    result: dict[str, Any] = {
        "estimate for": H100.name,
        "torch": torch.__version__,
        "transformers": __version__,
    }
    for rows in (1, 64):
        for cache in ("dynamic", "static"):
            room = options.cached + 64

            def new(kind: str = cache, room: int = room) -> Any:
                return None if kind == "dynamic" else StaticCache(config=base.config, max_cache_len=room)

            adapted = row(step(network, rows, options.cached, new()))
            with network.disable_adapter():
                alone = row(step(network, rows, options.cached, new()))
            result[f"{rows} rows, {cache} cache"] = {"with LoRA": adapted, "base": alone}
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
