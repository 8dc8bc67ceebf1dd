"""An adapter's base model on disk: its weights, by the names that adapters give its modules, and its config.json.

No weight is loaded whole. The architecture is the one that a local file states; it is never guessed from names.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gradience.adapters.config import PeftConfig
from gradience.adapters.files import Closing, read_object
from gradience.adapters.locate import MAX_INDEX_BYTES
from gradience.adapters.tensors import TensorEntry, TensorFile, Words, decode
from gradience.errors import InputError
from gradience.files.hub import address_of, fetch_folder
from gradience.reading import pread, read_file
from gradience.spectra import FloatArray

Rows = Callable[[slice], FloatArray]
"""Some rows of W, in float64."""
BLOCK_BYTES = 2**23
"""Block size for weights that are read in blocks of rows."""
_PACKED = ("qweight", "weight_packed", "weight.absmax", "weight_scale", "qzeros", "blocks")
"""Ends of tensor names that mark a quantized weight."""
_EXPERTS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "gate_up_proj": (("gate_proj", "up_proj"), ("w1", "w3")),
    "down_proj": (("down_proj",), ("w2",)),
}
"""Parameter of stacked experts -> the projections of one of them, as files may call them."""
_INDEX = "model.safetensors.index.json"
HEADS = ("lm_head", "embed_out")
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight")


@dataclass
class BaseWeights(Closing):
    """The weights of a base model on disk, found by module name. Use as a context manager."""

    folder: Path
    files: Mapping[str, TensorFile]
    """Tensor name -> the open file that holds it."""
    stack: ExitStack

    @classmethod
    def open(cls, folder: Path) -> BaseWeights:
        """Open a folder with model.safetensors or its shards.

        Raises InputError (no-base-weights, and the codes of the reader).
        """
        if (folder / _INDEX).exists():
            index = folder / _INDEX
            shards = read_object(index, root=folder, limit=MAX_INDEX_BYTES).get("weight_map")
            names = sorted({str(name) for name in shards.values()}) if isinstance(shards, dict) else []
        else:
            names = sorted(path.name for path in folder.glob("*.safetensors")) if folder.is_dir() else []
        if not names or any(Path(name).name != name for name in names):
            raise InputError(
                f"{folder}: no base weights (model.safetensors, or shards with an index)",
                code="no-base-weights",
                hint="pass the folder of the base model that the adapter was trained on as --base-model",
            )
        with ExitStack() as stack:
            opened = [stack.enter_context(TensorFile.open(folder / name, root=folder)) for name in names]
            files = {name: file for file in opened for name in file.entries}
            return cls(folder, files, stack.pop_all())

    def close(self) -> None:
        """Close the files."""
        self.stack.close()

    def weight(self, module: str, shape: tuple[int, int], *, transposed: bool) -> Rows:
        """Return W of a module, (m, n), read a few rows at a time (whole if it is stored transposed).

        Raises InputError (base-mismatch, base-quantized).
        """
        (part, *_) = self._checked(module, None, shape[::-1] if transposed else shape)
        if transposed:
            words = part.words(slice(None)).T
            return lambda rows: decode(words[rows])
        return lambda rows: decode(part.words(rows))

    def blocks(self, module: str, shape: tuple[int, int], expert: int | None = None) -> Iterator[FloatArray]:
        """Yield W in float64, in blocks of its stored rows. Meant for norms, which do not change under
        transposition.

        shape: (m, n) of the module; the stored weight may be its transpose, or a convolution's kernel.
        expert: index on the first axis of a weight that stacks several experts. A head without a weight of
        its own uses the input embeddings that it is tied to.
        Raises InputError (base-mismatch, base-quantized).
        """
        for part in self._checked(module, expert, shape, shape[::-1]):
            height = max(1, BLOCK_BYTES // max(1, part.width))
            for first in range(0, part.shape[0], height):
                yield decode(part.words(slice(first, first + height)))

    def _checked(self, module: str, expert: int | None, *shapes: tuple[int, int]) -> list[_Part]:
        """Return the tensors whose rows form W, which must have one of these shapes."""
        parts = [_Part(self.files[name], name, index) for name, index in self._parts(module, expert)]
        for part in parts:
            if part.entry.dtype.numpy_name is None or part.entry.dtype.bits <= 8:
                raise self._quantized(f"{part.name} is stored as {part.entry.dtype.name}")
        rows, columns = sum(part.shape[0] for part in parts), parts[0].shape[1]
        if any(part.shape[1] != columns for part in parts) or (rows, columns) not in shapes:
            stored = " and ".join(f"{part.name} is {list(part.entry.shape)}" for part in parts)
            raise self._mismatch(f"{stored}, but the module {module} needs {list(shapes[0])}")
        return parts

    def _parts(self, module: str, expert: int | None) -> list[tuple[str, int | None]]:
        """Return the tensors whose rows form W: one, or the projections of an expert if the parameter is not
        stored.

        transformers 5 keeps the experts of a block in one parameter, with gate and up merged, and stores each
        projection of each expert separately (mixtral and qwen2_moe of 5.24, conversion_mapping.py).
        """
        if expert is not None:
            owner, _, parameter = module.rpartition(".")
            for names in _EXPERTS.get(parameter, ()):
                stored = [self._named(f"{owner}.{expert}.{name}") for name in names]
                if all(stored):
                    return [(name, None) for name in stored if name]
        name = self._named(module)
        if name is None:
            packed = tuple(f".{module}{mark}{ending}" for ending in _PACKED for mark in "._")
            if any(f".{stored}".endswith(packed) for stored in self.files):
                raise self._quantized(f"the weight of {module} is packed")
            # A parameter by its own name; of a tied head, the embeddings.
            parts = module.split(".")
            ends = (".".join(parts[start:]) for start in range(len(parts)))
            tied = [stored for stored in self.files if stored.endswith(EMBEDDINGS)]
            head = tied[0] if parts[-1] in HEADS and len(tied) == 1 else None
            name = next((end for end in ends if end in self.files), head)
        if name is None:
            raise self._mismatch(f"has no weight for the module {module}")
        return [(name, expert if len(self.files[name].entries[name].shape) == 3 else None)]

    def _mismatch(self, problem: str) -> InputError:
        return InputError(
            f"{self.folder}: {problem}",
            code="base-mismatch",
            hint="pass the base model that the adapter was trained on as --base-model",
        )

    def _quantized(self, problem: str) -> InputError:
        return InputError(
            f"{self.folder}: {problem}: a quantized base",
            code="base-quantized",
            hint="pass the folder of the unquantized model as --base-model",
        )

    def _named(self, module: str) -> str | None:
        """The tensor of a module: models saved with or without their head differ by a prefix, others by a name."""
        head, _, last = module.rpartition(".")
        spellings = [
            module,
            module.replace(".mlp.", ".block_sparse_moe."),
        ]  # as its files have it, transformers 5.24
        if last in HEADS:
            spellings += [f"{head}.{name}".lstrip(".") for name in HEADS]
        for spelling in dict.fromkeys(spellings):
            parts = spelling.split(".")
            for start in range(len(parts)):
                name = ".".join(parts[start:]) + ".weight"
                if name in self.files:
                    return name
            names = [name for name in self.files if name.endswith(f".{spelling}.weight")]
            if len(names) == 1:
                return names[0]
        return None


@dataclass(frozen=True)
class _Part:
    """One tensor of a weight, or one expert of it: a matrix, a convolution's kernel flattened."""

    file: TensorFile
    name: str
    expert: int | None

    @property
    def entry(self) -> TensorEntry:
        return self.file.entries[self.name]

    @property
    def shape(self) -> tuple[int, int]:
        sides = self.entry.shape if self.expert is None else self.entry.shape[1:]
        return (sides[0], math.prod(sides[1:])) if sides else (0, 0)

    @property
    def width(self) -> int:
        """Bytes per row."""
        return self.shape[1] * self.entry.dtype.bits // 8

    def words(self, rows: slice) -> Words:
        """Return rows as stored words."""
        start, stop, _ = rows.indices(self.shape[0])
        offset = self.entry.start + ((self.expert or 0) * self.shape[0] + start) * self.width
        data = pread(self.file.handle, (stop - start) * self.width, offset, self.file.path)
        return np.frombuffer(data, dtype=self.entry.dtype.numpy).reshape(stop - start, self.shape[1])


