"""One seed of Bench: train the probe, hold it against its gate, audit it, calibrate it where a variant needs that, make
the variants, evaluate them all.

Each thing that takes time is a stage (stages.py), so a run that was killed resumes where it was, and the result is
computed from what the stages left: nothing is remembered that is not on the disk. What fails is a result too: a
variant that could not be made is an ERROR with its traceback in the log, and the others are still made.
"""

from __future__ import annotations

import json
import logging
import shutil
import traceback
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from gradience.audit.adapter import audit_adapter
from gradience.bench.arms.arm import Derived, Distilled, Source, Trained
from gradience.bench.arms.retrain import RETRAIN
from gradience.bench.config.load import BenchConfig
from gradience.bench.plan.variants import PROBE, PlannedVariant, plan_variants
from gradience.bench.run.answers import evaluate_adapter, evaluator_of
from gradience.bench.run.calibrate import calibrate_probe, calibration_prompts
from gradience.bench.run.distill import Distillation, distill_variant
from gradience.bench.run.numerics import MadeElsewhere, refuse_mixture
from gradience.bench.run.scales import hold_scale
from gradience.bench.run.stages import Due, NotDone, Stages
from gradience.bench.run.weights import parameters_of, require_weights
from gradience.bench.verdict.assemble import leads_base, reaches_gate
from gradience.bench.verdict.facts import ANSWERS, AUDIT, CALIBRATION, SIZES, Outcome, SeedFacts
from gradience.errors import GradienceError, OutputError
from gradience.files.records import Evaluation, read_records
from gradience.files.shared_names import sentence_text
from gradience.files.whole import write_whole
from gradience.models.devices import choose_device
from gradience.models.load import fingerprint_of
from gradience.plan.modules import Ranks
from gradience.progress import Watcher
from gradience.reports.audit import AuditReport
from gradience.reports.calibration import Calibration, CalibrationReport
from gradience.reports.training import ADAPTER, REPORT, TrainingReport
from gradience.tasks.base import ClassificationTask, Task
from gradience.training.launch import Order, launch
from gradience.training.memory import Reading, watch_peak
from gradience.training.trainer import train

logger = logging.getLogger("gradience.bench")
logger.addHandler(logging.NullHandler())  # a walk that makes nothing is not logged


