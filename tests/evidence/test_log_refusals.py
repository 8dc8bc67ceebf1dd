"""What was not asked the same of both is refused, with both values; a log that cannot be read says where and why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from log_files import refused, rows_of, samples, table, write_lines

from gradience import InputError, compare_logs
from gradience.errors import UsageError
from gradience.evidence import base, text
from gradience.files import rows

STRICT = {"filter": "strict-match"}


def changed(tmp_path, change, *, task="sums", name=None):
    """B's samples with every row changed."""
    path = samples(task, "b")
    return write_lines(tmp_path / (name or path.name), [change(row) for row in rows_of(path)])


# ---------------------------------------------------------------- other questions


def test_another_document(tmp_path):
    def other(row):
        return row | ({"doc": row["doc"] | {"answer": "6"}} if row["doc_id"] in (3, 5) else {})

    error = refused(samples("sums", "a"), changed(tmp_path, other), **STRICT)
    assert error.code == "logs-differ"
    assert "2 of 24 examples have another document in B (3, 5)" in str(error)


def test_another_prompt(tmp_path):
    def other(row):
        arguments = {
            "gen_args_0": row["arguments"]["gen_args_0"] | {"arg_0": f"Sum: {row['doc']['question']}"}
        }
        return row | {"arguments": arguments}

    error = refused(samples("sums", "a"), changed(tmp_path, other), **STRICT)
    assert "24 of 24 examples have another prompt in B (0, 1, 2 and 21 more)" in str(error)


def test_another_task(tmp_path):
    renamed = changed(tmp_path, dict, name="samples_products_2026-11-26T15-53-59.572054.jsonl")
    error = refused(samples("sums", "a"), renamed, **STRICT)
    assert "different task: sums and products" in str(error)


def test_other_generation_settings(tmp_path):
    def warmer(row):
        settings = row["arguments"]["gen_args_0"]["arg_1"] | {"temperature": 0.7}
        return row | {"arguments": {"gen_args_0": row["arguments"]["gen_args_0"] | {"arg_1": settings}}}

    error = refused(samples("sums", "a"), changed(tmp_path, warmer), **STRICT)
    assert "different generation settings" in str(error)
    assert '"temperature": 0.0' in str(error)
    assert '"temperature": 0.7' in str(error)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("n-shot", {"sums": 5}, "different few-shot examples: 2 and 5"),
        ("versions", {"sums": 2.0}, "different task version: 1.0 and 2.0"),
    ],
)
def test_what_the_results_beside_the_samples_say(tmp_path, key, value, words):
    path = samples("sums", "b")
    copy = write_lines(tmp_path / path.name, rows_of(path))
    (results,) = path.parent.glob("results_*.json")
    content = json.loads(results.read_text(encoding="utf-8")) | {key: value}
    (tmp_path / results.name).write_text(json.dumps(content), encoding="utf-8")
    assert words in str(refused(samples("sums", "a"), copy, **STRICT))


def test_another_format(tmp_path):
    ours = table(tmp_path / "b.csv", [1] * 24)
    assert "different format: lm-eval and table" in str(refused(samples("orders", "a"), ours))


def test_examples_that_are_in_one_log_alone(tmp_path):
    a = table(tmp_path / "a.csv", [1, 0, 1, 1])
    b = table(tmp_path / "b.csv", [1, 0])
    b.write_text(b.read_text() + "other,1\n")
    error = refused(a, b)
    assert error.code == "logs-missing"
    assert f"2 examples only in {a} (q2, q3), 1 only in {b} (other); 2 in both" in str(error)


def test_prompts_of_a_table_are_compared(tmp_path):
    a = table(tmp_path / "a.csv", [1, 0], prompt=["one", "two"])
    b = table(tmp_path / "b.csv", [1, 0], prompt=["one", "2"])
    assert "1 of 2 examples have another prompt in B (q1)" in str(refused(a, b))


# ---------------------------------------------------------------- choices


def test_several_filters_are_listed(tmp_path):
    error = refused(samples("sums", "a"), samples("sums", "b"))
    assert isinstance(error, UsageError)
    assert "several filters in it: strict-match, flexible-extract" in str(error)
    assert "--filter strict-match" in error.hint


def test_several_metrics_are_listed_and_those_without_a_number_named(tmp_path):
    def two(row):
        return row | {"metrics": ["acc", "f1", "brier_score"], "f1": 0.5}

    error = refused(samples("orders", "a"), changed(tmp_path, two, task="orders", name="x.jsonl"))
    assert "several metrics in it: acc, f1" in str(error)
    error = refused(samples("orders", "a"), samples("orders", "b"), metric="brier_score")
    assert "it has acc; brier_score: no number for each example" in str(error)


