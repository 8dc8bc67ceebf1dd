"""An adapter in other factors: what changes in its answers is the noise of writing it.

With Q (r, k) random and orthonormal, (B·Q)(Qᵀ·A) is the update B·A projected on k random directions of the r that lie
between its factors; at k = r it is the same update, and only the rounding differs.
"""

import shutil
from pathlib import Path

import numpy as np

from gradience.adapters.adapter import Adapter, LoraPair, tensors_of
from gradience.adapters.locate import CONFIG, WEIGHTS
from gradience.adapters.tensors import WeightsWriter, decode, encode
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
    with whole_folder(output, force=True) as folder:
        _write(folder / WEIGHTS, adapter, np.random.default_rng(0))
        assert adapter.config is not None
        shutil.copyfile(adapter.config.path, folder / CONFIG)


def _write(path: Path, adapter: Adapter, draw: np.random.Generator) -> None:
    """Module after module, in the order of the file."""
    pair_of = {factor.tensor: pair for pair in adapter.pairs for factor in (pair.a, pair.b)}
    tensors = {name: tensor.to_write() for name, tensor in tensors_of(adapter.files).items()}
    waiting: dict[str, bytes] = {}
    with WeightsWriter(path, tensors, dict(adapter.files[0].metadata) or {"format": "pt"}) as writer:
        for name in writer.names:
            pair = pair_of.get(name)
            if pair is None:
                for piece in tensors[name].data:
                    writer.put(piece)
                continue
            if name not in waiting:
                factors = zip((pair.a, pair.b), rotated(pair, pair, pair.rank, draw), strict=True)
                waiting |= {
                    factor.tensor: encode(values, factor.entry.dtype).tobytes() for factor, values in factors
                }
            writer.put(waiting.pop(name))
