"""The stages of a seed, in the order of a run, and the facts that follow from them.

A run makes each stage (`run/seed.py`); a verification finds it finished (`verify/recompute.py`). Which stages there are
depends on the stages before them: on the probe's accuracy, and on its audit.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from gradience.bench.arms.arm import RETRAIN
from gradience.bench.config.load import BenchConfig
from gradience.bench.plan.variants import GUARDS, PROBE, PlannedVariant, plan_variants
from gradience.bench.verdict.assemble import leads_base, reaches_gate
from gradience.bench.verdict.facts import ANSWERS, AUDIT, CALIBRATION, Answers, Outcome, SeedFacts
from gradience.evaluate.verb import EVALUATION
from gradience.files.records import read_records
from gradience.reports.audit import AuditReport
from gradience.reports.calibration import Calibration
from gradience.reports.evaluation import EvaluationReport
from gradience.reports.training import MANIFEST


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
