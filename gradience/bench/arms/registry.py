"""All arms and controls by the names that a config gives them. A new one is a file beside these and one line here."""

from gradience.bench.arms.arm import Arm, Control
from gradience.bench.arms.controls import (
    HEAD_ONLY,
    PER_LAYER_SHUFFLED,
    PROBE_DISTILLED,
    RANDOM_DIRECTIONS,
    REWRITE_CONTROL,
)
from gradience.bench.arms.truncate import DISTILL, RETRAIN, TRUNCATE

ARMS: dict[str, Arm] = {arm.name: arm for arm in (RETRAIN, TRUNCATE, DISTILL)}
CONTROLS: dict[str, Control] = {
    control.name: control
    for control in (PER_LAYER_SHUFFLED, RANDOM_DIRECTIONS, HEAD_ONLY, REWRITE_CONTROL, PROBE_DISTILLED)
}


def control_of(result: str) -> Control | None:
    """Return the control that a result belongs to: `per_layer_shuffled.truncate` is one of per_layer_shuffled's."""
    return CONTROLS.get(result.partition(".")[0])
