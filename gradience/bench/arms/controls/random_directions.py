"""The probe in random directions instead of the leading ones: whether it matters which directions are kept."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

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
    write_random_directions(source.probe, truncated, target, seed=source.seed)
    shutil.rmtree(truncated)


def write_random_directions(probe: Path, truncated: Path, output: Path, *, seed: int) -> None:
    """Write to `output` what `truncated` would be if its directions had been random ones.

    With Q (r, k) random and orthonormal, (B·Q)(Qᵀ·A) is the update B·A projected on k random directions of the r that
    lie between its factors. At k = r it is the same update in other factors: only the rounding differs. k is the rank
    that `truncated` has in a module; config, scale and all other tensors are those of `truncated`, which may be the
    probe itself. Factors are stored in float32. Raises UsageError (`control-kind`) for an adapter whose factors are not
    plain matrices, and for fewer directions of a DoRA.
    """
    from safetensors.torch import load_file  # numpy has no bfloat16; reading a config must not import torch

    old, new = (load_file(folder / "adapter_model.safetensors") for folder in (probe, truncated))
    tensors = {name: tensor.float().numpy() for name, tensor in new.items()}
    draw = np.random.default_rng(seed)
    for name in sorted(name for name in tensors if ".lora_A." in name):
        other = name.replace(".lora_A.", ".lora_B.")
        a, b = old[name].double().numpy(), old[other].double().numpy()
        fewer = tensors[name].shape[0] < a.shape[0]
        if a.ndim != 2 or (fewer and "lora_magnitude_vector" in "".join(new)):
            raise UsageError(
                f"{probe}: {name} is not a plain LoRA matrix: there is no random direction to project on",
                code="control-kind",
                hint="leave this control out of compression.controls",
            )
        basis = np.linalg.qr(draw.standard_normal((a.shape[0], tensors[name].shape[0])))[0]
        tensors[name] = np.ascontiguousarray(basis.T @ a, dtype=np.float32)
        tensors[other] = np.ascontiguousarray(b @ basis, dtype=np.float32)
    output.mkdir(parents=True, exist_ok=True)
    shutil.copy(truncated / "adapter_config.json", output)
    save_file(tensors, output / "adapter_model.safetensors", {"format": "pt"})


RANDOM_DIRECTIONS = Control(
    name="random_directions",
    words="the probe in random directions instead of the leading ones; must fail",
    ranks=quarter_at_most,
    arm=Derived("random_directions", random_directions),
    expected="FAIL",
)
