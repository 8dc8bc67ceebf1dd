"""The probe in random directions instead of the leading ones: whether it matters which directions are kept."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gradience.adapters.adapter import LoraPair
from gradience.adapters.dtypes import decode
from gradience.adapters.formats import open_adapter
from gradience.adapters.locate import WEIGHTS
from gradience.bench.arms.arm import Control, Derived, Source
from gradience.bench.arms.ranks import AuditedProbe, Choice, NotMade
from gradience.bench.arms.truncate import truncate
from gradience.errors import UsageError
from gradience.plan.modules import Ranks

QUARTER = 4


def quarter_at_most(probe: AuditedProbe) -> Choice:
    """Return the ranks of a uniform variant, at most a quarter of the probe's. Raises NotMade without a quarter.

    Half of the directions of a probe that uses few of them are nearly all that it has, whichever they are.
    """
    uniform = [name for name in probe.variants if name.startswith("uniform")]
    variant = "uniform_median" if "uniform_median" in uniform or not uniform else uniform[0]
    ranks = probe.choose(variant).ranks
    if max(probe.ranks.values()) < QUARTER:
        raise NotMade("impossible: a quarter of the probe's rank is less than one direction")
    quarters = {
        module.name: ranks[module.name]
        if module.fixed
        else max(1, min(ranks[module.name], module.rank // QUARTER))
        for module in probe.modules
    }
    return Choice(quarters, f"{variant}, at most a quarter of the probe")


def random_directions(source: Source, ranks: Ranks, target: Path) -> None:
    """Write the probe in so many random directions to the folder `target`."""
    truncated = target.with_name("truncated")
    truncate(source, ranks, truncated)
    write_random_directions(source.probe, truncated, ranks, target, seed=source.seed)
    shutil.rmtree(truncated)


def write_random_directions(probe: Path, truncated: Path, ranks: Ranks, output: Path, *, seed: int) -> None:
    """Write to `output` what `truncated` would be if its directions had been random ones.

    With Q (r, k) random and orthonormal, (B·Q)(Qᵀ·A) is the update B·A projected on k random directions of the r that
    lie between its factors; every expert of a stacked module has a Q of its own. At k = r it is the same update in
    other factors: only the rounding differs. ranks: k of every module. Config, scale and all other tensors are those of
    `truncated`, which may be the probe itself. Factors are stored in float32. Raises UsageError (`control-kind`) for a
    grouped convolution, and for fewer directions of a DoRA.
    """
    from safetensors.numpy import save_file
    from safetensors.torch import load_file  # numpy has no bfloat16; reading a config must not import torch

    tensors = {name: tensor.float().numpy() for name, tensor in load_file(truncated / WEIGHTS).items()}
    has_magnitudes = any("lora_magnitude_vector" in name for name in tensors)
    draw = np.random.default_rng(seed)
    with open_adapter(probe) as whole, open_adapter(truncated) as smaller:
        updates = {pair.module: pair for pair in whole.pairs}
        for pair in sorted(smaller.pairs, key=lambda pair: pair.a.tensor):
            update, rank = updates[pair.module], ranks[pair.module]
            if update.groups > 1 or (has_magnitudes and rank < update.rank):
                what = (
                    "a grouped convolution, whose B is block-diagonal"
                    if update.groups > 1
                    else "a DoRA module"
                )
                raise UsageError(
                    f"{probe}: {pair.module} is {what}: there is no random direction to project on",
                    code="control-kind",
                    hint="remove random_directions from compression.controls",
                )
            tensors |= _projected(update, pair, rank, draw)
    output.mkdir(parents=True, exist_ok=True)
    shutil.copy(truncated / "adapter_config.json", output)
    save_file(tensors, output / WEIGHTS, {"format": "pt"})


def _projected(
    update: LoraPair, like: LoraPair, rank: int, draw: np.random.Generator
) -> dict[str, NDArray[np.float32]]:
    """The factors of `update` in `rank` random directions, by name, in the shapes of `like`: zeros fill them up, and B
    makes up for another scale."""
    loaded = update.load()
    scale = update.scale / like.scale if update.scale and like.scale else 1.0
    factors_A, factors_B = [], []
    for expert in range(update.experts):
        basis = np.linalg.qr(draw.standard_normal((update.rank, rank)))[0]
        basis = np.pad(basis, ((0, 0), (0, like.rank - rank)))
        factors_A.append((decode(loaded.words_A(expert)) @ basis).T)
        factors_B.append(scale * decode(loaded.words_B(expert)) @ basis)
    stacked_A, stacked_B = np.concatenate(factors_A), np.stack(factors_B, axis=-1)  # experts: first, and last
    return {
        factor.tensor: np.ascontiguousarray(stacked.reshape(factor.entry.shape), dtype=np.float32)
        for factor, stacked in ((like.a, stacked_A), (like.b, stacked_B))
    }


RANDOM_DIRECTIONS = Control(
    name="random_directions",
    words="the probe in random directions instead of the leading ones; must fail",
    ranks=quarter_at_most,
    arm=Derived("random_directions", random_directions),
    expected="FAIL",
)
