"""The folder of a seed -> the `bench.json` that its records give. Nothing is trained, evaluated or believed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gradience.bench.arms.arm import Trained
from gradience.bench.arms.retrain import RETRAIN
from gradience.bench.config.load import BenchConfig
from gradience.bench.plan.variants import PROBE, PlannedVariant, asked_for, plan_variants
from gradience.bench.verdict.assemble import leads_base, reaches_gate
from gradience.bench.verdict.facts import ANSWERS, AUDIT, CALIBRATION, Outcome, SeedFacts
from gradience.bench.verify.earlier import adapter_as_recorded, planned_as_recorded
from gradience.errors import InputError
from gradience.files.records import Evaluation, read_records
from gradience.reports.audit import AuditReport
from gradience.reports.bench import Bench, VariantResult
from gradience.reports.calibration import Calibration
from gradience.reports.stage import MANIFEST

NO_PROBE = "there is no probe: "
Mark = Callable[[Evaluation[Any], Path], Evaluation[Any]]
"""(records, their folder) -> the records as they are marked now."""


@dataclass(slots=True)
class SeedFolder:
    """The finished stages of a seed, read in the order in which a run makes them."""

    folder: Path
    config: BenchConfig
    seed: int
    recorded: Bench
    """For what a folder does not hold: the message of an error."""
    mark: Mark
    lost: Mapping[str, str] = field(default_factory=dict)
    """Variants that earlier seeds had decided, and why."""
    taken_as_recorded: list[str] = field(default_factory=list)
    """Adapters whose error is one that this folder cannot show."""
    is_earlier: bool = False
    """Whether the audit is of a version that is not read any more; then ranks are as recorded."""
    calibration_is_gone: bool = False
    """Whether the calibration was made and not kept; then ranks that rest on it are as recorded."""

    def facts(self) -> SeedFacts:
        """Return what the stages left. Raises InputError for files that are not what they should be."""
        facts = SeedFacts(self.config, self.seed)
        why = self._probe(facts)
        if not why and facts.gate_passed:
            if self._is_done("audit"):
                facts.outcomes = [self._variant(planned) for planned in self._planned(facts)]
            else:
                why = "audit"
        if why:
            facts.error = self._error_of_probe(why)
        return facts

    def _probe(self, facts: SeedFacts) -> str:
        """Fill in the probe; return the stage that is not there, or nothing."""
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
                facts.base = self._base()
                facts.gate_passed = leads_base(self.config, outcome.answers, facts.base)
        facts.probe = outcome
        return ""

    def _base(self) -> Evaluation[Any] | None:
        """What the base answers alone, where it was asked."""
        folder = self.folder / "base" / "eval"
        if not self._is_done("base/eval"):
            return None
        return self.mark(read_records(folder / ANSWERS), folder)

    def _planned(self, facts: SeedFacts) -> Sequence[PlannedVariant]:
        """What was to be compared, by the audit; by the result itself where the audit is of an earlier version."""
        try:
            facts.audit = AuditReport.read(self.folder / "audit" / AUDIT)
        except InputError as error:
            if error.code != "artifact-version":
                raise
            self.is_earlier = True
            return [self._as_recorded(result) for result in self.recorded.variants]
        self._calibration(facts)
        planned = plan_variants(
            facts.audit,
            self.config,
            self.seed,
            lost=self.lost,
            calibration=facts.calibration,
            uncalibrated=facts.uncalibrated,
        )
        if not self.calibration_is_gone:
            return planned
        unknown = {variant.name for variant in planned if variant.needs_calibration}
        results = {result.name: result for result in self.recorded.variants}
        return [
            self._as_recorded(results[variant.name])
            if unknown & {variant.name, results[variant.name].same_as}
            else variant
            for variant in planned
        ]

    def _calibration(self, facts: SeedFacts) -> None:
        """Fill in the calibration, where a variant needs it, or why there is none."""
        if self.config.compression.calibration is None:
            return
        file = self.folder / "calibration" / CALIBRATION
        if not self._is_done("calibration"):
            facts.uncalibrated = self._error_of_calibration()
        elif file.is_file():
            facts.calibration = Calibration.read(file)
        else:
            self.calibration_is_gone = True
            facts.uncalibrated = "its calibration was not kept"

    def _as_recorded(self, result: VariantResult) -> PlannedVariant:
        probe = self.recorded.probe.lora_params if self.recorded.probe is not None else 0
        return planned_as_recorded(result, probe)

    def _variant(self, planned: PlannedVariant) -> Outcome:
        outcome = Outcome(planned)
        if not planned.is_made:
            return outcome
        if self._has_no_stage(outcome):
            return outcome
        making = "train" if planned.is_trained else "adapter"
        for stage in (making, "eval"):
            if not self._is_done(f"{planned.name}/{stage}"):
                outcome.error = self._error_of(planned.name, stage)
                return outcome
        folder, arm = self.folder / planned.name, planned.making
        if isinstance(arm, Trained):
            outcome.read_training(folder / making, has_lora=arm.trains == "lora")
        else:
            outcome.read_derived(folder / making)
        self._read_answers(outcome)
        return outcome

    def _has_no_stage(self, outcome: Outcome) -> bool:
        """Take an adapter of an earlier version as recorded, where only its evaluation has a folder."""
        name = outcome.planned.name
        result = self.recorded.variant(name)
        alone = not any(self._is_done(f"{name}/{stage}") for stage in ("train", "adapter"))
        if not (self.is_earlier and alone and result and result.measures and self._is_done(f"{name}/eval")):
            return False
        outcome.adapter = adapter_as_recorded(name, result.measures, self.folder / name)
        self._read_answers(outcome)
        return True

    def _read_answers(self, outcome: Outcome) -> None:
        folder = self.folder / outcome.planned.name / "eval"
        outcome.read_answers(folder)
        if outcome.answers is not None:
            outcome.answers = self.mark(outcome.answers, folder)

    def _is_done(self, stage: str) -> bool:
        return (self.folder / stage / MANIFEST).is_file()

    def _error_of(self, name: str, stage: str) -> str:
        result = self.recorded.variant(name)
        if result is not None and result.status == "ERROR" and result.reasons:
            self.taken_as_recorded.append(name)
            return result.reasons[0]
        return f"its stage {name}/{stage} is not there"

    def _error_of_calibration(self) -> str:
        for planned in asked_for(self.config.compression):
            result = self.recorded.variant(planned.name) if planned.needs_calibration else None
            if result is not None and result.status == "ERROR" and result.reasons:
                self.taken_as_recorded.append("calibration")
                return result.reasons[0]
        return "its stage calibration is not there"

    def _error_of_probe(self, stage: str) -> str:
        reasons = [why for result in self.recorded.variants for why in result.reasons]
        if reasons and reasons[0].startswith(NO_PROBE):
            self.taken_as_recorded.append(PROBE)
            return reasons[0].removeprefix(NO_PROBE)
        return f"its stage {stage} is not there"