class SeedRun:
    """The stages of one seed, in order."""

    def __init__(
        self,
        config: BenchConfig,
        task: Task,
        seed: int,
        folder: Path,
        watcher: Watcher | None = None,
        *,
        plan: str | None = None,
        lost: Mapping[str, str] = MappingProxyType({}),
        stages: Callable[..., Stages] = Stages,
    ) -> None:
        """`folder` gets a folder for every stage; `plan` is the digest of the plan that the run follows.

        lost: variants that can no longer pass, and why; those that are trained are not made. stages: who makes them.
        """
        self.lost = lost
        self.config, self.task, self.seed, self.folder = config, task, seed, folder
        self.watcher = watcher or Watcher()
        self.stages = stages(folder, watch=self._watch_memory, plan=plan, say=self._say)
        self.examples = task.examples.of(config.task.eval_role, config.task.eval_samples)
        self.evaluator = evaluator_of(config, task, self.examples, self.watcher.step)
        self.number = 0
        self.planned: int | None = None
        self.distilled: set[str] = set()
        """Stages that make an adapter with the base."""

    def run(self) -> SeedFacts:
        """Run all stages. What fails is in the facts; only a kill or a refusal to begin raises."""
        try:
            while True:
                try:
                    return self._from_the_beginning()
                except MadeElsewhere as mixed:
                    self._say(
                        f"all adapters are evaluated again, since answers are compared: {mixed.differences}"
                    )
                    for folder in mixed.folders:
                        shutil.rmtree(folder)
        finally:
            self.evaluator.close()

    def walk(self) -> tuple[SeedFacts, list[Due]]:
        """Once through the stages, some of which are left to other processes: the facts so far, and what is due."""
        self.due: list[Due] = []
        try:
            return self._from_the_beginning(), self.due
        except NotDone as stop:
            return SeedFacts(self.config, self.seed), [stop.due]

    def _from_the_beginning(self) -> SeedFacts:
        """The stages in their order; those that are done are not done again."""
        facts = SeedFacts(self.config, self.seed)
        self.number, self.planned = 0, None  # stages; the audit says which adapters follow
        self._probe_to_audit(facts)
        if facts.probe is not None and facts.audit is not None:
            self._calibrate(facts.probe, facts)
            facts.outcomes = self._variants(facts.probe, facts.audit, facts)
        return facts

    def _probe_to_audit(self, facts: SeedFacts) -> None:
        """Fill the facts as far as the probe gets."""
        try:
            facts.probe = self._probe()
            if facts.probe.answers is not None and self._passes_gate(facts.probe.answers, facts):
                facts.gate_passed = True
                facts.audit = self._audit(facts.probe)
        except (
            GradienceError,
            MadeElsewhere,
            NotDone,
        ):  # a message, a second pass, a stage to come: no result
            raise
        except Exception as error:  # noqa: BLE001  (the boundary of a seed: a failed probe is a result, traceback in run.log)
            facts.error = self._failed(PROBE, error)

    # ------------------------------------------------------------ the probe

    def _probe(self) -> Outcome:
        outcome = Outcome(PlannedVariant(PROBE, RETRAIN))
        report = self._train(outcome, RETRAIN, self.config.lora.peft_arguments())
        if not report.diverged:  # what has diverged answers nothing
            self._evaluate(outcome, None)
        return outcome

    def _base_answers(self) -> Evaluation[Any] | None:
        """Answers in free text of the base without an adapter; None where the gate does not ask for them."""
        if self.config.task.probe_gate.above_base is None or isinstance(self.task, ClassificationTask):
            return None

        def make(folder: Path) -> None:
            refuse_mixture(self.folder, ANSWERS, self.evaluator.numerics)
            self.evaluator.answers(None, None, folder / ANSWERS)

        folder = self._stage("base/eval", {"base": self.base, "data": self.data, **self._asking}, make)
        return read_records(folder / ANSWERS)

    def _passes_gate(self, answers: Evaluation[Any], facts: SeedFacts) -> bool:
        """Whether the probe reaches its gate; its base is asked only where it has enough correct."""
        if not reaches_gate(self.config, answers):
            return False
        facts.base = self._base_answers()
        return leads_base(self.config, answers, facts.base)

    def _audit(self, probe: Outcome) -> AuditReport:
        assert probe.adapter is not None
        adapter = probe.adapter.folder
        depends = {
            "adapter": probe.adapter.sha256,
            "energy": self.config.compression.energy,
            "schema": AuditReport.schema_id,
        }

        def make(folder: Path) -> None:
            require_weights(adapter)
            audit_adapter(adapter, tau=self.config.compression.energy).save(folder / AUDIT)

        return AuditReport.read(self._stage("audit", depends, make, resumable=False) / AUDIT)

    def _calibrate(self, probe: Outcome, facts: SeedFacts) -> None:
        """Fill in the calibration of the probe, where a variant needs it, or why there is none."""
        if self.config.compression.calibration is None:
            return
        try:
            facts.calibration = self._calibration(probe)
        except (OutputError, MadeElsewhere, NotDone):
            raise
        except Exception as error:  # noqa: BLE001  (as in `_attempt`: the variants that need none are still made)
            facts.uncalibrated = self._failed("calibration", error)

    def _calibration(self, probe: Outcome) -> Calibration:
        assert probe.adapter is not None
        adapter, prompts = probe.adapter, calibration_prompts(self.config, self.task)
        assert prompts is not None
        depends = {
            "adapter": adapter.sha256,
            "base": self.base,
            "prompts": prompts.decides(),
            "seed": self.seed,
            "schema": CalibrationReport.schema_id,
        }

        def make(folder: Path) -> None:
            require_weights(adapter.folder)
            if torch.cuda.is_available():
                self.evaluator.close()  # a card holds one base more easily than two
            calibrate_probe(adapter.folder, prompts, self.seed, folder, self.watcher.step)

        return Calibration.read(self._stage("calibration", depends, make, resumable=False) / CALIBRATION)

    # ------------------------------------------------------------ the variants

    def _variants(self, probe: Outcome, audit: AuditReport, facts: SeedFacts) -> list[Outcome]:
        planned = plan_variants(
            audit,
            self.config,
            self.seed,
            lost=self.lost,
            calibration=facts.calibration,
            uncalibrated=facts.uncalibrated,
        )
        outcomes = [Outcome(variant) for variant in planned]
        due = [outcome for outcome in outcomes if outcome.planned.is_made]
        self.planned = self.number + 2 * len(due)
        distilled = [outcome for outcome in due if outcome.planned.is_distilled]
        trained = [outcome for outcome in due if outcome.planned.is_trained]
        derived = [outcome for outcome in due if outcome not in distilled and outcome not in trained]
        for outcome in derived:  # while the base is loaded
            self._attempt(outcome, self._derive, probe, facts)
            self._attempt(outcome, self._evaluate, probe)
        if (distilled or trained) and torch.cuda.is_available():
            self.evaluator.close()  # a card holds one base more easily than two
        for outcome in distilled:
            self._attempt(outcome, self._distill, probe, facts)
        for outcome in trained:
            self._attempt(outcome, self._retrain)
        for outcome in (*distilled, *trained):
            self._attempt(outcome, self._evaluate, probe)
        return outcomes

    def _attempt(self, outcome: Outcome, step: Any, *arguments: Any) -> None:
        """One step of a variant; after an error its later steps are not tried."""
        if outcome.error or outcome.waits:
            return
        try:
            step(outcome, *arguments)
        except NotDone as later:
            outcome.waits = True
            self.due.append(later.due)
        except (OutputError, MadeElsewhere):  # a full disk stops the others as well
            raise
        except Exception as error:  # noqa: BLE001  (the boundary of a variant: the others are still made, traceback in run.log)
            outcome.error = self._failed(outcome.planned.name, error)

    def _retrain(self, outcome: Outcome) -> None:
        arm = outcome.planned.making
        assert isinstance(arm, Trained)
        lora = self.config.lora.peft_arguments()
        if arm.trains == "lora":
            lora |= outcome.planned.lora_arguments()
        self._train(outcome, arm, lora)

    def _derive(self, outcome: Outcome, probe: Outcome, facts: SeedFacts) -> None:
        """Make an adapter from the files of the probe."""
        arm = outcome.planned.making
        assert isinstance(arm, Derived)
        self._from_probe(outcome, probe, facts, arm.make, {})

    def _distill(self, outcome: Outcome, probe: Outcome, facts: SeedFacts) -> None:
        """Make an adapter from the files of the probe, and train it to answer as the probe does."""
        arm = outcome.planned.making
        assert isinstance(arm, Distilled)
        assert probe.adapter is not None
        assert probe.adapter.training is not None
        distillation = Distillation.of(self.config, self.task, probe.adapter.training.planned_steps)

        def make(source: Source, ranks: Ranks, target: Path) -> None:
            distill_variant(arm, source, ranks, target, distillation, self.watcher.step)

        self._from_probe(
            outcome, probe, facts, make, {"base": self.base, "distillation": distillation.decides()}
        )

    def _from_probe(
        self,
        outcome: Outcome,
        probe: Outcome,
        facts: SeedFacts,
        write: Callable[[Source, Ranks, Path], None],
        more: Mapping[str, Any],
    ) -> None:
        """The stage of an adapter that `write` makes. more: what it depends on beside the probe and the ranks."""
        planned, source, audit = outcome.planned, probe.adapter, facts.audit
        assert source is not None
        assert audit is not None
        calibration = facts.calibration if planned.by_effect else None
        depends = {
            "adapter": source.sha256,
            "ranks": dict(planned.ranks),
            "made_by": planned.making.name,
            "seed": self.seed,
            **({"calibration": calibration.sha256} if calibration is not None else {}),
            **more,
        }

        def make(folder: Path) -> None:
            require_weights(source.folder)
            target = folder / ADAPTER
            write(Source(source.folder, audit, self.seed, calibration), planned.ranks, target)
            write_whole(folder / SIZES, [json.dumps(parameters_of(target)).encode()])

        if planned.is_distilled:
            self.distilled.add(f"{planned.name}/adapter")
        outcome.read_derived(self._stage(f"{planned.name}/adapter", depends, make, resumable=False))

    # ------------------------------------------------------------ training and evaluating

    def _train(self, outcome: Outcome, arm: Trained, lora: Mapping[str, Any]) -> TrainingReport:
        """Train the adapter of `outcome`. A head alone is evaluated without its LoRA, which stays as it began."""
        config, name, has_lora = self.config, outcome.planned.name, arm.trains == "lora"
        data = self.task.examples.fingerprint("train", config.train.train_samples)
        settings: dict[str, Any] = {"lora": dict(lora), "seed": self.seed, "trained": arm.trains}
        depends = settings | {"base": self.base, "recipe": config.train.model_dump(mode="json"), "data": data}

        def make(folder: Path) -> None:
            arguments = settings | {"model": config.model.whole(), "recipe": config.train, "output": folder}
            arguments["device"] = config.runtime.device
            if config.runtime.processes > 1:
                task = {name: getattr(config.task, name) for name in ("profile", "options", "folder")}
                launch(Order(**arguments, **task, data=data), config.runtime.processes)
            else:
                train(self.task, **arguments, on_step=self.watcher.step)

        folder = self._stage(f"{name}/train", depends, make)
        return outcome.read_training(folder, has_lora=has_lora)

    def _evaluate(self, outcome: Outcome, probe: Outcome | None) -> None:
        """Records of the variant's answers, and for a causal model of its divergence from the probe."""
        assert outcome.adapter is not None
        adapter = outcome.adapter
        reference = probe.adapter if probe else None
        if reference is not None:
            hold_scale(reference.folder, adapter.folder, outcome.planned.ranks)
        depends = {
            "adapter": adapter.sha256,
            "lora": adapter.lora,
            "base": self.base,
            "data": self.data,
            **self._asking,
            "reference": reference.sha256 if reference else None,
        }

        def make(folder: Path) -> None:
            evaluate_adapter(
                self.evaluator,
                adapter,
                reference,
                folder,
                seed=self.folder,
                inert=outcome.planned.control is not None,
            )

        outcome.read_answers(self._stage(f"{adapter.name}/eval", depends, make))

    # ------------------------------------------------------------ around them

    @property
    def data(self) -> str:
        """Digest of the examples that are evaluated."""
        return self.task.examples.fingerprint(self.config.task.eval_role, len(self.examples))

    @property
    def _asking(self) -> dict[str, Any]:
        """What decides an answer and its score, beside adapter, base and examples."""
        return {"settings": self.evaluator.settings, "scoring": self.task.scoring}

    @cached_property
    def base(self) -> dict[str, Any]:
        """The base by its content, and how it is loaded: what answers depend on, wherever it is stored."""
        settings = self.config.model.model_dump(mode="json", exclude={"name", "revision"})
        return {"fingerprint": fingerprint_of(self.config.model), **settings}

    def _say(self, text: str) -> None:
        logger.warning("seed %d: %s", self.seed, text)
        self.watcher.note(text)

    def _stage(self, name: str, depends: Mapping[str, Any], make: Any, *, resumable: bool = True) -> Path:
        self.number += 1
        self.watcher.stage(name, self.number, self.planned)
        logger.info("seed %d: %s", self.seed, name)
        return self.stages.done(name, depends, make, resumable=resumable)

    def _watch_memory(self, stage: str) -> Reading:
        """Watch the device of the stage. A training reports its own peak: it may run in other processes."""
        if stage.endswith("/train"):
            report = self.folder / stage / REPORT
            return lambda: TrainingReport.read(report).peak_memory_bytes
        on_cpu = stage == "audit" or (
            stage.endswith("/adapter") and stage not in self.distilled
        )  # numpy's work
        return watch_peak(torch.device("cpu") if on_cpu else choose_device(self.config.runtime.device))

    def _failed(self, name: str, error: Exception) -> str:
        logger.error("seed %d: %s failed\n%s", self.seed, name, traceback.format_exc())
        return sentence_text(f"{type(error).__name__}: {error}".split("\n", maxsplit=1)[0])
