"""One seed of Bench: train, check and audit the probe, calibrate it if a variant needs that, make the variants, and
evaluate them all.

Each slow operation is a stage (stages.py), so a killed run resumes at the interrupted stage, and the result
is computed only from the stages' files. A failure is a result too: a variant that could not be made is an
ERROR with its traceback in the log, and the others are still made.
"""

import json
import logging
import shutil
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from gradience.adapters.config import read_config
from gradience.adapters.locate import WEIGHTS
from gradience.audit.adapter import audit_adapter
from gradience.bench.arms import ArmSource
from gradience.bench.config import BenchConfig
from gradience.bench.plan import GUARDS, PROBE, PlannedVariant, evaluated_rows, read_guards
from gradience.bench.run.prompts import Distillation, calibrate_probe, calibration_prompts, distill_variant
from gradience.bench.run.stages import NotDone, Stages, key_of, require_weights, stage_key
from gradience.bench.verdict import facts as seed_facts
from gradience.bench.verdict.evidence import SCALE_CHANGED
from gradience.errors import GradienceError, OutputError
from gradience.evaluate.adapters import adapter_input
from gradience.evaluate.evaluator import Evaluator
from gradience.evaluate.records import numerics_differences
from gradience.evaluate.verb import evaluate as evaluate_set
from gradience.files.records import ExamplesRun
from gradience.files.shared_names import sentence_text
from gradience.files.whole import write_whole
from gradience.models.load import choose_device, fingerprint_of
from gradience.plan.modules import Ranks
from gradience.progress import Watcher
from gradience.reading import MAX_DATA_BYTES, open_stream
from gradience.reports.audit import AuditReport
from gradience.reports.calibration import CalibrationReport
from gradience.reports.training import ADAPTER, MANIFEST, REPORT, TrainingReport
from gradience.tasks.base import ClassificationTask, Task
from gradience.tasks.examples import fingerprint
from gradience.training.trainer import Reading, watch_peak
from gradience.training.trainer import train as train_adapter
from gradience.words import visible

LOG = "run.log"
logger = logging.getLogger("gradience.bench")
logger.addHandler(logging.NullHandler())  # silent unless `logged` adds a file


