"""Home-made pairs: any two tensors of a safetensors file whose names follow two patterns.

`Pairs("blocks.{}.w_a", "blocks.{}.w_b", scale=1)`: each `{}` matches the same text in both names. Which side of a
tensor is the rank follows from the shapes: one orientation for all pairs, the only one under which every product has
an inner dimension that is not larger than its sides.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from gradience.adapters.adapter import Adapter, Factor, LoraPair, Place, paired, sort_tensors
from gradience.adapters.config import PeftConfig, is_alpha
from gradience.adapters.locate import Location, single
from gradience.adapters.tensors import TensorFile
from gradience.errors import InputError, UsageError

HOLE = "{}"


class Pairs(NamedTuple):
    """Names of both factors, with `{}` for the part that differs between modules, and s, or None if
    unknown.
    """

    a: str
    b: str
    scale: float | None = None


class Orientation(NamedTuple):
    """Storage layout of both factors: flags for transposing them to A (r, n) and B (m, r)."""

    turn_A: bool
    turn_B: bool
    words: str


ORIENTATIONS = {
    "pairs-rn-mr": Orientation(False, False, "A (r, n) and B (m, r)"),
    "pairs-nr-rm": Orientation(True, True, "A (n, r) and B (r, m)"),
    "pairs-rn-rm": Orientation(False, True, "A (r, n) and B (r, m)"),
    "pairs-nr-mr": Orientation(True, False, "A (n, r) and B (m, r)"),
}
WORDS = {name: f"LoRA pairs by name, by their shapes {layout.words}" for name, layout in ORIENTATIONS.items()}


def pairs_of(names: tuple[str, str] | None, scale: float | None) -> Pairs | None:
    """Return the patterns from the command line or Python; None if there are none.

    Raises UsageError: bad-pairs, bad-scale.
    """
    if names is None:
        if scale is not None:
            raise UsageError(
                "--scale is given without --pairs",
                code="bad-scale",
                hint="give --pairs A B as well (Python: pairs=); other adapters contain their own scale",
            )
        return None
    if names[0].count(HOLE) != names[1].count(HOLE) or names[0] == names[1]:
        raise UsageError(
            f"{names!r:.200}: two different names with the same number of {HOLE} are needed",
            code="bad-pairs",
            hint="such as --pairs 'blocks.{}.w_a' 'blocks.{}.w_b'",
        )
    if scale is not None and not is_alpha(scale):
        raise UsageError(f"{scale!r:.40} is not a scale", code="bad-scale", hint="such as --scale 1")
    return Pairs(*names, scale)


def open_pairs(path: Path, adapter: str | None, pairs: Pairs) -> Adapter:
    """Open the safetensors file at `path`, or the only one in that folder.

    Raises InputError: no-pairs, unclear-orientation, several-adapters, and what `tensors` raises.
    """
    weights = single(path, adapter, lambda name: name.endswith(".safetensors"), "safetensors files")
    with ExitStack() as stack:
        file = stack.enter_context(TensorFile.open(weights, root=weights.parent))
        places = _places(weights, file.entries, pairs)
        name = _orientation(weights, file, places)
        turn_A, turn_B, _ = ORIENTATIONS[name]

        def make(module: str, a: Factor, b: Factor) -> LoraPair | str:
            pair = paired(module, "linear", a.transposed() if turn_A else a, b.transposed() if turn_B else b)
            if isinstance(pair, str) or pairs.scale is None:
                return pair
            return replace(pair, alpha=pairs.scale * pair.rank, scale=pairs.scale)

        opened = Adapter(name, Location(path, weights.parent, (weights,), None), None, [file], None)
        opened.unwritable = "its tensor names are custom, so only its author's code would load the result"
        sort_tensors(opened, places, make, unknown="matches neither of the names in --pairs")
        if pairs.scale is not None:
            rank = max((pair.rank for pair in opened.pairs), default=None)
            opened.config = PeftConfig(weights, {}, r=rank, lora_alpha=pairs.scale * rank if rank else None)
        opened.stack = stack.pop_all()
        return opened


def _places(path: Path, names: Iterable[str], pairs: Pairs) -> dict[str, Place]:
    """Return the tensors of complete and incomplete pairs. Raises InputError (no-pairs) if no two belong
    together.
    """
    filled: dict[str, dict[tuple[str, ...], str]] = {"A": {}, "B": {}}
    for name in names:
        for side, pattern in (("A", pairs.a), ("B", pairs.b)):
            match = re.fullmatch("(.+?)".join(map(re.escape, pattern.split(HOLE))), name)
            if match:
                filled[side][match.groups()] = name
    if not filled["A"].keys() & filled["B"].keys():
        raise InputError(
            f"{path}: no two tensors are called {pairs.a!r:.120} and {pairs.b!r:.120} "
            f"(the first tensor is {min(names, default='')[:80]!r})",
            code="no-pairs",
            hint=f"write {HOLE} for the part that differs between modules, and copy the rest from the file",
        )
    places = {}
    for text, name in filled["A"].items():
        module = _module(pairs, text, name)
        places[name] = Place(module, "A")
        if text in filled["B"]:
            places[filled["B"][text]] = Place(module, "B")
    for text, name in filled["B"].items():
        places.setdefault(name, Place(_module(pairs, text, name), "B"))
    return places


def _module(pairs: Pairs, text: tuple[str, ...], tensor: str) -> str:
    """Return the common prefix of both names, up to a dot, if it identifies the module; else the tensor's own
    name.
    """
    both = zip(pairs.a.split("."), pairs.b.split("."), strict=False)
    common = ".".join(part for part, _ in takewhile(lambda parts: parts[0] == parts[1], both))
    if not text or common.count(HOLE) != len(text):
        return tensor
    for filling in text:
        common = common.replace(HOLE, filling, 1)
    return common


def _orientation(path: Path, file: TensorFile, places: Mapping[str, Place]) -> str:
    """The only orientation that makes low-rank products of all pairs. Raises InputError (unclear-orientation)."""
    modules: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, place in places.items():
        modules.setdefault(place.module, {})[place.side] = file.entries[name].shape
    whole = [(sides["A"], sides["B"]) for sides in modules.values() if len(sides) == 2]
    flat = [(a, b) for a, b in whole if len(a) == len(b) == 2 and 0 not in a + b]

    def is_low_rank(orientation: Orientation, a: tuple[int, ...], b: tuple[int, ...]) -> bool:
        rank, columns = reversed(a) if orientation.turn_A else a
        rows, inner = reversed(b) if orientation.turn_B else b
        return rank == inner and rank <= min(rows, columns)

    fitting = [
        name
        for name, orientation in ORIENTATIONS.items()
        if flat and all(is_low_rank(orientation, a, b) for a, b in flat)
    ]
    if len(fitting) == 1:
        return fitting[0]
    a, b = (flat or whole)[0]
    problem = (
        "more than one way of multiplying them fits" if fitting else "no way of multiplying all pairs fits"
    )
    raise InputError(
        f"{path}: {problem} (the first pair has the shapes {list(a)} and {list(b)})",
        code="unclear-orientation",
        hint="save them with PEFT's names: <module>.lora_A.weight (r, n) and <module>.lora_B.weight (m, r)",
    )
