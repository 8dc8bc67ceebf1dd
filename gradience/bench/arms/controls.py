"""Controls made at random from the probe's factors: fewer directions, which must do badly, or as many, which must not.

With Q (r, k) random and orthonormal, (B·Q)(Qᵀ·A) is the update B·A projected on k random directions of the r that lie
between its factors. At k = r it is the same update in other factors: only the rounding differs.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from safetensors.torch import load_file

from gradience.audit.adapter import audit_adapter
from gradience.errors import UsageError


def random_directions(probe: Path, truncated: Path, output: Path, *, seed: int) -> None:
    """Write to `output` what `truncated` would be if its directions had been drawn instead of chosen.

    k is the rank that `truncated` has in a module; config, scale and all other tensors are those of `truncated`, which
    may be the probe itself. Factors are stored in float32. Raises UsageError (`control-kind`) for an adapter whose
    factors are not plain matrices, and for fewer directions of a DoRA.
    """
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
    _check_scale(probe, output)


def _check_scale(probe: Path, control: Path) -> None:
    """The control must apply its factors with the probe's scale, or it would mean something else."""
    before, after = (
        {layer.name: layer.scale or 0.0 for layer in audit_adapter(folder).layers}
        for folder in (probe, control)
    )
    moved = [name for name, scale in after.items() if not math.isclose(scale, before[name], rel_tol=1e-12)]
    assert not moved, f"{control}: {moved[0]} has another scale"
