"""Results of the stages of a seed: adapters on disk, records of their answers, and errors."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from gradience.adapters.config import PeftConfig
from gradience.adapters.keys import config_name
from gradience.adapters.locate import WEIGHTS
from gradience.adapters.tensors import TensorEntry, read_header, stored_header
from gradience.bench.config.load import BenchConfig
from gradience.bench.plan.variants import PlannedVariant
from gradience.compress.carry import DISTILL_REPORT
from gradience.compress.carry import REPORT as COMPRESSION_REPORT
from gradience.files.records import Evaluation, read_records
from gradience.plan.modules import Ranks
from gradience.reading import MAX_SETTINGS_BYTES, read_file
from gradience.reports.audit import AuditReport
from gradience.reports.calibration import Calibration
from gradience.reports.compression import CompressionReport
from gradience.reports.distill import DistillReport
from gradience.reports.evaluation import EvaluationReport
from gradience.reports.training import ADAPTER, MANIFEST, REPORT, StageManifest, TrainingReport

ANSWERS, SCORES = "answers.records.jsonl", "scores.records.jsonl"
"""Files in the folder of an evaluation."""
AUDIT, CALIBRATION, SIZES = "audit.json", "calibration.safetensors", "parameters.json"
"""Files of audit and calibration; and the parameter counts of a derived adapter: LoRA factors, everything else."""
HEADER = "weights_header.json"
"""Beside an adapter's folder: the header of its weights (names, shapes, types of tensors), which outlives them."""
BEGUN, FAILED = "begun", "failed.log"
"""In the folder of a stage that is not finished: its key; and the last lines of the traceback, if it has failed."""
Answers = Evaluation[Any]
_TWO_SIZES: TypeAdapter[tuple[int, int]] = TypeAdapter(tuple[int, int])


def header_of(weights: Path) -> Mapping[str, TensorEntry]:
    """Return the tensors in a file of weights."""
    return read_header(weights, stored_header(weights), weights.stat().st_size)[0]


def parameters_of(header: Mapping[str, TensorEntry]) -> tuple[int, int]:
    """Count the parameters of an adapter: of LoRA factors, and of everything else."""
    lora = sum(entry.params for name, entry in header.items() if "lora_" in name)
    return lora, sum(entry.params for entry in header.values()) - lora


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
    """False: only its head is used, and its LoRA was never trained."""
    training: TrainingReport | None = None
    distillation: DistillReport | None = None
    compression: CompressionReport | None = None
    """Set if a calibration chose the components to keep."""


@dataclass(slots=True)
class Outcome:
    """Files and results of one planned variant, or its error."""

    planned: PlannedVariant
    adapter: StoredAdapter | None = None
    answers: Answers | None = None
    answers_sha256: str = ""
    scores: Answers | None = None
    manifests: list[StageManifest] = field(default_factory=list)
    error: str = ""
    """Last line of the traceback of the error that stopped it."""
    waits: bool = False
    """A stage of it is left to another process, and not done yet."""

    def read_training(self, stage: Path) -> None:
        """Add the adapter that was trained in this folder."""
        report, has_lora = TrainingReport.read(stage / REPORT), self.planned.making.trains == "lora"
        stored = self._stored(stage, report.lora_params if has_lora else 0, report.other_params)
        self.adapter = replace(stored, lora=has_lora, training=report)

    def read_derived(self, stage: Path) -> None:
        """Add the adapter that was derived from the probe in this folder."""
        stored = self._stored(stage, *_TWO_SIZES.validate_json(read_file(stage / SIZES, MAX_SETTINGS_BYTES)))
        if self.planned.is_distilled:
            stored = replace(stored, distillation=DistillReport.read(stage / ADAPTER / DISTILL_REPORT))
        if self.planned.predicted is not None:
            compression = CompressionReport.read(stage / ADAPTER / COMPRESSION_REPORT)
            stored = replace(stored, compression=compression)
        self.adapter = stored

    def read_answers(self, stage: Path) -> None:
        """Add the records of the evaluation in this folder."""
        self.answers = read_records(stage / ANSWERS)
        if (stage / SCORES).is_file():
            self.scores = read_records(stage / SCORES)
        manifest = StageManifest.read(stage / MANIFEST)
        self.answers_sha256 = manifest.files[ANSWERS].sha256
        self.manifests = [known for known in self.manifests if ANSWERS not in known.files]  # of fewer looks
        self.manifests.append(manifest)

    def _stored(self, stage: Path, lora_params: int, other_params: int) -> StoredAdapter:
        manifest = StageManifest.read(stage / MANIFEST)
        weights = manifest.files[f"{ADAPTER}/{WEIGHTS}"]
        self.manifests.append(manifest)
        name, folder = self.planned.name, stage / ADAPTER
        return StoredAdapter(name, folder, weights.sha256, weights.bytes, lora_params, other_params)


@dataclass(slots=True)
class SeedFacts:
    """Everything that a seed yielded: what bench.json is made from."""

    config: BenchConfig
    seed: int
    probe: Outcome | None = None
    """Without answers when its training diverged."""
    base: Answers | None = None
    """Answers of the base without an adapter, if the gate needs them."""
    gate_passed: bool = False
    audit: AuditReport | None = None
    calibration: Calibration | None = None
    """Set if a variant needs one."""
    uncalibrated: str = ""
    """The error that stopped it."""
    outcomes: list[Outcome] = field(default_factory=list)
    guards: dict[str, EvaluationReport] = field(default_factory=dict)
    """Guard -> evaluation of probe, candidates and base."""
    unguarded: dict[str, str] = field(default_factory=dict)
    """Guard -> error that stopped its evaluation."""
    error: str = ""
    """The error that stopped the probe or its audit."""

    def outcome(self, name: str) -> Outcome:
        """Return the outcome of the variant `name`."""
        return next(outcome for outcome in self.outcomes if outcome.planned.name == name)

    def adapters(self) -> Iterator[tuple[Outcome, StoredAdapter]]:
        """Yield the outcomes that have an adapter, the probe's first."""
        for outcome in (self.probe, *self.outcomes):
            if outcome is not None and outcome.adapter is not None:
                yield outcome, outcome.adapter

    @property
    def training(self) -> TrainingReport | None:
        """The probe's training."""
        return self.probe.adapter.training if self.probe and self.probe.adapter else None


def changed_scales(
    probe: PeftConfig, adapter: PeftConfig, ranks: Ranks
) -> Iterator[tuple[str, float, float | None]]:
    """Yield the modules that an adapter scales otherwise than the probe does: name, the probe's scale, its own.

    Both as PEFT reads the configs. ranks: of the adapter; modules at rank 0 have no scale.
    """
    for module, rank in ranks.items():
        name = config_name(module)
        full = probe.rank_of(name)
        if not rank or full is None:
            continue
        was, is_now = probe.scale(probe.alpha_of(name), full), adapter.scale(adapter.alpha_of(name), rank)
        if was is not None and (is_now is None or not math.isclose(was, is_now, rel_tol=1e-6)):
            yield module, was, is_now
