"""An open adapter: its LoRA modules as pairs of stored factors, one of them in memory at a time.

Every format sorts the tensors of its file into pairs, other tensors that are understood, and the rest, with reasons.

Memory: a 12 kB header can describe a module whose r x r matrices take gigabytes. Every verb that does arithmetic calls
`workers_within` before any allocation, and gets the number of modules that fit at a time or an error that states the
memory needed. The estimates are upper bounds on measured use (tests/adapters/test_refusals.py), in bytes; shapes as in
`spectra`.
"""

from __future__ import annotations

import math
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from gradience.adapters.config import PeftConfig
from gradience.adapters.files import Closing
from gradience.adapters.keys import Key, Kind, Side, is_applied, parse_key
from gradience.adapters.locate import Location
from gradience.adapters.tensors import DType, NewTensor, TensorEntry, TensorFile, Words, decode, pieces
from gradience.blas import processors
from gradience.digests import sha256_file, sha256_text
from gradience.errors import InputError
from gradience.files.hub import HubCommit
from gradience.spectra import Blocks, row_blocks
from gradience.words import counted


class SkippedTensor(NamedTuple):
    """A tensor that was not audited, why, and its parameters."""

    tensor: str
    reason: str
    params: int


DORA_REASON = "DoRA magnitude"
LORA_BIAS_REASON = "bias of lora_B (lora_bias)"
SAVED_REASON = "full-weight module (modules_to_save)"
TOKENS_REASON = "trained rows of an embedding (trainable_token_indices)"
BASE_BIAS_REASON, BIAS_REASON = "bias of the base layer", "bias"
GHOST_REASON = "copy of a module under original_module or modules_to_save"
MAGNITUDES_ELSEWHERE = "its DoRA magnitudes are supported only in PEFT's format"
"""`Adapter.unwritable` of a DoRA adapter in another format."""
BASE_REASON = "weight of the base model saved beside the adapter"
_HEADS = frozenset(
    ("classifier", "score", "lm_head", "qa_outputs", "embed_tokens", "embed_out", "pre_classifier", "pooler")
)


def known_reason(key: Key, config: PeftConfig | None) -> str | None:
    """Return the description of a known PEFT tensor that is not a factor; None if the tensor is not
    understood.
    """
    parts = key.module.split(".")
    if key.role == "magnitude":
        return DORA_REASON
    if key.role == "lora_bias":
        return LORA_BIAS_REASON
    if parts[-1] in ("trainable_tokens_delta", "trainable_tokens_original"):
        return TOKENS_REASON
    if parts[-2:] == ["base_layer", "bias"]:
        return BASE_BIAS_REASON
    if "base_layer" in parts:
        return BASE_REASON
    if "original_module" in parts:
        return "copy of the untrained module"
    if "modules_to_save" in parts or (config and config.saved_whole(key.module.rpartition(".")[0])):
        return SAVED_REASON
    if parts[-1] == "bias":
        return BIAS_REASON
    return "full-weight head or embedding" if _HEADS.intersection(parts) else None


SCALE_HINT = "set lora_parameters.scale to the factor of lora_a·lora_b, and remove alpha"
BLOCK_ELEMENTS = 2**17
"""Elements of one decoded block: 1 MB of float64, which stays in a core's cache."""
BLOCK_ROWS = 4096
"""Rows of one block at most: long sums lose digits (see `spectra`)."""


