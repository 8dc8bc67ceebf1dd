"""The folder of a seed -> the `bench.json` that its records give. Nothing is trained, evaluated or believed.

Stored answers are scored again: from the output to the answer in it, from the logits to the label.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from gradience import tasks
from gradience.bench.arms.arm import RETRAIN
from gradience.bench.config.load import BenchConfig
from gradience.bench.config.sections import TaskSettings
from gradience.bench.plan.variants import GUARDS, PROBE, PlannedVariant, asked_for, plan_variants
from gradience.bench.verdict.assemble import leads_base, reaches_gate
from gradience.bench.verdict.facts import ANSWERS, AUDIT, CALIBRATION, Outcome, SeedFacts
from gradience.errors import GradienceError
from gradience.evaluate.rows import decided, predictions_of
from gradience.evaluate.verb import EVALUATION
from gradience.files.records import (
    ChoiceRecord,
    ClassificationRecord,
    Evaluation,
    GenerationRecord,
    Record,
    ScoreRecord,
    read_records,
)
from gradience.reports.audit import AuditReport
from gradience.reports.bench import Bench
from gradience.reports.bench_plan import BenchPlan
from gradience.reports.calibration import Calibration
from gradience.reports.evaluation import EvaluationReport
from gradience.reports.stage import MANIFEST
from gradience.tasks import user_code
from gradience.tasks.base import AnswerScoring, ChoiceScoring, LabelScoring, Scoring

NO_PROBE = "there is no probe: "
Mark = Callable[[Evaluation[Any], Path], Evaluation[Any]]
"""(records, their folder) -> the records as they are scored now."""


# ------------------------------------------------------------ answers, scored again


class Marking(NamedTuple):
    """The rules by which the answers of a run are scored again."""

    rules: Scoring
    why_not: str = ""
    """Reason why answers are not scored again; empty if they are."""
    unknown: tuple[str, ...] = ()
    """Fields of a result that only the task's code can compute."""


def marking_of(task: TaskSettings, plan: BenchPlan, recorded: Bench) -> Marking:
    """Return the scoring rule: that of the task included in Gradience, or of a user's task if its code is
    allowed to run. task: of the config that was planned.
    """
    profile, options = task.profile, dict(task.options)
    folder = Path(task.folder) if task.folder else None
    try:
        code = tasks.code_of(profile, folder)
        if code is None and plan.task_code is None:
            return Marking(tasks.scoring_of(profile, options, folder=folder))
        if not user_code.is_allowed():
            why = "the task is user code: not scored again (add --allow-code if you trust it)"
        elif code is None or plan.task_code is None or code.sha256 != plan.task_code.sha256:
            why = f"{profile}: not the code recorded in the plan: not scored again"
        else:
            return Marking(tasks.scoring_of(profile, options, folder=folder))
    except GradienceError as error:
        why = f"the task's scoring rules are unavailable: not scored again: {error}"
    unknown = ("probe.metrics", *(f"variants.{result.name}.measures.metrics" for result in recorded.variants))
    if recorded.model_type == "seqcls":  # a label is correct if it is the example's, in any task
        return Marking(LabelScoring(), unknown=unknown)
    return Marking(AnswerScoring(filters={}, same=lambda _, __: False), why_not=why, unknown=unknown)


class Rescored(NamedTuple):
    """An evaluation rescored with the current rules."""

    evaluation: Evaluation[Any]
    changed: tuple[str, ...]
    """Identities of the examples whose record says something else."""


def rescored(evaluation: Evaluation[Any], rules: Scoring) -> Rescored:
    """Score every answer again, as an evaluation would."""
    rows = tuple(_again(row, rules) for row in evaluation.records)
    changed = tuple(row.id for row, before in zip(rows, evaluation.records, strict=True) if row is not before)
    return Rescored(Evaluation(evaluation.run, rows), changed)


def _again(row: Record, rules: Scoring) -> Record:
    fields: dict[str, Any] = {}
    if isinstance(row, ClassificationRecord) and isinstance(rules, LabelScoring) and row.logits:
        predicted = max(range(len(row.logits)), key=lambda place: row.logits[place])  # the first of equals
        fields = {"predicted": predicted, "correct": predicted == row.label}
    elif isinstance(row, ChoiceRecord) and isinstance(rules, ChoiceScoring):
        predictions = predictions_of(row.loglikelihoods, row.characters)
        predicted = predictions[rules.choose_by]
        fields = {"predictions": predictions, "predicted": predicted, "correct": predicted == row.label}
    elif isinstance(row, GenerationRecord) and isinstance(rules, AnswerScoring):
        verdict = (
            decided(row.output, row.answer, rules.filters, rules.same)
            if rules.decide is None
            else rules.decide(row.id, [row.output])
        )
        extracted = next(iter(verdict.answers.values()), None)
        fields = {"answers": dict(verdict.answers), "extracted": extracted, "correct": verdict.correct}
    is_same = all(getattr(row, name) == value for name, value in fields.items())
    return row if is_same else replace(row, **fields)


def repeated(records: Iterable[Record]) -> list[str]:
    """Return the identities that more than one record has."""
    ids: set[str] = set()
    return [row.id for row in records if row.id in ids or ids.add(row.id)]  # type: ignore[func-returns-value]


def gold_of(row: Record) -> tuple[str, str, str]:
    """Return a record's fields about the example: identity, digest of the text, and the gold answer."""
    if isinstance(row, ClassificationRecord):
        return row.id, row.text_sha256, str(row.label)
    if isinstance(row, ChoiceRecord):
        return row.id, row.prompt_sha256, f"{row.choices_sha256} {row.label}"
    if isinstance(row, ScoreRecord):
        return row.id, row.prompt_sha256, row.response_sha256
    return row.id, row.prompt_sha256, row.answer


