"""Answers through vLLM, through transformers in batches, and through lm-eval's hf backend, in one run.

    GRADIENCE_ENGINE_PYTHON=…/python python benchmarks/engines.py [--dtype bfloat16] [--examples 16] [--rounds 3]

One base, one adapter, the same rows. The three take turns, part of the rows by part, each time in another order, so
that a busy moment hits all. Figures are medians over parts, of processor time with one thread (it does not run while
other processes do), that of vLLM's process included; loading and starting are reported apart. Needs lm-eval 0.4.13 in
the same environment, and a Python with vLLM.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers
from evaluate_speed import LETTERS, NEW_TOKENS, STOP, Ours, Theirs, adapters_of, base_of, endings, questions

from gradience.evaluate.engines.vllm import VllmEngine
from gradience.models.settings import ModelSettings

TICKS = os.sysconf("SC_CLK_TCK")


class Vllm(Ours):
    """The engine of vLLM; it gets all rows at once, and decides what is computed together."""

    def __init__(self, base: Path, adapter: Path, dtype: str) -> None:
        settings = ModelSettings(name=str(base), type="causal_lm", dtype=dtype)
        self.engine = VllmEngine.load(settings, device="cpu")
        self.engine.add(adapter.name, adapter)
        self.name = adapter.name

    @property
    def child(self) -> int:
        return self.engine._process._child.pid

    def write(self, prompts: Sequence[str], batch: int) -> list[str]:
        return super().write(prompts, len(prompts))

    def choose(self, prompts: Sequence[str], choices: Sequence[Sequence[str]], batch: int) -> list[float]:
        return super().choose(prompts, choices, len(prompts) * len(choices[0]))


def processor_seconds(child: int | None) -> float:
    """Of this process, and of vLLM's."""
    if child is None:
        return time.process_time()
    fields = Path(f"/proc/{child}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return time.process_time() + (int(fields[11]) + int(fields[12])) / TICKS


def timed(work: Callable[[], Any], child: int | None) -> tuple[float, Any]:
    """Processor seconds of `work`, and its result."""
    started = processor_seconds(child)
    result = work()
    return processor_seconds(child) - started, result


def compare(models: dict[str, Any], what: str, parts: Sequence[Any], rows: int) -> dict[str, Any]:
    """Median processor seconds per example of each, and vLLM's and transformers' ratios to lm-eval, part by part."""
    seconds: dict[str, list[float]] = {name: [] for name in models}
    equal, results = 0, 0
    for number, part in enumerate(parts):
        order = [*models][number % len(models) :] + [*models][: number % len(models)]
        answers = {}
        for name in order:
            work = getattr(models[name], what)
            child = getattr(models[name], "child", None)
            spent, answers[name] = timed(lambda work=work, part=part: work(*part), child)
            seconds[name].append(spent / rows)
        for one, other in zip(answers["vllm"], answers["transformers"], strict=True):
            results += 1
            equal += one == other if isinstance(one, str) else abs(one - other) < 0.05
    result: dict[str, Any] = {name: round(median(values), 4) for name, values in seconds.items()}
    for name in ("transformers", "lm-eval"):
        ratios = [other / ours for ours, other in zip(seconds["vllm"], seconds[name], strict=True)]
        result[f"{name} / vllm"] = round(median(ratios), 2)
        result[f"{name} / vllm, parts"] = [round(ratio, 2) for ratio in ratios]
    return result | {"vllm and transformers alike": f"{equal} of {results}"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", default="embedded:smollm2")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--examples", type=int, default=16, help="in a part")
    parser.add_argument("--rounds", type=int, default=3, help="parts")
    parser.add_argument("--batch-size", type=int, default=16)
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    n, batch = options.examples, options.batch_size
    with tempfile.TemporaryDirectory() as folder:
        base = base_of(options.base, Path(folder, "base"))
        adapter = adapters_of(base, Path(folder), 1)[0]
        started, models = time.perf_counter(), {}
        models["vllm"] = Vllm(base, adapter, options.dtype)
        began = round(time.perf_counter() - started, 1)
        models["transformers"] = Ours(base, [adapter], options.dtype)
        models["lm-eval"] = Theirs(base, adapter, options.dtype, batch)
        prompts, longer = questions(n * options.rounds), endings(n * options.rounds)
        parts = [slice(start, start + n) for start in range(0, len(prompts), n)]
        result = {"base": options.base, "dtype": options.dtype, "batch_size": batch, "examples in a part": n}
        result |= {"new tokens at most": NEW_TOKENS, "stop": STOP, "seconds until vllm answers": began}
        for model in models.values():
            model.write(prompts[:2], batch)  # kernels chosen, memory touched
        result["generation"] = compare(models, "write", [(prompts[few], batch) for few in parts], n)
        for name, choices in (
            ("one letter of four", [LETTERS] * len(prompts)),
            ("one sentence of four", longer),
        ):
            rows = [(prompts[few], choices[few], batch) for few in parts]
            result[name] = compare(models, "choose", rows, n)
        models["vllm"].engine.close()
        versions = VllmEngine.numerics("cpu")["versions"]
    facts = {"load": round(os.getloadavg()[0], 1), "of vllm": versions, "torch": torch.__version__}
    print(json.dumps({**result, **facts, "transformers": transformers.__version__}, indent=2))


if __name__ == "__main__":
    main()
