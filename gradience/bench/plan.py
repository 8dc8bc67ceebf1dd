"""Audit and calibration of a probe -> the smaller adapters compared with it. Pure.

Every module gets an explicit rank, and the α that keeps the probe's scale, so rank and scale never change together.
Equal variants are run once, and a variant equal to the probe is not run. Both stay in the list, marked as such.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from gradience.adapters.config import anchored_key
from gradience.bench import arms as bench_arms
from gradience.bench.config import BenchConfig, CompressionSettings
from gradience.digests import sha256_json
from gradience.errors import UsageError
from gradience.evaluate.engines import engine
from gradience.evaluate.inputs import EvaluateInputs, groups_of, planned_looks, task_of, with_rows
from gradience.evaluate.settings import EvaluateSettings, guards_of, seen_from, source_of
from gradience.files.shared_names import path_text
from gradience.plan.criteria import ToRank
from gradience.plan.modules import Ranks, alphas_at, size_at
from gradience.reports import bench_plan as reports
from gradience.reports.audit import AuditReport
from gradience.reports.base.prediction import Prediction
from gradience.reports.bench import MIN_SEEDS
from gradience.reports.calibration import Calibration
from gradience.statistics.groups import numbered
from gradience.tasks.base import ClassificationTask, Task, rendered

PROBE, LADDER, GUARDS = "probe", "ladder", "guards"
NO_COMPRESSION = "no compression: every module keeps its rank"


@dataclass(frozen=True, slots=True)
class PlannedVariant:
    """One adapter that is to be compared with the probe, or the reason why it is not made."""

    name: str
    """`uniform_median` is retrained, `uniform_median.truncate` the probe truncated."""
    making: bench_arms.Arm
    """Arm that makes it."""
    control: bench_arms.Control | None = None
    """None: a candidate, or a step."""
    step: int | None = None
    """Rank of the ladder step."""
    ranks: Ranks = field(default_factory=dict)
    """Module path in the base model -> rank; 0 if its LoRA is removed."""
    alphas: dict[str, int | float] = field(default_factory=dict)
    """The α that keeps the scale of every module whose rank is not 0; without those whose α is unknown."""
    lora_params: int = 0
    probe_params: int = 0
    rank_basis: str = ""
    """Basis of the ranks, before rounding."""
    by_effect: bool = False
    """A calibration chooses its components, instead of their singular values."""
    predicted: Prediction | None = None
    """Cost predicted by the calibration; None without a prediction, or if the adapter is trained
    afterwards.
    """
    unplanned: str = ""
    """Reason why its ranks are unknown; empty if they are known."""
    same_as: str | None = None
    """The variant, or `probe`, that has the same ranks and is made in the same way: this one is not made again."""
    skipped: str = ""
    """Reason why it is skipped; empty if it is made."""
    stopped_early: bool = False
    """Not made because it can no longer pass: `skipped` says why."""

    @property
    def arm(self) -> str:
        """Name in the results: `control`, `ladder`, or the arm of a candidate."""
        if self.control:
            return "control"
        return self.making.name if self.step is None else LADDER

    @property
    def is_candidate(self) -> bool:
        """True if it is neither a control nor a step of the ladder."""
        return self.control is None and self.step is None

    @property
    def is_trained(self) -> bool:
        """True if it is trained from scratch; all others are derived from the probe."""
        return self.making.is_trained

    @property
    def is_distilled(self) -> bool:
        """True if it is derived from the probe and then distilled."""
        return self.making.distills

    @property
    def needs_calibration(self) -> bool:
        """True if its ranks come from a calibration."""
        return self.is_candidate and bench_arms.is_calibrated(self.name.partition(".")[0])

    @property
    def is_made(self) -> bool:
        """True if there is work to do for it."""
        return not self.skipped and self.same_as is None and not self.unplanned

    @property
    def reduction(self) -> float:
        """1 − parameters / the probe's (LoRA factors only)."""
        return 1 - self.lora_params / self.probe_params if self.probe_params else 0.0

    def lora_arguments(self) -> dict[str, Any]:
        """Return r, lora_alpha and the two patterns for PEFT's LoraConfig.

        The patterns name every module, so that none falls back on `r`; they are empty if all modules have one
        rank. Modules at rank 0 are excluded by name. Nothing for the probe, and if only a head is trained.
        """
        if not self.ranks or self.making.trains == "head":
            return {}
        kept = {name: rank for name, rank in self.ranks.items() if rank}
        widest = max(kept, key=lambda name: kept[name])
        uniform = len(set(kept.values())) == 1 and len(set(self.alphas.values())) == 1
        left_out = sorted(name for name, rank in self.ranks.items() if not rank)
        return {
            "r": kept[widest],
            "lora_alpha": self.alphas[widest],
            "rank_pattern": {} if uniform else {anchored_key(name): rank for name, rank in kept.items()},
            "alpha_pattern": {} if uniform else {anchored_key(name): self.alphas[name] for name in kept},
            **({"exclude_modules": left_out} if left_out else {}),
        }


