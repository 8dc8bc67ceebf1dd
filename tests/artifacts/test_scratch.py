"""Whole files: killed at every moment of writing, the old or the new one is there, and the next writer tidies up."""

import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from factory import adapter
from prompt_samples import calibration_report
from raising import raises

from gradience.errors import OutputError, UsageError
from gradience.files import records, whole
from gradience.files.artifact import interruptible
from gradience.files.whole import (
    check_output,
    exchange,
    scratch_beside,
    scratch_file,
    scratch_folder,
    sweep_below,
    sweep_beside,
    whole_folder,
    write_whole,
)


def abandoned_file(path: Path) -> Path:
    scratch = scratch_beside(path)
    scratch.write_bytes(b"half")
    return scratch


def test_what_a_living_writer_holds_is_left_alone(tmp_path):
    path = tmp_path / "a.json"
    with scratch_file(path) as (held, _), scratch_folder(path) as held_too:
        abandoned_file(path)
        write_whole(path, [b"mine"])
        sweep_below(tmp_path)
        assert set(tmp_path.iterdir()) == {path, held, held_too}
    assert list(tmp_path.iterdir()) == [path]


def test_what_others_name_otherwise_is_left_alone(tmp_path):
    path = tmp_path / "a.json"
    others = [".a.json.tmp", ".a.json.0123.tmp", "a.json.01234567.tmp", ".b.json.01234567.tmp", ".a.json.swp"]
    for name in others:
        (tmp_path / name).write_bytes(b"")
    (tmp_path / ".a.json.89abcdef.tmp").symlink_to(tmp_path / "a.json.01234567.tmp")
    sweep_beside(path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted([*others, ".a.json.89abcdef.tmp"])


def test_below_a_folder_everything_abandoned_goes(tmp_path):
    deep = tmp_path / "stage" / "checkpoints"
    deep.mkdir(parents=True)
    abandoned_file(deep / "complete")
    folder = scratch_beside(tmp_path / "stage" / "adapter")
    folder.mkdir()
    (folder / "weights").write_bytes(b"half")
    (deep / "kept").write_bytes(b"")
    sweep_below(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["checkpoints", "kept", "stage"]


def test_many_writers_of_one_file_at_once(tmp_path):
    """Each sweeps before it writes: none may take another's file for abandoned."""
    path, failures = tmp_path / "a.json", []

    def work(text: bytes) -> None:
        for _ in range(100):
            try:
                write_whole(path, [text])
            except OutputError as error:
                failures.append(error)

    threads = [threading.Thread(target=work, args=(bytes([65 + place]) * 9,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(set(path.read_bytes())) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_swept_between_its_making_and_its_opening_is_made_again(tmp_path, monkeypatch):
    """Another writer of the same begins at that moment, and finds a folder that nobody has locked yet."""
    opened, names = os.open, []

    def swept(name, *more, **options):
        names.append(name)
        if len(names) == 1:
            sweep_below(tmp_path)
        return opened(name, *more, **options)

    monkeypatch.setattr("os.open", swept)
    with scratch_folder(tmp_path / "out") as scratch:
        assert scratch.is_dir()
    assert names[0] != scratch
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- Output folders


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def fill(folder: Path, text: str = "new") -> None:
    (folder / "adapter_config.json").write_text(text)


def filled(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True)
    fill(folder, text)
    return folder


def write(out: Path, work: Callable[[Path], None], *, force: bool) -> None:
    with whole_folder(out, force=force) as scratch:
        work(scratch)


# ---------------------------------------------------------------- a folder, whole or not at all


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError, SystemExit])
@pytest.mark.parametrize("force", [False, True])
def test_a_failure_leaves_nothing_new_and_all_that_was(error, force, tmp_path):
    out = tmp_path / "out"
    if force:
        filled(out, "old")

    def fail(scratch: Path) -> None:
        fill(scratch)
        raise error

    with pytest.raises(OutputError if error is OSError else error):
        write(out, fail, force=force)
    assert names(tmp_path) == ({"out"} if force else set())
    assert not force or (out / "adapter_config.json").read_text() == "old"


def test_force_replaces_the_whole_folder(tmp_path):
    out = filled(tmp_path / "out", "old")
    (out / "left_over.bin").write_bytes(b"1")
    with whole_folder(out, force=True) as scratch:
        fill(scratch)
        assert (out / "adapter_config.json").read_text() == "old"
    assert names(out) == {"adapter_config.json"}
    assert names(tmp_path) == {"out"}


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    real = filled(tmp_path / "disk" / "real", "old")
    (tmp_path / "out").symlink_to(real)
    with whole_folder(tmp_path / "out", force=True) as scratch:
        fill(scratch)
    assert (tmp_path / "out").is_symlink()
    assert (real / "adapter_config.json").read_text() == "new"
    assert names(tmp_path / "disk") == {"real"}


def test_a_folder_that_came_into_being_meanwhile_is_left_alone(tmp_path):
    out = tmp_path / "out"

    def overtaken(scratch: Path) -> None:
        fill(scratch)
        filled(out, "somebody else")

    with raises(UsageError, "output-exists"):
        write(out, overtaken, force=False)
    assert (out / "adapter_config.json").read_text() == "somebody else"
    assert names(tmp_path) == {"out"}


def test_the_old_folder_is_never_missing(tmp_path, monkeypatch):
    out = filled(tmp_path / "out", "old")
    monkeypatch.setattr(Path, "rename", None)
    with whole_folder(out, force=True) as scratch:
        fill(scratch)
        missing = tmp_path / "missing"
        with pytest.raises(FileNotFoundError, match="missing"):
            exchange(scratch, missing)
    assert (out / "adapter_config.json").read_text() == "new"
    assert names(tmp_path) == {"out"}


def test_a_failed_swap_puts_the_old_folder_back(tmp_path, monkeypatch):
    out = filled(tmp_path / "out", "old")
    rename, calls = Path.rename, []

    def second_fails(self, target):
        calls.append(target)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(whole, "exchange", lambda one, other: False)
    monkeypatch.setattr(Path, "rename", second_fails)
    with pytest.raises(OutputError, match="No space left"), whole_folder(out, force=True) as scratch:
        fill(scratch)
    assert (out / "adapter_config.json").read_text() == "old"
    assert names(tmp_path) == {"out"}


@pytest.mark.parametrize("place", ["file/out", "/proc/nowhere/out", "x" * 250])
def test_places_that_cannot_be_written(place, tmp_path):
    (tmp_path / "file").write_text("")
    with raises(OutputError, "write-failed") as refusal:
        write(tmp_path / place, fill, force=False)
    assert place in str(refusal.value)
    assert refusal.value.hint
    assert names(tmp_path) == {"file"}


# ---------------------------------------------------------------- what killed runs left


def killed(parent: Path, name: str, suffix: str) -> Path:
    return filled(parent / f".{name}.0123abcd.{suffix}", suffix)


def test_remains_are_cleared_away(tmp_path):
    killed(tmp_path, "out", "tmp")
    other = killed(tmp_path, "another", "tmp")
    similar = tmp_path / ".out.notes.tmp"
    similar.mkdir()
    check_output(tmp_path / "out", tmp_path / "in", force=False)
    assert names(tmp_path) == {other.name, similar.name}


def test_a_run_that_died_between_its_renames_is_undone(tmp_path):
    killed(tmp_path, "out", "old")
    killed(tmp_path, "out", "tmp")
    with raises(UsageError, "output-exists"):
        check_output(tmp_path / "out", tmp_path / "in", force=False)
    assert (tmp_path / "out" / "adapter_config.json").read_text() == "old"
    assert names(tmp_path) == {"out"}


def test_the_old_folder_of_a_finished_swap_is_removed(tmp_path):
    killed(tmp_path, "out", "old")
    filled(tmp_path / "out", "new")
    check_output(tmp_path / "out", tmp_path / "in", force=True)
    assert names(tmp_path) == {"out"}
    assert (tmp_path / "out" / "adapter_config.json").read_text() == "new"


def test_the_work_of_a_living_run_is_not_touched(tmp_path):
    out = tmp_path / "out"
    with whole_folder(out, force=False) as scratch:
        killed(tmp_path, "out", "old")
        fill(scratch)
        check_output(out, tmp_path / "in", force=False)
        assert names(scratch) == {"adapter_config.json"}
        assert not out.exists()
    assert (out / "adapter_config.json").read_text() == "new"


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def unsupported(handle, operation):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(whole.fcntl, "flock", unsupported)
    rest = killed(tmp_path, "out", "tmp")
    check_output(tmp_path / "out", tmp_path / "in", force=False)
    with whole_folder(tmp_path / "out", force=False) as scratch:
        fill(scratch)
    assert names(tmp_path) == {"out", rest.name}


# ---------------------------------------------------------------- where the output may be


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    "out",
    [
        "in",
        "in/",
        "in/../in",
        "in/small",
        "in/deep/er",
        ".",
        "..",
        "link",
        "link/small",
        "in/adapter_config.json",
    ],
)
def test_output_in_or_over_the_input(out, force, tmp_path, monkeypatch):
    root = tmp_path / "root"
    source = adapter(root / "in")
    (root / "link").symlink_to(source)
    monkeypatch.chdir(root)
    for given in (Path("in"), source, Path("in/adapter_model.safetensors")):
        with raises(UsageError, "output-is-input"):
            check_output(Path(out), given, force=force)
    assert len(names(source)) == 2


def test_output_beside_the_input(tmp_path, monkeypatch):
    adapter(tmp_path / "in")
    monkeypatch.chdir(tmp_path / "in")
    check_output(Path("../in-small"), Path("."), force=False)
    check_output(Path("../in-small"), Path("adapter_model.safetensors"), force=False)


@pytest.mark.parametrize("what", ["a folder of something else", "a file", "a pipe", "a dangling link"])
def test_force_does_not_replace_strangers(what, tmp_path):
    out = tmp_path / "out"
    if what == "a folder of something else":
        out.mkdir()
        (out / "thesis.tex").write_text("years of work")
    elif what == "a file":
        out.write_text("")
    elif what == "a pipe":
        os.mkfifo(out)
    else:
        out.symlink_to(tmp_path / "nowhere")
        check_output(out, tmp_path / "in", force=False)  # its target is free
        return
    for force, code in ((False, "output-exists"), (True, "not-ours")):
        with raises(UsageError, code):
            check_output(out, tmp_path / "in", force=force)


def test_links_in_a_circle(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(OutputError):
        check_output(tmp_path / "a" / "out", tmp_path / "in", force=False)


# ---------------------------------------------------------------- A signal while an artifact becomes JSON


def end(signum, frame):
    raise SystemExit(143)


@pytest.mark.parametrize("ends", [KeyboardInterrupt, SystemExit])
def test_a_signal_while_json_is_written(ends):
    report, draw = calibration_report(), random.Random(0)
    handler = signal.default_int_handler if ends is KeyboardInterrupt else end
    before = signal.signal(signal.SIGALRM, handler)
    counted = Counter()
    try:
        for _ in range(300):
            try:
                signal.setitimer(signal.ITIMER_REAL, draw.uniform(0.0001, 0.002))
                while True:
                    report.to_json()
                    records.line(report)
            except BaseException as error:  # noqa: BLE001
                counted[type(error), getattr(error, "code", None)] += 1
    finally:
        signal.signal(signal.SIGALRM, before)
    assert counted == {(ends, None if ends is KeyboardInterrupt else 143): 300}


def test_other_errors_stay_what_they_are():
    from pydantic_core import PydanticSerializationError, to_json

    with pytest.raises(PydanticSerializationError), interruptible():
        to_json(object())
