"""The config of a Bench run: one YAML file, typed and strict, with everything that can move a result.

Unknown keys are an error that names all of them, and for each the nearest known one. A verdict's thresholds are
exact: 0.025 is 1/40.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    JsonValue,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from gradience import tasks
from gradience.bench.arms import ARMS, CONTROLS, VARIANTS, Arm, is_calibrated, is_variant
from gradience.bench.settings import FOLDER
from gradience.calibrate.verb import FEWEST
from gradience.digests import sha256_json
from gradience.distill.verb import FEWEST as FEWEST_DISTILLATION
from gradience.errors import InputError, UsageError
from gradience.evaluate.engines import ENGINES
from gradience.files import strict_yaml
from gradience.files.artifact import absent_at
from gradience.models.settings import ConfigSection, ModelSettings
from gradience.ranks import DEFAULT_GRID
from gradience.reports.bench_plan import Policy, Role, Share
from gradience.settings import Positive, known_keys, refused
from gradience.tasks.base import ChatTask, LikelihoodTask, Task
from gradience.tasks.glue import SUBSETS, Subset
from gradience.tasks.rows import grouped_by
from gradience.training.settings import LoraSettings, TrainSettings

LABEL_GATE, ANSWER_GATE = "0.70", "0.15"
"""Default accuracy that a probe must reach before conclusions are drawn from it, for tasks with labels and
for free-text tasks. GLUE tasks have their own.
"""

SHORT_WARMUP = 10
"""A smoke run of n steps warms up for n/10 at most, or it would end before its learning rate is reached."""


def _variant(name: str) -> str:
    if not is_variant(name):
        raise ValueError(
            f"{name!r} is not a variant: use {', '.join(VARIANTS)}, or uniform_rN such as uniform_r16, or calibrated_rN"
        )
    return name


class OneOf:
    """A validator: the value is a name in a table, which may grow."""

    def __init__(self, table: Mapping[str, Any]) -> None:
        self.table = table

    def __call__(self, name: str) -> str:
        """Return the name. Raises ValueError if the table does not contain it."""
        if name not in self.table:
            raise ValueError(f"{name!r} is not one of {', '.join(self.table)}")
        return name

    def in_words(self) -> str:
        """Return every name with its words, for the key reference."""
        musts = {"PASS": " Must pass.", "FAIL": " Must fail.", "": ""}
        return " ".join(
            f"`{name}`: {entry.words}.{musts[getattr(entry, 'expected', None) or '']}"
            for name, entry in self.table.items()
        )


def _names(values: Mapping[str, Any], key: str) -> list[str]:
    """The names in a list that is not checked yet."""
    there = values.get(key)
    return [name for name in there if isinstance(name, str)] if isinstance(there, list | tuple) else []


Variant = Annotated[str, AfterValidator(_variant)]


ARM, CONTROL, ENGINE = OneOf(ARMS), OneOf(CONTROLS), OneOf(ENGINES)
ArmName = Annotated[str, AfterValidator(ARM)]
ControlName = Annotated[str, AfterValidator(CONTROL)]


class ProbeGate(ConfigSection):
    """Accuracy that the probe must reach. Below it, training stops and the run is UNDERTRAINED."""

    min_value: Share | None = None
    """Share of correct answers. By default GLUE's own (sst2 0.75 …), 0.70 for other labels, 0.15 for free text."""
    above_base: Share | None = absent_at(Fraction(0))
    """The probe must have more correct answers than its base, by more than this share of the examples. For free text
    the base answers without an adapter; for labels, the most frequent label is the baseline. `null`: no check."""


class GenerationSettings(ConfigSection):
    """Generation of answers. Decoding is always greedy."""

    max_new_tokens: Positive | None = None
    """Maximum tokens of an answer. Default: the task's own limit."""


