"""A tiny Llama that vLLM's kernels for processors take, adapters for it, and what the tests with real vLLM need."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tiny_models as tiny

from gradience.evaluate.engines.vllm.process import PYTHON, VllmProcess

SHAPE = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2}
"""Heads of 32: vLLM's kernels for processors take no smaller ones."""
WITH_VLLM = [
    pytest.mark.conformance,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(not os.environ.get(PYTHON), reason=f"{PYTHON} names no Python with vLLM"),
]


def write_models(root: Path, adapters: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write the base to `root`/base, and adapters by their names beside it."""
    tiny.llama(**SHAPE).save_pretrained(root / "base")
    tiny.letters_tokenizer().save_pretrained(root / "base")
    for seed, (name, config) in enumerate(adapters.items(), start=1):
        tiny.llama_adapter(root / name, seed, base=tiny.llama(**SHAPE), **config)
    return root


@contextmanager
def counted_starts() -> Iterator[list[int]]:
    """Process ids of vLLM, in the order in which they were started meanwhile."""
    pids: list[int] = []
    start = VllmProcess.__init__

    def counted(self: VllmProcess, *arguments: Any) -> None:
        start(self, *arguments)
        pids.append(self._child.pid)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VllmProcess, "__init__", counted)
        yield pids
