"""A stage is done when its manifest is there, and is found again by what it depends on."""

import os
from pathlib import Path

import pytest
from killing import KILLED, WRITING, apart, in_child, moments_of, watched
from running import python

from gradience.bench.run.stages import BEGUN, Stages, changed_files
from gradience.errors import InputError, LockedError
from gradience.files.whole import only_one
from gradience.reports.training import MANIFEST, StageManifest


@pytest.fixture
def stages(tmp_path):
    return Stages(tmp_path, watch=lambda stage: lambda: 1_000, plan="abc")


@pytest.mark.parametrize(
    ("adapter", "resumable", "kept"),
    [("1", True, True), ("2", True, False), ("1", False, False)],
    ids=["same key", "another key", "cannot resume"],
)
def test_what_an_interrupted_stage_had_written_stays_for_the_same_key_where_it_can_resume(
    stages, adapter, resumable, kept
):
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stages.done("train", {"adapter": "1"}, fail, resumable=resumable)
    assert not (stages.folder / "train" / MANIFEST).exists()
    seen = []

    def make(folder: Path) -> None:
        seen.append((folder / "half").exists())

    stages.done("train", {"adapter": adapter}, make, resumable=resumable)
    assert seen == [kept]


def test_a_second_run_on_the_same_output_is_refused(tmp_path):
    program = "import sys, pathlib; from gradience.files.whole import only_one\n"
    program += f"with only_one(pathlib.Path({str(tmp_path)!r})): pass"
    with only_one(tmp_path):
        second = python("-c", program)
    assert "LockedError" in second.stderr
    assert "another run is writing here" in second.stderr
    assert python("-c", program).returncode == 0
    assert LockedError.exit_code == 6


@pytest.mark.parametrize("name", [".lock", "records", "seed_42/probe"])
def test_an_output_with_a_link_out_of_it_is_refused(tmp_path, name):
    outside, output = tmp_path / "outside", tmp_path / "output"
    outside.write_bytes(b"theirs")
    (output / "seed_42").mkdir(parents=True)
    (output / "inside").symlink_to("seed_42")
    with only_one(output):
        pass
    (output / ".lock").unlink()
    (output / name).symlink_to(outside)
    with (
        pytest.raises(InputError, match=f"{name}: a symbolic link that leads out of") as caught,
        only_one(output),
    ):
        pass
    assert caught.value.code == "symlink-outside"
    assert outside.read_bytes() == b"theirs"


# ------------------------------------------------------------------ nothing lost, nothing stale


def work(root: Path) -> None:
    """Work as a training does: what exists is not made again."""

    def make(folder: Path) -> None:
        if not (folder / "weights").exists():
            (folder / "weights").write_bytes(b"long work")
            with (root / "log").open("a") as log:
                log.write("done\n")

    with only_one(root):
        Stages(root, watch=lambda stage: lambda: None, say=lambda text: None).done("train", {"a": 1}, make)


def killed_at_every_moment(root: Path) -> tuple[int, int]:
    """Return the number of moments, and the number after which the work was already finished."""
    files = watched("bench/run/stages.py", "reports/training.py", *WRITING)
    moments, finished = moments_of(lambda: work(root / "whole"), files), 0
    for moment in range(1, moments + 1):
        folder = root / str(moment)
        assert in_child(lambda: work(folder), files, moment) == KILLED, moment  # noqa: B023
        done = (folder / "log").exists()
        finished += done
        work(folder)
        assert (folder / "log").read_text() == "done\n", moment
        stage = folder / "train"
        assert sorted(path.name for path in stage.iterdir()) == [MANIFEST, "weights"], moment
        assert changed_files(stage, StageManifest.read(stage / MANIFEST)) == [], moment
    return moments, finished


def test_killed_at_every_moment_around_it_finished_work_is_never_done_again(tmp_path):
    moments, finished = apart(killed_at_every_moment, tmp_path)
    assert moments > 100
    assert finished > 40


def write_three(folder: Path) -> None:
    (folder / "adapter").mkdir(exist_ok=True)
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"weights")
    (folder / "records").write_bytes(b"records")


def rewrite(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize(
    ("change", "again"),
    [
        (lambda folder: rewrite(folder / "records", b"RECORDS"), True),
        (lambda folder: rewrite(folder / "records", b"longer records"), True),
        (lambda folder: rewrite(folder / "adapter" / "adapter_model.safetensors", b"WEIGHTS"), True),
        (lambda folder: (folder / "records").unlink(), True),
        (lambda folder: rewrite(folder / MANIFEST, b"{}"), True),
        (lambda folder: rewrite(folder / "records", b"records"), False),  # moved, and the same
        (lambda folder: (folder / "adapter" / "adapter_model.safetensors").unlink(), False),  # keep_adapters
        (lambda folder: None, False),
    ],
    ids=["edited", "longer", "exchanged", "gone", "manifest", "touched", "weights removed", "nothing"],
)
def test_what_was_exchanged_is_noticed_and_made_again(change, again, tmp_path):
    said: list[str] = []
    stages = Stages(tmp_path, watch=lambda stage: lambda: None, say=said.append)
    folder = stages.done("train", {}, write_three)
    change(folder)
    seen = []

    def make(folder: Path) -> None:
        seen.append(list(folder.iterdir()))
        write_three(folder)

    stages.done("train", {}, make)
    assert (len(seen), len(said)) == ((1, 1) if again else (0, 0))
    if again:
        assert said[0].startswith("train: repeated: ")
        assert [path.name for path in seen[0]] == [BEGUN]  # nothing of it is trusted
        assert (folder / "records").read_bytes() == b"records"
        stages.done("train", {}, make)
        assert len(seen) == 1
