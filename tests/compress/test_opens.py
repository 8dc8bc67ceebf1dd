"""Each adapter is opened once for a command: the files of the original, and those of the one that is written."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from gradience import compress_adapter
from gradience.adapters.tensors import TensorFile
from gradience.cli.app import run
from gradience.cli.demo import example_adapter

COMMANDS = {
    "audit": (["audit", "original"], {"original": 1}),
    "compress": (["compress", "original", "--rank", "4", "-o", "smaller"], {"original": 1, "written": 1}),
    "dry run": (["compress", "original", "--rank", "4", "--dry-run"], {"original": 1}),
    "convert": (["convert", "original", "again"], {"original": 1, "written": 1}),
    "compare": (["compare", "original", "other"], {"original": 1, "other": 1}),
}


@pytest.fixture
def opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the weights in each folder have been opened; a folder that is being written has no name yet."""
    for name in ("original", "other"):
        shutil.copytree(example_adapter(), tmp_path / name)
    monkeypatch.chdir(tmp_path)
    counted: Counter[str] = Counter()
    open_file = TensorFile.open

    def counting(path: Path, *, root: Path | None = None) -> TensorFile:
        counted[path.parent.name if path.parent.name in ("original", "other") else "written"] += 1
        return open_file(path, root=root)

    monkeypatch.setattr(TensorFile, "open", counting)
    return counted


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_opens_each_adapter_once(command: str, opens: Counter[str]) -> None:
    words, expected = COMMANDS[command]
    assert run([*words, "--quiet"] if command != "compare" else words) == 0
    assert opens == expected


def test_the_function_does_so_as_well(opens: Counter[str]) -> None:
    compress_adapter("original", "smaller", rank=4)
    assert opens == {"original": 1, "written": 1}
