"""An adapter in other factors: what changes in its answers is the noise of writing it.

With Q (r, k) random and orthonormal, (B·Q)(Qᵀ·A) is the update B·A projected on k random directions of the r that lie
between its factors; at k = r it is the same update, and only the rounding differs.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gradience.adapters.adapter import Adapter, LoraPair, tensors_of
from gradience.adapters.locate import CONFIG, WEIGHTS
from gradience.adapters.tensors import decode, encode, write_tensors
from gradience.errors import InputError
from gradience.files.whole import whole_folder
from gradience.spectra import FloatArray


def rotated(
    update: LoraPair, like: LoraPair, rank: int, draw: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Return A and B of `update` in `rank` random directions, in the shapes of `like`.

    Zeros fill them up, and B makes up for another scale. Every expert of a stacked module has a Q of its own.
    """
    loaded = update.load()
    scale = update.scale / like.scale if update.scale and like.scale else 1.0
    factors_A, factors_B = [], []
    for expert in range(update.experts):
        basis = np.linalg.qr(draw.standard_normal((update.rank, rank)))[0]
        basis = np.pad(basis, ((0, 0), (0, like.rank - rank)))
        factors_A.append((decode(loaded.words_A(expert)) @ basis).T)
        factors_B.append(scale * decode(loaded.words_B(expert)) @ basis)
    # Experts stand first in A, and last in B.
    stacked_A, stacked_B = np.concatenate(factors_A), np.stack(factors_B, axis=-1)
    return stacked_A.reshape(like.a.entry.shape), stacked_B.reshape(like.b.entry.shape)


def write_rotated(adapter: Adapter, output: Path) -> None:
    """Write an open adapter with rotated factors to the folder `output`, each in its own storage type.

    All other tensors and the config stay. Raises InputError (`not-rotatable`) for a grouped convolution, whose B is
    block-diagonal.
    """
    grouped = next((pair.module for pair in adapter.pairs if pair.groups > 1), None)
    if grouped is not None:
        raise InputError(
            f"{adapter.location.path}: {grouped} is a grouped convolution, which has no other factors",
            code="not-rotatable",
            hint="nothing to do: there is no rewrite control for this adapter",
        )
    tensors = {name: tensor.to_write() for name, tensor in tensors_of(adapter.files).items()}
    draw = np.random.default_rng(0)
    waiting: dict[str, bytes] = {}

    def data_of(pair: LoraPair, name: str) -> Iterator[bytes]:
        """The stored bytes of a factor; those of its pair come with it."""
        if name not in waiting:
            factors = zip(pair.factors.values(), rotated(pair, pair, pair.rank, draw), strict=True)
            waiting.update(
                (factor.tensor, encode(values, factor.entry.dtype).tobytes()) for factor, values in factors
            )
        yield waiting.pop(name)

    for pair in adapter.pairs:
        for name in (factor.tensor for factor in pair.factors.values()):
            tensors[name] = tensors[name]._replace(data=data_of(pair, name))
    with whole_folder(output, force=True) as folder:
        write_tensors(folder / WEIGHTS, tensors, dict(adapter.files[0].metadata) or {"format": "pt"})
        assert adapter.config is not None
        shutil.copyfile(adapter.config.path, folder / CONFIG)
