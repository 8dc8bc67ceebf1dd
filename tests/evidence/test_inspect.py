"""Logs that inspect itself wrote: its accuracy is found again; archives that are damaged or too large are refused."""

from __future__ import annotations

import json
import struct
import zipfile

import pytest
from log_files import LOGS, refused

from gradience import compare_logs
from gradience.evidence import archive
from gradience.evidence.base import Wanted
from gradience.evidence.inspect_ai import read

INSPECT = LOGS / "inspect"
A, B = INSPECT / "a_deflated.eval", INSPECT / "b_deflated.eval"


def members(path):
    with zipfile.ZipFile(path) as packed:
        return {name: packed.read(name) for name in packed.namelist()}


def rewritten(path, changes, *, source=B, compression=zipfile.ZIP_DEFLATED):
    """B's log in which these members are others; None leaves one out; a function changes its JSON."""
    contents = members(source)
    for name, change in changes.items():
        if callable(change):
            contents[name] = json.dumps(change(json.loads(contents[name]))).encode()
        else:
            contents[name] = change
    with zipfile.ZipFile(path, "w", compression) as packed:
        for name, content in contents.items():
            if content is not None:
                packed.writestr(name, content)
    return path


@pytest.mark.parametrize("side", ["a", "b"])
def test_the_mean_is_the_accuracy_that_inspect_reports(side):
    """Members packed with Zstandard, as inspect-ai 0.3.285 writes them."""
    pytest.importorskip("zstandard")
    log = read(INSPECT / f"{side}.eval", Wanted())
    with archive.open_archive(log.path) as packed:
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


def a_sample(path=B):
    return next(name for name in members(path) if name.startswith("samples/"))


def other_prompt(sample):
    sample["messages"][0]["content"] = "You compare."
    return sample


def other_target(sample):
    return sample | {"target": "0"}


def warmer(header):
    header["plan"]["config"]["temperature"] = 0.7
    return header


def other_solver(header):
    header["plan"]["steps"] = header["plan"]["steps"][1:]
    return header


def other_task(header):
    header["eval"]["task"] = "smaller"
    return header


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (other_prompt, "1 of 8 examples have another prompt in B"),
        (other_target, "1 of 8 examples have another document in B"),
        (warmer, "different generation settings"),
        (other_solver, "different solvers"),
        (other_task, "different task: larger and smaller"),
    ],
)
def test_what_was_not_asked_the_same_is_refused(tmp_path, change, words):
    name = a_sample() if "sample" in change.__code__.co_varnames else "header.json"
    assert words in str(refused(A, rewritten(tmp_path / "b.eval", {name: change})))


def test_a_run_that_did_not_end(tmp_path):
    error = refused(A, rewritten(tmp_path / "b.eval", {"header.json": None}))
    assert error.code == "log-unfinished"
    failed = rewritten(tmp_path / "c.eval", {"header.json": lambda header: header | {"status": "error"}})
    assert "B: its status is 'error', and not success" in compare_logs(A, failed).notes
    later = rewritten(tmp_path / "d.eval", {"header.json": lambda header: header | {"version": 3}})
    assert "a log of version 3" in str(refused(A, later))


def test_an_example_without_a_score(tmp_path):
    name = a_sample()
    gone = rewritten(tmp_path / "b.eval", {name: lambda sample: sample | {"scores": {}}})
    assert "no number under 'includes'" in str(refused(A, gone))


def test_epochs_are_averaged(tmp_path):
    def twice(path, source, second):
        changes = {"header.json": lambda header: header | {"eval": with_epochs(header["eval"])}}
        for name in members(source):
            if name.startswith("samples/"):
                again = json.loads(members(source)[name]) | {"epoch": 2}
                again["scores"]["includes"]["value"] = second
                changes[name.replace("_epoch_1", "_epoch_2")] = json.dumps(again).encode()
        return rewritten(path, changes, source=source)

    def with_epochs(spec):
        return spec | {"config": spec["config"] | {"epochs": 2}}

    one = compare_logs(A, B)
    a, b = twice(tmp_path / "a.eval", A, "C"), twice(tmp_path / "b.eval", B, 0.5)
    report = compare_logs(a, b, margin=0.1)
    assert report.a.mean == pytest.approx((one.a.mean + 1) / 2)
    assert report.b.mean == pytest.approx((one.b.mean + 0.5) / 2)
    assert (report.table, report.n) == (None, 8)
    assert "A: each example was run 2 times; its score is their mean" in report.notes
    assert "different epochs: 2 and 1" in str(refused(a, B))


def test_scores_of_several_keys_and_letters(tmp_path):
    def many(sample):
        return sample | {
            "scores": {"graded": {"value": {"tone": 0.5, "facts": "P"}}, "says": {"value": "text"}}
        }

    changes = {name: many for name in members(A) if name.startswith("samples/")}
    a, b = (rewritten(tmp_path / f"{side}.eval", changes, source=path) for side, path in (("a", A), ("b", B)))
    assert "several metrics in it: graded/tone, graded/facts" in str(refused(a, b))
    assert compare_logs(a, b, metric="graded/facts").a.mean == 0.5
    assert "says: no number for each example" in str(refused(a, b, metric="says"))


# ---------------------------------------------------------------- archives


def test_a_member_that_unpacks_to_more_than_a_log_can_hold(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MAX_MEMBER", 100_000)
    bomb = rewritten(tmp_path / "b.eval", {a_sample(): b" " * 200_000})
    assert refused(A, bomb).code == "too-large"


def test_all_members_together_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "FREE", 50_000)
    monkeypatch.setattr(archive, "RATIO", 0)
    assert refused(A, B).code == "too-large"


def test_a_directory_that_would_not_fit_into_memory(monkeypatch):
    monkeypatch.setattr(archive, "MAX_DIRECTORY", 100)
    assert refused(A, B).code == "too-large"


def damaged(content, change):
    changed = bytearray(content)
    change(changed)
    return bytes(changed)


DIRECTORY = b"PK\x01\x02"


def flip_a_byte_of_a_member(content):
    content[100] ^= 0xFF


def far_offset(content):
    struct.pack_into("<L", content, content.index(DIRECTORY) + 42, 2**31)


def encrypted(content):
    content[content.index(DIRECTORY) + 8] |= 1


def other_method(content):
    struct.pack_into("<H", content, content.index(DIRECTORY) + 10, 12)


def longer_than_the_archive(content):
    struct.pack_into("<L", content, content.index(DIRECTORY) + 20, 2**31)


def another_checksum(content):
    content[content.index(DIRECTORY) + 16] ^= 0xFF


@pytest.mark.parametrize(
    "change",
    [flip_a_byte_of_a_member, far_offset, encrypted, other_method, longer_than_the_archive, another_checksum],
    ids=lambda change: change.__name__,
)
def test_a_damaged_archive_is_refused(tmp_path, change):
    path = tmp_path / "b.eval"
    path.write_bytes(damaged(B.read_bytes(), change))
    error = refused(A, path)
    assert error.code == "bad-archive"
    assert str(path) in str(error)


def test_an_archive_that_was_cut_off_at_any_place(tmp_path):
    content, path = B.read_bytes(), tmp_path / "b.eval"
    for length in range(0, len(content), len(content) // 40):
        path.write_bytes(content[:length])
        assert refused(A, path).code == "bad-archive"