class TaskSettings(ConfigSection):
    """The task and the examples to evaluate."""

    profile: str
    """Name of the task; `lm_eval:NAME` for lm-evaluation-harness. A task of your own, `path/to/file.py` or
    `lm_eval:path/to/task.yaml`, needs `--allow-code`."""
    options: dict[str, JsonValue] = Field(default_factory=dict)
    """Options passed on to the task: files, subsets."""
    folder: str | None = Field(default=None, exclude=True)
    """Base folder of relative paths in `profile` and in `options`, including those set with KEY=VALUE.
    Default: the config's own folder, or the working directory for a shipped config. A relative value
    starts at the config's folder. Not part of any digest.
    """
    eval_role: Literal["confirm", "dev"] = "confirm"
    """Claims rest on `confirm`, which is evaluated once; `dev` is for experiments."""
    eval_samples: Positive | None = None
    """Number of examples of that role, taken from the start (their order is as good as random). Default: all."""
    group: str | None = absent_at(None)
    """Column of the task's files whose values group rows that are not independent: a document, a user, a template.
    Spellings of one text are a group without it."""
    generation: GenerationSettings = GenerationSettings()
    probe_gate: ProbeGate = ProbeGate()

    def load(self) -> Task | ChatTask:
        """Make the task, its relative paths seen from `folder`.

        Raises InputError (`task-uncounted`: nothing in it is correct or not), and what `tasks.load` raises.
        """
        with grouped_by(self.group):
            task = tasks.load(self.profile, self.options, folder=self.place)
        if isinstance(task, LikelihoodTask) or (isinstance(task, ChatTask) and task.likelihoods):
            raise InputError(
                f"task.profile {self.profile}: compares likelihoods, but Bench verdicts count correct answers",
                code="task-uncounted",
                hint="choose another scorer, or compare existing adapters with gradience evaluate",
            )
        return task

    @property
    def place(self) -> Path | None:
        """Return `folder` as a path; None for the working directory."""
        return None if self.folder is None else Path(self.folder)

    @property
    def glue_subset(self) -> Subset | None:
        """The subset of GLUE that it names; None for other tasks."""
        return SUBSETS.get(str(self.options.get("subset"))) if self.profile == "glue" else None


class GuardSettings(ConfigSection):
    """A further named data set, for language models: a variant must pass on it as well, on every seed. A plain string
    is its `source`."""

    source: str
    """A file, a task such as `text` or `lm_eval:arc_easy`, or `text:FILE` for the likelihood of a text. Relative paths
    start at `task.folder`."""
    margin: float | str | None = None
    """Largest acceptable drop in accuracy, in points (default: 5). For likelihoods: nats per token (default: 0.05), or
    the increase in perplexity, such as `2%`."""
    options: dict[str, JsonValue] = Field(default_factory=dict)
    """Options of the task."""
    limit: Positive | None = None
    """Number of examples, taken from the start. Default: all."""

    @model_validator(mode="before")
    @classmethod
    def _source_alone(cls, values: Any) -> Any:
        return {"source": values} if isinstance(values, str) else values


class LadderSettings(ConfigSection):
    """Truncations of the probe, tested from the largest down to find the smallest rank shown within the margin."""

    steps: Annotated[tuple[Positive, ...], Field(min_length=1)]
    """Ranks from the largest down, such as `[16, 8, 4]`, each for every module. Tested in this order, each at the full
    level, until one is not shown within the margin."""
    all_rows: bool = absent_at(False)
    """Evaluate each step on all examples. By default it stops at the first planned look with a clear result."""

    @model_validator(mode="after")
    def _descends(self) -> LadderSettings:
        if list(self.steps) != sorted(set(self.steps), reverse=True):
            raise ValueError("`steps` must be listed in descending order without duplicates")
        return self


class DistillationSettings(ConfigSection):
    """Settings of the arm `distill`, which trains on the probe's training prompts without their labels."""

    steps: Annotated[Share, Field(gt=0)] = Fraction(1, 10)
    """Largest share of the probe's training steps; distillation stops early if the loss no longer improves. A
    step uses `train.per_device_train_batch_size` rows.
    """
    rows: Annotated[int, Field(ge=FEWEST_DISTILLATION)] = 512
    """Number of training examples, taken from the start. A quarter is held out, and an eighth selects the kept step."""
    lr: Annotated[float, Field(gt=0)] = 3e-4
    """Peak AdamW learning rate: 20 % warm-up, then linear decay to 0."""

    def steps_of(self, training: int) -> int:
        """Return the number of distillation steps after a training of `training` steps."""
        return max(1, round(self.steps * training))


class CalibrationSettings(ConfigSection):
    """Calibration of the probe on its training prompts, without their labels. Used by variants called
    `calibrated`.
    """

    rows: Annotated[int, Field(ge=FEWEST)] = 256
    """Number of training examples, taken from the start. One half selects components; the other predicts the KL."""


