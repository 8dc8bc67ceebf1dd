"""What a writer of a format gives back, and the writer of the forms of `compress.forms`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from gradience.adapters.adapter import Adapter, Factor, LoraPair, SkippedTensor
from gradience.adapters.locate import CONFIG
from gradience.adapters.tensors import NewTensor, WeightsWriter
from gradience.compress.encodings import Target, write_config
from gradience.compress.forms import Form, Side, refuse_beside, refuse_types


class Written(NamedTuple):
    """The weights as written.

    sha256, bytes: of the file of weights.   tensors: in it.   renamed: how many have another name than they had.
    left_out: tensors of the source that the target does not hold, with reasons.
    modules: each module -> what it is called there, where that is not its name.
    """

    sha256: str
    bytes: int
    tensors: int
    renamed: int
    left_out: tuple[SkippedTensor, ...] = ()
    modules: Mapping[str, str] = MappingProxyType({})


class OutputFormat(NamedTuple):
    """A format that is written.

    words: what a folder of it holds.
    write: (open adapter, new folder, folder of the base model) -> what was written there. Raises InputError for what
        the format cannot hold.
    asks_base: whether `write` looks at the base model.
    """

    words: str
    write: Callable[[Adapter, Path, Path | None], Written]
    asks_base: bool = False


def write_form(form: Form, opened: Adapter, folder: Path) -> Written:
    """Write the weights, and the config where the form has one. Raises InputError: not-in-format, no-config."""
    targets = [Target(pair.module, pair.rank, opened.scale_of(pair)) for pair in opened.pairs]
    names = {pair.module: form.module(opened, pair.module) for pair in opened.pairs}
    left_out = refuse_beside(opened, form.words)
    refuse_types(opened, form, {pair.module: factor.entry.dtype.name for pair, _, factor in _factors(opened)})
    settings = form.settings(opened, targets)
    written = {form.factor(names[pair.module], side): (pair, side) for pair, side, _ in _factors(opened)}
    headers = {}
    for name, (pair, side) in written.items():
        factor = pair.a if side == "A" else pair.b
        headers[name] = NewTensor(factor.entry.dtype.name, form.shape(factor.entry.shape, side, pair))
    with WeightsWriter(folder / form.weights, headers, settings.metadata) as writer:
        for name in writer.names:
            pair, side = written[name]
            words = (pair.a if side == "A" else pair.b).read()
            writer.put(np.ascontiguousarray(form.turn(words, side, pair)).tobytes())
        digest = writer.close()
    if settings.config is not None:
        write_config(folder / CONFIG, settings.config)
    old = {factor.tensor for _, _, factor in _factors(opened)}
    return Written(digest, writer.size, len(written), len(written.keys() - old), left_out, names)


def _factors(opened: Adapter) -> Iterator[tuple[LoraPair, Side, Factor]]:
    for pair in opened.pairs:
        yield pair, "A", pair.a
        yield pair, "B", pair.b
