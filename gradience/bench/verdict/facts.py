"""Results of the stages of a seed: adapters on disk, records of their answers, and errors."""

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import TypeAdapter

from gradience.adapters.config import PeftConfig
from gradience.adapters.keys import config_name
from gradience.adapters.locate import WEIGHTS
from gradience.adapters.tensors import TensorEntry, read_header, stored_header
from gradience.bench.arms import RETRAIN
from gradience.bench.config import BenchConfig
from gradience.bench.plan import GUARDS, PROBE, PlannedVariant, plan_variants
from gradience.compress.carry import DISTILL_REPORT
from gradience.compress.carry import REPORT as COMPRESSION_REPORT
from gradience.evaluate.verb import EVALUATION
from gradience.files.records import ClassificationRecord, Evaluation, count, read_records
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


# ---------------------------------------------------------------- the probe's gate


def gate_passed(correct: int, n: int, minimum: Fraction) -> bool:
    """Return whether a probe with `correct` of `n` examples reaches its gate. Without examples, none does."""
    return n > 0 and correct >= minimum * n


def is_ahead(correct: int, base_correct: int, n: int, above: Fraction) -> bool:
    """Return whether a probe has more of `n` examples correct than its base, by more than the share `above`.

    >>> is_ahead(120, 100, 200, Fraction(0)), is_ahead(120, 100, 200, Fraction("0.1"))
    (True, False)
    """
    return correct - base_correct > above * n


def gate_of_base(config: BenchConfig, probe: Evaluation[Any], base: Evaluation[Any] | None) -> dict[str, Any]:
    """Return the fields of `Gate` about the base: its correct answers, and the required lead."""
    margin = config.task.probe_gate.above_base
    if margin is None:
        return {}
    if base is not None:
        correct, baseline = count(base.records).correct, "without an adapter"
    else:
        labels = Counter(row.label for row in probe.records if isinstance(row, ClassificationRecord))
        if not labels:  # below its own gate, so the base was not evaluated
            return {}
        correct, baseline = max(labels.values()), "most frequent label"
    return {"above_base": margin, "base_correct": correct, "base": baseline}


def reaches_gate(config: BenchConfig, probe: Evaluation[Any]) -> bool:
    """Return whether a probe with these answers has as many correct as its gate asks for."""
    counts = count(probe.records)
    return gate_passed(counts.correct, counts.n, config.gate())


def leads_base(config: BenchConfig, probe: Evaluation[Any], base: Evaluation[Any] | None) -> bool:
    """Return True if it has more correct than its base, by more than its gate requires, or if no lead is required."""
    counts, about = count(probe.records), gate_of_base(config, probe, base)
    return not about or is_ahead(counts.correct, about["base_correct"], counts.n, about["above_base"])


# ---------------------------------------------------------------- the walk over the stages
#
# A run makes each stage (`run/seed.py`); a verification finds it finished (`verify/recompute.py`). Which stages there
# are depends on the stages before them: on the probe's accuracy, and on its audit.


class NotThere(Exception):
    """Raised for a stage without a manifest."""


