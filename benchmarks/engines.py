"""Answers through vLLM, through transformers in batches, and through lm-eval's hf backend, in one run.

    GRADIENCE_ENGINE_PYTHON=…/python python benchmarks/engines.py [--dtype bfloat16] [--examples 16] [--rounds 3]

One base, one adapter, the same rows. The three take turns, part of the rows by part, each time in another order, so
that a busy moment hits all. Figures are medians over parts, of processor time with one thread (it does not run while
other processes do), that of vLLM's process included; loading and starting are reported apart. Needs lm-eval 0.4.13 in
the same environment, and a Python with vLLM.
"""

import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from answering import Ours, Theirs, adapters_of, base_of, facts, measure, one_thread_and_quiet, options_of

from gradience.evaluate.engines.vllm.engine import VllmEngine
from gradience.models.settings import ModelSettings


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


def main() -> None:
    options = options_of(__doc__, examples=16, rounds=3, batch_size=16).parse_args()
    one_thread_and_quiet()
    with tempfile.TemporaryDirectory() as folder:
        base = base_of(options.base, Path(folder, "base"))
        adapter = adapters_of(base, Path(folder), 1)[0]
        started = time.perf_counter()
        vllm = Vllm(base, adapter, options.dtype)
        began = round(time.perf_counter() - started, 1)
        models = {
            "vllm": vllm,
            "transformers": Ours(base, [adapter], options.dtype),
            "lm-eval": Theirs(base, adapter, options.dtype, options.batch_size),
        }
        result = measure(models, options)
        vllm.engine.close()
    here = {"seconds until vllm answers": began, "of vllm": VllmEngine.numerics("cpu")["versions"]}
    print(json.dumps({**facts(options), **here, **result}, indent=2))


if __name__ == "__main__":
    main()
