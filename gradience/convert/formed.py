"""An adapter in a form of `compress.forms`, at the ranks and scales that it has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gradience.adapters.adapter import Adapter, Factor, LoraPair
from gradience.adapters.headers import NewTensor
from gradience.adapters.locate import CONFIG
from gradience.compress.encodings import Target
from gradience.compress.forms.form import Form, Side, refuse_beside, refuse_types
from gradience.compress.reconfigure import write_config
from gradience.compress.weights import WeightsWriter
from gradience.convert.written import Written


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
        # A view of a placeholder of this shape has the turned shape; no element is stored.
        blank = np.broadcast_to(np.zeros((), np.uint8), factor.entry.shape)
        headers[name] = NewTensor(factor.entry.dtype.name, form.turn(blank, side, pair).shape)
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