class _Visible(logging.Formatter):
    """Escapes control characters, so that names and tracebacks in the log cannot control a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """Append the messages of all our loggers to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(_Visible("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("gradience")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()


class _InsideStage(Watcher):
    """Passes on only steps and notes: in Bench a whole evaluation is one stage."""

    def __init__(self, whole: Watcher) -> None:
        self.whole = whole

    def step(self, done: int, total: int) -> None:
        self.whole.step(done, total)

    def note(self, text: str) -> None:
        self.whole.note(text)


class ScaleChanged(Exception):
    """Raised for an adapter whose α/r differs from the probe's."""


class MadeElsewhere(Exception):
    """Raised if finished evaluations of this seed were made with different hardware or software."""

    def __init__(self, folders: list[Path], differences: str) -> None:
        super().__init__(differences)
        self.folders, self.differences = folders, differences


class SeedRun(seed_facts.SeedWalk):
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
        uses_looks: bool = False,
    ) -> None:
        """folder, lost: as in `SeedWalk`. plan: digest of the run's plan.

        stages: class that runs the stages.
        uses_looks: if the ladder has looks, evaluate its steps only in `evaluate_step`.
        """
        super().__init__(config, seed, folder, lost)
        self.guards = {inputs.name: inputs for inputs in read_guards(config)}
        self.reached: dict[str, int] | None = {} if uses_looks else None
        """Ladder step -> last look evaluated. None: all steps are evaluated on all examples."""
        self.task = task
        self.watcher = watcher or Watcher()
        self.stages = stages(
            folder, watch=self._watch_memory, plan=plan, say=self._say, announce=self._announce
        )
        self.examples, looks, _ = evaluated_rows(config, task)
        self.evaluator = Evaluator(
            task,
            config.model,
            self.examples,
            batch_size=config.train.per_device_eval_batch_size,
            max_length=config.train.max_length,
            max_new_tokens=config.task.generation.max_new_tokens,
            device=config.runtime.device,
            on_batch=self.watcher.step,
            engine_name=config.runtime.engine,
            looks=looks,
        )
        self.number = 0
        self.planned: int | None = None
        self.due: list[NotDone] = []
        """Stages found unfinished that other processes can make now."""
        self.distilled: set[str] = set()
        """Names of the stages that distill, and so need the base."""

    def run(self) -> seed_facts.SeedFacts:
        """Run all stages, and return the facts, including failures. Raises only errors that stop the whole seed."""
        try:
            while True:
                try:
                    return self.walk()
                except MadeElsewhere as mixed:
                    self._forget_answers(mixed)
        finally:
            self.evaluator.close()

    def evaluate_step(self, facts: seed_facts.SeedFacts, name: str, look: int) -> seed_facts.SeedFacts:
        """Evaluate a ladder step up to a look, and return the facts with its answers or its error."""
        assert self.reached is not None
        self.reached[name] = look
        outcome = facts.outcome(name)
        try:
            if outcome.planned.is_made:
                self._attempt(outcome, self.evaluate, facts.probe)
            self.evaluator.forget(PROBE)  # the next seed may use the same base
        except MadeElsewhere as mixed:
            self._forget_answers(mixed)
            return self.run()
        return facts

    def _forget_answers(self, mixed: MadeElsewhere) -> None:
        self._say(f"all adapters are evaluated again, since answers are compared: {mixed.differences}")
        for folder in mixed.folders:
            shutil.rmtree(folder)

    def collect(self) -> tuple[seed_facts.SeedFacts, list[NotDone]]:
        """Return the facts from the finished stages, and the stages that other processes can make now."""
        return self.walk(), self.due

    def walk(self) -> seed_facts.SeedFacts:
        """Make the stages in order, and return their facts. Finished stages are not repeated."""
        self.number, self.planned = 0, None  # the number of stages is known after the audit
        self.due = []
        return super().walk()

    def attempt(self, name: str, step: Callable[..., object], *arguments: object) -> str:
        """Take a step. Raises MadeElsewhere, the errors of a disk, and errors of the user at the probe."""
        try:
            step(*arguments)
        except NotDone as stop:
            self.due.append(stop)
        except (OutputError, MadeElsewhere):  # a full disk stops all of it
            raise
        except Exception as error:  # the boundary of a probe, a variant, a guard: its failure is a result
            if name == PROBE and isinstance(error, GradienceError):
                raise
            logger.error("seed %d: %s failed\n%s", self.seed, name, traceback.format_exc())
            return sentence_text(f"{type(error).__name__}: {error}".split("\n", maxsplit=1)[0])
        return ""

    # ------------------------------------------------------------ the probe

    def evaluate_base(self, facts: seed_facts.SeedFacts) -> None:
        """Record the answers of the base without an adapter."""
        depends = {"base": self.base, "data": self.data, **self._asking}

        def make(folder: Path) -> None:
            self._refuse_mixture()
            self.evaluator.answers(None, folder / seed_facts.ANSWERS)

        self.stages.done("base/eval", depends, make)
        super().evaluate_base(facts)

    def audit(self, facts: seed_facts.SeedFacts, probe: seed_facts.Outcome) -> None:
        """Audit the probe."""
        assert probe.adapter is not None
        adapter, energy = probe.adapter.folder, self.config.compression.energy
        depends = {"adapter": probe.adapter.sha256, "energy": energy, "schema": AuditReport.schema_id}

        def make(folder: Path) -> None:
            require_weights(adapter)
            audit_adapter(adapter, tau=energy).save(folder / seed_facts.AUDIT)

        self.stages.done("audit", depends, make, resumable=False)
        super().audit(facts, probe)

    def calibrate(self, facts: seed_facts.SeedFacts, probe: seed_facts.Outcome) -> None:
        """Calibrate the probe on its training prompts."""
        adapter, prompts = probe.adapter, calibration_prompts(self.config, self.task)
        assert adapter is not None
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
            self._free_base()
            calibrate_probe(adapter.folder, prompts, self.seed, folder, self.watcher.step)

        self.stages.done("calibration", depends, make, resumable=False)
        super().calibrate(facts, probe)

    # ------------------------------------------------------------ the variants

    def variants(self, facts: seed_facts.SeedFacts, probe: seed_facts.Outcome) -> None:
        """Make and evaluate the variants: truncations first, while the base is loaded."""
        due = [outcome for outcome in facts.outcomes if outcome.planned.is_made]
        self.planned = self.number + 2 * len(due) - sum(self._look(outcome.planned) == 0 for outcome in due)
        self.planned += len(self.guards)
        distilled = [outcome for outcome in due if outcome.planned.is_distilled]
        trained = [outcome for outcome in due if outcome.planned.is_trained]
        for outcome in due:
            if outcome not in distilled and outcome not in trained:
                self._attempt(outcome, self.derive, probe, facts)
                if self._look(outcome.planned):
                    self._attempt(outcome, self.evaluate, probe)
        if distilled or trained:
            self._free_base()
        for outcome in distilled:
            self._attempt(outcome, self.derive, probe, facts)
        for outcome in trained:
            self._attempt(outcome, self.train)
        for outcome in (*distilled, *trained):
            self._attempt(outcome, self.evaluate, probe)

    def _free_base(self) -> None:
        if torch.cuda.is_available():
            self.evaluator.close()  # before another base is loaded

    def _attempt(self, outcome: seed_facts.Outcome, step: Callable[..., object], *arguments: object) -> None:
        """Take a step of a variant, unless an earlier step failed or waits."""
        if not (outcome.error or outcome.waits):
            before = len(self.due)
            outcome.error = self.attempt(outcome.planned.name, step, outcome, *arguments)
            outcome.waits = len(self.due) > before

    def derive(
        self, outcome: seed_facts.Outcome, probe: seed_facts.Outcome, facts: seed_facts.SeedFacts
    ) -> None:
        """Derive an adapter from the probe's files. If its arm distills, train it to match the probe's
        outputs.
        """
        planned, adapter, audit, arm = outcome.planned, probe.adapter, facts.audit, outcome.planned.making
        assert adapter is not None
        assert audit is not None
        calibration = facts.calibration if planned.by_effect else None
        source = ArmSource(adapter.folder, audit, self.seed, calibration)
        depends: dict[str, Any] = {
            "adapter": adapter.sha256,
            "ranks": dict(planned.ranks),
            "made_by": arm.name,
            "seed": self.seed,
        }
        if calibration is not None:
            depends["calibration"] = calibration.sha256
        distillation = None
        if arm.distills:
            assert adapter.training is not None
            distillation = Distillation.of(self.config, self.task, adapter.training.planned_steps)
            depends |= {"base": self.base, "distillation": distillation.decides()}
            self.distilled.add(f"{planned.name}/adapter")

        def make(folder: Path) -> None:
            require_weights(adapter.folder)
            target = folder / ADAPTER
            if distillation is not None:
                distill_variant(arm, source, planned.ranks, target, distillation, self.watcher.step)
            else:
                assert arm.make is not None
                arm.make(source, planned.ranks, target)
            write_whole(
                folder / seed_facts.SIZES,
                [json.dumps(seed_facts.parameters_of(seed_facts.header_of(target / WEIGHTS))).encode()],
            )

        self.stages.done(f"{planned.name}/adapter", depends, make, resumable=False)
        super().derive(outcome, probe, facts)

    # ------------------------------------------------------------ training and evaluating

    def train(self, outcome: seed_facts.Outcome) -> None:
        """Train the adapter of `outcome`. For the arm that trains only the head, LoRA keeps its initial weights."""
        config, planned = self.config, outcome.planned
        data = self.task.examples.fingerprint("train", config.train.train_samples)
        settings: dict[str, Any] = {
            "lora": config.lora.peft_arguments() | planned.lora_arguments(),
            "seed": self.seed,
            "trained": planned.making.trains,
        }
        depends = settings | {"base": self.base, "recipe": config.train.model_dump(mode="json"), "data": data}

        def make(folder: Path) -> None:
            arguments = settings | {"model": config.model.whole(), "recipe": config.train, "output": folder}
            arguments["device"] = config.runtime.device
            train_adapter(self.task, **arguments, on_step=self.watcher.step)

        self.stages.done(f"{planned.name}/train", depends, make)
        super().train(outcome)

    def evaluate(self, outcome: seed_facts.Outcome, probe: seed_facts.Outcome | None) -> None:
        """Record the variant's answers, and except for classifiers its divergence from the probe."""
        assert outcome.adapter is not None
        adapter, is_control = outcome.adapter, outcome.planned.control is not None
        reference = probe.adapter if probe else None
        if reference is not None:
            require_same_scale(reference.folder, adapter.folder, outcome.planned.ranks)
        name, looks = f"{adapter.name}/eval", self.evaluator.looks
        shared = {
            "adapter": adapter.sha256,
            "lora": adapter.lora,
            "base": self.base,
            "data": self.data,
            **self._asking,
            "reference": reference.sha256 if reference else None,
        }
        depends = [shared | {"looks": looks[:number]} for number in range(1, len(looks) + 1)]
        depends = depends if len(looks) > 1 else [shared]
        keys = [stage_key(name, entry) for entry in depends]
        key = key_of(self.folder / name)
        look = max(self._look(outcome.planned), keys.index(key) + 1 if key in keys else 0)

        def make(folder: Path) -> None:
            self._refuse_mixture()
            needed = [stored.folder for stored in (adapter, reference) if stored is not None]
            for place in needed:
                require_weights(place)
            self.evaluator.expect(needed)  # reserves memory for the larger one
            named, how = (adapter.name, adapter.folder), dict[str, Any](allow_inert=is_control, look=look)
            self.evaluator.answers(named, folder / seed_facts.ANSWERS, lora=adapter.lora, **how)
            if reference is None:
                return
            if not isinstance(self.task, ClassificationTask):
                scored_against = (reference.name, reference.folder)
                self.evaluator.scores(named, folder / seed_facts.SCORES, reference=scored_against, **how)
            self.evaluator.forget(adapter.name)

        self.stages.done(name, depends[look - 1], make, earlier=keys[: look - 1])
        super().evaluate(outcome, probe)

    def _look(self, planned: PlannedVariant) -> int:
        """Return the look up to which an adapter is evaluated now; 0 for a step that is not tested yet."""
        if planned.step is None or self.reached is None or len(self.evaluator.looks) == 1:
            return len(self.evaluator.looks)
        return self.reached.get(planned.name, 0)

    # ------------------------------------------------------------ the guards

    def guard(self, name: str, facts: seed_facts.SeedFacts) -> None:
        """Evaluate probe, candidates and base on a guard, in one stage. An error applies to all candidates."""
        inputs = self.guards[name]
        candidates = [
            outcome for outcome in facts.outcomes if outcome.planned.is_candidate and outcome.answers
        ]
        stored = [outcome.adapter for outcome in (facts.probe, *candidates) if outcome and outcome.adapter]
        depends = {
            "adapters": [[adapter.name, adapter.sha256] for adapter in stored],
            "base": self.base,
            "examples": fingerprint(inputs.examples),
            "margin": str(inputs.margin),
            **self._asking,
            "scoring": inputs.task.scoring,
        }

        def make(folder: Path) -> None:
            adapters = []
            for adapter in stored:
                require_weights(adapter.folder)
                given = adapter.folder.relative_to(self.folder)
                adapters.append(replace(adapter_input(adapter.name, adapter.folder), given=given))
            request = replace(inputs.request, watcher=_InsideStage(self.watcher))
            whole = replace(inputs, adapters=tuple(adapters), request=request)
            evaluate_set(whole, folder, base=self.evaluator.base)

        self.stages.done(f"{GUARDS}/{name}", depends, make)
        super().guard(name, facts)

    def _refuse_mixture(self) -> None:
        refuse_mixture(self.folder, seed_facts.ANSWERS, self.evaluator.numerics)

    # ------------------------------------------------------------ what stages depend on

    @property
    def data(self) -> str:
        """Digest of the evaluated examples."""
        return self.task.examples.fingerprint(self.config.task.eval_role, len(self.examples))

    @property
    def _asking(self) -> dict[str, Any]:
        """Return the inputs that determine an answer and its score, besides adapter, base and examples."""
        return {"settings": self.evaluator.settings, "scoring": self.task.scoring}

    @cached_property
    def base(self) -> dict[str, Any]:
        """Digest of the base's content, and how it is loaded: everything about the base that determines answers."""
        settings = self.config.model.model_dump(mode="json", exclude={"name", "revision"})
        return {"fingerprint": fingerprint_of(self.config.model), **settings}

    def _say(self, text: str) -> None:
        logger.warning("seed %d: %s", self.seed, text)
        self.watcher.note(text)

    def _announce(self, stage: str) -> None:
        self.number += 1
        self.watcher.stage(stage, self.number, self.planned)
        logger.info("seed %d: %s", self.seed, stage)

    def _watch_memory(self, stage: str) -> Reading:
        """Measure the peak memory of a stage. A training reports its own, since it may run in other processes."""
        if stage.endswith("/train"):
            report = self.folder / stage / REPORT
            return lambda: TrainingReport.read(report).peak_memory_bytes
        device = choose_device(self.config.runtime.device) if self.needs_base(stage) else torch.device("cpu")
        return watch_peak(device)

    def needs_base(self, stage: str) -> bool:
        """Return False for audits and truncations, which run in numpy."""
        return stage != "audit" and (not stage.endswith("/adapter") or stage in self.distilled)


def require_same_scale(probe: Path, adapter: Path, ranks: Ranks) -> None:
    """Raise ScaleChanged, which names the first module, if α/r differs from the probe's in the two configs.

    With equal scales, a verdict is about the rank only. ranks: of the adapter; modules at rank 0 have no scale.
    """
    before, after = (read_config(folder / "adapter_config.json") for folder in (probe, adapter))
    for module, was, is_now in seed_facts.changed_scales(before, after, ranks):
        raise ScaleChanged(f"{SCALE_CHANGED}: {module} has {is_now}, and the probe has {was}")


def refuse_mixture(seed: Path, records: str, here: Mapping[str, Any]) -> None:
    """Raise MadeElsewhere if a finished evaluation below `seed` was made with different hardware or software.

    Answers are compared only if device, threads and versions agree.
    records: name of the file of records in the folder of an evaluation. here: `Engine.numerics` of this
    machine.
    """
    elsewhere = {}
    for path in sorted(seed.glob(f"*/eval/{records}")):
        with open_stream(path, limit=MAX_DATA_BYTES) as file:
            run = ExamplesRun.model_validate_json(file.readline())
        differences = numerics_differences(run.model_dump(), here)
        if differences and (path.parent / MANIFEST).is_file():
            elsewhere[path.parent] = differences
    if elsewhere:
        raise MadeElsewhere(list(elsewhere), next(iter(elsewhere.values())))
