"""How sure is a difference? Paired tables and scores -> intervals, bounds, power. Pure: numpy and scipy.

The sign is always candidate − reference: a smaller adapter that answers fewer examples correctly has Δ < 0. A margin m
is positive, and "non-inferior" means Δ > −m.
"""

from gradience.statistics.grade import PairGrade, pair_grade
from gradience.statistics.multiplicity import fixed_sequence, holm
from gradience.statistics.noise import NoiseFloor, bootstrap_bound, noise_floor
from gradience.statistics.operating import pass_probability, seed_pass_probability
from gradience.statistics.paired import (
    Interval,
    PairedTable,
    mcnemar,
    mean_difference,
    mean_p_value,
    tango,
    tango_p_value,
)
from gradience.statistics.pooled import Claim, Pooled, pool
from gradience.statistics.power import (
    items_for_mean,
    items_needed,
    power,
    seeds_needed,
    smallest_margin,
    smallest_margin_of_mean,
)

__all__ = [
    "Claim",
    "Interval",
    "NoiseFloor",
    "PairGrade",
    "PairedTable",
    "Pooled",
    "bootstrap_bound",
    "fixed_sequence",
    "holm",
    "items_for_mean",
    "items_needed",
    "mcnemar",
    "mean_difference",
    "mean_p_value",
    "noise_floor",
    "pair_grade",
    "pass_probability",
    "pool",
    "power",
    "seed_pass_probability",
    "seeds_needed",
    "smallest_margin",
    "smallest_margin_of_mean",
    "tango",
    "tango_p_value",
]
