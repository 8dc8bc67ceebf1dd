"""Gradience's engine against lm-eval's hf backend, in one run: generation, multiple choice, loads for k adapters.

    python benchmarks/evaluate_speed.py [--base embedded:smollm2] [--dtype bfloat16] [--examples 32] [--rounds 3]

Same base, adapter, rows, batch size, dtype and process. The two take turns, part of the rows by part, so that a busy
moment hits both; the order changes from part to part. Figures are medians over the parts, of processor time with one
thread (which does not run while other processes do). `--base tiny` is a Llama of two layers with random weights, on
which everything but the model's own work shows. Needs lm-eval 0.4.13 in the same environment.
"""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from answering import (
    Ours,
    Theirs,
    adapters_of,
    base_of,
    facts,
    measure,
    one_thread_and_quiet,
    options_of,
    timed,
)
from transformers import AutoModelForCausalLM


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
    parser = options_of(__doc__, examples=16, rounds=4, batch_size=8)
    parser.add_argument("--adapters", type=int, default=3)
    options = parser.parse_args()
    one_thread_and_quiet()
    with tempfile.TemporaryDirectory() as folder:
        base = base_of(options.base, Path(folder, "base"))
        adapters = adapters_of(base, Path(folder), options.adapters)
        loads = compare_loads(base, adapters, options.dtype, options.batch_size)
        models = {
            "gradience": Ours(base, adapters[:1], options.dtype),
            "lm-eval": Theirs(base, adapters[0], options.dtype, options.batch_size),
        }
        result = measure(models, options)
    print(json.dumps({**facts(options), "loads": loads, **result}, indent=2))


if __name__ == "__main__":
    main()