def plan_variants(
    report: AuditReport,
    config: BenchConfig,
    seed: int,
    *,
    lost: Mapping[str, str] = MappingProxyType({}),
    calibration: Calibration | None = None,
    uncalibrated: str = "the probe is not calibrated",
) -> tuple[PlannedVariant, ...]:
    """Return everything that the config asks for, in its order, the controls last.

    lost: variants that can no longer pass, and why; they are not trained.
    uncalibrated: reason for a missing calibration; variants that need one then have no ranks.
    Raises UsageError (plan-mismatch) for an audit with another energy threshold than the config's.
    """
    compression = config.compression
    if report.tau != compression.energy:
        raise UsageError(
            f"{report.adapter.path}: audited at an energy of {report.tau:g}, but the config says "
            f"{compression.energy:g}",
            code="plan-mismatch",
            hint="audit the probe again with the config's compression.energy",
        )
    probe = bench_arms.AuditedProbe(
        report,
        variants=compression.variants,
        allowed_ranks=compression.allowed_ranks,
        seed=seed,
        calibration=calibration,
    )
    without = uncalibrated if calibration is None else ""
    return _once_each(
        [
            replace(variant, unplanned=without)
            if without and variant.needs_calibration
            else _with_ranks(variant, probe, lost)
            for variant in asked_for(compression)
        ],
        probe.ranks,
    )


def asked_for(compression: CompressionSettings) -> tuple[PlannedVariant, ...]:
    """Return the variants to compare, as known before the audit: names without ranks."""
    candidates = [
        PlannedVariant(arm.result_name(variant), arm)
        for variant in compression.variants
        for arm in compression.arms_of(variant)
    ]
    steps = () if compression.ladder is None else compression.ladder.steps
    controls = []
    for control in (bench_arms.CONTROLS[name] for name in compression.controls):
        if control.arm is not None:
            controls.append(PlannedVariant(control.name, control.arm, control))
        else:
            arms = compression.arms_of(control.needs_variant)
            controls += [PlannedVariant(arm.result_name(control.name), arm, control) for arm in arms]
    return (
        *candidates,
        *(PlannedVariant(bench_arms.step_name(step), bench_arms.TRUNCATE, step=step) for step in steps),
        *controls,
    )


def _with_ranks(
    variant: PlannedVariant, probe: bench_arms.AuditedProbe, lost: Mapping[str, str]
) -> PlannedVariant:
    """The same with its ranks, or with the reason why it is not made."""
    try:
        if variant.control is not None:
            ranks, basis, prediction = variant.control.ranks(probe)
        elif variant.step is not None:
            ranks, basis, prediction = bench_arms.Choice(probe.ranks_by(ToRank(variant.step)), "as planned")
        else:
            ranks, basis, prediction = probe.choose(variant.name.partition(".")[0])
    except bench_arms.NotMade as reason:
        return replace(variant, skipped=str(reason))
    if variant.is_candidate and variant.is_trained and variant.name in lost:
        variant = replace(variant, skipped=lost[variant.name], stopped_early=True)
    is_cut = not variant.is_trained and not variant.is_distilled
    return replace(
        variant,
        ranks=ranks,
        alphas=alphas_at(probe.modules, ranks, use_rslora=probe.use_rslora),
        lora_params=size_at(probe.modules, ranks)[0],
        probe_params=size_at(probe.modules, probe.ranks)[0],
        rank_basis=basis,
        by_effect=prediction is not None and not variant.is_trained,
        predicted=prediction if is_cut else None,
    )


