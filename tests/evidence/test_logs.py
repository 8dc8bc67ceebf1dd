"""Logs that inspect, lm-eval and Every Eval Ever wrote: their means are found again, and refusals name what differs."""

import json
import shutil
import struct
import zipfile

import pytest
from data_files import write_jsonl
from log_files import LOGS, refused, rows_of, samples, table

from gradience import compare_logs
from gradience.errors import UsageError
from gradience.evidence import base, inspect_ai
from gradience.evidence.base import Wanted
from gradience.evidence.inspect_ai import read
from gradience.evidence.verb import read_log
from gradience.files import rows

INSPECT = LOGS / "inspect"
A, B = INSPECT / "a_deflated.eval", INSPECT / "b_deflated.eval"


def members(path):
    with zipfile.ZipFile(path) as packed:
        return {name: packed.read(name) for name in packed.namelist()}


def rewritten(path, changes, *, source=B):
    """B's log in which these members are others; None leaves one out; a function changes its JSON in place."""
    contents = members(source)
    for name, change in changes.items():
        if callable(change):
            value = json.loads(contents[name])
            change(value)
            contents[name] = json.dumps(value).encode()
        else:
            contents[name] = change
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in contents.items():
            if content is not None:
                packed.writestr(name, content)
    return path


@pytest.mark.parametrize("side", ["a", "b"])
def test_the_mean_is_the_accuracy_that_inspect_reports(side):
    """Members packed with Zstandard, as inspect-ai 0.3.285 writes them."""
    pytest.importorskip("zstandard")
    log = read(INSPECT / f"{side}.eval", Wanted())
    with inspect_ai.open_archive(log.path) as packed:
        results = json.loads(packed.read("header.json"))["results"]
    (accuracy,) = (score["metrics"]["accuracy"]["value"] for score in results["scores"])
    assert len(log.items) == 24
    assert sum(item.score for item in log.items.values()) / 24 == pytest.approx(accuracy)
    assert (log.task, log.metric) == ("larger", "includes")


def test_both_ways_of_packing_say_the_same():
    pytest.importorskip("zstandard")
    for side in "ab":
        whole = read(INSPECT / f"{side}.eval", Wanted())
        part = read(INSPECT / f"{side}_deflated.eval", Wanted())
        assert len(part.items) == 8
        assert part.items.items() <= whole.items.items()
        assert part.settings == whole.settings


def test_without_zstandard_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    error = refused(INSPECT / "a.eval", INSPECT / "b.eval")
    assert (error.code, error.exit_code) == ("missing-extra", 2)
    assert '".[logs]"' in error.hint


def test_two_logs_of_inspect():
    report = compare_logs(A, B)
    assert (report.n, report.task, report.metric, report.notes) == (8, "larger", "includes", ())
    assert report.a.model == "hf/local model_path=base,device=cpu,do_sample=False"
    assert all(flip.excerpt.startswith("Which is more, ") for flip in report.flips)
    scores = {
        json.loads(content)["id"]: json.loads(content)["scores"]["includes"]["value"]
        for name, content in members(B).items()
        if name.startswith("samples/")
    }
    assert report.b.mean == sum(value == "C" for value in scores.values()) / 8


def a_sample():
    return next(name for name in members(B) if name.startswith("samples/"))


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        (a_sample(), lambda it: it["messages"][0].update(content="Compare."), "prompt differs in 1 of 8 examples"),
        (a_sample(), lambda it: it.update(target="0"), "document differs in 1 of 8 examples"),
        ("header.json", lambda it: it["plan"]["config"].update(temperature=0.7), "different generation settings"),
        ("header.json", lambda it: it["plan"]["steps"].pop(0), "different solvers"),
        ("header.json", lambda it: it["eval"].update(task="smaller"), "different task: larger and smaller"),
    ],
)  # fmt: skip
def test_what_was_not_asked_the_same_is_refused(tmp_path, name, change, words):
    assert words in str(refused(A, rewritten(tmp_path / "b.eval", {name: change})))


