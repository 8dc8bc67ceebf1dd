"""Names that want to be more than names, and files that may not be read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import unicodedata
from pathlib import Path

import pytest
from audited import audit, good
from factory import (
    CONFIG,
    PREFIX,
    WEIGHTS,
    Stored,
    adapter,
    config,
    factors,
    modules,
    zeros,
)
from killing import HANGS

from gradience.cli.app import run

HOSTILE = [
    "\x1b[31mred\x1b[2J",
    "\x9b31m",
    "\x1b]8;;http://x\x07link\x1b]8;;\x07",
    "a\u202eb\u2066c",
    "nul\0byte",
    "line\nerror: forged\r\ttab",
    "[bold red]markup[/bold red][/]",
    "<script>alert(1)</script>",
    "=cmd|' /C calc'!A0",
    "| a | b |`x`",
    "\u3164\ufeff\u200b",
    "..",
    "日本語",
]


@pytest.mark.parametrize("options", [(), ("--layers",), ("--json",), ("--suggest-per-layer",)], ids=str)
def test_hostile_names_cannot_steer_a_terminal(options, tmp_path, capsys):
    tensors = modules()
    for index, name in enumerate(HOSTILE):
        tensors |= factors(f"model.layers.{index}.{name}")
        tensors[f"{name}.weight"] = zeros(2)
    tensors |= {f"{PREFIX}{name}.lora_A.weight": Stored("I8", (2, 2), bytes(4)) for name in HOSTILE}
    settings = config(
        base_model_name_or_path=HOSTILE[0], target_modules=HOSTILE, modules_to_save=HOSTILE,
        rank_pattern=dict.fromkeys(HOSTILE, 4), init_lora_weights=HOSTILE[1], task_type=HOSTILE[2],
        peft_version=HOSTILE[3],
    )  # fmt: skip
    folder = adapter(tmp_path / "x\x1b[2J\u202ey", tensors, settings)
    assert run(["audit", str(folder), *options]) == 4
    out, err = capsys.readouterr()
    steering = [c for c in out + err if c not in "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs")]
    assert not steering
    assert not any(line.startswith("error: forged") for line in (out + err).splitlines())
    if options == ("--json",):
        names = {layer["name"] for layer in json.loads(out)["layers"]}
        assert {f"model.layers.{index}.{name}" for index, name in enumerate(HOSTILE)} <= names


def test_a_path_that_is_no_utf8(tmp_path, capsys):
    folder = adapter(tmp_path / os.fsdecode(b"bytes\xff\xfe"))
    outcome = good(audit(capsys, folder))
    assert outcome.report["adapter"]["path"].endswith("bytes\\xff\\xfe")


# ---------------------------------------------------------------- permissions


@pytest.fixture
def public_folder():
    """A folder that everybody may enter; that of pytest is its owner's alone."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.mark.parametrize(
    ("target", "named"),
    [(WEIGHTS, WEIGHTS), (CONFIG, CONFIG), (".", "adapter")],
    ids=["weights", "config", "folder"],
)
def test_somebody_who_may_not_read(target, named, public_folder):
    folder = adapter(public_folder / "adapter")
    (folder / target).chmod(0)
    program = (
        "import os, sys\n"
        "from gradience.cli.app import run\n"
        "from gradience.cli.demo import example_adapter\n"
        "run(['audit', str(example_adapter()), '-q'])\n"  # all is imported while the sources can be read
        "if os.geteuid() == 0:  # root may read everything\n"
        "    os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        f"sys.exit(int(run(['audit', {str(folder)!r}])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=HANGS, check=False
    )
    (folder / target).chmod(0o755)
    assert done.returncode == 5  # it is there: mend the permissions, not the path
    assert done.stdout == ""
    assert f"{named}: cannot be opened: Permission denied" in done.stderr
    assert "hint: check the permissions" in done.stderr