def test_the_direction_of_the_log_wins_over_a_slip(tmp_path):
    error = refused(samples("orders", "a"), samples("orders", "b"), lower_is_better=True, margin=0.1)
    assert "higher is better, says the log of its acc" in str(error)


# ---------------------------------------------------------------- logs that cannot be read


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "line 1 must list the column names"),
        ("name,score\na,1\n", "line 2: no id"),
        ("id,id\na,1\n", "line 1 must list the column names, without duplicates"),
        ("id,score\na,1\na,0\n", "the id 'a' occurs twice"),
        ("id,score\n,1\nb,1\n", "no id"),
        ("id,score\na,1\nb\n", "line 3: 1 field, but the first line has 2 columns"),
        ("id,score\na,1\nb,good\n", "line 3: no number under 'score'"),
        ("id,score\na,1\nb,nan\n", "nan, which is no score"),
        ("id,score\na,good\nb,bad\n", "it has no per-example scores; score: no number"),
        ("id,score\na,1\n", "1 example in them"),
        ('id,score\n"a,1\n', "line 2"),
    ],
)
def test_a_csv(tmp_path, text, words):
    path = tmp_path / "a.csv"
    path.write_text(text)
    assert words in str(refused(path, path))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"id": 1, "score": 1', "line 2: Expecting"),
        ("[1, 2]", "line 2: not a JSON object"),
        ('{"id": 2, "score": 1, "score": 0}', "the key 'score' occurs twice"),
        ('{"id": 2, "score": NaN}', "nan, which is no score"),
        ('{"id": 2, "score": 1e999}', "inf, which is no score"),
        ('{"id": 2, "score": "1"}', "no number under 'score'"),
        ('{"id": 2, "score": null}', "no number under 'score'"),
        ('{"id": [], "score": 1}', "no id"),
        ('{"id": 2, "score": ' + "9" * 5000 + "}", "line 2"),
        ('{"id": 2, "score": ' + "[" * 100 + "]" * 100 + "}", "nested too deeply"),
        ('{"id": "\\ud800", "score": 1}', "half of a character"),
        ("\xff", "line 2"),
    ],
)
def test_json_lines(tmp_path, line, words):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"id": 1, "score": 1}\n' + line.encode("latin-1") + b"\n")
    assert words in str(refused(path, path))


def test_what_is_no_log_at_all(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("hello")
    assert refused(path, path).code == "log-format"
    assert refused(tmp_path / "none.csv", path).code == "not-found"
    (results,) = samples("sums", "a").parent.glob("results_*.json")
    assert "name the samples_*.jsonl beside them" in refused(results, results).hint
    empty = tmp_path / "empty"
    empty.mkdir()
    assert refused(empty, path).code == "log-none"


def test_a_folder_of_every_eval_ever_is_its_samples():
    report = compare_logs(*(Path(__file__).parent / "logs" / "every_eval_ever" / name for name in ("a", "b")))
    assert (report.a.format, report.n, report.delta) == ("Every Eval Ever", 24, pytest.approx(2 / 24))


def test_a_folder_with_several_logs_names_them():
    folder = samples("sums", "a").parent
    error = refused(folder, folder)
    assert error.code == "log-several"
    assert "samples_orders_" in str(error)
    assert "samples_sums_" in str(error)


def test_more_examples_than_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(base, "MAX_ITEMS", 3)
    path = table(tmp_path / "a.csv", [1, 0, 1, 1])
    assert refused(path, path).code == "too-large"


def test_the_columns_and_the_length_of_a_line_are_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(base, "MAX_SCORES", 3)
    row = {"id": 1, "prompt": "p", "answer": "a", "score": 1}
    path = write_lines(tmp_path / "a.jsonl", [row | {f"k{place}": 0 for place in range(3)}])
    assert "line 1: 4 columns, and at most 3 are read" in str(refused(path, path))
    monkeypatch.setattr(text, "MAX_LINE", 100)
    monkeypatch.setattr(rows, "MAX_ROW", 100)
    for name, words in (("a.jsonl", "longer than 100 bytes"), ("a.csv", "a row of more than 100 characters")):
        (tmp_path / name).write_bytes(b"\0" * 200)
        assert f"line 1: {words}" in str(refused(tmp_path / name, tmp_path / name))


def test_every_refusal_of_a_log_is_an_input_error(tmp_path):
    """Exit code 3: two logs that do not fit are no grade."""
    a, b = table(tmp_path / "a.csv", [1, 0, 1]), table(tmp_path / "b.csv", [1, 0])
    assert isinstance(refused(a, b), InputError)
    assert refused(a, b).exit_code == 3
