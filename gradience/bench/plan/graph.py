"""The stages of a seed, and what each waits for: the order of run/seed.py, as far as it is known beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gradience.bench.plan.variants import PlannedVariant

Kind = Literal["training", "evaluation", "audit", "calibration", "distillation", "cut"]
"""What is done in a stage; `cut`: an adapter is derived from the probe's files."""


@dataclass(frozen=True, slots=True)
class StageNode:
    """A stage, and the stages whose results it needs."""

    name: str
    kind: Kind
    after: tuple[str, ...] = ()


def stage_graph(
    variants: Sequence[PlannedVariant], *, has_base: bool, calibrates: bool
) -> tuple[StageNode, ...]:
    """Return the stages of a seed in the order in which one process makes them.

    What is cut from the probe comes while its base is loaded, then what is distilled, then what is trained.
    """
    nodes = [
        StageNode("probe/train", "training"),
        StageNode("probe/eval", "evaluation", ("probe/train",)),
    ]
    nodes += [StageNode("base/eval", "evaluation", ("probe/eval",))] if has_base else []
    nodes += [StageNode("audit", "audit", (nodes[-1].name,))]
    nodes += [StageNode("calibration", "calibration", ("audit",))] if calibrates else []
    planned = (nodes[-1].name,)
    distilled = [variant for variant in variants if variant.is_distilled]
    trained = [variant for variant in variants if variant.is_trained]
    for variant in variants:
        if not variant.is_trained and not variant.is_distilled:
            nodes += [StageNode(f"{variant.name}/adapter", "cut", planned), _evaluation(variant, "adapter")]
    nodes += [StageNode(f"{variant.name}/adapter", "distillation", planned) for variant in distilled]
    nodes += [StageNode(f"{variant.name}/train", "training", planned) for variant in trained]
    nodes += [_evaluation(variant, "adapter") for variant in distilled]
    nodes += [_evaluation(variant, "train") for variant in trained]
    return tuple(nodes)


def _evaluation(variant: PlannedVariant, after: str) -> StageNode:
    return StageNode(f"{variant.name}/eval", "evaluation", (f"{variant.name}/{after}",))
