"""The arms: retrained from scratch, truncated, truncated and distilled.

A truncation keeps the leading directions of each module, the best approximation of its update at that rank
(Eckart–Young). If a calibration chooses, it keeps those that matter most to the output.
"""

from pathlib import Path

from gradience.bench.arms.arm import Arm, ArmSource
from gradience.compress.adapter import write_compressed
from gradience.plan.compression import plan_compression
from gradience.plan.criteria import ToRanks
from gradience.plan.modules import Ranks


def truncate(source: ArmSource, ranks: Ranks, target: Path) -> None:
    """Write the probe, truncated to `ranks`, to the folder `target`."""
    criterion = ToRanks(ranks, "the ranks of a Bench variant")
    plan = plan_compression(source.audit, criterion, calibration=source.calibration)
    write_compressed(source.probe, plan, target, calibration=source.calibration, force=True)


RETRAIN = Arm("retrain", words="retrained from scratch at the smaller ranks", suffix=False)
TRUNCATE = Arm("truncate", truncate, "the probe, truncated")
DISTILL = Arm(
    "distill",
    truncate,
    "the probe, truncated, then distilled for a few steps without labels to match the probe's outputs",
    distills=True,
    needs_control="probe_distilled",
)
