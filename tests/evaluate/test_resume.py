"""A killed evaluation goes on where it stopped and ends with the bytes of one that was left alone."""

import os

import pytest
from evaluate_all import killed_in
from evaluating import evaluate_generation
from hostile.programs import record
from kill_records import killed_at_every_moment
from killing import apart
from raising import raises
from tiny_models import bert_adapter, sums

from gradience.errors import OutputError
from gradience.files.records import read_records

ASK = {"filters": {"all": str.strip}, "same": str.__eq__, "max_new_tokens": 8, "batch_size": 3}
BATCHES, SIZE = 10, 3


class Stopped(Exception):
    """What ends an evaluation in these tests."""


def stop_after(batches):
    def on_batch(done, _total):
        if done == SIZE * batches:
            raise Stopped

    return on_batch


def answer(engine, path, *, name="plain", on_batch=None, **options):
    return evaluate_generation(engine, name, sums(30), path=path, on_batch=on_batch, **{**ASK, **options})


def progress_of(engine, path, **options):
    seen = []
    answer(engine, path, on_batch=lambda *progress: seen.append(progress), **options)
    assert {total for _, total in seen} <= {SIZE * BATCHES}
    return [done // SIZE for done, _ in seen]


def stopped_at(engine, path, batches):
    with pytest.raises(Stopped):
        answer(engine, path, on_batch=stop_after(batches))
    return path.with_name(f"{path.name}.part")


@pytest.mark.parametrize("batches", [1, 4, BATCHES])
def test_it_goes_on_behind_the_last_complete_batch(engine, tmp_path, batches):
    answer(engine, tmp_path / "whole")
    part = stopped_at(engine, tmp_path / "stopped", batches)
    assert len(part.read_bytes().splitlines()) == 1 + 3 * batches
    assert not (tmp_path / "stopped").exists()
    assert progress_of(engine, tmp_path / "stopped") == list(range(batches + 1, BATCHES + 1))
    assert (tmp_path / "stopped").read_bytes() == (tmp_path / "whole").read_bytes()
    assert not part.exists()


@pytest.mark.parametrize(
    ("damage", "kept"),
    [
        (lambda content: content[:-1], 3),
        (lambda content: content[:-30], 3),
        (lambda content: content + b'{"id": "00', 4),
        (lambda content: content + b"\0" * 100 + b"\n", 4),
        (lambda content: b"".join(content.splitlines(keepends=True)[:-1]), 3),
        (lambda content: content.splitlines(keepends=True)[0], 0),
        (lambda content: content.splitlines(keepends=True)[0][:-1], 0),
        (lambda content: b"", 0),
        (lambda content: b"\n", 0),
    ],
    ids=["no end", "torn", "begun", "zeros", "short", "header", "half a header", "empty", "blank"],
)
def test_what_was_cut_while_it_was_written_is_answered_again(engine, tmp_path, damage, kept):
    answer(engine, tmp_path / "whole")
    part = stopped_at(engine, tmp_path / "stopped", 4)
    part.write_bytes(damage(part.read_bytes()))
    assert progress_of(engine, tmp_path / "stopped") == list(range(kept + 1, BATCHES + 1))
    assert (tmp_path / "stopped").read_bytes() == (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize(
    "changed", [{"name": "dora"}, {"max_new_tokens": 7}, {"stop": ["x"]}, {"max_length": 99}]
)
def test_another_header_starts_anew(engine, tmp_path, changed):
    stopped_at(engine, tmp_path / "a", 4)
    assert progress_of(engine, tmp_path / "a", **changed) == list(range(1, BATCHES + 1))
    assert progress_of(engine, tmp_path / "a") == list(range(1, BATCHES + 1))


def test_what_is_answered_is_not_asked_again(engine, tmp_path):
    first = answer(engine, tmp_path / "a")
    written = (tmp_path / "a").stat().st_mtime_ns
    assert progress_of(engine, tmp_path / "a") == []
    assert answer(engine, tmp_path / "a") == first
    assert (tmp_path / "a").stat().st_mtime_ns == written
    (tmp_path / "a").write_bytes((tmp_path / "a").read_bytes()[:-9])
    assert len(progress_of(engine, tmp_path / "a")) == BATCHES


def test_a_later_look_continues_the_file_of_an_earlier_one(engine, tmp_path):
    rows, path = sums(30), tmp_path / "a"

    def look(looks, path=path):
        seen = []
        options = {**ASK, "path": path, "on_batch": lambda done, _: seen.append(done)}
        evaluate_generation(engine, "plain", rows[: looks[-1]], looks=looks, **options)
        return seen

    assert look((12,)) == [3, 6, 9, 12]
    assert [record.id for record in read_records(path).records] == [row.id for row in rows[:12]]
    assert look((12, 20)) == [15, 18, 20]
    assert look((12, 20, 30)) == [23, 26, 29, 30]
    look((12, 20, 30), tmp_path / "at once")
    assert path.read_bytes() == (tmp_path / "at once").read_bytes()
    assert look((15, 30)) == [3, 6, 9, 12, 15, 18, 21, 24, 27, 30]


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_that_refuses_is_an_output_error(engine, tmp_path):
    tmp_path.chmod(0o500)
    with raises(OutputError, "write-failed"):
        answer(engine, tmp_path / "a")


# --- real processes, really killed ----------------------------------------------------------------


def files_of(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.slow
def test_killed_at_drawn_moments_it_ends_with_the_same_bytes(adapter_folders, tmp_path):
    kills, adapters = 5, adapter_folders["plain"].parent
    bert_adapter(adapters / "a", 1)
    answered = apart(killed_in, tmp_path, adapters, kills, models=True)
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")
    assert {read_records(file).run.n for file in (tmp_path / "whole").iterdir()} == {60, 100}
    batches = 34 + 20 + 34 + 34
    assert batches - kills <= answered <= batches  # a kill costs the batch in hand, no more


@pytest.mark.hostile
def test_killed_at_thirty_moments_it_ends_with_the_same_bytes(adapter_folders, tmp_path):
    adapters = adapter_folders["plain"].parent
    bert_adapter(adapters / "a", 1)
    apart(killed_in, tmp_path, adapters, kills=30, models=True)
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")
    record(
        "R10", "classification, generation and scoring killed and resumed, equal in every byte", moments=30
    )


def test_killed_at_every_moment_of_writing_it_ends_with_the_same_bytes(tmp_path):
    """Two adapters, two batches: every write, sync and rename of their records, as a program without models."""
    moments, left = apart(killed_at_every_moment, tmp_path)
    assert moments > 200
    assert left > 20