class CompressionSettings(ConfigSection):
    """Smaller adapters to compare with the probe, and the arms that make them."""

    variants: Annotated[tuple[Variant, ...], Field(min_length=1)] = (
        "uniform_median",
        "uniform_p90",
        "per_layer",
    )
    """`uniform_median`, `uniform_p90`: the audit's median or 90th percentile for all modules. `per_layer`: a rank per
    module. `uniform_r16`: a given rank. `calibrated`: the components with the largest effect in a calibration of the
    probe, in as many parameters as `uniform_median`; `calibrated_r4`: as many as rank 4."""
    arms: Annotated[tuple[ArmName, ...], Field(min_length=1, description=ARM.in_words())] = (
        "retrain",
        "truncate",
    )
    retrain: tuple[Variant, ...] | None = None
    """Variants to retrain. Default: all. Retraining dominates the cost of a run."""
    controls: Annotated[tuple[ControlName, ...], Field(description=CONTROL.in_words())] = ("rewrite_control",)
    allowed_ranks: Annotated[tuple[Positive, ...], Field(min_length=1)] = DEFAULT_GRID
    """Suggested ranks are rounded up to these, never above the probe's."""
    ladder: LadderSettings | None = absent_at(None)
    """Rank ladder, tested in addition to the variants. Default: none."""
    stop_early: bool = absent_at(True)
    """Stop retraining a variant on further seeds once it can no longer pass, whatever those seeds show."""
    distillation: DistillationSettings | None = absent_at(None)
    """Settings of the arm `distill`; defaults apply if the arm is listed."""
    calibration: CalibrationSettings | None = absent_at(None)
    """Settings of the `calibrated` variants; defaults apply if one of them is listed."""
    energy: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of a module's energy that its suggested rank holds."""

    @model_validator(mode="before")
    @classmethod
    def _says_how(cls, values: Any) -> Any:
        """Record the default distillation or calibration settings explicitly, because they affect the
        result.
        """
        if not isinstance(values, dict):
            return values
        distills = any(name in ARMS and ARMS[name].distills for name in _names(values, "arms"))
        calibrates = any(map(is_calibrated, _names(values, "variants")))
        needed = {"distillation": distills, "calibration": calibrates}
        return values | {name: {} for name, is_so in needed.items() if is_so and values.get(name) is None}

    @model_validator(mode="after")
    def _fits_together(self) -> CompressionSettings:
        for name in ("variants", "arms", "retrain", "controls", "allowed_ranks"):
            values = getattr(self, name) or ()
            if len(set(values)) < len(values):
                raise ValueError(f"`{name}` lists a name twice")
        if self.retrain is not None and not any(ARMS[name].is_trained for name in self.arms):
            raise ValueError("`retrain` is given, but `arms` has no `retrain`")
        extra = [name for name in self.retrain or () if name not in self.variants]
        if extra:
            raise ValueError(f"`retrain` names {extra[0]}, which is not among `variants`")
        for arm in (ARMS[name] for name in self.arms):
            if arm.needs_control and arm.needs_control not in self.controls:
                raise ValueError(f"the arm {arm.name} needs the control {arm.needs_control}")
        if self.distillation is not None and not any(ARMS[name].distills for name in self.arms):
            raise ValueError("`distillation` is given, but `arms` has no `distill`")
        if self.calibration is not None and not any(map(is_calibrated, self.variants)):
            raise ValueError("`calibration` is given, but `variants` has no `calibrated`")
        for control in (CONTROLS[name] for name in self.controls):
            if control.needs_arm and control.needs_arm not in self.arms:
                raise ValueError(f"the control {control.name} needs the arm {control.needs_arm}")
            if control.needs_variant and control.needs_variant not in self.variants:
                raise ValueError(f"the control {control.name} needs the variant {control.needs_variant}")
        return self

    def arms_of(self, variant: str) -> list[Arm]:
        """The arms in which the variant is made."""
        limited = self.retrain is not None and variant not in self.retrain
        arms = [ARMS[name] for name in self.arms]
        return [arm for arm in arms if not (limited and arm.is_trained)]


class SmokeSettings(ConfigSection):
    """Limits of a shortened run (`run_type: smoke`)."""

    max_steps: Positive = 50
    """Optimizer steps."""
    train_samples: Positive = 200
    """Training examples."""
    eval_samples: Positive = 200
    """Evaluated examples."""


