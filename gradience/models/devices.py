"""On which device this process computes: one process, one device, in training and in evaluation alike.

transformers would take every visible GPU of a process (`DataParallel`, which multiplies the batch) and put the model on
the first one.
"""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gradience.errors import UsageError

SAID_SO = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "not enough memory")
"""In the RuntimeErrors of the processor's allocator (torch 2.13: `DefaultCPUAllocator: can't allocate memory: you tried
to allocate … bytes`; on Windows `not enough memory`), of MPS, and of cuBLAS."""
VISIBLE = "CUDA_VISIBLE_DEVICES"


def choose_device(device: str = "auto") -> torch.device:
    """Return the device of this process. `auto`: a GPU if there is one.

    Raises UsageError (`no-device`) for a device that this machine lacks.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if device == "auto":
        device = "cuda" if cuda else "mps" if mps else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise _absent(device) from None
    count = {"cpu": 1, "cuda": torch.cuda.device_count() if cuda else 0, "mps": int(mps)}.get(chosen.type, 0)
    if (chosen.index or 0) >= count:
        raise _absent(device)
    return torch.device("cuda", chosen.index or 0) if chosen.type == "cuda" else chosen


def _absent(device: str) -> UsageError:
    hint = "use auto, cpu, cuda, cuda:0 or mps; `gradience env` says what torch sees"
    return UsageError(f"this machine has no device {device}", code="no-device", hint=hint)


def visible_name(device: torch.device) -> str:
    """Return a GPU as CUDA_VISIBLE_DEVICES names it; empty for another device."""
    if device.type != "cuda":
        return ""
    index, visible = device.index or 0, os.environ.get(VISIBLE)
    return visible.split(",")[index].strip() if visible else str(index)


def lacks_memory(error: BaseException) -> bool:
    """Return True if `error` says that memory could not be had."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in SAID_SO)


def make_current(device: torch.device) -> None:
    """Let what asks torch for "the" GPU get this one: bitsandbytes, accelerate, the state of the random numbers."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def computes_fast(dtype: torch.dtype, device: torch.device) -> bool:
    """Return True if a device has instructions for products in `dtype`; processors without them convert every number.

    Measured on a processor (torch 2.13, 64 rows, one thread): products in bfloat16 take a quarter of the time of
    float32 with AVX512-BF16, 3.6 times as long without; in float16 3.5 times as long.
    """
    if device.type != "cpu" or dtype == torch.float32:
        return True
    if dtype != torch.bfloat16:
        return False
    if platform.machine() in ("x86_64", "AMD64"):
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@contextmanager
def threads(wanted: int | None) -> Iterator[None]:
    """Compute with `wanted` CPU threads inside the block: another number may give another adapter."""
    before = torch.get_num_threads()
    torch.set_num_threads(wanted or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def device_name(device: torch.device) -> str:
    """The card's name; of a processor the instructions that the kernels are chosen by."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu {torch.backends.cpu.get_cpu_capability()}" if device.type == "cpu" else device.type
