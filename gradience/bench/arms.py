"""Arms: ways to make the adapter that is compared with the probe (retrain, truncate, truncate and distill).

The candidates are all combinations of a variant (its ranks) and an arm of the config. A truncation keeps the leading
directions of each module, the best approximation of its update at that rank (Eckart–Young). With a calibration, it
keeps the directions with the largest effect on the output.
"""

import random
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from gradience.adapters.formats import open_adapter
from gradience.adapters.locate import WEIGHTS
from gradience.compress.adapter import rotated, write_compressed
from gradience.compress.settings import WritingSettings
from gradience.errors import UsageError
from gradience.plan.compression import ToSizeOfRank, plan_compression, predicted, with_calibration
from gradience.plan.criteria import Criterion, ToRank, ToRanks, ToSuggestion, with_suggestions
from gradience.plan.modules import Ranks, modules_of
from gradience.reports.audit import AuditReport, Suggestion, Suggestions
from gradience.reports.base.prediction import Prediction
from gradience.reports.calibration import Calibration


class ArmSource(NamedTuple):
    """Source of a derived adapter."""

    probe: Path
    """The folder that PEFT wrote."""
    audit: AuditReport
    seed: int
    calibration: Calibration | None = None
    """Calibration that ranks the components; None: rank by singular value."""


@dataclass(frozen=True, slots=True)
class Arm:
    """A way of making an adapter."""

    name: str
    """In `compression.arms`, and as `made_by` in the results."""
    make: Callable[[ArmSource, Ranks, Path], None] | None = None
    """Writes the adapter with these ranks, from the probe's files, to a folder, as PEFT would. None: it is trained from
    scratch, with the probe's recipe and seed."""
    words: str = ""
    """Description of a candidate, for the config reference and beside the results."""
    suffix: bool = True
    """Append the arm's name to the variant's (`per_layer.truncate`); if False the result has only the
    variant's name.
    """
    trains: Literal["lora", "head"] = "lora"
    """`head`: only the model's head; the LoRA stays at ΔW = 0 and is left out when the head is evaluated."""
    distills: bool = False
    """Distill the adapter derived from the probe: train it for a few steps to match the probe's outputs."""
    needs_control: str = ""
    """Control that must be evaluated for the arm to be reported."""

    @property
    def is_trained(self) -> bool:
        """True if it is trained from scratch; all others are derived from the probe."""
        return self.make is None

    def result_name(self, variant: str) -> str:
        """Return the name of a variant's result in this arm."""
        return f"{variant}.{self.name}" if self.suffix else variant


def truncate(source: ArmSource, ranks: Ranks, target: Path) -> None:
    """Write the probe, truncated to `ranks`, to the folder `target`."""
    criterion = ToRanks(ranks, "the ranks of a Bench variant")
    plan = plan_compression(source.audit, criterion, calibration=source.calibration)
    with open_adapter(source.probe) as probe:
        write_compressed(probe, plan, target, WritingSettings(force=True), calibration=source.calibration)


RETRAIN = Arm("retrain", words="retrained from scratch at the smaller ranks", suffix=False)
TRUNCATE = Arm("truncate", truncate, "the probe, truncated")
DISTILL = Arm(
    "distill",
    truncate,
    "the probe, truncated, then distilled for a few steps without labels to match the probe's outputs",
    distills=True,
    needs_control="probe_distilled",
)

ARMS: dict[str, Arm] = {arm.name: arm for arm in (RETRAIN, TRUNCATE, DISTILL)}
"""Name in the config -> arm."""


# ---------------------------------------------------------------- ranks
#
# The audit of a probe, and its calibration, give a rank for every module, for each variant. A new variant is one
# function here and one line in `VARIANTS`.


class Choice(NamedTuple):
    """Ranks, and a description of their basis before rounding.

    prediction: the calibration's, if it chose the ranks.
    """

    ranks: Ranks
    basis: str
    prediction: Prediction | None = None


class NotMade(Exception):
    """Why an adapter is not made, in words."""