class Factor(NamedTuple):
    """One stored factor: its tensor and its position in the file.

    entry: with the shape that PEFT gives this factor, (r, n…) for A and (m, r…) for B.
    to_peft_axes: converts the stored words of another format into a view with PEFT's axis order.
    """

    tensor: str
    file: TensorFile
    entry: TensorEntry
    to_peft_axes: Callable[[Words], Words] | None = None

    def read(self) -> Words:
        """The stored words, in PEFT's order of axes. Raises InputError (truncated, unreadable)."""
        words = self.file.read_words(self.tensor)
        return words if self.to_peft_axes is None else self.to_peft_axes(words)

    def to_write(self) -> NewTensor:
        """Return the tensor with its bytes in the order of `read`; they are read when they are written."""
        data = pieces(self.file, self.tensor) if self.to_peft_axes is None else self._in_order()
        return NewTensor(self.entry.dtype.name, self.entry.shape, data)

    def _in_order(self) -> Iterator[bytes]:
        yield np.ascontiguousarray(self.read()).tobytes()

    def with_axes(self, shape: tuple[int, ...], to_peft_axes: Callable[[Words], Words]) -> Factor:
        """Return the factor as PEFT has it: of this shape after `to_peft_axes`."""
        return self._replace(entry=self.entry._replace(shape=shape), to_peft_axes=to_peft_axes)

    def through(self, turn: Callable[[Words], Words]) -> Factor:
        """Return the factor in another order of axes, which `turn` makes from PEFT's."""
        first, empty = self.to_peft_axes, np.broadcast_to(np.zeros((), np.uint8), self.entry.shape)
        return self.with_axes(turn(empty).shape, lambda words: turn(words if first is None else first(words)))

    def resized(self, dtype: DType, shape: tuple[int, ...]) -> Factor:
        """Return a factor of this type and shape that is still to be made."""
        entry = TensorEntry(dtype, shape, 0, math.prod(shape) * dtype.bits // 8)
        return self._replace(entry=entry, to_peft_axes=None)

    def transposed(self) -> Factor:
        """Return the factor in PEFT's orientation when the file stores its transpose."""
        return self.with_axes(self.entry.shape[::-1], np.transpose)


@dataclass(frozen=True, slots=True)
class LoraPair:
    """The two tensors of one LoRA module (of all its experts, if they are stacked).

    rank: inner dimension, per expert.   rows, columns: m and n of ΔW (per expert).
    """

    module: str
    kind: Kind
    a: Factor
    b: Factor
    rank: int
    rows: int
    columns: int
    experts: int = 1
    groups: int = 1
    declared_rank: int | None = None
    alpha: float | None = None
    scale: float | None = None
    layout: str | None = "rank_major"
    """Order of the columns of a stacked B on disk (see `experts`); None: not known, and read as PEFT reads it."""

    @property
    def params(self) -> int:
        """Parameters of both tensors."""
        return self.a.entry.params + self.b.entry.params

    @property
    def bytes(self) -> int:
        """Bytes of both tensors."""
        return self.a.entry.size + self.b.entry.size

    @property
    def factors(self) -> dict[Side, Factor]:
        """Both factors by their side."""
        return {"A": self.a, "B": self.b}

    def configured(self, config: PeftConfig, name: str) -> LoraPair:
        """Return the pair with the rank, α and scale that a config gives the module called `name` there."""
        alpha = config.alpha_of(name)
        scale = config.scale(alpha, self.rank)
        return replace(self, declared_rank=config.rank_of(name), alpha=alpha, scale=scale)

    def load(self) -> LoadedPair:
        """Read both tensors. Raises InputError (truncated, unreadable)."""
        return LoadedPair(self, self.a.read(), self.b.read())


class LoadedPair(NamedTuple):
    """The stored words of one pair, decoded block by block on demand."""

    pair: LoraPair
    stored_A: Words
    stored_B: Words

    def words_A(self, expert: int = 0) -> Words:
        """Aᵀ of one expert, (n, r), as stored words (a view)."""
        rank = self.pair.rank
        flat = self.stored_A.reshape(self.pair.experts * rank, -1)
        return flat[expert * rank : (expert + 1) * rank].T

    def words_B(self, expert: int = 0) -> Words:
        """B of one expert, (m, r), as stored words (a view, but for grouped convolutions)."""
        pair = self.pair
        if pair.kind == "expert":
            return self.stored_B.reshape(pair.rows, pair.rank, pair.experts)[:, :, expert]
        flat = self.stored_B.reshape(self.stored_B.shape[0], -1)
        return flat if pair.groups == 1 else _spread_groups(flat, pair.groups)

    def blocks_A(self, expert: int = 0) -> Blocks:
        """Blocks of Aᵀ, (k, r) float64."""
        return word_blocks(self.words_A(expert))

    def blocks_B(self, expert: int = 0) -> Blocks:
        """Blocks of B, (k, r) float64."""
        return word_blocks(self.words_B(expert))


def block_height(rank: int) -> int:
    """Rows of one decoded block of a factor of this rank."""
    return max(4 * rank, min(BLOCK_ROWS, BLOCK_ELEMENTS // rank))


def word_blocks(words: Words, height: int | None = None, dtype: DTypeLike = np.float64) -> Blocks:
    """Decode a factor stored as (rows, r) words in blocks of `height` rows. dtype: as in `decode`."""
    height = height or block_height(words.shape[1])
    return lambda: (decode(words[rows], dtype) for rows in row_blocks(len(words), height))


def _spread_groups(flat: Words, groups: int) -> Words:
    """B of a grouped convolution, (m, r/groups), as the (m, r) matrix that it is: zero outside its blocks."""
    rows, width = flat.shape
    spread = np.zeros((rows, width * groups), dtype=flat.dtype)
    for group in range(groups):
        part = slice(group * rows // groups, (group + 1) * rows // groups)
        spread[part, group * width : (group + 1) * width] = flat[part]
    return spread


@dataclass
class Adapter(Closing):
    """An open adapter in any supported format. Use as a context manager.

    format: name of the format in reports.
    loads_in_peft: PEFT loads these files itself and looks the tensors up by name.
    unwritable: the reason why no smaller adapter can be written, if PEFT has no equivalent of this one.
    pairs: the LoRA modules, in file order.
    other: tensors that are understood but are not a low-rank update.   unaudited: the rest, with reasons.
    """

    format: str
    location: Location
    config: PeftConfig | None
    files: Sequence[TensorFile]
    adapter_name: str | None
    pairs: list[LoraPair] = field(default_factory=list)
    other: list[SkippedTensor] = field(default_factory=list)
    unaudited: list[SkippedTensor] = field(default_factory=list)
    unwritable: str | None = None
    no_scale: str | None = None
    """Why no scale is known, although there is a config."""
    loads_in_peft: bool = False
    stack: ExitStack = field(default_factory=ExitStack)
    source: HubCommit | None = None
    """Hub repository and commit it was read from."""
    pickle: Path | None = None
    """Pickle file with the weights, if there is one. The open files are its safetensors copy."""

    def close(self) -> None:
        """Close the files."""
        self.stack.close()

    @property
    def folder(self) -> Path:
        """Folder that PEFT loads: that of its config."""
        assert self.config is not None
        return self.config.path.parent

    @property
    def lora_params(self) -> int:
        """LoRA parameters of all modules."""
        return sum(pair.params for pair in self.pairs)

    @property
    def bytes(self) -> int:
        """Size of the weights on disk."""
        return self.pickle.stat().st_size if self.pickle else sum(file.size for file in self.files)

    def entries(self) -> Iterator[tuple[str, TensorEntry]]:
        """All tensors."""
        for file in self.files:
            yield from file.entries.items()

    def packed(self, layout: str | None) -> list[str]:
        """Return the modules whose stacked B has this `layout` on disk."""
        return [pair.module for pair in self.pairs if pair.layout == layout]

    def add(self, pair: LoraPair | str, names: Iterable[str], tensors: Tensors) -> None:
        """Add a pair, or the tensors of these names, which form none for this reason."""
        if isinstance(pair, str):
            self.unaudited += notes_of(names, pair, tensors)
        else:
            self.pairs.append(pair)

    def in_order_of_data(self) -> None:
        """Sort the pairs by file offset, so that a file is read from start to end."""
        self.pairs.sort(key=lambda pair: (pair.a.file.path.name, min(pair.a.entry.start, pair.b.entry.start)))

    def is_foreign(self, note: SkippedTensor) -> bool:
        """Return True if PEFT ignores a tensor: it belongs to another adapter in the file, or is a copy that
        PEFT once kept.
        """
        return note.reason == GHOST_REASON or parse_key(note.tensor).adapter not in (None, self.adapter_name)

    @property
    def is_dora(self) -> bool:
        """True if the config says so, or the file contains magnitudes."""
        declared = self.config is not None and self.config.use_dora
        return declared or any(note.reason == DORA_REASON for note in self.other)

    def beside(self) -> Iterator[tuple[SkippedTensor, Factor]]:
        """Yield every understood tensor that is not a factor and belongs to this adapter, with the stored tensor."""
        tensors = tensors_of(self.files)
        for note in self.other:
            if not self.is_foreign(note):
                yield note, tensors[note.tensor]

    def by_module(self, reason: str) -> dict[str, Factor]:
        """Return module -> its understood tensor that is not a factor for this `reason`, such as a DoRA magnitude."""
        return {
            parse_key(note.tensor).module: stored for note, stored in self.beside() if note.reason == reason
        }

    def misnamed(self) -> list[str]:
        """Return the names of this adapter's tensors that PEFT would ignore (see `keys`); none for another format."""
        if not self.loads_in_peft:
            return []
        factors = [factor.tensor for pair in self.pairs for factor in (pair.a, pair.b)]
        others = [note.tensor for note, _ in self.beside()]
        return [name for name in (*factors, *others) if not is_applied(name, self.adapter_name)]

    def scale_of(self, pair: LoraPair) -> float:
        """Return the scale of a module. Raises InputError (unclear-scale, no-alpha) if it is unknown."""
        if pair.scale is not None:
            return pair.scale
        if self.no_scale:
            raise InputError(f"{self.location.path}: {self.no_scale}", code="unclear-scale", hint=SCALE_HINT)
        raise InputError(
            f"{self.location.path}: the scale of {pair.module} is unknown: no config beside it gives lora_alpha",
            code="no-alpha",
            hint="put the adapter_config.json beside the weights",
        )

    def sha256(self) -> str:
        """Digest of the file, or of the shards' digests if there are several."""
        if self.pickle:
            return sha256_file(self.pickle)
        digests = [file.sha256() for file in self.files]
        return digests[0] if len(digests) == 1 else sha256_text("\n".join(digests))


def of_one_file(form: str, path: Path, file: TensorFile) -> Adapter:
    """Return an adapter with one file and no config. Its tensors are not sorted yet."""
    return Adapter(form, Location(path, file.path.parent, (file.path,), None), None, [file], None)


# ---------------------------------------------------------------- two stored factors -> a pair, or why there is none

SEVERAL = "several tensors claim to be the same factor"
Tensors = Mapping[str, Factor]
"""Name -> stored tensor."""


def tensors_of(files: Iterable[TensorFile]) -> Tensors:
    """Return every tensor of these files."""
    return {name: Factor(name, file, entry) for file in files for name, entry in file.entries.items()}


def factors_of(
    names_A: Sequence[str], names_B: Sequence[str], tensors: Tensors
) -> tuple[Factor, Factor] | str:
    """Return the two factors with these tensor names, or the reason why they cannot be multiplied in any format."""
    if len(names_A) > 1 or len(names_B) > 1:
        return SEVERAL
    if not names_A or not names_B:
        there, missing = ("A", "B") if names_A else ("B", "A")
        return f"{there} without {missing}: half of a LoRA pair is missing"
    a, b = tensors[names_A[0]], tensors[names_B[0]]
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
    return a, b


def paired(module: str, kind: Kind, a: Factor, b: Factor, alpha: float | None = None) -> LoraPair | str:
    """Return the pair of A (r, n…) and B (m, r…), or the reason why they form none. A kernel in A means a
    convolution.

    alpha: s = α/r; None if the format defines the scale differently or not at all.
    """
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
    scale = None if alpha is None else alpha / rank
    columns = math.prod(a.entry.shape[1:])
    return LoraPair(module, kind, a, b, rank, rows, columns, groups=groups, alpha=alpha, scale=scale)


def mismatch(a: Factor, b: Factor) -> str:
    """The reason for two factors that cannot be multiplied."""
    return f"inner dimensions differ: A is {list(a.entry.shape)}, B is {list(b.entry.shape)}"


def notes_of(names: Iterable[str], reason: str, tensors: Tensors) -> list[SkippedTensor]:
    """Notes with one reason for tensors of these names."""
    return [SkippedTensor(name, reason, tensors[name].entry.params) for name in names]


class Place(NamedTuple):
    """The module of a tensor, and the factor of that module it holds."""

    module: str
    side: Side


def places_in(file: TensorFile, factor: re.Pattern[str], side_A: str) -> dict[str, Place]:
    """Return the places of LoRA factors in a file. factor: pattern with groups `module` and `side` (`side_A` for A)."""
    return {
        name: Place(match["module"], "A" if match["side"] == side_A else "B")
        for name in file.entries
        if (match := factor.fullmatch(name))
    }


def sort_tensors(
    adapter: Adapter,
    places: Mapping[str, Place],
    make: Callable[[str, Factor, Factor], LoraPair | str],
    known: Callable[[str], str | None],
) -> None:
    """Sort every tensor of the adapter's only file into pairs, understood tensors and the rest.

    make: (module, A, B) -> the pair, or the reason why they form none; called once per module that has both
    factors.
    known: name of a tensor that is not a factor -> its description; None if it is unknown.
    """
    tensors = tensors_of(adapter.files)
    modules: dict[str, dict[Side, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, place in places.items():
        modules[place.module][place.side].append(name)
    for module, sides in modules.items():
        factors = factors_of(sides["A"], sides["B"], tensors)
        pair = factors if isinstance(factors, str) else make(module, *factors)
        adapter.add(pair, chain.from_iterable(sides.values()), tensors)
    adapter.in_order_of_data()
    for name in tensors:
        if name not in places:
            reason = known(name)
            notes = adapter.unaudited if reason is None else adapter.other
            notes += notes_of([name], reason or "unknown tensor", tensors)


def norm_overflow(path: object, module: str) -> InputError:
    """The error (overflow) for a module whose ‖ΔW‖ float64 does not hold."""
    return InputError(
        f"{path}: the norm of {module} overflows double precision",
        code="overflow",
        hint="divide its factors by a power of two and multiply lora_alpha by the same",
    )


def non_finite(*pairs: LoraPair) -> InputError:
    """The error (non-finite) for modules with NaN or infinity in a factor: it names the first such file."""
    broken = [
        factor.file.path
        for pair in pairs
        for factor in pair.factors.values()
        if not np.isfinite(factor.read()).all()
    ]
    return InputError(
        f"{[*broken, pairs[0].a.file.path][0]}: {pairs[0].module} contains NaN or infinity",
        code="non-finite",
        hint="use an earlier checkpoint; `gradience audit` lists such modules",
    )


# ---------------------------------------------------------------- memory that work on an adapter takes

MB = 10**6
LEAST_LIMIT = 500 * MB
"""Minimum limit, for adapters with small files."""
TIMES_FILE = 8
"""Limit as a multiple of the file size: the factors in double precision, twice, plus headroom."""
PROCESS = 80 * MB
"""The interpreter and its libraries."""
TENSOR = 1000
"""Bytes kept per tensor while its adapter is open: name, offset, key and pair."""
ROW = 4500
"""Bytes a report keeps per module besides its singular values, including serialization."""
SIGMA = 80
"""Bytes a report keeps per singular value: a float, its tuple slot and its text."""
FLOAT = 8
DORA_ROWS = 512
"""Rows of the base weight read at a time (compress/module.py)."""


def limit_for(max_memory: int | None, adapters: Iterable[Adapter]) -> int:
    """The limit: `max_memory`, or by default 500 MB or eight times the files, but then at most half of the machine."""
    if max_memory is not None:
        return max_memory
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(LEAST_LIMIT, min(TIMES_FILE * sum(adapter.bytes for adapter in adapters), machine // 2))


def workers_within(
    max_memory: int | None,
    adapters: Iterable[Adapter],
    work: Iterable[tuple[LoraPair, int]],
    workers: int | None,
) -> int:
    """Return how many modules can be processed at a time: `workers` (one per processor by default), or as
    many as fit.

    work: each module, and the bytes needed to process it.
    Raises InputError (`memory-limit`) if even one module at a time would exceed the limit.
    """
    opened = list(adapters)
    limit = limit_for(max_memory, opened)
    kept = PROCESS + TENSOR * sum(len(file.entries) for adapter in opened for file in adapter.files)
    kept += sum(report_bytes(pair) for adapter in opened for pair in adapter.pairs)
    largest, most = max(work, key=lambda item: item[1], default=(None, 0))
    if kept + most > limit:
        path = opened[0].location.path
        needs = (
            f"{largest.module[:200]!r} (r {largest.rank:,} on {largest.rows:,} x {largest.columns:,})"
            if largest and most > kept
            else "its report"
        )
        raise InputError(
            f"{path}: this would take about {(kept + most) / MB:,.0f} MB of memory, {needs} most of it; "
            f"the limit is {limit / MB:,.0f} MB",
            code="memory-limit",
            hint=f"if you trust the file, raise the limit: --max-memory {-(-(kept + most) // MB)}MB",
        )
    return max(1, min(workers or processors(), (limit - kept) // max(1, most)))


def report_bytes(pair: LoraPair) -> int:
    """Return the bytes that a report keeps of the module: a row per expert, with its singular values."""
    return pair.experts * (ROW + SIGMA * min(pair.rank, pair.rows, pair.columns))


def factor_bytes(pair: LoraPair) -> int:
    """Both factors as they are stored; B of a grouped convolution also as the matrix that it is."""
    spread = pair.rows * pair.rank * pair.b.entry.dtype.bits // 8 if pair.groups > 1 else 0
    return pair.bytes + spread


def measure_bytes(pair: LoraPair, other: LoraPair | None = None) -> int:
    """Return the bytes needed to measure one module, or to compare it with another: the factors, blocks of them, and
    their reduced matrices, joined if the shapes agree.
    """
    sides = (pair.rows, pair.columns)
    if other is None or sides != (other.rows, other.columns):
        return max(joined_bytes(item, item.rank) for item in (pair, other) if item is not None)
    return joined_bytes(pair, pair.rank + other.rank) + factor_bytes(other)


def compress_bytes(pair: LoraPair, new_rank: int, stored_bytes: int, *, dora: bool = False) -> int:
    """Return the bytes needed to write one module: Gram matrices (even if r is larger than the sides), both new
    factors, and the distance to the old factors, which are joined.

    stored_bytes: size of the new factors, which wait to be written to the file.
    dora: the factors are also decoded whole, beside rows of the base weight.
    """
    both = pair.rank + new_rank
    decoded = FLOAT * ((pair.rows + pair.columns) * both + 4 * DORA_ROWS * pair.columns) if dora else 0
    return joined_bytes(pair, both) + 4 * FLOAT * pair.rank**2 + decoded + 6 * stored_bytes


def joined_bytes(pair: LoraPair, rank: int) -> int:
    """Return the bytes needed to process a pair whose factors are joined with others to `rank` columns."""
    sides = (pair.rows, pair.columns)
    height = max(8 * rank, block_height(rank))
    blocks = max(FLOAT * rank * min(side, height) for side in sides)
    cores = sum(FLOAT * rank * min(rank, side) for side in sides)
    return factor_bytes(pair) + 6 * blocks + 7 * cores