class SeedWalk(ABC):
    """One seed: probe, audit, calibration, variants, guards. A stage is found finished, unless a run makes it."""

    def __init__(
        self, config: BenchConfig, seed: int, folder: Path, lost: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """folder: parent of the stages' folders. lost: variants that can no longer pass, and why; they are not
        trained."""
        self.config, self.seed, self.folder, self.lost = config, seed, folder, lost

    def walk(self) -> SeedFacts:
        """Return the facts of the stages, and the errors that ended some of them."""
        facts = SeedFacts(self.config, self.seed)
        facts.error = self.attempt(PROBE, self._probe, facts)
        if facts.probe is None or facts.audit is None:
            return facts
        if self.config.compression.calibration is not None:
            facts.uncalibrated = self.attempt("calibration", self.calibrate, facts, facts.probe)
            if facts.calibration is None and not facts.uncalibrated:  # another process makes it
                return facts
        planned = plan_variants(
            facts.audit,
            self.config,
            self.seed,
            lost=self.lost,
            calibration=facts.calibration,
            uncalibrated=facts.uncalibrated,
        )
        facts.outcomes = [Outcome(variant) for variant in planned]
        self.variants(facts, facts.probe)
        if not any(outcome.waits for outcome in facts.outcomes):
            for name in self.config.guards:
                if error := self.attempt(f"{GUARDS}/{name}", self.guard, name, facts):
                    facts.unguarded[name] = error
        return facts

    @abstractmethod
    def attempt(self, name: str, step: Callable[..., object], *arguments: object) -> str:
        """Take a step. Return the error that ended it, if the seed has a result nevertheless; empty without one.

        name: of the probe, a variant, a guard, or the calibration.
        """

    @abstractmethod
    def variants(self, facts: SeedFacts, probe: Outcome) -> None:
        """Add adapters, answers and errors to the outcomes of the variants that are made."""

    # ------------------------------------------------------------ steps: each reads its finished stage

    def _probe(self, facts: SeedFacts) -> None:
        outcome = Outcome(PlannedVariant(PROBE, RETRAIN))
        self.train(outcome)
        assert outcome.adapter is not None
        assert outcome.adapter.training is not None
        if not outcome.adapter.training.diverged:  # a diverged adapter is not evaluated
            self.evaluate(outcome, None)
        facts.probe, answers = outcome, outcome.answers
        if answers is not None and reaches_gate(self.config, answers):
            if self.config.asks_base:
                self.evaluate_base(facts)
            if leads_base(self.config, answers, facts.base):
                facts.gate_passed = True
                self.audit(facts, outcome)

    def train(self, outcome: Outcome) -> None:
        """Add the trained adapter to its outcome."""
        outcome.read_training(self.finished(f"{outcome.planned.name}/train"))

    def derive(self, outcome: Outcome, probe: Outcome, facts: SeedFacts) -> None:
        """Add the adapter that is derived from the probe to its outcome."""
        outcome.read_derived(self.finished(f"{outcome.planned.name}/adapter"))

    def evaluate(self, outcome: Outcome, probe: Outcome | None) -> None:
        """Add the answers of its adapter to an outcome. probe: None for the probe itself."""
        folder = self.finished(f"{outcome.planned.name}/eval")
        outcome.read_answers(folder)
        if outcome.answers is not None:
            outcome.answers = self.scored(outcome.answers, folder)

    def evaluate_base(self, facts: SeedFacts) -> None:
        """Add the answers of the base without an adapter."""
        folder = self.finished("base/eval")
        facts.base = self.scored(read_records(folder / ANSWERS), folder)

    def audit(self, facts: SeedFacts, probe: Outcome) -> None:
        """Add the audit of the probe."""
        facts.audit = AuditReport.read(self.finished("audit") / AUDIT)

    def calibrate(self, facts: SeedFacts, probe: Outcome) -> None:
        """Add the calibration of the probe."""
        facts.calibration = Calibration.read(self.finished("calibration") / CALIBRATION)

    def guard(self, name: str, facts: SeedFacts) -> None:
        """Add the evaluation of probe, candidates and base on a guard."""
        facts.guards[name] = EvaluationReport.read(self.finished(f"{GUARDS}/{name}") / EVALUATION)

    def scored(self, answers: Answers, folder: Path) -> Answers:
        """Return the answers with their scores. folder: of their evaluation."""
        return answers

    def is_finished(self, stage: str) -> bool:
        """Return True if the stage has a manifest."""
        return (self.folder / stage / MANIFEST).is_file()

    def finished(self, stage: str) -> Path:
        """Return the folder of a finished stage. Raises NotThere."""
        if not self.is_finished(stage):
            raise NotThere(stage)
        return self.folder / stage
