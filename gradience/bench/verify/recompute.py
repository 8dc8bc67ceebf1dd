"""Records of a run against their sources: answers scored again, and examples compared with the task's own data.

Without a model: nothing is trained or evaluated, and no count is believed. Stored answers are scored again, from the
output to the answer in it, from the logits to the label.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from gradience import tasks
from gradience.bench import plan as plans
from gradience.bench.config import BenchConfig, TaskSettings
from gradience.bench.verdict.aggregate import BENCH, PLAN
from gradience.bench.verdict.assemble import NO_PROBE
from gradience.bench.verdict.facts import ANSWERS, Answers, NotThere, Outcome, SeedFacts, SeedWalk
from gradience.bench.verify.folder import Findings, RunFolder
from gradience.digests import sha256_rows, sha256_text
from gradience.errors import GradienceError, InputError
from gradience.evaluate.records import RECORDS
from gradience.evaluate.rows import predictions_of, whole_text
from gradience.evaluate.verb import planned_set
from gradience.files import records as record_types
from gradience.files.shared_names import given_text
from gradience.reports.bench import Bench
from gradience.reports.bench_plan import BenchPlan
from gradience.reports.training import MANIFEST
from gradience.statistics.groups import group_note
from gradience.tasks import user_code
from gradience.tasks.base import AnswerScoring, ChoiceScoring, LabelScoring, Scoring, Task, rendered
from gradience.tasks.examples import fingerprint

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


def scored_again(evaluation: Answers, rules: Scoring, file: str, findings: Findings) -> Answers:
    """Score every answer again, as an evaluation would; a different score is a mismatch of `file`."""
    rows = tuple(_again(row, rules) for row in evaluation.records)
    changed = [row.id for row, before in zip(rows, evaluation.records, strict=True) if row is not before]
    if changed:
        problem = f"{len(changed):,} recorded scores differ from the task's scoring: {', '.join(changed[:3])}"
        findings.mismatch(file, problem)
    return record_types.Evaluation(evaluation.run, rows)


def _again(row: record_types.Record, rules: Scoring) -> record_types.Record:
    fields: dict[str, Any] = {}
    if isinstance(row, record_types.ClassificationRecord) and isinstance(rules, LabelScoring) and row.logits:
        predicted = max(range(len(row.logits)), key=lambda place: row.logits[place])  # the first of equals
        fields = {"predicted": predicted, "correct": predicted == row.label}
    elif isinstance(row, record_types.ChoiceRecord) and isinstance(rules, ChoiceScoring):
        predictions = predictions_of(row.loglikelihoods, row.characters)
        predicted = predictions[rules.choose_by]
        fields = {"predictions": predictions, "predicted": predicted, "correct": predicted == row.label}
    elif isinstance(row, record_types.GenerationRecord) and isinstance(rules, AnswerScoring):
        verdict = rules.decision(row.id, row.output, row.answer)
        fields = {
            "answers": dict(verdict.answers),
            "extracted": verdict.extracted,
            "correct": verdict.correct,
        }
    unchanged = all(getattr(row, name) == value for name, value in fields.items())
    return row if unchanged else replace(row, **fields)


def repeated(records: Iterable[record_types.Record]) -> list[str]:
    """Return the identities that more than one record has."""
    ids: set[str] = set()
    return [row.id for row in records if row.id in ids or ids.add(row.id)]  # type: ignore[func-returns-value]


def gold_of(row: record_types.Record) -> tuple[str, str, str]:
    """Return a record's fields about the example: identity, digest of the text, and the gold answer."""
    if isinstance(row, record_types.ClassificationRecord):
        return row.id, row.text_sha256, str(row.label)
    if isinstance(row, record_types.ChoiceRecord):
        return row.id, row.prompt_sha256, f"{row.choices_sha256} {row.label}"
    if isinstance(row, record_types.ScoreRecord):
        return row.id, row.prompt_sha256, row.response_sha256
    return row.id, row.prompt_sha256, row.answer


def numbers_of(row: record_types.Record) -> tuple[float, ...]:
    """Return what was computed for an example: logits or log-likelihoods, and KL; nothing for an output."""
    if isinstance(row, record_types.ClassificationRecord):
        return row.logits
    if isinstance(row, record_types.ChoiceRecord):
        return row.loglikelihoods
    if isinstance(row, record_types.ScoreRecord):
        return (row.loglikelihood,) if row.kl is None else (row.loglikelihood, row.kl)
    return ()


