"""What the audit refuses: exit code, the file by its name, what is wrong, what to do next. Never a traceback."""

from __future__ import annotations

import subprocess
import sys
import unicodedata

import pytest
import refused_archives
import refused_configs
import refused_files
import refused_folders
import refused_formats
import refused_shards
from killing import HANGS

from gradience.cli.app import run

CASES = [
    *refused_files.CASES,
    *refused_configs.CASES,
    *refused_formats.CASES,
    *refused_archives.CASES,
    *refused_folders.CASES,
    *refused_shards.CASES,
]
IN_A_PROCESS = (
    "lfs_pointer",
    "html_page",
    "truncated_inside_the_data",
    "header_nested_100000_deep",
    "too_many_tensors",
    "config_nested_100000_deep",
    "r_of_5000_digits",
    "folder_with_bin",
    "fifo_as_weights",
    "fifo_as_config",
    "device",
    "links_in_a_circle",
    "hostile_path",
    "path_that_is_no_utf8",
)


def built(case, tmp_path):
    """The input of a case, in a folder with the case's name: many messages name the folder."""
    folder = tmp_path / case.id
    folder.mkdir()
    return case.build(folder)


def assert_told(case, code, out, err):
    assert code == case.code
    assert out == ""
    message, _, hint = err.partition("\n\nhint: ")
    assert message.startswith("error: ")
    assert case.file in message
    for words in case.says:
        assert words in message
    assert hint
    for words in case.hint:
        assert words in hint
    # A name with a line break in it cannot pose as a line of ours.
    assert all(line.startswith(" ") for line in message.split("\n")[1:])
    assert "Traceback" not in err
    assert not steering(err)


def steering(text):
    """Characters that a terminal would act on, or that would hide or turn text."""
    return [
        c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
    ]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_refused(case, tmp_path, capsys):
    path = built(case, tmp_path)
    code = run(["audit", str(path), *case.options])
    assert_told(case, code, *capsys.readouterr())


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.id in IN_A_PROCESS], ids=lambda case: case.id
)
def test_refused_by_the_command_itself(case, tmp_path):
    path = built(case, tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "gradience", "audit", path, *case.options],
        capture_output=True, text=True, timeout=HANGS, check=False,
    )  # fmt: skip
    assert_told(case, done.returncode, done.stdout, done.stderr)
