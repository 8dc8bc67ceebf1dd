"""A run as the hub's `.eval_results/*.yaml` has it: one file for each adapter, to be put into its repository.

The format, as the documentation of the hub has it, has a value and no interval: n, interval and grade stand in
its notes.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from gradience.bench.export.adapters import Evaluated, evaluated
from gradience.errors import UsageError
from gradience.files.whole import write_whole
from gradience.models.lock import refuse_links

KNOWN = {"gsm8k": ("openai/gsm8k", "gsm8k"), "glue": ("nyu-mll/glue", "")}
"""Profile of a task -> its data set on the hub, and the task in it; GLUE's is the subset."""


def export_hub(folder: Path, output: Path, *, dataset: str | None = None) -> list[Path]:
    """Write a YAML for each adapter of the run in `folder`, and return the files.

    dataset: the data set on the hub, where the task does not say it. Raises UsageError (`no-dataset`), and what
    `evaluated` and the disk raise.
    """
    refuse_links(output)
    written = []
    for one in evaluated(folder):
        place = output / f"seed_{one.bench.seed}"
        place.mkdir(parents=True, exist_ok=True)
        entries = [_entry(one, *_dataset(one, dataset))]
        text = yaml.safe_dump(entries, sort_keys=False, allow_unicode=True, width=100)
        written.append(write_whole(place / f"{one.name}.yaml", [text.encode()]))
    return written


def _dataset(one: Evaluated, given: str | None) -> tuple[str, str]:
    task = one.bench.config["task"]
    options = task.get("options") or {}
    known, name = KNOWN.get(task["profile"], (None, ""))
    dataset = given or options.get("dataset") or known
    if dataset is None:
        raise UsageError(
            f"{one.bench.data.task}: its data set has no name on the hub",
            code="no-dataset",
            hint="give --dataset ORG/NAME, or export --to eee",
        )
    return str(dataset), str(options.get("subset") or name or one.bench.data.task)


def _entry(one: Evaluated, dataset: str, task: str) -> dict[str, object]:
    measures, interval = one.measures, one.difference
    notes = [f"{measures.correct:,} of {measures.n:,} correct (gradience bench, seed {one.bench.seed})"]
    if interval is not None and one.result is not None:
        low, high = (f"{100 * end:+.2f}" for end in (interval.low, interval.high))
        notes.append(
            f"difference to the full rank {one.result.delta_exact}, 95 % interval {low} to {high} points"
        )
        notes.append(f"policy of this seed: {one.result.status}")
    if one.grade is not None:
        notes.append(f"grade over all seeds: {one.grade}")
    return {
        "dataset": {"id": dataset, "task_id": task},
        "value": round(100 * measures.score, 4),
        "date": one.bench.run.started[:10],
        "notes": "; ".join(notes),
    }
