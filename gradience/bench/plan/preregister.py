"""Preregistration: the config, the data digests and the guards, written to `plan.json` before training."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from gradience.bench.arms.ranks import step_name
from gradience.bench.config.load import BenchConfig
from gradience.bench.plan.variants import asked_for
from gradience.digests import sha256_json
from gradience.errors import UsageError
from gradience.evaluate.engines import engine
from gradience.evaluate.inputs import EvaluateInputs, groups_of, planned_looks, task_of, with_rows
from gradience.evaluate.settings import EvaluateSettings, guards_of, seen_from, source_of
from gradience.files.shared_names import path_text
from gradience.reports.bench import MIN_SEEDS
from gradience.reports.bench_plan import (
    BenchPlan,
    DataSplit,
    LadderBound,
    PlannedCalibration,
    PlannedLadder,
    PlannedSet,
    TaskCode,
)
from gradience.statistics.groups import numbered
from gradience.tasks.base import ClassificationTask, Task, rendered

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
    splits: Sequence[DataSplit],
    code: TaskCode | None = None,
    calibration: PlannedCalibration | None = None,
    rows: EvaluatedRows = EvaluatedRows(),  # noqa: B008  (immutable)
    guards: Sequence[PlannedSet] = (),
) -> BenchPlan:
    """Return the plan of a run on these examples. task: the task's own name. code: of a user's own task.

    calibration: the prompts, if the probe will be calibrated.
    """
    variants = asked_for(config.compression)
    tests = tuple(variant.name for variant in variants if variant.is_candidate)
    ladder = _ladder(config, rows.looks)
    return BenchPlan(
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


def _ladder(config: BenchConfig, looks: tuple[int, ...]) -> PlannedLadder | None:
    ladder = config.compression.ladder
    if ladder is None:
        return None
    names = tuple(map(step_name, ladder.steps))
    return PlannedLadder(steps=ladder.steps, names=names, bound=bound_of(len(config.seeds)), looks=looks)


def bound_of(seeds: int) -> LadderBound:
    """Return the bound tested by the ladder. Fewer than three seeds cannot support claims about other trainings."""
    return "mean-over-trainings" if seeds >= MIN_SEEDS else "these-runs"


def looks_of(plan: BenchPlan) -> tuple[int, ...]:
    """Return the planned looks of the ladder: empty without a ladder, or if each step evaluates all examples."""
    return () if plan.ladder is None else plan.ladder.looks


def promised(plan: BenchPlan) -> dict[str, Any]:
    """Return the fields that must not change when a run resumes.

    They exclude the config's digest, which covers labels too, and the version of Gradience. They also exclude the code
    of a user's own task: changes of its data show in the splits, and changes of its scoring repeat the evaluations.
    """
    return plan.model_dump(mode="json", exclude={"code", "config_digest", "task_code"})


def plan_digest(plan: BenchPlan) -> str:
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
        mine["options"] |= guard.options
        request = replace(settings, set_name=name, margin=guard.margin, limit=guard.limit, **mine)
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