def _once_each(variants: Sequence[PlannedVariant], full: Ranks) -> tuple[PlannedVariant, ...]:
    """Return the list with variants marked that equal the probe (whose ranks are `full`) or an earlier variant."""
    first: dict[tuple[Any, ...], str] = {}
    marked = []
    for variant in variants:
        key = (variant.making, variant.by_effect, tuple(variant.ranks.items()))
        if variant.skipped or variant.unplanned:
            marked.append(variant)
        elif variant.control is None and variant.ranks == full:
            marked.append(replace(variant, same_as=PROBE, skipped=NO_COMPRESSION))
        elif key in first:
            marked.append(replace(variant, same_as=first[key]))
        else:
            first[key] = variant.name
            marked.append(variant)
    return tuple(marked)


def stage_names(variants: Sequence[PlannedVariant], config: BenchConfig) -> tuple[str, ...]:
    """Return the stages of a seed in the order in which one process makes them.

    Truncations of the probe come first, while its base is loaded, then distilled variants, then trained ones.
    """
    distilled = [variant.name for variant in variants if variant.is_distilled]
    trained = [variant.name for variant in variants if variant.is_trained]
    cut = [variant.name for variant in variants if variant.name not in (*distilled, *trained)]
    return (
        "probe/train",
        "probe/eval",
        *(["base/eval"] if config.asks_base else []),
        "audit",
        *([] if config.compression.calibration is None else ["calibration"]),
        *(f"{name}/{stage}" for name in cut for stage in ("adapter", "eval")),
        *(f"{name}/adapter" for name in distilled),
        *(f"{name}/train" for name in trained),
        *(f"{name}/eval" for name in (*distilled, *trained)),
        *(f"{GUARDS}/{name}" for name in config.guards),
    )


# ---------------------------------------------------------------- preregistration
#
# The config, the data digests and the guards are written to `plan.json` before training.


ALPHA = Fraction("0.05")


class EvaluatedRows(NamedTuple):
    """Examples that every adapter of a run answers, in the order of the records."""

    examples: Sequence[Any] = ()
    looks: tuple[int, ...] = ()
    """Numbers of examples at which the ladder is tested; empty if it answers all at once."""
    groups: tuple[int, ...] | None = None
    """Group of each example; None if each is its own."""


def evaluated_rows(config: BenchConfig, task: Task) -> EvaluatedRows:
    """Return the examples of a run, its looks, and its groups. Raises UsageError (`no-group`)."""
    examples: Sequence[Any] = task.examples.of(config.task.eval_role, config.task.eval_samples)
    group_of, looks = groups_of(task, examples, config.task.group), tuple[int, ...]()
    ladder, margin = config.compression.ladder, config.policy.tolerance
    if ladder is not None and not (ladder.all_rows or config.smoke) and 0 < margin < 1:
        examples, looks = planned_looks(examples, group_of, float(margin))
    groups = numbered(group_of[example.id] for example in examples) if group_of else None
    return EvaluatedRows(examples, looks, groups)


