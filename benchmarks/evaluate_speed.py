"""Gradience's engine against lm-eval's hf backend, in one run: generation, multiple choice, loads for k adapters.

    python benchmarks/evaluate_speed.py [--base embedded:smollm2] [--dtype bfloat16] [--examples 32] [--rounds 3]

Same base, adapter, rows, batch size, dtype and process. The two take turns, part of the rows by part, so that a busy
moment hits both; the order changes from part to part. Figures are medians over the parts, of processor time with one
thread (which does not run while other processes do). `--base tiny` is a Llama of two layers with random weights, on
which everything but the model's own work shows. Needs lm-eval 0.4.13 in the same environment.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, set_seed

from gradience.evaluate.engines.transformers import TransformersEngine
from gradience.models.embedded import smollm2
from gradience.models.settings import ModelSettings

NEW_TOKENS, STOP = 48, "\n\n"
LETTERS = " A", " B", " C", " D"


def questions(count: int) -> list[str]:
    """Prompts of unequal lengths."""
    draw = random.Random(0)

    def boxes() -> str:
        return f"{draw.randint(2, 90)} boxes of {draw.randint(2, 40)} pens"

    shops = (" and ".join(boxes() for _ in range(draw.randint(2, 9))) for _ in range(count))
    ask = "How many pens are there? Think step by step, then give the number."
    return [f"Question: A shop has {shop}. {ask}\nAnswer:" for shop in shops]


def endings(count: int) -> list[tuple[str, ...]]:
    """Four sentences that could follow."""
    draw = random.Random(1)
    what = (
        "counts them all again",
        "sells every second box",
        "asks her brother for help",
        "closes the shop early",
    )
    return [
        tuple(f" The owner {each} and writes {draw.randint(10, 999)} on the board." for each in what)
        for _ in range(count)
    ]


def base_of(name: str, folder: Path) -> Path:
    """The folder of the base; a tiny one is written to `folder`, with the vocabulary of SmolLM2."""
    if name != "tiny":
        return smollm2() if name == "embedded:smollm2" else Path(name)
    tokenizer = AutoTokenizer.from_pretrained(smollm2())
    set_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=2048, **shape)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def adapters_of(base: Path, root: Path, count: int) -> list[Path]:
    """Adapters of rank 8 on queries and values, with factors as training leaves them."""
    folders = []
    for seed in range(count):
        set_seed(seed)
        config = LoraConfig(r=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    weight.normal_(std=0.01)
        model.save_pretrained(root / f"adapter{seed}")
        folders.append(root / f"adapter{seed}")
    return folders


class Ours:
    """The engine of gradience."""

    def __init__(self, base: Path, adapters: Sequence[Path], dtype: str) -> None:
        settings = ModelSettings(name=str(base), type="causal_lm", dtype=dtype)
        self.engine = TransformersEngine.load(settings, device="cpu")
        for adapter in adapters:
            self.engine.add(adapter.name, adapter)
        self.name = adapters[0].name

    def write(self, prompts: Sequence[str], batch: int) -> list[str]:
        order = sorted(range(len(prompts)), key=lambda place: -len(prompts[place]))
        texts = {}
        for start in range(0, len(order), batch):
            few = order[start : start + batch]
            outputs = self.engine.generate(
                self.name,
                [prompts[place] for place in few],
                max_new_tokens=NEW_TOKENS,
                stop=[STOP],
                max_length=2048,
            )
            texts.update(zip(few, (output.text for output in outputs), strict=True))
        return [texts[place] for place in range(len(prompts))]

    def choose(self, prompts: Sequence[str], choices: Sequence[Sequence[str]], batch: int) -> list[float]:
        order = sorted(range(len(prompts)), key=lambda place: -len(prompts[place]))
        sums: dict[int, list[float]] = {}
        together = max(1, batch // len(choices[0]))
        for start in range(0, len(order), together):
            few = order[start : start + together]
            pairs = [(prompts[place], choice) for place in few for choice in choices[place]]
            scores = iter(self.engine.score([self.name], pairs, max_length=2048, end=False)[0])
            sums.update({place: [next(scores).loglikelihood for _ in choices[place]] for place in few})
        return [value for place in range(len(prompts)) for value in sums[place]]


class Theirs:
    """lm-eval's `hf` backend."""

    def __init__(self, base: Path, adapter: Path, dtype: str, batch: int) -> None:
        self.model = HFLM(
            pretrained=str(base),
            peft=str(adapter),
            dtype=dtype,
            batch_size=batch,
            device="cpu",
            max_length=2048,
        )

    def write(self, prompts: Sequence[str], batch: int) -> list[str]:
        options = {"until": [STOP], "max_gen_toks": NEW_TOKENS, "do_sample": False}
        return self.model.generate_until(
            [Instance("generate_until", {}, (prompt, options), n) for n, prompt in enumerate(prompts)],
            disable_tqdm=True,
        )

    def choose(self, prompts: Sequence[str], choices: Sequence[Sequence[str]], batch: int) -> list[float]:
        pairs = [(prompt, choice) for prompt, few in zip(prompts, choices, strict=True) for choice in few]
        requests = [Instance("loglikelihood", {}, pair, n) for n, pair in enumerate(pairs)]
        return [likelihood for likelihood, _ in self.model.loglikelihood(requests, disable_tqdm=True)]


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Processor seconds of `work`, and its result."""
    started = time.process_time()
    result = work()
    return time.process_time() - started, result


def compare(
    ours: Callable[..., Any], theirs: Callable[..., Any], parts: Sequence[Any], rows: int
) -> dict[str, Any]:
    """Median seconds per example of each, their ratio part by part, and how many results are the same."""
    seconds: dict[str, list[float]] = {"gradience": [], "lm-eval": []}
    equal, largest, results = 0, 0.0, 0
    for number, part in enumerate(parts):
        both = [("gradience", ours), ("lm-eval", theirs)]
        answers = {}
        for name, work in both if number % 2 else both[::-1]:
            spent, answers[name] = timed(lambda work=work, part=part: work(*part))
            seconds[name].append(spent / rows)
        for one, other in zip(answers["gradience"], answers["lm-eval"], strict=True):
            results += 1
            equal += one == other
            if isinstance(one, float):
                largest = max(largest, abs(one - other))
    ratios = [theirs / ours for ours, theirs in zip(seconds["gradience"], seconds["lm-eval"], strict=True)]
    return {
        **{name: round(median(values), 4) for name, values in seconds.items()},
        "lm-eval / gradience": round(median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
        "equal": f"{equal} of {results}",
        **({"largest difference": round(largest, 4)} if largest else {}),
    }


def compare_loads(base: Path, adapters: Sequence[Path], dtype: str, batch: int) -> dict[str, Any]:
    """Loads of the base, and processor seconds, until all adapters are ready."""
    loads: list[object] = []
    load = AutoModelForCausalLM.from_pretrained

    def counted(*arguments: Any, **options: Any) -> Any:
        loads.append(arguments)
        return load(*arguments, **options)

    AutoModelForCausalLM.from_pretrained = counted
    result = {}
    works = {
        "gradience": lambda: Ours(base, adapters, dtype),
        "lm-eval": lambda: [Theirs(base, adapter, dtype, batch) and None for adapter in adapters],
    }
    for name, work in works.items():
        loads.clear()
        result[name] = {"seconds": round(timed(work)[0], 2), "loads of the base": len(loads)}
    AutoModelForCausalLM.from_pretrained = load
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", default="embedded:smollm2")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--examples", type=int, default=16, help="in a part")
    parser.add_argument("--rounds", type=int, default=4, help="parts")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--adapters", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    n, batch = options.examples, options.batch_size
    with tempfile.TemporaryDirectory() as folder:
        base = base_of(options.base, Path(folder, "base"))
        adapters = adapters_of(base, Path(folder), options.adapters)
        loads = compare_loads(base, adapters, options.dtype, batch)
        ours = Ours(base, adapters[:1], options.dtype)
        theirs = Theirs(base, adapters[0], options.dtype, batch)
        prompts, longer = questions(n * options.rounds), endings(n * options.rounds)
        parts = [slice(start, start + n) for start in range(0, len(prompts), n)]
        result = {"base": options.base, "dtype": options.dtype, "batch_size": batch, "loads": loads}
        for name, choices in (
            ("one letter of four", [LETTERS] * len(prompts)),
            ("one sentence of four", longer),
        ):
            for model in (ours, theirs):
                model.choose(prompts[:2], choices[:2], batch)  # kernels chosen, memory touched
            result[name] = compare(
                ours.choose, theirs.choose, [(prompts[few], choices[few], batch) for few in parts], n
            )
        for model in (ours, theirs):
            model.write(prompts[:2], batch)
        result["generation"] = compare(ours.write, theirs.write, [(prompts[few], batch) for few in parts], n)
    facts = {
        "load": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    print(json.dumps({**result, **facts}, indent=2))


if __name__ == "__main__":
    main()
