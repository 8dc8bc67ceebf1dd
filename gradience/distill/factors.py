"""The distilled factors among the stored tensors of the adapter: same names, same types, everything else as it was."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from gradience.adapters.locate import WEIGHTS
from gradience.distill.train import FACTORS
from gradience.errors import InputError


class Stored(NamedTuple):
    """A weights file."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def read_stored(folder: Path) -> Stored:
    """Read the weights that PEFT wrote."""
    with safe_open(str(folder / WEIGHTS), framework="pt") as file:
        return Stored({name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {})  # noqa: SIM118


def check_names(stored: Stored, factors: Mapping[str, Tensor], folder: Path) -> None:
    """Raise InputError (`other-names`) where PEFT calls the factors otherwise than the file."""
    named = {name for name in stored.tensors if any(part in FACTORS for part in name.split("."))}
    unlike = sorted(named ^ set(factors))
    if unlike:
        raise InputError(
            f"{folder}: PEFT loads it, but gives factors other names than the file: {unlike[0]}",
            code="other-names",
            hint="load it with PEFT, save it with save_pretrained(), and distill what that writes",
        )


def round_as_stored(stored: Stored, factors: Mapping[str, Tensor]) -> None:
    """Round the factors in the model through the types of the file, so that what is measured is what is written."""
    with torch.no_grad():
        for name, factor in factors.items():
            factor.copy_(factor.to(stored.tensors[name].dtype).to(factor.dtype))


def distilled_bytes(stored: Stored, factors: Mapping[str, Tensor]) -> bytes:
    """The file with the factors in their places. Equal factors give equal bytes."""
    new = {
        name: factors[name].detach().cpu().to(tensor.dtype).contiguous() if name in factors else tensor
        for name, tensor in stored.tensors.items()
    }
    data: bytes = save(new, stored.metadata)
    return data