def test_a_run_that_did_not_end(tmp_path):
    error = refused(A, rewritten(tmp_path / "b.eval", {"header.json": None}))
    assert error.code == "log-unfinished"
    failed = rewritten(tmp_path / "c.eval", {"header.json": lambda header: header.update(status="error")})
    assert "candidate: its status is 'error', and not success" in compare_logs(A, failed).notes
    later = rewritten(tmp_path / "d.eval", {"header.json": lambda header: header.update(version=3)})
    assert "log version 3 is not supported" in str(refused(A, later))


def test_an_example_without_a_score(tmp_path):
    gone = rewritten(tmp_path / "b.eval", {a_sample(): lambda sample: sample.update(scores={})})
    assert "no number under 'includes'" in str(refused(A, gone))


def test_an_example_that_was_run_twice_is_refused(tmp_path):
    name = a_sample()
    again = json.dumps(json.loads(members(A)[name]) | {"epoch": 2}).encode()
    twice = rewritten(tmp_path / "a.eval", {name.replace("_epoch_1", "_epoch_2"): again}, source=A)
    assert refused(twice, B).code == "log-duplicate"


def test_scores_of_several_keys_and_letters(tmp_path):
    many = {"graded": {"value": {"tone": 0.5, "facts": "P"}}, "says": {"value": "text"}}
    names = [name for name in members(A) if name.startswith("samples/")]
    changes = {name: lambda sample: sample.update(scores=many) for name in names}
    a, b = (rewritten(tmp_path / f"{side}.eval", changes, source=path) for side, path in (("a", A), ("b", B)))
    assert "several metrics in it: graded/tone, graded/facts" in str(refused(a, b))
    assert compare_logs(a, b, metric="graded/facts").a.mean == 0.5
    assert "says: no number for each example" in str(refused(a, b, metric="says"))


# ---------------------------------------------------------------- archives


@pytest.mark.parametrize(
    "limits", [{"MAX_MEMBER": 1_000}, {"FREE": 50_000, "RATIO": 0}, {"MAX_DIRECTORY": 100}], ids=str
)
def test_an_archive_that_would_take_too_much_memory_is_refused(limits, monkeypatch):
    for name, limit in limits.items():
        monkeypatch.setattr(inspect_ai, name, limit)
    assert refused(A, B).code == "too-large"


DIRECTORY = b"PK\x01\x02"
DAMAGE = {
    # name: bytes written at a place behind the start of the directory
    "far offset": (42, struct.pack("<L", 2**31)),
    "encrypted": (8, b"\x01"),
    "other method": (10, struct.pack("<H", 12)),
    "another checksum": (16, bytes(4)),
    "a byte of a member": (100 - B.read_bytes().index(DIRECTORY), b"?"),
}