def numbers_of(row: Record) -> tuple[float, ...]:
    """Return what was computed for an example: logits or log-likelihoods, and KL; nothing for an output."""
    if isinstance(row, ClassificationRecord):
        return row.logits
    if isinstance(row, ChoiceRecord):
        return row.loglikelihoods
    if isinstance(row, ScoreRecord):
        return (row.loglikelihood,) if row.kl is None else (row.loglikelihood, row.kl)
    return ()


# ------------------------------------------------------------ the stages of a seed


@dataclass(slots=True)
class SeedFolder:
    """The finished stages of a seed, read in the order in which a run makes them."""

    folder: Path
    config: BenchConfig
    seed: int
    recorded: Bench
    """Recorded result, for values that are not in the folder, such as error messages."""
    mark: Mark
    lost: Mapping[str, str] = field(default_factory=dict)
    """Variants that earlier seeds had decided, and why."""
    taken_as_recorded: list[str] = field(default_factory=list)
    """Adapters whose error is one that this folder cannot show."""

    def facts(self) -> SeedFacts:
        """Return the outputs of the stages. Raises InputError for invalid files."""
        facts = SeedFacts(self.config, self.seed)
        missing = self._probe(facts)
        if not missing and facts.gate_passed:
            if self._is_done("audit"):
                facts.audit = AuditReport.read(self.folder / "audit" / AUDIT)
                facts.outcomes = [self._variant(planned) for planned in self._planned(facts, facts.audit)]
                self._guards(facts)
            else:
                missing = "audit"
        if missing:
            reasons = [why for result in self.recorded.variants for why in result.reasons]
            facts.error = f"its stage {missing} is not there"
            if reasons and reasons[0].startswith(NO_PROBE):
                self.taken_as_recorded.append(PROBE)
                facts.error = reasons[0].removeprefix(NO_PROBE)
        return facts

    def _probe(self, facts: SeedFacts) -> str:
        """Fill in the probe; return the stage that is missing, or nothing."""
        outcome = Outcome(PlannedVariant(PROBE, RETRAIN))
        if not self._is_done("probe/train"):
            return "probe/train"
        report = outcome.read_training(self.folder / "probe" / "train", has_lora=True)
        if not report.diverged:
            if not self._is_done("probe/eval"):
                return "probe/eval"
            self._read_answers(outcome)
            assert outcome.answers is not None
            if reaches_gate(self.config, outcome.answers):
                folder = self.folder / "base" / "eval"
                if self._is_done("base/eval"):
                    facts.base = self.mark(read_records(folder / ANSWERS), folder)
                facts.gate_passed = leads_base(self.config, outcome.answers, facts.base)
        facts.probe = outcome
        return ""

    def _planned(self, facts: SeedFacts, audit: AuditReport) -> Sequence[PlannedVariant]:
        """Return what was to be compared, by the audit and the calibration; fill in the calibration."""
        if self.config.compression.calibration is not None:
            if self._is_done("calibration"):
                facts.calibration = Calibration.read(self.folder / "calibration" / CALIBRATION)
            else:
                facts.uncalibrated = self._error_of_calibration()
        return plan_variants(
            audit,
            self.config,
            self.seed,
            lost=self.lost,
            calibration=facts.calibration,
            uncalibrated=facts.uncalibrated,
        )

    def _variant(self, planned: PlannedVariant) -> Outcome:
        outcome = Outcome(planned)
        if not planned.is_made:
            return outcome
        making = "train" if planned.is_trained else "adapter"
        folder, arm = self.folder / planned.name, planned.making
        for stage in (making, "eval"):
            if not self._is_done(f"{planned.name}/{stage}"):
                if stage == "eval" and planned.step is not None and self.recorded.data.looks:
                    break  # the ladder has not reached it
                outcome.error = (
                    self._recorded_error(planned.name) or f"its stage {planned.name}/{stage} is not there"
                )
                return outcome
        if arm.is_trained:
            outcome.read_training(folder / making, has_lora=arm.trains == "lora")
        else:
            outcome.read_derived(folder / making)
        if self._is_done(f"{planned.name}/eval"):
            self._read_answers(outcome)
        return outcome

    def _guards(self, facts: SeedFacts) -> None:
        for name in self.config.guards:
            stage = f"{GUARDS}/{name}"
            if self._is_done(stage):
                facts.guards[name] = EvaluationReport.read(self.folder / stage / EVALUATION)
                continue
            before = f"guard {name}: "
            reasons = [why for result in self.recorded.candidates for why in result.reasons]
            error = next((why.removeprefix(before) for why in reasons if why.startswith(before)), "")
            if error:
                self.taken_as_recorded.append(stage)
            facts.unguarded[name] = error or f"its stage {stage} is not there"

    def _read_answers(self, outcome: Outcome) -> None:
        folder = self.folder / outcome.planned.name / "eval"
        outcome.read_answers(folder)
        if outcome.answers is not None:
            outcome.answers = self.mark(outcome.answers, folder)

    def _is_done(self, stage: str) -> bool:
        return (self.folder / stage / MANIFEST).is_file()

    def _recorded_error(self, name: str, called: str = "") -> str:
        """Return the error in a variant's result; empty if there is none."""
        result = self.recorded.variant(name)
        if result is None or result.status != "ERROR" or not result.reasons:
            return ""
        self.taken_as_recorded.append(called or name)
        return result.reasons[0]

    def _error_of_calibration(self) -> str:
        calibrated = (p.name for p in asked_for(self.config.compression) if p.needs_calibration)
        errors = (self._recorded_error(name, "calibration") for name in calibrated)
        return next(filter(None, errors), "its stage calibration is not there")
