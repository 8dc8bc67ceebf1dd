"""How fast a machine computes: an H100 by assumption, or this one by a measurement of about two seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

import torch

from gradience.evaluate.counting import Work, forward_of, tiny_with_lora, work_of
from gradience.models.devices import threads
from gradience.words import noun


@dataclass(frozen=True, slots=True)
class Machine:
    """Rates that a forecast rests on."""

    name: str
    flops: Mapping[torch.dtype, float]
    """Operations a second in products of matrices; a multiplication with its addition counts as two."""
    bandwidth: float
    """Bytes a second between memory and processor."""
    launch: float
    """Seconds that Python, transformers and PEFT take to start one kernel, however small."""
    asynchronous: bool
    """Kernels are started while earlier ones compute (a GPU), so that the slower of the two counts."""

    def seconds(self, work: Work) -> float:
        """How long `work` takes: every kernel either computes or waits for memory, whichever takes longer."""
        computing = sum(
            count * max(flops / self._rate(dtype), size / self.bandwidth)
            for (flops, size, dtype), count in work.kernels.items()
        )
        launching = work.count * self.launch
        return max(computing, launching) if self.asynchronous else computing + launching

    def _rate(self, dtype: torch.dtype) -> float:
        return self.flops.get(dtype, self.flops[torch.float32])


H100 = Machine(
    "one H100, assumed: 989 TFLOP/s in bfloat16 at 35 %, 67 in float32 at 60 %, 3.35 TB/s at 60 %, 12 µs a kernel",
    {torch.bfloat16: 989e12 * 0.35, torch.float16: 989e12 * 0.35, torch.float32: 67e12 * 0.6},
    bandwidth=3.35e12 * 0.6,
    launch=12e-6,
    asynchronous=True,
)


def this_processor(dtype: torch.dtype, wanted: int | None, *, width: int, inner: int) -> Machine:
    """The processor of this machine with so many threads, measured now on products of the model's shape.

    width, inner: of the largest linear layer.
    """
    with threads(wanted):
        rates = {kind: _product_rate(kind, width, inner) for kind in {dtype, torch.float32}}
        block, copy = torch.ones(2**24), torch.ones(2**24)  # 64 MiB each, more than a cache holds
        copied = 2 * block.nbytes / _typical(lambda: copy.copy_(block))
        count = torch.get_num_threads()
        name = f"this processor, measured now with {count} {noun(count, 'thread')}"
        return Machine(name, rates, copied, _launch(), asynchronous=False)


def _product_rate(dtype: torch.dtype, width: int, inner: int, rows: int = 256) -> float:
    a, b = torch.ones(rows, width, dtype=dtype), torch.ones(inner, width, dtype=dtype)
    return 2 * rows * width * inner / _typical(lambda: torch.nn.functional.linear(a, b))


def _launch() -> float:
    """Seconds a kernel in a model so small that its kernels compute next to nothing."""
    network = tiny_with_lora("cpu")
    kernels = work_of(lambda: forward_of(network, rows=1, length=2)).count
    with torch.no_grad():
        return _typical(lambda: forward_of(network, rows=1, length=2)) / kernels


def _typical(call: Callable[[], object], seconds: float = 0.4) -> float:
    """The median time of a call, of as many as fit into `seconds`; of three at least.

    With one thread it is the processor's time, which does not run while other processes do.
    """
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    times: list[float] = []
    until = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < until:
        started = clock()
        call()
        times.append(clock() - started)
    return median(times)
