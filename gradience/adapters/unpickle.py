"""Child process that reads a pickle: takes a JSON request on stdin, writes safetensors to disk or an error to
stdout.

Run by `pickles` as `python -m gradience.adapters.unpickle`. No other module of the package imports it,
because it needs torch. Its limits are set after torch is imported, since torch itself takes gigabytes of
address space.
"""

import json
import pickle
import re
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

NO_MEMORY = "can't allocate memory"
"""Text in PyTorch's out-of-memory error, which is not a MemoryError."""
DAMAGED = (LookupError, AttributeError, TypeError, ValueError, AssertionError)
"""Raised by torch.load for a damaged file."""


class RefusedPickle(Exception):
    """The file was refused; the message says why."""


def limit(memory: int, seconds: int, size: int) -> None:
    """Limit further address space (bytes) and processor time (seconds), and files of twice `size`."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[0]
    taken = int(pages) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + memory,) * 2)
    used = resource.getrusage(resource.RUSAGE_SELF)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + seconds + 1,) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * size + 2**20,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def read(path: Path) -> Mapping[str, torch.Tensor]:
    """Return the tensors of a file, restricted to weights. Raises RefusedPickle, MemoryError."""
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError, *DAMAGED) as error:
        if NO_MEMORY in str(error):
            raise MemoryError from None
        raise RefusedPickle(reason(error)) from None
    return checked(loaded, path.stat().st_size)


def reason(error: Exception) -> str:
    """Return the part of PyTorch's long message that names the problem."""
    if isinstance(error, DAMAGED):
        return f"damaged: {type(error).__name__}: {error}"[:200]
    match = re.search(r"GLOBAL ([\w.]{1,200})|Unsupported (?:operand|class|type)[^\n]{0,120}", str(error))
    if match is None:
        return next(iter(str(error).strip().splitlines()), "no reason given")[:200]
    return f"it asks for {match[1]}" if match[1] else match[0]


def checked(loaded: Any, size: int) -> Mapping[str, torch.Tensor]:
    """Return a dict of plain tensors, none larger than its stored data. Raises RefusedPickle."""
    if not isinstance(loaded, dict) or not loaded:
        raise RefusedPickle(f"contains {type(loaded).__name__} instead of named tensors")
    total = 0
    for name, tensor in loaded.items():
        shown = repr(name)[:80]
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise RefusedPickle(f"contains {type(tensor).__name__} under {shown}; only tensors are allowed")
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex() or tensor.is_meta:
            raise RefusedPickle(f"{shown} is not a plain tensor")
        taken, stored = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
        total += taken
        if taken > stored or total > 2 * size:
            raise RefusedPickle(
                f"{shown} claims {tensor.numel():,} elements, and {stored:,} bytes are stored"
            )
    return loaded


def main() -> int:
    """Read the request, write the weights; 0, or 1 with a refusal on stdout."""
    request = json.loads(sys.stdin.read())
    torch.set_num_threads(1)
    path = Path(request["pickle"])
    try:
        limit(request["memory"], request["seconds"], request["bytes"])
        tensors = {
            name: tensor.detach().clone(memory_format=torch.contiguous_format)
            for name, tensor in read(path).items()
        }
        save_file(tensors, request["weights"], metadata={"format": "pt"})
    except RefusedPickle as refused:
        problem = str(refused)
    except RecursionError as error:
        problem = f"damaged: {error}"[:200]
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and NO_MEMORY not in str(error):
            raise
        problem = "reading it exceeds the memory limit"
    else:
        return 0
    sys.stdout.write(json.dumps(problem) + "\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
