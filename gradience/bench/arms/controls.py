"""Controls: adapters that must fail or pass for the test to have been able to see a difference."""

import random
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gradience.adapters.formats import open_adapter
from gradience.adapters.locate import WEIGHTS
from gradience.bench.arms.arm import Arm, ArmSource, truncate
from gradience.bench.arms.ranks import AuditedProbe, Choice, NotMade
from gradience.compress.adapter import rotated
from gradience.errors import UsageError
from gradience.plan.modules import Ranks

QUARTER = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """An adapter that tests the measurement itself. No claim is made about it."""

    name: str
    """Name in `compression.controls` and in the results."""
    words: str
    """Description and purpose, beside its row in a report and in the config reference."""
    ranks: Callable[[AuditedProbe], Choice]
    """Raises NotMade, with the reason, if there are no ranks."""
    arm: Arm | None = None
    """Arm that makes it; None: every arm in which the variant `needs_variant` is made."""
    needs_variant: str = ""
    """Variant that the control is compared with; the control requires it."""
    needs_arm: str = ""
    """Arm that the control requires."""
    needs_head: bool = False
    """The model must have a head, as with `model.type: seqcls`."""
    expected: Literal["PASS", "FAIL"] | None = None
    """Expected status. Any other shows that the test cannot detect a difference. None: no expectation."""
    otherwise: str = "the task does not distinguish good adapters from bad ones"
    """Meaning of the opposite outcome."""


def shuffled_ranks(probe: AuditedProbe) -> Choice:
    """Return the ranks of `per_layer`, shuffled among modules of one shape, so that the parameter count stays
    the same.

    As many modules as possible get a different rank. Raises NotMade if that is fewer than half of them.
    """
    ranks = probe.choose("per_layer").ranks
    alike: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for module in probe.modules:
        if not module.fixed:
            alike[module.rank, module.shape, module.bytes, len(module.rows), module.alpha].append(module.name)
    draw = random.Random(f"{probe.seed}/per_layer_shuffled")
    shuffled = dict(ranks)
    for names in alike.values():
        order = sorted(names)
        draw.shuffle(order)
        # sorted by rank and shifted by the most frequent rank's count: nothing meets itself unless that rank has more
        # than half of the places
        order.sort(key=lambda name: ranks[name])
        shift = max(Counter(ranks[name] for name in order).values())
        shuffled |= {name: ranks[order[(place + shift) % len(order)]] for place, name in enumerate(order)}
    if 2 * sum(shuffled[name] != ranks[name] for name in ranks) < len(ranks):
        raise NotMade("impossible: too few modules of one shape differ in rank")
    return Choice(shuffled, "the ranks of per_layer on other modules")


PER_LAYER_SHUFFLED = Control(
    name="per_layer_shuffled",
    words="the ranks of per_layer, shuffled among modules",
    ranks=shuffled_ranks,
    needs_variant="per_layer",
)


