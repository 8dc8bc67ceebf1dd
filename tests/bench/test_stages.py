"""A stage is done when its manifest is there, and is found again by what it depends on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gradience.artifacts.stage import StageManifest
from gradience.bench.stages import BEGUN, MANIFEST, Stages, only_one, stage_key
from gradience.errors import LockedError


@pytest.fixture
def stages(tmp_path: Path) -> Stages:
    return Stages(tmp_path, watch=lambda stage: lambda: 1_000, plan="abc")


def test_a_finished_stage_is_not_repeated(stages: Stages) -> None:
    calls = []

    def make(folder: Path) -> None:
        calls.append(folder)
        (folder / "deep").mkdir()
        (folder / "deep" / "file").write_bytes(b"abc")

    folder = stages.done("audit", {"adapter": "1"}, make)
    assert stages.done("audit", {"adapter": "1"}, make) == folder
    assert calls == [folder]
    manifest = StageManifest.read(folder / MANIFEST)
    assert manifest.key == stage_key("audit", {"adapter": "1"})
    assert list(manifest.files) == ["deep/file"]
    assert manifest.files["deep/file"].bytes == 3
    assert manifest.peak_memory_bytes == 1_000
    assert manifest.plan_digest == "abc"
    assert not (folder / BEGUN).exists()


def test_what_it_depends_on_has_changed_so_it_begins_anew(stages: Stages) -> None:
    stages.done("audit", {"adapter": "1"}, lambda folder: (folder / "old").touch())
    folder = stages.done("audit", {"adapter": "2"}, lambda folder: (folder / "new").touch())
    assert sorted(path.name for path in folder.iterdir()) == [MANIFEST, "new"]


@pytest.mark.parametrize(("adapter", "kept"), [("1", True), ("2", False)], ids=["same key", "another key"])
def test_what_an_interrupted_stage_had_written_stays_for_the_same_key_only(
    stages: Stages, adapter: str, kept: bool
) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stages.done("train", {"adapter": "1"}, fail)
    assert not (stages.folder / "train" / MANIFEST).exists()
    seen = []
    stages.done("train", {"adapter": adapter}, lambda folder: seen.append((folder / "half").exists()))
    assert seen == [kept]


def test_the_key_knows_the_stage_and_every_value() -> None:
    keys = {stage_key(name, {"a": value}) for name in ("x", "y") for value in (1, "1", None, [1])}
    assert len(keys) == 8
    assert stage_key("x", {"a": 1, "b": 2}) == stage_key("x", {"b": 2, "a": 1})


def test_a_second_run_on_the_same_output_is_refused(tmp_path: Path) -> None:
    program = "import sys, pathlib; from gradience.bench.stages import only_one\n"
    program += f"with only_one(pathlib.Path({str(tmp_path)!r})): pass"
    with only_one(tmp_path):
        second = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "LockedError" in second.stderr
    assert "another run is writing here" in second.stderr
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
    assert LockedError.exit_code == 6