class RuntimeSettings(ConfigSection):
    """Settings of the machine, which are not part of the protocol. The executor is not part of any result or digest
    either, so a run may continue on another machine."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = "auto"
    """Device of the process. `cuda:1` is the second GPU; `cuda` and `auto` take the first."""
    threads: Positive | None = None
    """CPU threads used by torch. Default: torch's own choice."""
    engine: Annotated[str, AfterValidator(ENGINE)] = absent_at("transformers")
    """Engine that answers the examples: `transformers`, or `vllm` in a separate process, whose Python is set
    by `--engine-python`. Part of the key of every evaluation; probe and variants use the same engine.
    """
    executor: Literal["local", "ray"] = Field(default="local", exclude=True)
    """`local`: one stage after another in one process. `ray`: as many stages at a time as the GPUs or CPUs of a Ray
    cluster, or of this machine, allow."""
    keep_adapters: Literal["all", "probe", "none"] = "all"
    """Adapters kept on disk after the run."""
    smoke: SmokeSettings = SmokeSettings()


def _distinct(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(seeds)) < len(seeds):
        raise ValueError("lists a seed twice, which would count one run twice")
    return seeds


Seeds = Annotated[
    tuple[Annotated[int, Field(ge=0, lt=2**32)], ...], Field(min_length=1), AfterValidator(_distinct)
]


RIVALS: Mapping[str, str] = {
    "max_steps": "epochs",
    "epochs": "max_steps",
    "warmup_steps": "warmup_ratio",
    "warmup_ratio": "warmup_steps",
    "seeds": "only_seed",
}
"""A setting that is overridden -> the setting that it takes the place of."""


