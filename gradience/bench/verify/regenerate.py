"""A sample of the answers of a run, made again by its adapters: needs the base, the data and PyTorch.

Whole batches are drawn, as they were answered: the rest of a batch can change an answer. The draw is the same for
every adapter of a verification. The verifier chooses the seed, so no forger can know it.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate, chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from gradience.adapters.locate import WEIGHTS
from gradience.bench.config import BenchConfig
from gradience.bench.plan import PROBE
from gradience.bench.verdict.facts import ANSWERS, SCORES
from gradience.bench.verify.folder import RunFolder
from gradience.bench.verify.recompute import gold_of, is_same, output_of, planned_rows, task_of
from gradience.errors import GradienceError, InputError
from gradience.evaluate.engines.base import fixed_batches
from gradience.evaluate.evaluator import Evaluator
from gradience.evaluate.records import numerics_differences
from gradience.evaluate.rows import whole_text
from gradience.files.records import Evaluation, ExamplesRun, read_records
from gradience.files.shared_names import given_text
from gradience.models.load import threads
from gradience.reports.bench_plan import BenchPlan
from gradience.reports.training import ADAPTER, MANIFEST
from gradience.reports.verification import RegeneratedAnswers
from gradience.tasks.base import ChoiceTask, ClassificationTask, Task
from gradience.words import counted

BASE = "base"
WHOLE = ("float32", "float64")
"""Dtypes in which equal batches on one machine give equal answers, independent of other loaded adapters."""
OF_THE_SAMPLE = {"n", "examples_sha256", "looks", "device", "threads", "versions"}
"""Fields of a header that may be others when some of the examples are answered, here: see `numerics_differences`."""

OF_THE_RUN = {
    "scoring",
    "base_sha256",
    "adapter_sha256",
    "reference_sha256",
    "filters",
    "stop",
    "max_new_tokens",
}
"""Fields of a header that follow from plan and weights, on any machine: a different one is a mismatch."""


def regenerated(run: RunFolder, *, least: int, seed: int) -> tuple[RegeneratedAnswers, ...]:
    """Regenerate at least `least` answers of every adapter whose weights were kept, and compare.

    seed: seed of the sample. Failures are recorded in the findings.
    """
    try:
        plan = run.plan()
        config = run.config(plan)
        task, role = task_of(config), config.task.eval_role
        planned = {split.role: split.sha256 for split in plan.splits}
        here = task.examples.fingerprint(role, config.task.eval_samples)
        if here != planned.get(role) or task.code != plan.task_code:
            raise InputError(
                f"different data: the {role} examples here, or the task's code, differ from plan.json",
                code="other-data",
                hint="get the data of the original run",
            )
        with threads(config.runtime.threads):
            return _Regeneration(run, plan, config, task, least, seed).regenerated()
    except GradienceError as error:
        run.findings.not_done("regenerated", "L3", f"not regenerated: {error}")
        return ()


class _Regeneration:
    """One base, the sample, and adapter after adapter."""

    def __init__(
        self, run: RunFolder, plan: BenchPlan, config: BenchConfig, task: Task, least: int, seed: int
    ) -> None:
        self.run, self.findings = run, run.findings
        examples, self.looks, _ = planned_rows(config, task, plan)
        batch_size, ends = config.train.per_device_eval_batch_size, self.looks or (len(examples),)
        parts = [
            drawn(task, examples[start:end], batch_size, least if start == 0 else 1, seed)
            for start, end in pairwise((0, *ends))
        ]
        self.evaluator = Evaluator(
            task,
            config.model,
            [*chain(*parts)],
            looks=tuple(accumulate(map(len, parts))),
            batch_size=batch_size,
            max_length=config.train.max_length,
            max_new_tokens=config.task.generation.max_new_tokens,
            device=config.runtime.device,
            engine_name=config.runtime.engine,
        )
        self.uncompared = 0
        """Evaluations that could have been made again, and were not."""
        self.mismatches: list[tuple[str, str]] = []

    def regenerated(self) -> tuple[RegeneratedAnswers, ...]:
        """Regenerate answers, compare them and record the outcome as one check."""
        evaluations = [
            (f"{place}{given_text(path.parents[1].name)}/eval/{path.name}", path, _adapter(path.parents[1]))
            for place in self.run.places
            for path in sorted((self.run.folder / place).glob("*/eval/*.records.jsonl"))
            if path.name in (ANSWERS, SCORES) and (path.parent / MANIFEST).is_file()
        ]
        again: list[RegeneratedAnswers] = []
        try:
            self.evaluator.expect([adapter for _, _, adapter in evaluations if adapter is not None])
            for file, path, adapter in evaluations:
                if adapter is None and path.parents[1].name != BASE:
                    self.findings.gap(f"{file}: not regenerated: the adapter's weights are missing")
                    continue
                try:
                    again.append(self._compared(file, path, adapter))
                except GradienceError as error:
                    self.uncompared += 1
                    self.findings.gap(f"{file}: not regenerated: {error}")
        finally:
            self.evaluator.close()
        equal, answered = sum(file.equal for file in again), sum(file.examples for file in again)
        counts = (
            f"{equal:,} of {answered:,} regenerated answers in {counted(len(again), 'evaluation')} are equal"
        )
        undecided = sum(file.differing for file in again if file.undecidable)
        if not again and not self.mismatches:
            why = "no adapter's answers were regenerated: see Not checked"
            self.findings.not_done("regenerated", "L3", why)
        elif self.mismatches or not (undecided or self.uncompared):
            with self.findings.check("regenerated", "L3", counts):
                for file, problem in self.mismatches:
                    self.findings.mismatch(file, problem)
        else:
            others = f"; {self.uncompared} more could not be compared" if self.uncompared else ""
            why = f"; {undecided:,} differ, which proves nothing on this machine" if undecided else ""
            self.findings.not_done("regenerated", "L3", f"{counts}{why}{others}")
        return tuple(again)

    def _compared(self, file: str, path: Path, adapter: Path | None) -> RegeneratedAnswers:
        """Generate answers again and compare them with the stored ones. Raises GradienceError if that is
        impossible.
        """
        stored = read_records(path)
        look = 1 + self.looks.index(stored.run.n) if stored.run.n in self.looks else None
        again = self._again(path, adapter, look, lora=stored.run.lora)
        before, now = (header.model_dump(exclude=OF_THE_SAMPLE) for header in (stored.run, again.run))
        before["base"] = now["base"]  # the same base may lie elsewhere: its digest tells
        others = [field for field in now if before.get(field) != now[field]]
        for field in OF_THE_RUN.intersection(others):
            if before[field] is not None:  # an older file does not say it
                self.mismatches.append((file, f"{field}: {before[field]} recorded, {now[field]} here"))
        if others:
            raise InputError(f"its header has a different {', '.join(others)}", code="other-data")
        why = undecidable(stored.run, self.evaluator.numerics)
        rows, differing, equal = {row.id: row for row in stored.records}, 0, 0
        for new in again.records:
            old = rows.get(new.id)
            if old is None:
                problem = f"{new.id}: the task has this example, but the records do not"
                self.mismatches.append((file, problem))
                continue
            if gold_of(old) != gold_of(new):
                self.mismatches.append((file, f"{new.id}: another text or gold answer than the task's"))
            if is_same(old, new):
                equal += 1
                continue
            differing += 1
            if not why:
                problem = f"{new.id}: {output_of(old)!r} recorded, {output_of(new)!r} when regenerated"
                self.mismatches.append((file, problem))
        if differing and why:
            count = f"{differing} of {len(again.records)}"
            self.findings.gap(f"{file}: {count} answers differ, which proves nothing: {why}")
        return RegeneratedAnswers(
            file=file,
            examples=len(again.records),
            equal=equal,
            differing=differing,
            undecidable=why,
        )

    def _again(self, path: Path, adapter: Path | None, look: int | None, *, lora: bool) -> Evaluation[Any]:
        """Answer the sample again, or score it against the probe. Raises GradienceError if that is impossible.

        look: up to which there are records; None for all.
        """
        name = path.parents[1].name
        if adapter is None:
            return self.evaluator.answers(None, None)
        try:
            if path.name == ANSWERS:
                return self.evaluator.answers((name, adapter), None, lora=lora, allow_inert=True, look=look)
            probe = _adapter(path.parents[2] / PROBE)
            scores = probe and self.evaluator.scores(
                (name, adapter), None, reference=(PROBE, probe), allow_inert=True, look=look
            )
            if not scores:
                raise InputError(
                    "the probe's weights, or the engine's likelihoods, are missing", code="other-data"
                )
            return scores
        finally:
            self.evaluator.forget(name)
            self.evaluator.forget(PROBE)


def undecidable(header: ExamplesRun, here: Mapping[str, Any]) -> str:
    """Return the reason why a different answer would prove nothing; empty if it would. here: numerics of this
    machine.
    """
    reasons = [numerics_differences(header.model_dump(), here)]
    if header.batch_invariant is False:
        reasons.append(f"{header.engine} may have batched other examples with each")
    if header.dtype not in WHOLE or header.quantization is not None:
        reasons.append(f"computed in {header.quantization or header.dtype}")
    return "; ".join(filter(None, reasons))


def drawn(task: Task, examples: Sequence[Any], batch_size: int, least: int, seed: int) -> list[Any]:
    """Return the examples of whole batches, in order: at least `least` of them if there are enough."""
    if isinstance(task, ClassificationTask):
        batches = fixed_batches([whole_text(example) for example in examples], batch_size)
    elif isinstance(task, ChoiceTask):
        together = max(1, batch_size // max(len(example.responses) for example in examples))
        batches = fixed_batches([e.prompt + "".join(e.responses) for e in examples], together)
    else:
        batches = fixed_batches([example.prompt for example in examples], batch_size)
    places: list[int] = []
    for number in np.random.default_rng(seed).permutation(len(batches)):
        if len(places) >= least:
            break
        places += batches[number]
    return [examples[place] for place in sorted(places)]


def _adapter(folder: Path) -> Path | None:
    """Return the folder of an adapter's weights: trained, or derived from the probe."""
    places = [folder / making / ADAPTER for making in ("train", "adapter")]
    return next((place for place in places if (place / WEIGHTS).is_file()), None)