def bench_plan(
    config: BenchConfig,
    task: str,
    splits: Sequence[reports.DataSplit],
    code: reports.TaskCode | None = None,
    calibration: reports.PlannedCalibration | None = None,
    rows: EvaluatedRows = EvaluatedRows(),  # noqa: B008  (immutable)
    guards: Sequence[reports.PlannedSet] = (),
) -> reports.BenchPlan:
    """Return the plan of a run on these examples. task: the task's own name. code: of a user's own task.

    calibration: the prompts, if the probe will be calibrated.
    """
    variants = asked_for(config.compression)
    tests = tuple(variant.name for variant in variants if variant.is_candidate)
    ladder = _ladder(config, rows.looks)
    return reports.BenchPlan(
        config_digest=sha256_json(config.model_dump(mode="json", exclude={"runtime"})),
        protocol_digest=config.protocol_digest(),
        smoke=config.smoke,
        model=path_text(config.model.name),
        task=task,
        task_code=code,
        seeds=config.seeds,
        splits=tuple(splits),
        eval_role=config.task.eval_role,
        tests=tests,
        controls=tuple(variant.name for variant in variants if variant.control),
        ladder=ladder,
        calibration=calibration,
        above_base=config.task.probe_gate.above_base,
        stop_early=config.compression.stop_early,
        policy=config.policy,
        margin=config.policy.tolerance,
        alpha=ALPHA,
        claims=(*((name,) for name in tests), *(() if ladder is None else (ladder.names,))),
        group=config.task.group,
        groups=rows.groups,
        guards=tuple(guards),
    )


def _ladder(config: BenchConfig, looks: tuple[int, ...]) -> reports.PlannedLadder | None:
    ladder = config.compression.ladder
    if ladder is None:
        return None
    names = tuple(map(bench_arms.step_name, ladder.steps))
    return reports.PlannedLadder(
        steps=ladder.steps, names=names, bound=bound_of(len(config.seeds)), looks=looks
    )


def bound_of(seeds: int) -> reports.LadderBound:
    """Return the bound tested by the ladder. Fewer than three seeds cannot support claims about other trainings."""
    return "mean-over-trainings" if seeds >= MIN_SEEDS else "these-runs"


def looks_of(plan: reports.BenchPlan) -> tuple[int, ...]:
    """Return the planned looks of the ladder: empty without a ladder, or if each step evaluates all examples."""
    return () if plan.ladder is None else plan.ladder.looks


def promised(plan: reports.BenchPlan) -> dict[str, Any]:
    """Return the fields that must not change when a run resumes.

    They exclude the config's digest, which covers labels too, and the version of Gradience. They also exclude the code
    of a user's own task: changes of its data show in the splits, and changes of its scoring repeat the evaluations.
    """
    return plan.model_dump(mode="json", exclude={"code", "config_digest", "task_code"})


def plan_digest(plan: reports.BenchPlan) -> str:
    """Return the sha256 of the plan's non-null fields, which later artifacts contain."""
    return sha256_json(plan.model_dump(mode="json", exclude_none=True))


# ---------------------------------------------------------------- guards


def read_guards(config: BenchConfig) -> tuple[EvaluateInputs, ...]:
    """Return the examples and the margin of each guard, without adapters.

    Raises UsageError (`bad-set`, `bad-margin`, `wrong-model`, `no-examples`), and what reading and the engine raise.
    """
    folder = config.task.place or Path()
    sources = guards_of({name: seen_from(folder, guard.source) for name, guard in config.guards.items()})
    settings = EvaluateSettings(
        batch_size=config.train.per_device_eval_batch_size,
        device=config.runtime.device,
        engine=config.runtime.engine,
        with_base=True,
        folder=config.task.place,
        is_guard=True,
    )
    read = []
    for name, guard in config.guards.items():
        mine = source_of(sources[name], is_guard=True)
        mine["options"] = {**mine["options"], **guard.options}
        most = config.task.eval_samples if config.smoke else None
        limit = min(filter(None, (guard.limit, most)), default=None)
        request = replace(settings, set_name=name, margin=guard.margin, limit=limit, **mine)
        task = rendered(task_of(request), config.model)
        if isinstance(task, ClassificationTask):
            raise UsageError(
                f"guards.{name}: {task.name} labels texts, and a language model needs prompts or texts",
                code="wrong-model",
                hint="give rows with prompts and answers, or text:FILE",
            )
        engine(request.engine).require(task.kind)
        read.append(with_rows(EvaluateInputs(request, (), config.model, task, measures_divergence=False)))
    return tuple(read)
