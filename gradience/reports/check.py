"""`gradience check --json`: what a configuration will do, before it is trained."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from gradience.files.artifact import Float12, Part
from gradience.reports.base.finding import Severity
from gradience.reports.base.report import Report


class SourceFile(Part):
    """A file that was read, and as what."""

    path: str
    dialect: str
    """peft, trainer, trl, axolotl, llama-factory or unsloth."""


class SettingsRead(Part):
    """What the files say, in one vocabulary. Null: not said."""

    objective: str | None = None
    """sft, pretraining, rl, preference, reward or distillation."""
    algorithm: str | None = None
    """The method as the tool names it: grpo, dpo ..."""
    adapter: bool | None = None
    """False: no LoRA adapter is trained."""
    base_model: str | None = None
    peft_type: str | None = None
    task_type: str | None = None
    r: int | None = None
    alpha: Float12 | None = None
    scale: Float12 | None = None
    target_modules: tuple[str, ...] | str | None = None
    """Names, or a regular expression, or `all-linear`; empty: none were named and nothing is taken instead."""
    use_rslora: bool | None = None
    use_dora: bool | None = None
    init: str | None = None
    quantized_bits: int | None = None
    learning_rate: Float12 | None = None
    optimizer: str | None = None
    schedule: str | None = None
    effective_batch_size: int | None = None
    epochs: Float12 | None = None
    max_steps: int | None = None
    precision: str | None = None
    evaluation: str | None = None


class CheckFinding(Part):
    """One thing about the configuration."""

    code: str
    severity: Severity
    field: str
    """The setting it is about, in our vocabulary."""
    where: str | None = None
    """File and key that it was read from; null where a default is meant."""
    seen: str
    """The value that was found, as written."""
    advised: str
    message: str
    reason: str
    source: str


class CheckReport(Report):
    """Everything that was read, and every finding.

    >>> from gradience.check import check_config
    >>> [finding.code for finding in check_config(r=16, alpha=16, lr=0.5).findings]
    ['learning-rate']
    """

    row_field: ClassVar[str] = "findings"

    schema_: Literal["gradience.check/1"] = Field(default="gradience.check/1", alias="schema")
    gradience_version: str
    task: str | None
    files: tuple[SourceFile, ...]
    settings: SettingsRead
    lora_params: int | None = None
    """Trainable LoRA parameters, where the base model's config.json was given."""
    findings: tuple[CheckFinding, ...]
    passed: tuple[str, ...]
    """Codes of the rules that had what they need and found nothing."""
    not_applicable: tuple[str, ...]
    """Codes of the rules that lacked what they need."""