def base_folder(name: str | os.PathLike[str], *, weights: bool = False) -> Path:
    """Return the folder of a base model, here or fetched from the hub. weights: those as well, not only its config.

    Raises what `fetch_folder` raises for a name on the hub, UsageError (`bad-address`).
    """
    address = address_of(name)
    needed = ("config.json", *(("*.safetensors", "*.safetensors.index.json") if weights else ()))
    return Path(name) if address is None else fetch_folder(address, needed)[0]


# ---------------------------------------------------------------- config.json and the architecture

MAX_CONFIG_BYTES = 2**20
CLASS_NAME = re.compile(r"[A-Za-z]\w{0,99}", re.ASCII)
HEAD = re.compile(r"(For[A-Z]\w*|LMHeadModel|Model)$")
TASK_HEADS = {
    "SEQ_CLS": "ForSequenceClassification",
    "TOKEN_CLS": "ForTokenClassification",
    "QUESTION_ANS": "ForQuestionAnswering",
}
"""Tasks for which PEFT's users load a base model with another head than its config names."""


def architecture_of(
    config: PeftConfig, folder: Path, base_model: str | os.PathLike[str] | None = None
) -> str | None:
    """Return the class of the model under an adapter, such as `LlamaForCausalLM`; None if it is not recorded
    anywhere.

    folder: of the adapter.   base_model: folder of the base model, if known.

    Read in this order: the config.json of `base_model`; the class that PEFT wrote into the adapter
    (auto_mapping); the config.json of `base_model_name_or_path`, as a folder or in the cache of
    huggingface_hub; one beside the adapter. Module names do not determine it:
    `model.layers.*.self_attn.q_proj` is Llama's, Mistral's, Qwen2's and Gemma's.
    """
    mapping = config.fields.get("auto_mapping")
    wrapped = _class_name(mapping.get("base_model_class")) if isinstance(mapping, dict) else None
    if base_model is None and wrapped is not None:
        return wrapped
    fields = model_config_of(config, folder, base_model)
    name = None if fields is None else _declared_class(fields)
    # `BertForMaskedLM` trained to classify is `BertForSequenceClassification`.
    head = TASK_HEADS.get(config.task_type or "")
    return name if head is None or name is None else HEAD.sub("", name) + head


