"""Stages in a storage: what is there goes before what is here, unless it was made of something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from gradience.artifacts.stage import MANIFEST, StageManifest
from gradience.bench.run.shelf import Shelf
from gradience.bench.run.stages import files_of
from gradience.storage.place import Place

WEIGHTS = "adapter/adapter_model.safetensors"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place.at(f"file://{tmp_path}/storage")


def stage(folder: Path, key: str, content: str) -> Path:
    (folder / "train" / "adapter").mkdir(parents=True)
    (folder / "train" / "report").write_text(content)
    (folder / "train" / WEIGHTS).write_text(content)
    StageManifest(
        stage="train",
        key=key,
        plan_digest=None,
        files=files_of(folder / "train"),
        seconds=0,
        peak_memory_bytes=None,
    ).save(folder / "train" / MANIFEST)
    return folder


def shelf(place: Place, folder: Path) -> Shelf:
    return Shelf(place, folder, 42)


def brought(place: Place, folder: Path) -> str:
    shelf(place, folder).bring("train", weights=True)
    return (folder / "train" / "report").read_text()


def test_of_two_that_made_the_same_the_first_stays(place: Place, tmp_path: Path) -> None:
    one, two = stage(tmp_path / "one", "k", "1"), stage(tmp_path / "two", "k", "2")
    shelf(place, one).publish("train")
    shelf(place, two).publish("train")
    assert (two / "train" / "report").read_text() == "1"
    assert brought(place, tmp_path / "three") == "1"


def test_what_was_made_of_something_else_gives_way(place: Place, tmp_path: Path) -> None:
    old, new = stage(tmp_path / "old", "before", "1"), stage(tmp_path / "new", "now", "2")
    shelf(place, old).publish("train")
    shelf(place, new).publish("train")
    assert brought(place, tmp_path / "three") == "2"


def test_weights_that_are_not_kept_do_not_go_there(place: Place, tmp_path: Path) -> None:
    one = stage(tmp_path / "one", "k", "1")
    (one / "train" / WEIGHTS).unlink()
    shelf(place, one).publish("train")
    shelf(place, tmp_path / "two").bring("train", weights=False)
    assert (tmp_path / "two" / "train" / "report").read_text() == "1"
