"""The weights of a base model on disk, found by the names that adapters give its modules; nothing is loaded whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gradience.adapters import strict_json
from gradience.adapters.dtypes import Words, decode
from gradience.adapters.files import Closing
from gradience.adapters.locate import MAX_INDEX_BYTES
from gradience.adapters.tensors import TensorEntry, TensorFile
from gradience.errors import InputError
from gradience.reading import pread, read_file
from gradience.spectra import FloatArray

Rows = Callable[[slice], FloatArray]
"""Some rows of W, in float64."""
BLOCK_BYTES = 2**23
"""Of a weight that is read in blocks of rows."""
_PACKED = ("qweight", "weight_packed", "weight.absmax", "weight_scale", "qzeros")
"""Ends of tensor names that stand for a quantised weight."""
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
            content = strict_json.loads(read_file(index, MAX_INDEX_BYTES, root=folder), index, index.name)
            shards = content.get("weight_map") if isinstance(content, dict) else None
            names = sorted({str(name) for name in shards.values()}) if isinstance(shards, dict) else []
        else:
            names = sorted(path.name for path in folder.glob("*.safetensors")) if folder.is_dir() else []
        if not names or any(Path(name).name != name for name in names):
            raise InputError(
                f"{folder}: no base weights (model.safetensors, or shards with an index)",
                code="no-base-weights",
                hint="give --base-model the folder of the base model that the adapter was trained on",
            )
        with ExitStack() as stack:
            opened = [stack.enter_context(TensorFile.open(folder / name, root=folder)) for name in names]
            files = {name: file for file in opened for name in file.entries}
            return cls(folder, files, stack.pop_all())

    def close(self) -> None:
        """Close the files."""
        self.stack.close()

    def weight(self, module: str, shape: tuple[int, int], *, transposed: bool) -> Rows:
        """W of a module, (m, n), read some rows at a time (whole where it is stored transposed).

        Raises InputError (base-mismatch, base-quantised).
        """
        name = self._find(module)
        file = self.files[name]
        entry = file.entries[name]
        if entry.dtype.numpy_name is None or entry.dtype.bits == 8:
            raise self._quantised(f"{name} is stored as {entry.dtype.name}")
        stored = entry.shape[::-1] if transposed else entry.shape
        if stored != shape:
            raise InputError(
                f"{self.folder}: {name} is {list(stored)}, the adapter's module {module} needs {list(shape)}",
                code="base-mismatch",
                hint="give the base model that the adapter was trained on: this is another",
            )
        if transposed:
            words = file.read_words(name).T
            return lambda rows: decode(words[rows])
        return lambda rows: decode(_read_rows(file, entry, rows))

    def blocks(self, module: str, shape: tuple[int, int], expert: int | None = None) -> Iterator[FloatArray]:
        """Yield W in blocks of its rows as they are stored, in float64: for norms, which a transposition leaves alone.

        shape: (m, n) of the module; the stored one may be its transpose, or a convolution's kernel.
        expert: of a weight that stacks several, its first axis. Where a head has no weight of its own, the input
        embeddings', which it is tied to.
        Raises InputError (base-mismatch, base-quantised).
        """
        name = self._find_any(module)
        file = self.files[name]
        entry = file.entries[name]
        if entry.dtype.numpy_name is None or entry.dtype.bits <= 8:
            raise self._quantised(f"{name} is stored as {entry.dtype.name}")
        stacked = expert is not None and len(entry.shape) == 3
        stored = entry.shape[1:] if stacked else entry.shape
        flat = (
            (stored[0], entry.params // max(1, stored[0] * (entry.shape[0] if stacked else 1)))
            if stored
            else (0, 0)
        )
        if flat not in (shape, shape[::-1]):
            raise InputError(
                f"{self.folder}: {name} is {list(entry.shape)}, the module {module} needs {list(shape)}",
                code="base-mismatch",
                hint="give the base model that the adapter was trained on: this is another",
            )
        width = flat[1] * entry.dtype.bits // 8
        start = entry.start + (expert or 0) * flat[0] * width * stacked
        height = max(1, BLOCK_BYTES // max(1, width))
        for first in range(0, flat[0], height):
            rows = min(height, flat[0] - first)
            data = pread(file.handle, rows * width, start + first * width, file.path)
            yield decode(np.frombuffer(data, dtype=entry.dtype.numpy).reshape(rows, flat[1]))

    def _find_any(self, module: str) -> str:
        """The tensor of a module or of a parameter; of a tied head, the embeddings."""
        try:
            return self._find(module)
        except InputError as error:
            if error.code != "base-mismatch":
                raise
            parts = module.split(".")
            names = [".".join(parts[start:]) for start in range(len(parts))]
            parameter = next((name for name in names if name in self.files), None)
            tied = [name for name in self.files if name.endswith(EMBEDDINGS)] if parts[-1] in HEADS else []
            if parameter is None and len(tied) != 1:
                raise
            return parameter or tied[0]

    def _quantised(self, what: str) -> InputError:
        return InputError(
            f"{self.folder}: {what}: a quantized base",
            code="base-quantised",
            hint="give --base-model the folder of the unquantized model",
        )

    def _find(self, module: str) -> str:
        """The tensor of a module: models saved with or without their head differ by a prefix."""
        parts = module.split(".")
        for start in range(len(parts)):
            name = ".".join(parts[start:]) + ".weight"
            if name in self.files:
                return name
        ending = f".{module}.weight"
        names = [name for name in self.files if name.endswith(ending)]
        if len(names) == 1:
            return names[0]
        if any(f".{name}".endswith(f".{module}.{ending}") for name in self.files for ending in _PACKED):
            raise self._quantised(f"the weight of {module} is packed")
        raise InputError(
            f"{self.folder}: has no weight for the module {module}",
            code="base-mismatch",
            hint="give the base model that the adapter was trained on: this is another",
        )


def _read_rows(file: TensorFile, entry: TensorEntry, rows: slice) -> Words:
    start, stop, _ = rows.indices(entry.shape[0])
    width = entry.size // entry.shape[0]
    data = pread(file.handle, (stop - start) * width, entry.start + start * width, file.path)
    return np.frombuffer(data, dtype=entry.dtype.numpy).reshape(stop - start, entry.shape[1])