@pytest.mark.parametrize(("place", "written"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_archive_is_refused(tmp_path, place, written):
    path, content = tmp_path / "b.eval", bytearray(B.read_bytes())
    start = content.index(DIRECTORY) + place
    assert content[start : start + len(written)] != written
    content[start : start + len(written)] = written
    path.write_bytes(content)
    error = refused(A, path)
    assert error.code == "bad-archive"
    assert str(path) in str(error)


def test_an_archive_that_was_cut_off_at_any_place(tmp_path):
    content, path = B.read_bytes(), tmp_path / "b.eval"
    for length in range(0, len(content), len(content) // 40):
        path.write_bytes(content[:length])
        assert refused(A, path).code == "bad-archive"


# ---------------------------------------------------------------- Logs of lm-eval


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
        write_jsonl(tmp_path / f"{side}.jsonl", [older(row) for row in rows_of(samples("orders", side))])
        for side in "ab"
    ]
    report, now = compare_logs(*paths), compare_logs(samples("orders", "a"), samples("orders", "b"))
    assert (report.table, report.task, report.flips) == (now.table, None, now.flips)


# ---------------------------------------------------------------- Records of Every Eval Ever


RECORDS = LOGS / "every_eval_ever"


def record(side):
    (path,) = (RECORDS / side).glob("*.json")
    return path


def lines(side):
    (path,) = (RECORDS / side).glob("*_samples.jsonl")
    return path


def copied(folder, side="b", *, of_record=id, of_row=id):
    """The two files of a side in a folder of their own, changed in place; the record's checksum is left out."""
    content, rows = json.loads(record(side).read_text(encoding="utf-8")), rows_of(lines(side))
    of_record(content)
    for row in rows:
        of_row(row)
    content.get("detailed_evaluation_results", {}).pop("checksum", None)
    folder.mkdir(exist_ok=True)
    write_jsonl(folder / lines(side).name, rows)
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


def lower(content):
    for result in content["evaluation_results"]:
        result["metric_config"]["lower_is_better"] = True


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"of_row": lambda row: row["input"].update(reference=["2"])}, "document differs in 24 of 24 examples"),
        ({"of_row": lambda row: row["input"].update(formatted="<user>")}, "prompt differs in 24 of 24 examples"),
        ({"of_record": lower}, "according to the log, lower acc is better"),
        ({"of_row": lambda row: row.update(evaluation={"score": None})}, "no per-example scores"),
        ({"of_row": lambda row: row.update(sample_id=3)}, "no sample_id"),
    ],
)  # fmt: skip
def test_records_of_other_questions_are_refused(tmp_path, changes, words):
    assert words in str(refused(record("a"), copied(tmp_path / "b", **changes)))


def test_another_number_of_few_shot_examples(tmp_path):
    def shots(number):
        def change(content):
            for result in content["evaluation_results"]:
                result["generation_config"] = {"additional_details": {"num_fewshot": number}}

        return change

    a = copied(tmp_path / "a", "a", of_record=shots("2"))
    b = copied(tmp_path / "b", "b", of_record=shots("5"))
    error = refused(a, b)
    assert "different generation settings" in str(error)
    assert all(f'"num_fewshot": "{number}"' in str(error) for number in (2, 5))
    assert "found in only one log and not compared: generation settings" in compare_logs(record("a"), b).notes


def test_samples_that_are_missing_or_others(tmp_path):
    alone = shutil.copy(record("b"), tmp_path / record("b").name)
    assert "are not beside it" in str(refused(record("a"), alone))
    write_jsonl(tmp_path / lines("b").name, rows_of(lines("b"))[:-1])
    error = refused(record("a"), alone)
    assert (error.code, "it names samples with the sha256" in str(error)) == ("log-samples", True)


def test_several_results_are_listed(tmp_path):
    both = [
        {**row, "evaluation_result_id": name} for name in ("acc", "acc_norm") for row in rows_of(lines("b"))
    ]
    path = write_jsonl(tmp_path / "x_samples.jsonl", both)
    assert "several metrics in it: acc, acc_norm" in str(refused(path, path))
    assert compare_logs(path, path, metric="acc_norm").n == 24


@pytest.mark.parametrize("place", ["../../../../etc/passwd", "..", "a/\0", "é" * 200])
def test_a_path_in_a_record_leads_nowhere_else(tmp_path, place):
    def elsewhere(content):
        content["detailed_evaluation_results"]["file_path"] = place

    assert refused(record("a"), copied(tmp_path / "b", of_record=elsewhere)).code == "log-samples"


STRICT = {"filter": "strict-match"}


def changed(tmp_path, change, *, task="sums", name=None):
    """B's samples with every row changed in place."""
    path = samples(task, "b")
    rows = rows_of(path)
    for row in rows:
        change(row)
    return write_jsonl(tmp_path / (name or path.name), rows)


# ---------------------------------------------------------------- other questions