class BenchConfig(ConfigSection):
    """One Bench run."""

    model: ModelSettings
    task: TaskSettings
    lora: LoraSettings
    train: TrainSettings
    compression: CompressionSettings = CompressionSettings()
    policy: Policy = Policy()
    guards: dict[str, GuardSettings] = absent_at({})
    """Further data sets by name, on which every variant must pass as well."""
    runtime: RuntimeSettings = RuntimeSettings()
    seeds: Seeds = (42,)
    """One run per seed."""
    only_seed: int | None = Field(default=None, exclude=True)
    """Run only this one of `seeds`; the others count as missing until they are run. Not part of any digest."""
    run_type: str | None = None
    """`smoke` shortens the run and marks all its results; any other text is only a label."""
    bench_version: str | None = None
    """A label without effect. Part of the config's digest."""

    @field_validator("only_seed")
    @classmethod
    def _planned(cls, seed: int | None, info: ValidationInfo) -> int | None:
        planned = info.data.get("seeds", ())
        if seed is not None and planned and seed not in planned:
            raise ValueError(f"{seed} is not among the planned seeds {', '.join(map(str, planned))}")
        return seed

    @model_validator(mode="after")
    def _fits_together(self) -> BenchConfig:
        for control in (CONTROLS[name] for name in self.compression.controls):
            if control.needs_head and self.model.type != "seqcls":
                raise ValueError(
                    f"the control {control.name} needs a classifier head: set `model.type: seqcls`"
                )
        if self.guards and self.model.type != "causal_lm":
            raise ValueError("`guards` are for language models: set `model.type: causal_lm`")
        if {"eval", "train"} & self.guards.keys():
            raise ValueError("`guards` cannot be called `eval` or `train`")
        if self.guards and self.compression.ladder is not None:
            raise ValueError("`guards` do not go with `compression.ladder`: list its ranks as `variants`")
        return self

    @property
    def due(self) -> tuple[int, ...]:
        """The seeds that are run now."""
        return self.seeds if self.only_seed is None else (self.only_seed,)

    @property
    def asks_base(self) -> bool:
        """True if the base model is evaluated too, for the probe's gate."""
        return self.model.type == "causal_lm" and self.task.probe_gate.above_base is not None

    @property
    def smoke(self) -> bool:
        """True for a smoke test, which only checks that everything works."""
        return self.run_type == "smoke"

    @property
    def limits(self) -> dict[Role, int | None]:
        """Largest number of examples of each role that is used; None for all."""
        return {"train": self.train.train_samples, self.task.eval_role: self.task.eval_samples}

    def seen_from(self, folder: Path | None) -> BenchConfig:
        """Return the same config with relative paths based on `folder`; None bases them on the working
        directory.
        """
        if folder is None:
            return self
        sections = {
            name: section.model_copy(update={"folder": str(folder / (section.folder or ""))})
            for name, section in (("task", self.task), ("model", self.model))
        }
        return self.model_copy(update=sections)

    def gate(self) -> Fraction:
        """Return the share of correct answers that the probe must reach."""
        if self.task.probe_gate.min_value is not None:
            return self.task.probe_gate.min_value
        if self.model.type == "causal_lm":
            return Fraction(ANSWER_GATE)
        subset = self.task.glue_subset
        return Fraction(subset.gate if subset else LABEL_GATE)

    def shortened(self) -> BenchConfig:
        """Return the smoke run of this config; of a smoke run, itself."""
        limits = self.runtime.smoke
        steps = min(self.train.max_steps or limits.max_steps, limits.max_steps)
        warmup = self.train.warmup_steps
        train: dict[str, Any] = {
            "max_steps": steps,
            "epochs": None,
            "warmup_steps": warmup if warmup is None else min(warmup, steps // SHORT_WARMUP),
            "train_samples": min(self.train.train_samples or limits.train_samples, limits.train_samples),
        }
        evaluated = min(self.task.eval_samples or limits.eval_samples, limits.eval_samples)
        return self.model_copy(
            update={
                "run_type": "smoke",
                "train": self.train.model_copy(update=train),
                "task": self.task.model_copy(update={"eval_samples": evaluated}),
            }
        )

    def digest(self) -> str:
        """Return the sha256 of all of it."""
        return sha256_json(self.model_dump(mode="json"))

    def protocol_digest(self) -> str:
        """Return the sha256 of the settings that jointly counted runs must share: all but seeds, machine and labels."""
        parts = self.model_dump(mode="json", exclude={"seeds", "runtime", "run_type", "bench_version"})
        return sha256_json(parts | {"smoke": self.smoke})


def load_config(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> BenchConfig:
    """Read the config in the file at `path`, changed by overrides such as `train.lr=1e-4` or `seeds=[1, 2]`.

    A smoke run comes shortened.
    Raises InputError for the file and UsageError for an override: config-not-found, bad-yaml, config-key (an
    unknown key, with the nearest known one), config-value.
    """
    path = Path(path)
    values = dict(strict_yaml.read_mapping(path))
    changes: dict[str, dict[str, Any]] = {}
    for override in overrides:
        changes[override] = _parsed(override)
        values = _merged(values, changes[override])
    try:
        config = BenchConfig.model_validate(values)
    except ValidationError as error:
        raise refused(error, [*known_keys(BenchConfig)], str(path), changes, INSTEAD) from None
    # paths in a shipped config start at the working directory, since it has no data beside it
    config = config.seen_from(None if path.resolve().parent == FOLDER.resolve() else path.parent)
    return config.shortened() if config.smoke else config


def _merged(values: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with `change` on top, section by section; of two settings that exclude each other, its own."""
    result = dict(values)
    for key, value in change.items():
        if key in RIVALS:
            result.pop(RIVALS[key], None)
        below = result.get(key)
        result[key] = (
            _merged(below if isinstance(below, Mapping) else {}, value)
            if isinstance(value, Mapping)
            else value
        )
    return result


def _parsed(override: str) -> dict[str, Any]:
    """`a.b=VALUE`, the value read as YAML, as {"a": {"b": VALUE}}."""
    key, sign, text = override.partition("=")
    names = key.strip().split(".")
    if not sign or not all(names):
        raise UsageError(
            f"{override!r} is not a setting",
            code="config-override",
            hint="write KEY=VALUE, such as train.lr=1e-4",
        )
    value: Any = strict_yaml.loads(text.encode(), override)
    for name in reversed(names):
        value = {name: value}
    return dict(value)


# ---------------------------------------------------------------- two configs

UNCOUNTED = ("runtime", "run_type", "bench_version", "task.folder", "model.folder")
"""Settings that affect no number: the machine, labels, and the base folders of paths."""


INSTEAD: Mapping[str, str] = {
    "model.torch_dtype": "model.dtype",
    "train.learning_rate": "train.lr",
    "train.num_train_epochs": "train.epochs",
    "train.gradient_checkpointing": "model.gradient_checkpointing",
    "seed": "seeds",
    "train.seed": "seeds",
    "train.eval_samples": "task.eval_samples",
    "task.dataset": "task.profile",
    "task.subset": "task.options.subset",
    "lora.r": "lora.probe_r",
    "lora.lora_alpha": "lora.alpha",
    "lora.lora_dropout": "lora.dropout",
}
"""Unknown key -> our name."""
