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
from gradience.bench.run.stages import MANIFEST, REMOVABLE
from gradience.training.resume import ADAPTER

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

    def add_adapter(self, stage: Path, **facts: Any) -> None:
        """Add the adapter that the stage in this folder has made. facts: the other fields of StoredAdapter."""
        manifest = StageManifest.read(stage / MANIFEST)
        weights = manifest.files[f"{ADAPTER}/{REMOVABLE}"]
        self.manifests.append(manifest)
        self.adapter = StoredAdapter(
            self.planned.name, stage / ADAPTER, weights.sha256, weights.bytes, **facts
        )


@dataclass(slots=True)
class SeedFacts:
    """Everything that a seed yielded: what bench.json is made from."""

    config: BenchConfig
    seed: int
    probe: Outcome | None = None
    """Without answers when its training diverged."""
    base: Evaluation[Any] | None = None
    """What the base answers without an adapter, where the gate asks for it."""
    gate_passed: bool = False
    audit: AuditReport | None = None
    outcomes: list[Outcome] = field(default_factory=list)
    error: str = ""
    """What stopped the probe or its audit."""
