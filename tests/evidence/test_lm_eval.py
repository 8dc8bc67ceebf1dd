"""Logs that lm-eval itself wrote: its means are found again, and its samples are paired."""

from __future__ import annotations

import json
import shutil

import pytest
from log_files import rows_of, samples, write_lines

from gradience import compare_logs
from gradience.evidence.base import Wanted
from gradience.evidence.formats import read_log

CASES = [
    ("sums", "exact_match", "strict-match"),
    ("sums", "exact_match", "flexible-extract"),
    ("orders", "acc", "none"),
]


@pytest.mark.parametrize("side", ["a", "b"])
@pytest.mark.parametrize(("task", "metric", "found_by"), CASES)
def test_the_mean_is_the_one_that_lm_eval_reports(side, task, metric, found_by):
    path = samples(task, side)
    (results,) = path.parent.glob("results_*.json")
    reported = json.loads(results.read_text(encoding="utf-8"))["results"][task][f"{metric},{found_by}"]
    log = read_log(path, Wanted(filter=found_by))
    assert len(log.items) == 24
    assert sum(item.score for item in log.items.values()) / 24 == pytest.approx(reported)
    assert (log.task, log.metric, log.lower_is_better) == (task, metric, False)
    assert log.settings["few-shot examples"] == ("2" if task == "sums" else "0")


def test_what_two_logs_share_is_in_memory_once():
    a, b = (read_log(samples("orders", side), Wanted()).items for side in "ab")
    for key in a:
        for name in ("document", "prompt", "excerpt"):
            assert getattr(a[key], name) is getattr(b[key], name)


def test_two_runs_of_lm_eval():
    report = compare_logs(samples("sums", "a"), samples("sums", "b"), filter="strict-match")
    a, b = (
        {
            row["doc_id"]: row["exact_match"]
            for row in rows_of(samples("sums", side))
            if row["filter"] == "strict-match"
        }
        for side in "ab"
    )
    assert report.table.n10 == sum(a[key] > b[key] for key in a) == 3
    assert report.table.n01 == sum(a[key] < b[key] for key in a)
    assert (report.task, report.filter, report.grade, report.notes) == ("sums", "strict-match", "C", ())
    assert report.b.model == "pretrained=base,dtype=float32,peft=adapter"
    lost = next(flip for flip in report.flips if flip.change == "lost")
    assert lost.excerpt.endswith("10 + 7 =")
    assert (lost.answer_a, lost.answer_b) == ("17", "8")


def test_of_choices_the_most_likely_one_is_the_answer():
    report = compare_logs(samples("orders", "a"), samples("orders", "b"))
    assert {flip.answer_a for flip in report.flips} <= {"less", "more"}
    gold = {
        str(row["doc_id"]): ["less", "more"][int(row["target"])] for row in rows_of(samples("orders", "a"))
    }
    assert all((flip.answer_a == gold[flip.id]) == (flip.score_a == 1) for flip in report.flips)


def test_a_folder_with_one_log_is_enough(tmp_path):
    for side in "ab":
        folder = tmp_path / side / "base__model"  # as lm-eval's --output_path has it
        folder.mkdir(parents=True)
        shutil.copy(samples("orders", side), folder)
    report = compare_logs(tmp_path / "a", tmp_path / "b")
    assert (report.n, report.a.model) == (24, None)


def test_samples_of_an_older_version(tmp_path):
    """Before metrics were listed and arguments had names (0.4.3): lists, and metrics beside the other keys."""

    def older(row):
        left_out = ("metrics", "filter", "doc_hash", "prompt_hash", "target_hash", "brier_score")
        arguments = [list(request.values()) for request in row["arguments"].values()]
        return {key: value for key, value in row.items() if key not in left_out} | {"arguments": arguments}

    paths = [
        write_lines(tmp_path / f"{side}.jsonl", [older(row) for row in rows_of(samples("orders", side))])
        for side in "ab"
    ]
    report, now = compare_logs(*paths), compare_logs(samples("orders", "a"), samples("orders", "b"))
    assert (report.table, report.task, report.flips) == (now.table, None, now.flips)