class AuditedProbe:
    """The modules of a probe, and the ranks that its audit suggests for them."""

    def __init__(
        self,
        report: AuditReport,
        *,
        variants: Sequence[str],
        allowed_ranks: Sequence[int],
        seed: int,
        calibration: Calibration | None = None,
    ) -> None:
        """variants: all variants in the config. seed: seed of the run; random choices depend only on it.

        calibration: without it, calibrated variants cannot be chosen.
        """
        self.variants, self.seed = variants, seed
        self._calibration = calibration
        self.modules = modules_of(report)
        self.ranks: Ranks = {module.name: module.rank for module in self.modules}
        self.use_rslora = report.adapter.use_rslora
        self._report = with_suggestions(report, allowed_ranks)

    @property
    def suggestions(self) -> Suggestions:
        """Return the audit's suggestions, rounded up to the config's ranks. Raises NotMade if there are
        none.
        """
        if self._report.suggestions is None:
            raise NotMade("the audit suggests no rank for this adapter")
        return self._report.suggestions

    def choose(self, variant: str) -> Choice:
        """Return the ranks of a variant. Raises NotMade."""
        if variant in VARIANTS:
            return VARIANTS[variant](self)
        rank = int(variant.rpartition("_r")[2])
        if is_calibrated(variant):
            return self.of_size(rank)
        return Choice(self.ranks_by(ToRank(rank)), "as requested")

    def ranks_by(self, criterion: Criterion) -> Ranks:
        """Return the rank that `criterion` gives every module."""
        return criterion.choose(self._report, self.modules)

    def of_size(self, rank: int) -> Choice:
        """Allocate the parameters of uniform rank `rank` by output effect; return the ranks and their predicted cost.

        Raises NotMade if no component remains.
        """
        assert self._calibration is not None
        criterion = ToSizeOfRank(rank)
        modules = with_calibration(self._report, self.modules, self._calibration)
        ranks = criterion.choose(self._report, modules)
        if not any(ranks.values()):
            raise NotMade(f"{criterion.words}: no module would be left")
        return Choice(ranks, criterion.words, predicted(modules, ranks, self._calibration.report))


def is_variant(name: str) -> bool:
    """Return whether there is a variant of this name.

    >>> is_variant("per_layer"), is_variant("uniform_r16"), is_variant("calibrated_r4"), is_variant("uniform_r016")
    (True, True, True, False)
    """
    return name in VARIANTS or re.fullmatch(r"(uniform|calibrated)_r[1-9]\d{0,5}", name) is not None


def is_calibrated(name: str) -> bool:
    """Return whether the variant of this name is chosen by a calibration of the probe.

    >>> is_calibrated("calibrated"), is_calibrated("calibrated_r4"), is_calibrated("uniform_median")
    (True, True, False)
    """
    return name.partition("_")[0] == "calibrated"


def _per_layer(probe: AuditedProbe) -> Choice:
    basis = f"directions that hold {probe.suggestions.tau:g} of each module's energy, rounded up"
    return Choice(probe.ranks_by(ToSuggestion("per_layer")), basis)


def _uniform(probe: AuditedProbe, statistic: str, chosen: Suggestion) -> Choice:
    rounding = {"evidence": "", "grid": ", rounded up to an allowed rank", "cap": ", the probe's own rank"}
    return Choice(
        probe.ranks_by(ToRank(chosen.rank)),
        f"{statistic} of the directions that hold {probe.suggestions.tau:g} of the energy: {chosen.unrounded:g}"
        f"{rounding[chosen.decided_by]}",
    )


def step_name(rank: int) -> str:
    """Return the result name of a ladder step.

    >>> step_name(8), step_rank("ladder.r8")
    ('ladder.r8', 8)
    """
    return f"ladder.r{rank}"


def step_rank(name: str) -> int:
    """Return the rank of a ladder step from its result name."""
    return int(name.removeprefix("ladder.r"))


VARIANTS: dict[str, Callable[[AuditedProbe], Choice]] = {
    "uniform_median": lambda probe: _uniform(probe, "median", probe.suggestions.median),
    "uniform_p90": lambda probe: _uniform(probe, "90th percentile", probe.suggestions.p90),
    "per_layer": _per_layer,
    "calibrated": lambda probe: probe.of_size(probe.suggestions.median.rank),
}
"""Name in `compression.variants` -> its ranks. Beside them there are `uniform_rN`, rank N everywhere, and
`calibrated_rN`, as many parameters as that."""


# ---------------------------------------------------------------- controls
#
# Adapters that must fail or pass for the test to have been able to see a difference.


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

    The update of each module is projected on k random directions (`compress.adapter`). ranks: k of each module. Config,
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
