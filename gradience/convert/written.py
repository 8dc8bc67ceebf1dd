"""Result of writing an adapter in a format, and the writer of the forms of `compress.forms`."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from gradience.adapters.adapter import Adapter, SkippedTensor
from gradience.adapters.locate import CONFIG
from gradience.adapters.tensors import NewTensor, WeightsWriter
from gradience.compress.encodings import Target, write_config
from gradience.compress.forms import Form, refuse_beside, refuse_type


class Written(NamedTuple):
    """The weights as written.

    sha256, bytes: of the file of weights.   tensors: in it.   renamed: number of tensors with a new name.
    left_out: tensors of the source that the target does not hold, with reasons.
    modules: each module -> its name in the written file, if that differs.
    """

    sha256: str
    bytes: int
    tensors: int
    renamed: int
    left_out: tuple[SkippedTensor, ...] = ()
    modules: Mapping[str, str] = MappingProxyType({})


def write_form(form: Form, opened: Adapter, folder: Path, base: Path | None = None) -> Written:
    """Write the weights, and the config if the form has one. Raises InputError: not-in-format, no-config."""
    targets = [Target(pair.module, pair.rank, opened.scale_of(pair)) for pair in opened.pairs]
    names = {pair.module: form.module(opened, pair.module) for pair in opened.pairs}
    left_out = refuse_beside(opened, form.words)
    for pair in opened.pairs:
        for factor in (pair.a, pair.b):
            refuse_type(opened, form, pair.module, factor.entry.dtype)
    settings = form.settings(opened, targets)
    factors = {
        form.factor(names[pair.module], side): (pair, side, factor)
        for pair in opened.pairs
        for side, factor in pair.factors.items()
    }
    headers = {
        name: NewTensor(factor.entry.dtype.name, form.shape(factor.entry.shape, side, pair))
        for name, (pair, side, factor) in factors.items()
    }
    with WeightsWriter(folder / form.weights, headers, settings.metadata) as writer:
        for name in writer.names:
            pair, side, factor = factors[name]
            writer.put(np.ascontiguousarray(form.turn(factor.read(), side, pair)).tobytes())
        digest = writer.close()
    if settings.config is not None:
        write_config(folder / CONFIG, settings.config)
    renamed = factors.keys() - {factor.tensor for _, _, factor in factors.values()}
    return Written(digest, writer.size, len(factors), len(renamed), left_out, names)
