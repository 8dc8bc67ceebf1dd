"""Are two runs independent? What the comparison of their modules says. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from gradience.reports.comparison import Independence, ModuleComparison, Replicates

INDEPENDENT_COSINE = 0.2
"""|cosine| of factors below which runs count as independent: random factors have about 1/√(r·n) < 0.05."""
COPY_COSINE = 0.9
"""|cosine| of both factors above which one run is nearly a copy of the other (warm starts of strangers: 0.998)."""

STORAGE_NOISE = 0.002
"""By how much storage in 16 bits moves the cosine between an update and a truncation of it."""
LOST_ENERGY = 0.01
"""Share of the energy whose loss shows that something was cut off, where the ranks do not."""


def replicates_of(rows: Sequence[ModuleComparison]) -> Replicates:
    """Return whether the runs are independent, share their start, or are truncations or copies of each other."""
    updates = [abs(row.cosine) for row in rows if row.cosine is not None]
    cosines_A = [abs(row.cosine_lora_A) for row in rows if row.cosine_lora_A is not None]
    cosines_B = [abs(row.cosine_lora_B) for row in rows if row.cosine_lora_B is not None]
    typical_A = median(cosines_A) if cosines_A else None
    typical_B = median(cosines_B) if cosines_B else None
    verdict: Independence
    smaller = _truncated(rows)
    if smaller:
        whole = "A" if smaller == "B" else "B"
        verdict, reason = (
            "truncation",
            f"{smaller} is {whole} truncated: each of its updates is a part of {whole}'s",
        )
    elif updates and median(updates) > COPY_COSINE:
        verdict, reason = "near-copies", "the updates themselves point the same way"
    elif typical_A is None or typical_B is None:
        verdict = "not-comparable"
        reason = "no module has trained factors of the same shapes in both adapters"
    elif typical_A > COPY_COSINE and typical_B > COPY_COSINE:
        verdict, reason = "near-copies", "both factors point the same way: one run was started from the other"
    elif max(typical_A, typical_B) > INDEPENDENT_COSINE:
        verdict = "same-start"
        reason = "one factor points the same way: the runs share their start (seed, or a frozen A)"
    else:
        verdict, reason = "independent", "the factors are nearly orthogonal, as random starts make them"
    return Replicates(
        verdict=verdict, cosine_lora_A_median=typical_A, cosine_lora_B_median=typical_B, reason=reason
    )


def _truncated(rows: Sequence[ModuleComparison]) -> str:
    """`A` or `B`, where that one is a truncation of the other in every module; else nothing."""
    both = [
        (row.cosine, row.norm_a, row.norm_b, (row.r_a or 0) - (row.r_b or 0))
        for row in rows
        if row.cosine is not None and row.norm_a and row.norm_b
    ]
    if _all_truncated([(cosine, b / a, more > 0) for cosine, a, b, more in both]):
        return "B"
    return "A" if _all_truncated([(cosine, a / b, more < 0) for cosine, a, b, more in both]) else ""


def _all_truncated(modules: Sequence[tuple[float, float, bool]]) -> bool:
    """Of modules with their cosine, the ratio of the norms ‖part‖/‖whole‖, and whether the rank of the part is smaller.

    Cutting off singular components leaves of W an update T with ⟨W, T⟩ = ‖T‖², so cos(W, T) = ‖T‖/‖W‖. A run that was
    continued, scaled or started anew does not do that in one module, let alone in all.
    """
    fits = all(
        abs(cosine - ratio) <= STORAGE_NOISE * ratio + 0.05 * min(ratio, abs(1 - ratio))
        for cosine, ratio, _ in modules
    )
    return fits and any(smaller or 1 - ratio**2 > LOST_ENERGY for _, ratio, smaller in modules)
