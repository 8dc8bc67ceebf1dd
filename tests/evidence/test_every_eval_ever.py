"""Records that `every_eval_ever convert` made of lm-eval's logs: they say what the logs say."""

from __future__ import annotations

import json
import shutil

import pytest
from log_files import LOGS, refused, rows_of, samples, write_lines

from gradience import compare_logs

RECORDS = LOGS / "every_eval_ever"


def record(side):
    (path,) = (RECORDS / side).glob("*.json")
    return path


def lines(side):
    (path,) = (RECORDS / side).glob("*_samples.jsonl")
    return path


def copied(folder, side="b", *, record_change=dict, row_change=dict):
    """The two files of a side in a folder of their own, changed; the checksum that the record names is left out."""
    content = record_change(json.loads(record(side).read_text(encoding="utf-8")))
    content.get("detailed_evaluation_results", {}).pop("checksum", None)
    folder.mkdir(exist_ok=True)
    write_lines(folder / lines(side).name, [row_change(row) for row in rows_of(lines(side))])
    target = folder / record(side).name
    target.write_text(json.dumps(content), encoding="utf-8")
    return target


def test_a_record_says_what_the_log_says():
    report, log = (
        compare_logs(record("a"), record("b")),
        compare_logs(samples("orders", "a"), samples("orders", "b")),
    )
    assert (report.table, report.bounds, report.grade) == (log.table, log.bounds, log.grade)
    assert [flip.id for flip in report.flips] == [flip.id for flip in log.flips]
    assert (report.task, report.metric, report.notes) == ("orders", "acc", ())
    stated = json.loads(record("b").read_text(encoding="utf-8"))["evaluation_results"]
    assert report.b.mean == pytest.approx(
        next(each["score_details"]["score"] for each in stated if each["evaluation_result_id"] == "acc")
    )


def test_the_samples_may_be_named_instead_of_the_record(tmp_path):
    assert compare_logs(lines("a"), lines("b")).table == compare_logs(record("a"), record("b")).table
    alone = shutil.copy(lines("b"), tmp_path / lines("b").name)
    report = compare_logs(lines("a"), alone)
    assert any("is not beside it" in note for note in report.notes)


def other_answer(row):
    return row | {"input": row["input"] | {"reference": ["2"]}}


def other_template(row):
    return row | {"input": row["input"] | {"formatted": f"<user>{row['input']['raw']}"}}


def lower(content):
    for result in content["evaluation_results"]:
        result["metric_config"]["lower_is_better"] = True
    return content


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"row_change": other_answer}, "24 of 24 examples have another document in B"),
        ({"row_change": other_template}, "24 of 24 examples have another prompt in B"),
        ({"record_change": lower}, "lower is better, says the log of its acc"),
        ({"row_change": lambda row: row | {"evaluation": {"score": None}}}, "no per-example scores"),
        ({"row_change": lambda row: row | {"sample_id": 3}}, "no sample_id"),
    ],
)
def test_what_was_not_asked_the_same_is_refused(tmp_path, changes, words):
    assert words in str(refused(record("a"), copied(tmp_path / "b", **changes)))


def test_another_number_of_few_shot_examples(tmp_path):
    def shots(number):
        def change(content):
            for result in content["evaluation_results"]:
                result["generation_config"] = {"additional_details": {"num_fewshot": number}}
            return content

        return change

    a = copied(tmp_path / "a", "a", record_change=shots("2"))
    b = copied(tmp_path / "b", "b", record_change=shots("5"))
    error = refused(a, b)
    assert "different generation settings" in str(error)
    assert all(f'"num_fewshot": "{number}"' in str(error) for number in (2, 5))
    assert "found in only one log and not compared: generation settings" in compare_logs(record("a"), b).notes


def test_samples_that_are_missing_or_others(tmp_path):
    alone = shutil.copy(record("b"), tmp_path / record("b").name)
    assert "are not beside it" in str(refused(record("a"), alone))
    write_lines(tmp_path / lines("b").name, rows_of(lines("b"))[:-1])
    error = refused(record("a"), alone)
    assert (error.code, "it names samples with the sha256" in str(error)) == ("log-samples", True)


def test_several_results_are_listed(tmp_path):
    both = [
        {**row, "evaluation_result_id": name} for name in ("acc", "acc_norm") for row in rows_of(lines("b"))
    ]
    path = write_lines(tmp_path / "x_samples.jsonl", both)
    assert "several metrics in it: acc, acc_norm" in str(refused(path, path))
    assert compare_logs(path, path, metric="acc_norm").n == 24


@pytest.mark.parametrize("place", ["../../../../etc/passwd", "..", "a/\0", "é" * 200])
def test_a_path_in_a_record_leads_nowhere_else(tmp_path, place):
    def elsewhere(content):
        content["detailed_evaluation_results"]["file_path"] = place
        return content

    error = refused(record("a"), copied(tmp_path / "b", record_change=elsewhere))
    assert error.code == "log-samples"
