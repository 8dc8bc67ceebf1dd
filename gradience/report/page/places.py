"""Which plots stand in which section: by the name of a report's class, kind of plot -> how its section's title begins.

A plot that is not named here, or whose section a report does not have, stands before the first section.
"""

from __future__ import annotations

from collections.abc import Mapping

PLACES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "AuditReport": {
        "use": ("How much of its rank",),
        "stable-rank": ("Where?",),
        "heatmap": ("Where?",),
        "energy": ("Where?",),
        "spectrum": ("Where?",),
        "kl": ("What matters", "What ranks"),
        "importance": ("What matters", "What ranks"),
    },
    "Bench": {
        "forest": ("Variants",),
        "pareto": ("Variants",),
        "pairs": ("Variants",),
        "ladder": ("Which is the smallest", "Ladder", "Variants"),
    },
    "BenchAggregate": {
        "forest": ("Δ and how sure",),
        "pairs": ("Δ and how sure",),
        "pareto": ("Variants",),
        "operating": ("Grades",),
        "ladder": ("Which is the smallest", "Ladder", "Grades"),
    },
    "CalibrationReport": {"importance": ("Which modules matter",)},
    "ComparisonReport": {"difference": ("Where?",)},
    "CompressionPlan": {
        "ranks": ("What would be saved",),
        "error": ("What would be lost",),
        "kl": ("What would be lost",),
    },
    "CompressionReport": {"ranks": ("What is saved",), "error": ("What is lost",)},
    "EvaluationReport": {"forest": ("Is each",), "pairs": ("Is each",), "pareto": ("Is each",)},
    "EvidenceReport": {"forest": ("How large",), "pairs": ("How large",)},
    "HealReport": {"kl": ("Which step",)},
    "MonitorReport": {
        "loss": ("Loss",),
        "rank": ("Use of rank",),
        "stable-rank-by-layer": ("Use of rank",),
    },
    "ShrinkReport": {
        "forest": ("Which is the smallest",),
        "pairs": ("Which is the smallest",),
        "pareto": ("Which is the smallest",),
    },
}
