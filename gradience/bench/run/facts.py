"""What the stages of a seed leave: adapters on disk, records of their answers, and what went wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gradience.artifacts.audit import AuditReport
from gradience.artifacts.records import Evaluation
from gradience.artifacts.stage import StageManifest
from gradience.artifacts.training import TrainingReport
from gradience.bench.config.load import BenchConfig
from gradience.bench.plan.variants import PlannedVariant

ANSWERS, SCORES = "answers.records.jsonl", "scores.records.jsonl"
"""Files in the folder of an evaluation."""


@dataclass(frozen=True, slots=True)
class StoredAdapter:
    """An adapter on disk, and the facts about it that outlive its weights."""

    name: str
    folder: Path
    """PEFT's folder."""
    sha256: str
    bytes: int
    lora_params: int
    other_params: int
    """A classifier's head."""
    lora: bool = True
    """False: its head alone is used, and its LoRA was never trained."""
    training: TrainingReport | None = None


@dataclass(slots=True)
class Outcome:
    """What became of one planned variant."""

    planned: PlannedVariant
    adapter: StoredAdapter | None = None
    answers: Evaluation[Any] | None = None
    scores: Evaluation[Any] | None = None
    manifests: list[StageManifest] = field(default_factory=list)
    error: str = ""
    """The last line of the traceback of what stopped it."""


@dataclass(slots=True)
class SeedFacts:
    """Everything that a seed yielded: what bench.json is made from."""

    config: BenchConfig
    seed: int
    probe: Outcome | None = None
    """Without answers when its training diverged."""
    gate_passed: bool = False
    audit: AuditReport | None = None
    outcomes: list[Outcome] = field(default_factory=list)
    error: str = ""
    """What stopped the probe or its audit."""
