"""Weights files with excessive shapes, hostile names, and numbers at the limits of their types.

See tests/adapters/test_safetensors.py for wrong headers, and test_refusals.py for mismatched factors, NaN and infinity.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from factory import PREFIX, Stored, container, factors, modules, safetensors, stored, zeros
from test_names import WORST

Make = Callable[[], bytes]


def pair(a: Any, b: Any, module: str = "q_proj") -> Make:
    """Add a module with these factors."""

    def make() -> bytes:
        prefix = f"{PREFIX}model.layers.9.self_attn.{module}"
        return safetensors(modules() | {f"{prefix}.lora_A.weight": a, f"{prefix}.lora_B.weight": b})

    return make


def values(change: Callable[[np.ndarray], np.ndarray], dtype: str = "f4") -> Make:
    """Change the numbers of valid factors."""

    def make() -> bytes:
        tensors = {}
        for name, tensor in modules().items():
            numbers = np.frombuffer(tensor.data, np.float32).reshape(tensor.shape).astype(dtype)
            with np.errstate(all="ignore"):
                tensors[name] = stored(change(numbers).astype(dtype))
        return safetensors(tensors)

    return make


def first(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(numbers: np.ndarray) -> np.ndarray:
        numbers.flat[0] = value
        return numbers

    return change


NAMES: Mapping[str, str] = {
    "worst": WORST,
    "path": "../../../../out/x",
    "empty": "",
    "10,000 letters": "x" * 10_000,
    "1 MB": "x" * 2**20,
    "a key of the header": "__metadata__",
    "regex": "(a+)+$",
    "only lora": "lora_A",
    "a layer of 400 digits": "layers." + "9" * 400,
}


def objects() -> Iterator[tuple[str, Make]]:
    """Yield headers that do not describe tensors."""
    texts: Mapping[str, bytes] = {
        "deep": b'{"a":' * 100_000,
        "lists without end": b"[" * 10**6,
        "32 MB of lists": b'{"a":[' + b"[]," * 10**7 + b"[]]}",
        "a million objects": b'{"a":[' + b"{}," * 10**6 + b"{}]}",
        "metadata of 20 MB": json.dumps({"__metadata__": {"a": "x" * 20_000_000}}).encode(),
        "an integer of 5000 digits": b'{"a": ' + b"9" * 5000 + b"}",
        "metadata that steers": json.dumps({"__metadata__": {"format": "\x1b[2J"}}).encode(),
    }
    for name, text in texts.items():
        yield name, lambda text=text: container(text)


def claims() -> Iterator[tuple[str, Make]]:
    """Few bytes that ask for much work."""
    yield "300,000 empty tensors", lambda: safetensors({f"t{i}": zeros(0) for i in range(300_000)})
    yield (
        "100,000 empty factors",
        lambda: safetensors(
            {f"{PREFIX}m.{i}.lora_{side}.weight": zeros(0, 0) for i in range(50_000) for side in "AB"}
        ),
    )
    yield (
        "rank 20,000 of 1 × 1",
        pair(Stored("F32", (20_000, 1), bytes(80_000)), Stored("F32", (1, 20_000), bytes(80_000))),
    )
    yield "rank 0", pair(zeros(0, 16), zeros(12, 0))
    yield "a product of 2^20 × 2^20", pair(zeros(1, 2**20), zeros(2**20, 1))
    yield "2^20 features of no rank", pair(zeros(0, 2**20), zeros(2**20, 0))
    yield "400,000 experts", pair(zeros(1, 400_000, 1), zeros(1, 400_000, 1), "experts")
    yield "grouped convolution", pair(zeros(1500, 1, 1, 1), zeros(1500, 1500 // 1500, 1, 1), "conv")
    yield "a wide convolution", pair(zeros(16, 1, 3, 3), zeros(4096, 16, 1, 1), "conv")
    yield (
        "an embedding of 2^40 rows",
        lambda: safetensors(
            {f"{PREFIX}e.lora_embedding_A": zeros(0, 2**40), f"{PREFIX}e.lora_embedding_B": zeros(4, 0)}
        ),
    )
    yield (
        "5,000 modules",
        lambda: safetensors(
            {
                name: tensor
                for i in range(5_000)
                for name, tensor in factors(f"l.{i}.q_proj", r=1, m=2, n=2).items()
            }
        ),
    )


def numbers() -> Iterator[tuple[str, Make]]:
    yield "denormal", values(lambda numbers: numbers * 1e-42)
    yield "largest of F32", values(lambda numbers: np.sign(numbers) * np.finfo(np.float32).max)
    yield "F64 by 1e100", values(lambda numbers: numbers * 1e100, "f8")
    yield "F64 by 1e300", values(lambda numbers: numbers * 1e300, "f8")
    yield "F64 by 1e-300", values(lambda numbers: numbers * 1e-300, "f8")
    yield "F64 near its end", values(lambda numbers: np.sign(numbers) * 1.7e308, "f8")
    yield "one large value", values(first(1e38))
    yield "F16 at its end", values(lambda numbers: np.sign(numbers) * 65504, "f2")


def header_faults() -> Iterator[tuple[str, Make]]:
    """Name -> what makes the whole file."""
    for name, text in NAMES.items():
        yield f"a module called {name}", lambda text=text: safetensors(modules() | factors(f"model.{text}"))
        yield (
            f"a tensor called {name}",
            lambda text=text: safetensors(modules() | {text + ".weight": zeros(2)}),
        )
    for make in (objects, claims, numbers):
        yield from make()
