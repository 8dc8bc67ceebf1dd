"""The task's own data against a run: every example, gold answer and count, without a model."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from gradience.bench.config.load import BenchConfig
from gradience.bench.plan.guards import read_guards
from gradience.bench.plan.preregister import EvaluatedRows, evaluated_rows, looks_of
from gradience.bench.plan.variants import GUARDS
from gradience.bench.verdict.folders import BENCH, PLAN
from gradience.bench.verify.findings import Findings
from gradience.bench.verify.folder import RunFolder
from gradience.bench.verify.recompute import gold_of
from gradience.digests import sha256_rows, sha256_text
from gradience.errors import GradienceError, InputError
from gradience.evaluate.kept import RECORDS
from gradience.evaluate.rows import whole_text
from gradience.evaluate.verb import planned_set
from gradience.files.records import RecordKind, read_records
from gradience.files.shared_names import given_text
from gradience.reports.bench import Bench
from gradience.reports.bench_plan import BenchPlan
from gradience.reports.stage import MANIFEST
from gradience.statistics.groups import group_note
from gradience.tasks.base import Task, rendered
from gradience.tasks.examples import fingerprint


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
        rows, looks = planned_rows(config, task, plan), looks_of(plan)
        findings.compare([(PLAN, "ladder.looks", looks, rows.looks)])
        if plan.groups is not None:
            findings.compare([(PLAN, "groups", plan.groups, rows.groups)])
        elif rows.groups is not None:
            findings.gap(f"{PLAN}: {group_note(len(rows.groups), rows.groups, plan.group)}; it counts all")
        for guard, planned in zip(read_guards(config), plan.guards, strict=False):
            findings.compare([(PLAN, f"guards.{guard.name}", planned, planned_set(guard))])
            for path in sorted(run.folder.glob(f"**/{GUARDS}/{guard.name}/{RECORDS}/*.jsonl")):
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


def planned_rows(config: BenchConfig, task: Task, plan: BenchPlan) -> EvaluatedRows:
    """Return the examples in the order of the plan: older plans have no looks."""
    rows = evaluated_rows(config, task)
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
        header, records = read_records(path)
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


def gold_of_example(example: Any, kind: RecordKind) -> tuple[str, str, str]:
    """Return what `gold_of` gives for a record of this example of a task."""
    if kind == "classification":
        return example.id, sha256_text(whole_text(example)), str(example.label)
    if kind == "choices":
        gold = f"{sha256_rows([list(example.responses)])} {example.label}"
        return example.id, sha256_text(example.prompt), gold
    gold = sha256_text(example.response) if kind == "scores" else example.answer
    return example.id, sha256_text(example.prompt), gold