def output_of(row: record_types.Record) -> str:
    """Return the answer: the output, the index of the label or choice, or the scores, as text."""
    if isinstance(row, record_types.GenerationRecord):
        return row.output
    if isinstance(row, record_types.ScoreRecord):
        return f"log-likelihood {row.loglikelihood:.6g}, KL {row.kl}, flips {row.flips}"
    return str(row.predicted)


def is_same(recorded: record_types.Record, again: record_types.Record) -> bool:
    """Return True for the same answer with the same numbers, up to rounding in other batches."""
    if isinstance(recorded, record_types.GenerationRecord) or type(recorded) is not type(again):
        return output_of(recorded) == output_of(again)
    pairs = zip(numbers_of(recorded), numbers_of(again), strict=False)
    same = isinstance(recorded, record_types.ScoreRecord) or output_of(recorded) == output_of(again)
    return same and all(math.isclose(before, now, rel_tol=1e-3, abs_tol=1e-4) for before, now in pairs)


# ------------------------------------------------------------ the stages of a seed


class SeedFolder(SeedWalk):
    """The finished stages of a seed, read in the order in which a run makes them."""

    def __init__(
        self,
        folder: Path,
        config: BenchConfig,
        seed: int,
        recorded: Bench,
        marking: Marking,
        findings: Findings,
        lost: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """folder, lost: as in `SeedWalk`; variants that earlier seeds had decided.

        marking: rules by which answers are scored again; `findings` gets the scores that differ.
        recorded: the result in the folder, for values that no stage holds, such as error messages.
        """
        super().__init__(config, seed, folder, lost)
        self.recorded, self.marking, self.findings = recorded, marking, findings
        self.taken_as_recorded: list[str] = []
        """Adapters, and other parts, whose error is one that this folder cannot show."""

    def attempt(self, name: str, step: Callable[..., object], *arguments: object) -> str:
        """Take a step. If its stage is not there, return the recorded error."""
        try:
            step(*arguments)
        except NotThere as stage:
            error = self._recorded_error(name)
            if error:
                self.taken_as_recorded.append(name)
            return error or f"its stage {stage} is not there"
        return ""

    def scored(self, answers: Answers, folder: Path) -> Answers:
        """Score the answers again, if the rules are known."""
        if self.marking.why_not:
            return answers
        return scored_again(
            answers, self.marking.rules, f"{folder.parent.name}/eval/{ANSWERS}", self.findings
        )

    def variants(self, facts: SeedFacts, probe: Outcome) -> None:
        """Read the variants that were made."""
        for outcome in facts.outcomes:
            if outcome.planned.is_made:
                outcome.error = self.attempt(outcome.planned.name, self._variant, outcome, probe, facts)

    def _variant(self, outcome: Outcome, probe: Outcome, facts: SeedFacts) -> None:
        if outcome.planned.is_trained:
            self.train(outcome)
        else:
            self.derive(outcome, probe, facts)
        untested = outcome.planned.step is not None and self.recorded.data.looks
        if not untested or self.is_finished(
            f"{outcome.planned.name}/eval"
        ):  # else the ladder has not reached it
            self.evaluate(outcome, probe)

    def _recorded_error(self, name: str) -> str:
        """Return the recorded error of the probe, a variant, a guard or the calibration; empty if there is none."""
        of, start = {name}, ""
        if name == plans.PROBE:
            of, start = {result.name for result in self.recorded.variants}, NO_PROBE
        elif name.startswith(f"{plans.GUARDS}/"):
            of = {result.name for result in self.recorded.candidates}
            start = f"guard {name.removeprefix(f'{plans.GUARDS}/')}: "
        elif name == "calibration":
            of = {
                variant.name
                for variant in plans.asked_for(self.config.compression)
                if variant.needs_calibration
            }
        errors = (
            why.removeprefix(start)
            for result in self.recorded.variants
            if result.name in of and result.status == "ERROR"
            for why in result.reasons
            if why.startswith(start)
        )
        return next(errors, "")


# ---------------------------------------------------------------- examples, against the task's own data


def task_of(config: BenchConfig) -> Task:
    """Return the task with its examples, as they are on this machine. Raises GradienceError, as its `load` does."""
    return rendered(config.task.load(), config.model)


def check_data(run: RunFolder) -> None:
    """Compare the examples of the plan and of the verified seeds' records with those of the task."""
    findings = run.findings
    try:
        plan = run.plan()
        config = run.config(plan)
        task = task_of(config)
    except GradienceError as error:
        findings.not_done("data", "data", f"not compared with the task's data: {error}")
        return
    numbers = [
        f"{len(task.examples.of(role, limit)):,} of {len(task.examples.of(role)):,} {role} examples"
        for role, limit in config.limits.items()
    ]
    problem = f"the task has the same data ({', '.join(numbers)}): ids, texts, gold answers"
    with findings.check("data", "data", problem):
        if task.code != plan.task_code:
            findings.mismatch(PLAN, "the task's code here is different", "task_code")
        for split in plan.splits:
            examples: Sequence[Any] = task.examples.of(split.role, config.limits.get(split.role))
            if split.n != len(examples):
                problem = f"{split.n:,} {split.role} examples; the task has {len(examples):,}"
                findings.mismatch(PLAN, problem, f"splits.{split.role}.n")
            if split.sha256 != fingerprint(examples):
                problem = f"not the digest of the task's {split.role} examples"
                findings.mismatch(PLAN, problem, f"splits.{split.role}.sha256")
        rows, looks = planned_rows(config, task, plan), plans.looks_of(plan)
        findings.compare([(PLAN, "ladder.looks", looks, rows.looks)])
        if plan.groups is not None:
            findings.compare([(PLAN, "groups", plan.groups, rows.groups)])
        elif rows.groups is not None:
            findings.gap(f"{PLAN}: {group_note(len(rows.groups), rows.groups, plan.group)}; it counts all")
        for guard, planned in zip(plans.read_guards(config), plan.guards, strict=False):
            findings.compare([(PLAN, f"guards.{guard.name}", planned, planned_set(guard))])
            for path in sorted(run.folder.glob(f"**/{plans.GUARDS}/{guard.name}/{RECORDS}/*.jsonl")):
                file = given_text(path.relative_to(run.folder).as_posix())
                check_records(path, file, guard.task, guard.examples, findings)
        for place in run.places:
            seed = run.folder / place
            with findings.inside(place):
                with suppress(InputError):  # an unreadable result is a mismatch already
                    counts = Bench.read(seed / BENCH).data.counts
                    findings.compare([(BENCH, "data.counts", counts, dict(task.examples.counts))])
                for path in sorted(seed.glob("*/eval/*.records.jsonl")):
                    if (path.parent / MANIFEST).is_file():
                        name = given_text(path.relative_to(seed).as_posix())
                        check_records(path, name, task, rows.examples, findings, looks=looks)


def planned_rows(config: BenchConfig, task: Task, plan: BenchPlan) -> plans.EvaluatedRows:
    """Return the examples in the order of the plan: older plans have no looks."""
    rows = plans.evaluated_rows(config, task)
    if plan.ladder is not None and plan.ladder.looks:
        return rows
    examples = task.examples.of(config.task.eval_role, config.task.eval_samples)
    return rows._replace(examples=examples, looks=())


def check_records(
    path: Path,
    name: str,
    task: Task,
    examples: Sequence[Any],
    findings: Findings,
    *,
    looks: Sequence[int] = (),
) -> None:
    """Compare the examples in a file of records, in their order, with those of the task, up to one of the looks."""
    try:
        header, records = record_types.read_records(path)
    except InputError as error:
        findings.mismatch(name, str(error))
        return
    if header.scoring not in (None, task.scoring):  # null: scores on gold responses, and older files
        findings.mismatch(name, f"{header.scoring}; the task's is {task.scoring}", "scoring")
    examples = examples[: header.n] if header.n in looks else examples
    recorded = {row.id: gold_of(row) for row in records}
    expected = {example.id: gold_of_example(example, header.kind) for example in examples}
    absent, extra = expected.keys() - recorded.keys(), recorded.keys() - expected.keys()
    other = [key for key in expected if key in recorded and recorded[key] != expected[key]]
    for ids, problem in (
        (absent, f"of {len(expected):,} examples of the task are missing"),
        (extra, "examples are not among those of the task"),
        (other, "examples have another text or gold answer than the task's"),
    ):
        if ids:
            findings.mismatch(name, f"{len(ids):,} {problem}: {', '.join(sorted(ids)[:3])}", "id")
    if not (absent or extra) and list(recorded) != list(expected):
        findings.mismatch(name, "not in the order of the task", "id")


def gold_of_example(example: Any, kind: record_types.RecordKind) -> tuple[str, str, str]:
    """Return what `gold_of` gives for a record of this example of a task."""
    if kind == "classification":
        return example.id, sha256_text(whole_text(example)), str(example.label)
    if kind == "choices":
        gold = f"{sha256_rows([list(example.responses)])} {example.label}"
        return example.id, sha256_text(example.prompt), gold
    gold = sha256_text(example.response) if kind == "scores" else example.answer
    return example.id, sha256_text(example.prompt), gold
