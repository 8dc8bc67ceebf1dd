"""How far do the measures move when factors are rounded to a storage type?

Factors in float64, with spectra as trained adapters have them, are rounded to each type and measured again. Two sizes
of entries: scaled so that the largest is 1 ("scaled"), and as training leaves them ("as trained": A as PEFT initializes
it, B around 1e-3), where fp8 and fp16 run out of small numbers. The bundled adapter is rounded as well.

Run: python benchmarks/storage_rounding.py  (10 seconds on one core; the table is on docs/results/storage_rounding.md)
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from gradience import spectra
from gradience.adapters.formats import open_adapter
from gradience.adapters.tensors import DTYPES, DType, decode, encode
from gradience.audit.adapter import TAUS
from gradience.cli.demo import example_adapter
from gradience.spectra import FloatArray

TYPES = ("BF16", "F16", "F8_E4M3", "F8_E5M2")
SIDES = (64, 384, 4096)
RANKS = (4, 8, 16, 64)
DRAWS = {64: 40, 384: 20, 4096: 3}
"""Draws of each rank and decay."""
DECAYS: dict[str, FloatArray] = {
    "geometric 0.7": 0.7 ** np.arange(64),
    "power law 1": np.arange(1, 65.0) ** -1,
    "power law 2": np.arange(1, 65.0) ** -2,
    "flat": np.ones(64),
}


class Change(NamedTuple):
    """What rounding did to one module."""

    stable: float
    effective: float
    energy: float
    ranks: int
    """Energy ranks of three that changed."""
    share: float
    """Change of the stable rank in unit roundoffs over √min(m, n): the constant in gradience/audit/adapter.py."""


def factors(
    rng: np.random.Generator, side: int, rank: int, decay: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """A (rank, side) uniform as PEFT initializes it, B (side, rank) decaying in directions of its own."""
    turn = np.linalg.qr(rng.standard_normal((rank, rank)))[0]
    A = rng.uniform(-1, 1, (rank, side)) / math.sqrt(side)
    return A, 2e-3 * (rng.standard_normal((side, rank)) * decay[:rank]) @ turn


def measure(A: FloatArray, B: FloatArray) -> FloatArray:
    tall_A, tall_B = np.ascontiguousarray(A.T), np.ascontiguousarray(B)
    return spectra.spectrum(spectra.array_blocks(tall_A), spectra.array_blocks(tall_B)).values


def change(A: FloatArray, B: FloatArray, dtype: DType) -> Change | None:
    """None where nothing is left of a factor."""
    rounded = [decode(encode(factor, dtype)) for factor in (A, B)]
    if not all(factor.any() for factor in rounded):
        return None
    before, after = measure(A, B), measure(*rounded)
    stable = abs(spectra.stable_rank(after) / spectra.stable_rank(before) - 1)
    return Change(
        stable,
        abs(spectra.effective_rank(after) / spectra.effective_rank(before) - 1),
        float(np.abs(spectra.cumulative_energy(after) - spectra.cumulative_energy(before)).max()),
        sum(spectra.energy_rank(before, tau) != spectra.energy_rank(after, tau) for tau in TAUS),
        stable * math.sqrt(min(A.shape[1], B.shape[0])) / dtype.unit_roundoff,
    )


def synthetic(side: int, *, scaled: bool) -> Iterator[tuple[FloatArray, FloatArray]]:
    rng = np.random.default_rng(side)
    for rank in RANKS:
        for decay in DECAYS.values():
            for _ in range(DRAWS[side]):
                A, B = factors(rng, side, rank, decay)
                yield (A / np.abs(A).max(), B / np.abs(B).max()) if scaled else (A, B)


def bundled() -> Iterator[tuple[FloatArray, FloatArray]]:
    """The factors of the bundled adapter, as stored."""
    with open_adapter(example_adapter()) as adapter:
        for pair in adapter.pairs:
            loaded = pair.load()
            A = np.vstack(list(loaded.blocks_A()())).T
            yield A, np.vstack(list(loaded.blocks_B()()))


def main() -> None:
    cases = {
        f"{side}, {'scaled' if scaled else 'as trained'}": list(synthetic(side, scaled=scaled))
        for side in SIDES
        for scaled in (True, False)
    }
    cases["bundled adapter"] = list(bundled())
    print("| stored as | m = n | modules | stable rank | effective rank | energy | k changed | share |")
    print("|---|---|---|---|---|---|---|---|")
    for name in TYPES:
        for label, pairs in cases.items():
            changes = [one for A, B in pairs if (one := change(A, B, DTYPES[name])) is not None]
            worst = [max(one[field] for one in changes) for field in (0, 1, 2)]
            typical = float(np.median([one.stable for one in changes]))
            lost = f" ({len(pairs) - len(changes)} wiped out)" if len(changes) < len(pairs) else ""
            changed = sum(one.ranks for one in changes) / (3 * len(changes))
            print(
                f"| {name} | {label} | {len(pairs)}{lost} | {typical:.1e} / {worst[0]:.1e} | {worst[1]:.1e} "
                f"| {worst[2]:.1e} | {changed:.1%} | {max(one.share for one in changes):.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
