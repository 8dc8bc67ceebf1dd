"""Two stored factors -> the shape of their product, or why they have none: what every format asks of them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from gradience.adapters.adapter import Adapter, Factor, LoraPair
from gradience.adapters.inventory import SkippedTensor
from gradience.adapters.keys import Kind
from gradience.adapters.tensors import TensorEntry, TensorFile
from gradience.words import counted

SEVERAL = "several tensors claim to be the same factor"
NO_B = "A without B: half of a LoRA pair is missing"
NO_A = "B without A: half of a LoRA pair is missing"

Tensors = Mapping[str, tuple[TensorFile, TensorEntry]]


class Shape(NamedTuple):
    """What two factors say of their product, in the fields of a `LoraPair`."""

    kind: Kind
    rank: int
    rows: int
    columns: int
    groups: int


def unusable(a: Factor, b: Factor) -> str | None:
    """Why no product can be made of these two, whatever their format; None where it can."""
    if a.entry.shape[:1] == (0,) and len(a.entry.shape) > 1 and b.entry.shape[1:2] == (0,):
        return f"rank 0: A is {list(a.entry.shape)}, B is {list(b.entry.shape)}"
    for factor in (a, b):
        if 0 in factor.entry.shape:
            return (
                "empty tensor (0 elements): saved under DeepSpeed ZeRO-3 without gathering the weights "
                "(set stage3_gather_16bit_weights_on_model_save and save again)"
            )
        if factor.entry.dtype.numpy_name is None:
            return f"stored as {factor.entry.dtype.name}, which is not a type for LoRA factors"
        if len(factor.entry.shape) < 2:
            dimensions = counted(len(factor.entry.shape), "dimension")
            return f"a factor with {dimensions}: flattened or sharded, the shape is lost"
    return None


def shape_of(kind: Kind, a: Factor, b: Factor) -> Shape | str:
    """The shape of B·A for A (r, n…) and B (m, r…), a convolution where A has a kernel; or the reason why not."""
    rank, rows, groups = a.entry.shape[0], b.entry.shape[0], 1
    inner = math.prod(b.entry.shape[1:])
    if any(side != 1 for side in b.entry.shape[2:]):
        return f"B of shape {list(b.entry.shape)}: a B kernel larger than 1 is unknown"
    if len(a.entry.shape) > 2:
        kind = "conv"
        if inner and rank % inner == 0 and rows % (rank // inner) == 0:
            groups = rank // inner
    if inner * groups != rank:
        return mismatch(a, b)
    return Shape(kind, rank, rows, math.prod(a.entry.shape[1:]), groups)


def mismatch(a: Factor, b: Factor) -> str:
    """The reason for two factors that cannot be multiplied."""
    return f"inner dimensions differ: A is {list(a.entry.shape)}, B is {list(b.entry.shape)}"


# ---------------------------------------------------------------- formats that name every factor


class Place(NamedTuple):
    """Which factor of which module a tensor is."""

    module: str
    side: Literal["A", "B"]


def add_pairs(
    adapter: Adapter,
    tensors: Tensors,
    places: Mapping[str, Place],
    make: Callable[[str, Factor, Factor], LoraPair | str],
) -> None:
    """Put every tensor that has a place into a pair of `adapter`, or into what is not audited, with the reason.

    make: (module, A, B) -> the pair, or the reason why there is none; it is asked once per module that has both.
    """
    modules: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, place in places.items():
        modules[place.module][place.side].append(name)
    for module, sides in modules.items():
        pair = _pair(module, sides, tensors, make)
        if isinstance(pair, str):
            names = [name for group in sides.values() for name in group]
            adapter.unaudited.extend(SkippedTensor(name, pair, tensors[name][1].params) for name in names)
        else:
            adapter.pairs.append(pair)
    in_order_of_data(adapter)


def _pair(
    module: str,
    sides: Mapping[str, list[str]],
    tensors: Tensors,
    make: Callable[[str, Factor, Factor], LoraPair | str],
) -> LoraPair | str:
    names_A, names_B = sides.get("A", []), sides.get("B", [])
    if len(names_A) > 1 or len(names_B) > 1:
        return SEVERAL
    if not names_A or not names_B:
        return NO_B if names_A else NO_A
    a, b = (Factor(name, *tensors[name]) for name in (names_A[0], names_B[0]))
    return unusable(a, b) or make(module, a, b)


def in_order_of_data(adapter: Adapter) -> None:
    """Sort the pairs by where they lie, so that a file is read from its beginning to its end."""
    adapter.pairs.sort(key=lambda pair: (pair.a.file.path.name, min(pair.a.entry.start, pair.b.entry.start)))
