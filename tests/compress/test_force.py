"""--force replaces what a compression wrote, and deletes nothing else."""

from __future__ import annotations

import shutil

import pytest

from gradience import compress_adapter
from gradience.cli.demo import example_adapter
from gradience.errors import UsageError


@pytest.fixture
def source(tmp_path):
    return shutil.copytree(example_adapter(), tmp_path / "adapter")


def names(folder):
    return {entry.name for entry in folder.iterdir()}


def test_an_earlier_result_is_replaced_with_the_files_that_it_brought(source, tmp_path):
    (source / "tokenizer.json").write_text("{}")
    compress_adapter(source, rank=4, output=tmp_path / "small")
    assert "tokenizer.json" in names(tmp_path / "small")
    (source / "tokenizer.json").unlink()
    compress_adapter(source, rank=2, output=tmp_path / "small", force=True)
    assert "tokenizer.json" not in names(tmp_path / "small")


@pytest.mark.parametrize("foreign", ["thesis.tex", ".git", "training_args.bin"])
def test_a_file_that_is_not_ours_is_kept_and_named(source, tmp_path, foreign):
    small = tmp_path / "small"
    compress_adapter(source, rank=4, output=small)
    (small / foreign).write_text("mine")
    (source / "training_args.bin").write_bytes(
        b"\x80\x04"
    )  # left out of what is written, so it would be lost as well
    before = {entry.name: entry.read_bytes() for entry in small.iterdir()}
    with pytest.raises(UsageError, match="--force would delete") as refusal:
        compress_adapter(source, rank=2, output=small, force=True)
    assert refusal.value.code == "not-ours"
    assert foreign in str(refusal.value)
    assert {entry.name: entry.read_bytes() for entry in small.iterdir()} == before
    assert names(tmp_path) == {"adapter", "small"}
