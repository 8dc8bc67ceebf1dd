"""The config of a Bench run: one YAML file, typed and strict, with everything that can move a result.

Unknown keys are an error that names all of them, and for each the nearest known one. A verdict's thresholds are
exact: 0.025 is 1/40.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from gradience.bench.arms.controls import CONTROLS
from gradience.bench.config.sections import (
    ANSWER_GATE,
    LABEL_GATE,
    SHORT_WARMUP,
    CompressionSettings,
    GuardSettings,
    RuntimeSettings,
    TaskSettings,
)
from gradience.bench.config.shipped import FOLDER
from gradience.check.files import read_mapping
from gradience.config_errors import known_keys, refused
from gradience.digests import sha256_json
from gradience.errors import UsageError
from gradience.files import strict_yaml
from gradience.files.artifact import absent_at
from gradience.models.settings import ConfigSection, ModelSettings
from gradience.reports.bench_plan import Policy
from gradience.training.settings import LoraSettings, TrainSettings


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
        guards = {
            name: guard.model_copy(update={"limit": min(guard.limit or evaluated, evaluated)})
            for name, guard in self.guards.items()
        }
        return self.model_copy(
            update={
                "run_type": "smoke",
                "train": self.train.model_copy(update=train),
                "task": self.task.model_copy(update={"eval_samples": evaluated}),
                "guards": guards,
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
    values = dict(read_mapping(path))
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
