"""Which plots stand in which section: by the name of a report's class, kind of plot -> how its section's title begins.

A plot that is not named here, or whose section a report does not have, stands before the first section.
"""

from __future__ import annotations

from collections.abc import Mapping

COMPRESSED = {
    "parameters": ("What is saved", "What would be saved"),
    "bytes": ("What is saved", "What would be saved"),
    "ranks": ("What is saved", "What would be saved"),
    "error": ("What is lost", "What would be lost"),
    "kl": ("Predicted change of the output",),
    "kept": ("Where?",),
}
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
    "BenchForecast": {"time": ("Plan",), "memory": ("Plan",), "power": ("What it can show",)},
    "CalibrationReport": {"importance": ("Which modules matter",)},
    "ComparisonReport": {"difference": ("Where?",)},
    "CompressionPlan": COMPRESSED,
    "CompressionReport": COMPRESSED,
    "EvaluationForecast": {"margins": ("What can these",)},
    "EvaluationReport": {"forest": ("Is each",), "pairs": ("Is each",), "pareto": ("Is each",)},
    "EvidenceReport": {"forest": ("How large",), "pairs": ("How large",)},
    "FleetCompression": {"bytes": ("Smaller",), "error": ("Smaller",)},
    "FleetReport": {"slots": ("What would a lower",), "steps": ("What would a lower",)},
    "DistillReport": {"kl": ("Which step",)},
    "MonitorReport": {
        "loss": ("Loss",),
        "reward": ("Reward",),
        "rank": ("Use of rank",),
        "stable-rank-by-layer": ("Use of rank",),
    },
    "ShrinkForecast": {"margins": ("What can these",)},
    "ShrinkReport": {
        "forest": ("Which is the smallest",),
        "pairs": ("Which is the smallest",),
        "pareto": ("Which is the smallest",),
    },
}
