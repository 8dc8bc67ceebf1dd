"""DoRA layers: W′ = m·V/‖V‖ row by row, with V = W + s·B·A. What a smaller B·A does to them depends on W.

The magnitude m is kept. What is measured is the whole layer, W′ as PEFT applies it (0.21, tuners/lora/dora.py), for
linear layers: with the base weight at hand, in blocks of rows, one layer at a time.
Source: Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation", arXiv 2402.09353.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
from gradience.spectra import FloatArray, relative_error

Rows = Callable[[slice], FloatArray]
"""Some rows of W, in float64."""
ROWS = 512
"""Rows of W in memory at a time."""
_PACKED = ("qweight", "weight_packed", "weight.absmax", "weight_scale", "qzeros")
"""Ends of tensor names that stand for a quantised weight."""
_INDEX = "model.safetensors.index.json"


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


def output_error(
    weight: Rows,
    magnitude: FloatArray,
    old: tuple[FloatArray, FloatArray],
    new: tuple[FloatArray, FloatArray],
) -> float:
    """‖W′ − W″‖_F/‖W′ − W‖_F: what the smaller update changes, relative to what the adapter does.

    weight: W, (m, n), by rows.   magnitude: (m,).   old, new: (s·B, A) with shapes (m, r), (r, n).
    """
    lost = done = 0.0
    for start in range(0, len(magnitude), ROWS):
        rows = slice(start, start + ROWS)
        base = weight(rows)
        before = _layer(base, magnitude[rows], old[0][rows], old[1])
        after = _layer(base, magnitude[rows], new[0][rows], new[1])
        lost += float(np.square(before - after).sum())
        done += float(np.square(before - base).sum())
    return relative_error(lost, done) or 0.0


def _layer(weight: FloatArray, magnitude: FloatArray, scaled_B: FloatArray, a: FloatArray) -> FloatArray:
    direction = weight + scaled_B @ a
    lengths = np.linalg.norm(direction, axis=1)
    lengths[lengths == 0] = 1.0
    layer: FloatArray = (magnitude / lengths)[:, None] * direction
    return layer
