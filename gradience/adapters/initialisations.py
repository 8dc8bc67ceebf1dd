"""What PEFT 0.21 does where a training starts, for each `init_lora_weights`: to B·A and to the base's weights.

Where the base stays what it was, the file's s·B·A is the whole difference to it; where B·A is 0 at the start, it is
what training learned. tests/evaluate/test_initialisations.py runs each of them through PEFT.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Initialisation(NamedTuple):
    """One value of `init_lora_weights`.

    zero: B·A = 0 before the first step.   keeps_base: the base's weights stay what they were.
    """

    zero: bool
    keeps_base: bool


_NOTHING = Initialisation(zero=True, keeps_base=True)
_NOISE = Initialisation(zero=False, keeps_base=True)
_OUT_OF_THE_BASE = Initialisation(zero=False, keeps_base=False)

INITIALISATIONS: Mapping[str, Initialisation] = {
    "true": _NOTHING,
    "false": _NOISE,
    "gaussian": _NOTHING,
    "eva": _NOTHING,
    "olora": _OUT_OF_THE_BASE,
    "pissa": _OUT_OF_THE_BASE,
    "corda": _OUT_OF_THE_BASE,
    "loftq": _OUT_OF_THE_BASE,
    "orthogonal": _NOISE,  # the inner sides are orthogonal: 1e-7 of ‖B‖·‖A‖ in float32, 1e-3 in bfloat16
    "lora_ga": _OUT_OF_THE_BASE,
    "mica": _NOTHING,  # A is 0, and B is never trained
}
"""All that PEFT knows, in lower case; `pissa` with a number of iterations behind it as well."""


def initialisation_of(value: object) -> Initialisation | None:
    """Return what the `init_lora_weights` of a config does; None for one that PEFT does not know."""
    name = str(value).lower()
    return INITIALISATIONS.get("pissa" if name.startswith("pissa_niter_") else name)