@pytest.mark.parametrize(
    ("change", "name", "words"),
    [
        (
            lambda row: row["doc"].update(answer="6") if row["doc_id"] in (3, 5) else None,
            None,
            ["document differs in 2 of 24 examples (3, 5)"],
        ),
        (
            lambda row: row["arguments"]["gen_args_0"].update(arg_0=f"Sum: {row['doc']['question']}"),
            None,
            ["prompt differs in 24 of 24 examples (0, 1, 2 and 21 more)"],
        ),
        (
            lambda row: row["arguments"]["gen_args_0"]["arg_1"].update(temperature=0.7),
            None,
            ["different generation settings", '"temperature": 0.0', '"temperature": 0.7'],
        ),
        (id, "samples_products_2026-11-26T15-53-59.572054.jsonl", ["different task: sums and products"]),
    ],
)
def test_samples_of_other_questions_are_refused(tmp_path, change, name, words):
    error = refused(samples("sums", "a"), changed(tmp_path, change, name=name), **STRICT)
    assert error.code == "logs-differ"
    assert all(each in str(error) for each in words)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("n-shot", {"sums": 5}, "different few-shot examples: 2 and 5"),
        ("versions", {"sums": 2.0}, "different task version: 1.0 and 2.0"),
    ],
)
def test_what_the_results_beside_the_samples_say(tmp_path, key, value, words):
    path = samples("sums", "b")
    copy = write_jsonl(tmp_path / path.name, rows_of(path))
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
    assert (error.code, error.exit_code) == ("logs-missing", 3)
    assert f"2 examples only in {a} (q2, q3), 1 only in {b} (other); 2 in both" in str(error)


def test_prompts_of_a_table_are_compared(tmp_path):
    a = table(tmp_path / "a.csv", [1, 0], prompt=["one", "two"])
    b = table(tmp_path / "b.csv", [1, 0], prompt=["one", "2"])
    assert "prompt differs in 1 of 2 examples (q1)" in str(refused(a, b))


# ---------------------------------------------------------------- choices


def test_several_filters_are_listed():
    error = refused(samples("sums", "a"), samples("sums", "b"))
    assert isinstance(error, UsageError)
    assert "several filters in it: strict-match, flexible-extract" in str(error)
    assert "--filter strict-match" in error.hint


def test_several_metrics_are_listed_and_those_without_a_number_named(tmp_path):
    def two(row):
        row.update(metrics=["acc", "f1", "brier_score"], f1=0.5)

    error = refused(samples("orders", "a"), changed(tmp_path, two, task="orders", name="x.jsonl"))
    assert "several metrics in it: acc, f1" in str(error)
    error = refused(samples("orders", "a"), samples("orders", "b"), metric="brier_score")
    assert "it has acc; brier_score: no number for each example" in str(error)


def test_the_direction_of_the_log_wins_over_a_slip():
    error = refused(samples("orders", "a"), samples("orders", "b"), lower_is_better=True, margin=0.1)
    assert "according to the log, higher acc is better" in str(error)


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
        ("id,score\na,1\n", "only 1 paired example"),
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
        ('{"id": 2, "score": NaN}', "nan, which is no score"),
        ('{"id": 2, "score": 1e999}', "inf, which is no score"),
        ('{"id": 2, "score": "1"}', "no number under 'score'"),
        ('{"id": 2, "score": null}', "no number under 'score'"),
        ('{"id": [], "score": 1}', "no id"),
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


def test_the_length_of_a_line_is_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(base, "MAX_LINE", 100)
    monkeypatch.setattr(rows, "MAX_ROW", 100)
    for name, words in (("a.jsonl", "longer than 100 bytes"), ("a.csv", "a row of more than 100 characters")):
        (tmp_path / name).write_bytes(b"\0" * 200)
        assert f"line 1: {words}" in str(refused(tmp_path / name, tmp_path / name))