def quarter_at_most(probe: AuditedProbe) -> Choice:
    """Return the ranks of a uniform variant, at most a quarter of the probe's. Raises NotMade without a quarter.

    Half of the directions of a probe that uses few of them are nearly all that it has, whichever they are.
    """
    uniform = [name for name in probe.variants if name.startswith("uniform")]
    variant = "uniform_median" if "uniform_median" in uniform or not uniform else uniform[0]
    ranks = probe.choose(variant).ranks
    if max(probe.ranks.values()) < QUARTER:
        raise NotMade("impossible: a quarter of the probe's rank is less than one direction")
    quarters = {
        module.name: ranks[module.name]
        if module.fixed
        else max(1, min(ranks[module.name], module.rank // QUARTER))
        for module in probe.modules
    }
    return Choice(quarters, f"{variant}, at most a quarter of the probe")


def random_directions(source: ArmSource, ranks: Ranks, target: Path) -> None:
    """Write the probe, projected on as many random directions as `ranks` says, to the folder `target`."""
    truncated = target.with_name("truncated")
    truncate(source, ranks, truncated)
    write_random_directions(source.probe, truncated, ranks, target, seed=source.seed)
    shutil.rmtree(truncated)


def write_random_directions(probe: Path, truncated: Path, ranks: Ranks, output: Path, *, seed: int) -> None:
    """Write to `output` what `truncated` would be if its directions had been random ones.

    The update of each module is projected on k random directions (`compress.weights`). ranks: k of each module. Config,
    scale and all other tensors are those of `truncated`, which may be the probe itself. Factors are stored in float32.
    Raises UsageError (`control-kind`) for a grouped convolution, and for fewer directions of a DoRA.
    """
    from safetensors.numpy import save_file
    from safetensors.torch import load_file  # numpy has no bfloat16; reading a config must not import torch

    tensors = {name: tensor.float().numpy() for name, tensor in load_file(truncated / WEIGHTS).items()}
    has_magnitudes = any("lora_magnitude_vector" in name for name in tensors)
    draw = np.random.default_rng(seed)
    with open_adapter(probe) as whole, open_adapter(truncated) as smaller:
        updates = {pair.module: pair for pair in whole.pairs}
        for pair in sorted(smaller.pairs, key=lambda pair: pair.a.tensor):
            update, rank = updates[pair.module], ranks[pair.module]
            if update.groups > 1 or (has_magnitudes and rank < update.rank):
                problem = (
                    "a grouped convolution, whose B is block-diagonal"
                    if update.groups > 1
                    else "a DoRA module"
                )
                raise UsageError(
                    f"{probe}: {pair.module} is {problem}: there is no random direction to project on",
                    code="control-kind",
                    hint="remove random_directions from compression.controls",
                )
            for factor, values in zip((pair.a, pair.b), rotated(update, pair, rank, draw), strict=True):
                tensors[factor.tensor] = np.ascontiguousarray(values, dtype=np.float32)
    output.mkdir(parents=True, exist_ok=True)
    shutil.copy(truncated / "adapter_config.json", output)
    save_file(tensors, output / WEIGHTS, {"format": "pt"})


RANDOM_DIRECTIONS = Control(
    name="random_directions",
    words="random instead of leading directions of the probe",
    ranks=quarter_at_most,
    arm=Arm("random_directions", random_directions),
    expected="FAIL",
)


def rotate(source: ArmSource, ranks: Ranks, target: Path) -> None:
    """Write the probe's own update in other factors to the folder `target`."""
    write_random_directions(source.probe, source.probe, ranks, target, seed=source.seed)


def rotate_again(source: ArmSource, ranks: Ranks, target: Path) -> None:
    """Write the probe in other factors than its own and than those of the rewrite control.

    Distillation would leave the probe's own as they are: its loss and its gradient would be exactly 0.
    """
    write_random_directions(source.probe, source.probe, ranks, target, seed=source.seed + 1)


REWRITE_CONTROL = Control(
    name="rewrite_control",
    words="the same update in other factors; only rounding differs",
    ranks=lambda probe: Choice(probe.ranks, "the probe, in other factors"),
    arm=Arm("rotate", rotate),
    expected="PASS",
    otherwise="rounding alone changes more answers than the policy allows",
)
PROBE_DISTILLED = Control(
    name="probe_distilled",
    words="the probe in other factors, distilled like the arm distill",
    ranks=lambda probe: Choice(probe.ranks, "the probe, in other factors"),
    arm=Arm("rotate_distill", rotate_again, distills=True),
    needs_arm="distill",
    expected="PASS",
    otherwise="distillation alone changes more answers than the policy allows, so the arm distill does not only restore"
    " what truncation removed",
)
HEAD_ONLY = Control(
    name="head_only",
    words="no LoRA, only a head trained like the probe",
    ranks=lambda probe: Choice(dict.fromkeys(probe.ranks, 0), "no LoRA, only a trained head"),
    arm=Arm("head", trains="head"),
    needs_head=True,
    expected="FAIL",
)
CONTROLS: dict[str, Control] = {
    control.name: control
    for control in (PER_LAYER_SHUFFLED, RANDOM_DIRECTIONS, HEAD_ONLY, REWRITE_CONTROL, PROBE_DISTILLED)
}
"""Name in the config -> control."""


def control_of(result: str) -> Control | None:
    """Return the control that a result belongs to: `per_layer_shuffled.truncate` is one of per_layer_shuffled's."""
    return CONTROLS.get(result.partition(".")[0])
