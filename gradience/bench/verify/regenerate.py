"""A sample of the answers of a run, made again by its adapters: needs the base, the data and PyTorch.

Whole batches are drawn, as they were answered: what else is in a batch can move an answer. The draw is the same for
every adapter and in every verification, so whoever forges can know it; with as many as there are, all are answered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gradience.adapters.locate import WEIGHTS
from gradience.bench.config.load import BenchConfig, load_config
from gradience.bench.verdict.facts import ANSWERS
from gradience.bench.verdict.folders import CONFIG
from gradience.bench.verify.findings import Findings
from gradience.bench.verify.recompute import gold_of
from gradience.bench.verify.verify import plan_of
from gradience.errors import GradienceError, InputError
from gradience.evaluate.batches import fixed_batches
from gradience.evaluate.evaluator import Evaluator
from gradience.evaluate.numerics import numerics_differences
from gradience.evaluate.rows import whole_text
from gradience.files.records import (
    ChoiceRecord,
    ClassificationRecord,
    Evaluation,
    ExamplesRun,
    GenerationRecord,
    Record,
    read_records,
)
from gradience.files.shared_names import given_text
from gradience.models.devices import threads
from gradience.reports.bench_plan import BenchPlan
from gradience.reports.stage import MANIFEST
from gradience.reports.training import ADAPTER
from gradience.reports.verification import DifferingAnswer, RegeneratedAnswers
from gradience.tasks.base import ChoiceTask, ClassificationTask, Task, rendered
from gradience.words import counted

SEED = 0
BASE = "base"
WHOLE = ("float32", "float64")
"""Dtypes in which equal batches on one machine give equal answers, whatever is loaded beside."""
OF_THE_SAMPLE = {"n", "examples_sha256", "device", "threads", "versions"}
"""Fields of a header that may be others when some of the examples are answered, here: see `numerics_differences`."""


def regenerated(run: Path, only: str, findings: Findings, *, least: int) -> tuple[RegeneratedAnswers, ...]:
    """Let every adapter whose weights are there answer at least `least` examples again, and compare.

    only: the folder of the one seed that is verified. What cannot be made again is said in the findings.
    """
    try:
        plan = plan_of(run)
        config = load_config(run / CONFIG)
        task = _task(config, plan)
        with threads(config.runtime.threads):
            return _Regeneration(run, findings, config, task, least).of(_places(plan, only))
    except GradienceError as error:
        findings.not_done("regenerated", "L3", f"not regenerated: {error}")
        return ()


def _places(plan: BenchPlan, only: str) -> list[str]:
    return [only] if only or len(plan.seeds) == 1 else [f"seed_{seed}/" for seed in plan.seeds]


def _task(config: BenchConfig, plan: BenchPlan) -> Task:
    """The task of the run, with the very examples that its plan names."""
    task = rendered(config.task.load(), config.model)
    role = config.task.eval_role
    planned = {split.role: split.sha256 for split in plan.splits}
    if (
        task.examples.fingerprint(role, config.task.eval_samples) != planned.get(role)
        or task.code != plan.task_code
    ):
        raise InputError(
            f"other data: the {role} examples here, or the task's code, are not those of plan.json",
            code="other-data",
            hint="get the data with which the run was made",
        )
    return task


class _Regeneration:
    """One base, the sample, and adapter after adapter."""

    def __init__(self, run: Path, findings: Findings, config: BenchConfig, task: Task, least: int) -> None:
        self.run, self.findings = run, findings
        examples = task.examples.of(config.task.eval_role, config.task.eval_samples)
        batch_size = config.train.per_device_eval_batch_size
        self.evaluator = Evaluator(
            task,
            config.model,
            drawn(task, examples, batch_size, least),
            batch_size=batch_size,
            max_length=config.train.max_length,
            max_new_tokens=config.task.generation.max_new_tokens,
            device=config.runtime.device,
            engine_name=config.runtime.engine,
        )
        self.uncompared: list[str] = []
        """Evaluations that could have been made again, and were not."""

    def of(self, places: Sequence[str]) -> tuple[RegeneratedAnswers, ...]:
        """Answer again and compare, and say in one check what came of it."""
        mismatches: list[tuple[str, str]] = []
        try:
            again = tuple(self._all(places, mismatches))
        finally:
            self.evaluator.close()
        equal, asked = sum(one.equal for one in again), sum(one.examples for one in again)
        counts = f"{equal:,} of {asked:,} answers in {counted(len(again), 'evaluation')} are the same when made again"
        undecided = sum(len(one.differing) for one in again if one.undecidable)
        if not again:
            self.findings.not_done(
                "regenerated", "L3", "no adapter's answers were made again: see Not verified"
            )
        elif mismatches or not (undecided or self.uncompared):
            with self.findings.check("regenerated", "L3", counts):
                for file, what in mismatches:
                    self.findings.mismatch(file, what)
        else:
            others = f"; {len(self.uncompared)} more could not be compared" if self.uncompared else ""
            why = f"; {undecided:,} differ, which is not decidable" if undecided else ""
            self.findings.not_done("regenerated", "L3", f"{counts}{why}{others}")
        return again

    def _all(self, places: Sequence[str], mismatches: list[tuple[str, str]]) -> Iterator[RegeneratedAnswers]:
        answers = {place: sorted((self.run / place).glob(f"*/eval/{ANSWERS}")) for place in places}
        adapters = (_adapter(records.parent.parent) for some in answers.values() for records in some)
        self.evaluator.expect(list(filter(None, adapters)))
        for place, some in answers.items():
            for records in some:
                folder = records.parent.parent
                file = f"{place}{given_text(folder.name)}/eval/{ANSWERS}"
                adapter = _adapter(folder)
                if not (records.parent / MANIFEST).is_file():
                    continue
                if adapter is None and folder.name != BASE:
                    self.findings.gap(f"{file}: not regenerated: the adapter's weights are not here")
                    continue
                try:
                    stored = read_records(records)
                    again = self._again(folder.name, adapter, stored.run)
                except GradienceError as error:
                    self._not_compared(file, str(error))
                    continue
                others = _other_settings(stored.run, again.run)
                if others:
                    self._not_compared(file, f"its header has another {others}")
                    continue
                why = undecidable(stored.run, self.evaluator.numerics)
                result = compared(stored, again, file, undecidable=why)
                mismatches += _mismatches(stored, again, result)
                if result.differing and result.undecidable:
                    count = f"{len(result.differing)} of {result.examples}"
                    self.findings.gap(f"{file}: {count} answers differ, not decidable: {result.undecidable}")
                yield result

    def _again(self, name: str, adapter: Path | None, header: ExamplesRun) -> Evaluation[Any]:
        if adapter is None:
            return self.evaluator.answers(None, None, None)
        try:
            return self.evaluator.answers(name, adapter, None, lora=header.lora, allow_inert=True)
        finally:
            self.evaluator.forget(name)

    def _not_compared(self, file: str, why: str) -> None:
        self.uncompared.append(file)
        self.findings.gap(f"{file}: not regenerated: {why}")


def undecidable(header: ExamplesRun, here: Mapping[str, Any]) -> str:
    """Return why another answer shows nothing; empty where it does. here: the numerics of this machine."""
    reasons = [numerics_differences(header.model_dump(), here)]
    if header.batch_invariant is False:
        reasons.append(f"{header.engine} was free to compute other examples beside each")
    if header.dtype not in WHOLE or header.quantization is not None:
        reasons.append(f"computed in {header.quantization or header.dtype}")
    return "; ".join(filter(None, reasons))


def drawn(task: Task, examples: Sequence[Any], batch_size: int, least: int) -> list[Any]:
    """Return the examples of whole batches, at least `least` of them where there are so many, in their order."""
    if isinstance(task, ClassificationTask):
        batches = fixed_batches([whole_text(example) for example in examples], batch_size)
    elif isinstance(task, ChoiceTask):
        together = max(1, batch_size // max(len(example.responses) for example in examples))
        batches = fixed_batches([e.prompt + "".join(e.responses) for e in examples], together)
    else:
        batches = fixed_batches([example.prompt for example in examples], batch_size)
    places: list[int] = []
    for number in np.random.default_rng(SEED).permutation(len(batches)):
        if len(places) >= least:
            break
        places += batches[number]
    return [examples[place] for place in sorted(places)]


def _adapter(folder: Path) -> Path | None:
    """Where the weights of an adapter lie: trained, or derived from the probe."""
    places = [folder / making / ADAPTER for making in ("train", "adapter")]
    return next((place for place in places if (place / WEIGHTS).is_file()), None)


def _other_settings(stored: ExamplesRun, again: ExamplesRun) -> str:
    before, now = (header.model_dump(exclude=OF_THE_SAMPLE) for header in (stored, again))
    before["base"] = now["base"]  # the same base may lie elsewhere: its digest tells
    return ", ".join(name for name in now if before.get(name) != now[name])


def compared(
    stored: Evaluation[Any], again: Evaluation[Any], file: str, *, undecidable: str
) -> RegeneratedAnswers:
    """Compare the answers of the examples in `again` with the stored ones."""
    rows = _by_id(stored)
    pairs = [(rows[row.id], row) for row in again.records if row.id in rows]
    differing = tuple(
        DifferingAnswer(
            id=new.id,
            recorded=answer_of(old),
            again=answer_of(new),
            recorded_correct=old.correct,
            again_correct=new.correct,
        )
        for old, new in pairs
        if answer_of(old) != answer_of(new)
    )
    return RegeneratedAnswers(
        file=file,
        examples=len(again.records),
        equal=len(pairs) - len(differing),
        differing=differing,
        undecidable=undecidable,
    )


def answer_of(row: Record) -> str:
    """Return what was answered: the output, or the number of the label or choice."""
    if isinstance(row, GenerationRecord):
        return row.output
    assert isinstance(row, ClassificationRecord | ChoiceRecord)
    return str(row.predicted)


def _mismatches(
    stored: Evaluation[Any], again: Evaluation[Any], result: RegeneratedAnswers
) -> Iterator[tuple[str, str]]:
    """What is another example in the records than in the task, and, where it can be decided, another answer."""
    rows = _by_id(stored)
    for new in again.records:
        if new.id not in rows:
            yield result.file, f"{new.id}: the task has this example, the records have not"
        elif gold_of(rows[new.id]) != gold_of(new):
            yield result.file, f"{new.id}: another text or gold answer than the task's"
    if not result.undecidable:
        for one in result.differing:
            yield result.file, f"{one.id}: {one.recorded!r} recorded, {one.again!r} when it is answered again"


def _by_id(evaluation: Evaluation[Any]) -> Mapping[str, Any]:
    return {row.id: row for row in evaluation.records}