def model_config_of(
    config: PeftConfig, folder: Path, base_model: str | os.PathLike[str] | None = None
) -> Mapping[str, Any] | None:
    """Return the base model's config.json, from the same locations in the same order; None without one."""
    for path in _config_files(config, folder, base_model):
        with suppress(InputError):  # guessed paths: an unreadable file is ignored
            if os.path.isfile(path) and _declared_class(fields := read_object(path, limit=MAX_CONFIG_BYTES)):
                return fields
    return None


def check_model_config(folder: Path, *, needed: bool = True) -> None:
    """Raise InputError if the given base model's config.json is damaged or (needed) missing.

    Codes: no-model-config, bad-config, and those of the reader.
    """
    path = folder / "config.json"
    if not os.path.isfile(path):
        if not needed:
            return
        raise InputError(
            f"{folder}: contains no config.json",
            code="no-model-config",
            hint="give the folder of the adapter's base model: --base-model DIR (Python: base_model=)",
        )
    read_object(path, limit=MAX_CONFIG_BYTES)


# os.path.isfile below, because Path.is_file raises for a name that no file can have.


def _config_files(
    config: PeftConfig, folder: Path, base_model: str | os.PathLike[str] | None
) -> Iterator[Path]:
    if base_model is not None:
        yield Path(base_model) / "config.json"
    name = config.base_model
    if name and "\0" not in name:
        yield Path(name) / "config.json"
        yield from _cached(name)
    yield folder / "config.json"


def _cached(name: str) -> Iterator[Path]:
    """config.json of `org/name`, as huggingface_hub keeps it: the commit that `main` pointed to last."""
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name, re.ASCII):
        return
    home = Path(os.environ.get("HF_HOME") or Path("~/.cache/huggingface")).expanduser()
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    model = cache / f"models--{name.replace('/', '--')}"
    main = model / "refs" / "main"
    if os.path.isfile(main):
        commit = read_file(main, 100).decode("ascii", "replace").strip()
        if re.fullmatch(r"[0-9a-f]{40}", commit):
            yield model / "snapshots" / commit / "config.json"


def _declared_class(fields: Mapping[str, Any]) -> str | None:
    """Return the first of `architectures`."""
    names = fields.get("architectures")
    return _class_name(names[0]) if isinstance(names, list) and names else None


def _class_name(value: Any) -> str | None:
    return value if isinstance(value, str) and CLASS_NAME.fullmatch(value) else None
