"""What the processes of a training say reaches the terminal through the same door as all else."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from gradience.errors import IncompleteError
from gradience.models.settings import ModelSettings
from gradience.training.launch import TrainingOrder, launch
from gradience.training.settings import TrainSettings

SAYS = """#!/bin/sh
printf 'one \\033[2J\\n'
printf 'two \\033]0;y\\007\\377\\n' >&2
printf 'three\\r\\342\\200\\256'
exit "$CODE"
"""


@pytest.fixture
def order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainingOrder:
    """An order of a training in processes, all of which only say something."""
    script = tmp_path / "python"
    script.write_text(SAYS)
    script.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(script))
    values: dict[str, Any] = {"profile": "mine", "options": {}, "data": "", "lora": {}, "seed": 1}
    recipe = TrainSettings(lr=1e-3, max_steps=1)
    model = ModelSettings(name="base", type="causal_lm")
    return TrainingOrder(**values, model=model, recipe=recipe, output=tmp_path / "out")


def test_nothing_that_a_child_says_steers_the_terminal(
    order: TrainingOrder, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(os.environ, "CODE", "0")
    launch(order, 2)
    out, err = capfd.readouterr()
    assert out == ""
    assert err == "one \\x1b[2J\ntwo \\x1b]0;y\\x07\\xff\nthree\n\\u202e"
    assert not order.output.with_name("out.order.json").exists()


def test_a_training_that_fails_is_an_error_below_its_words(
    order: TrainingOrder, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(os.environ, "CODE", "7")
    with pytest.raises(IncompleteError, match="in 2 processes ended with exit code 7") as failed:
        launch(order, 2)
    assert failed.value.code == "training-failed"
    assert "one" in capfd.readouterr().err


LAUNCHER = """#!/bin/sh
sleep 1000 & worker=$!
trap 'kill $worker; touch "$ASKED"; exit 1' TERM
echo started
wait
"""


KILLED = """
import sys
from gradience.training.launch import _shown
_shown([sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(1000)"])
"""


def test_a_launcher_ends_with_a_process_that_is_killed() -> None:
    parent = subprocess.Popen([sys.executable, "-c", KILLED], stderr=subprocess.PIPE, text=True)
    assert parent.stderr is not None
    launcher = next(int(line) for line in parent.stderr if line.strip().isdigit())
    parent.kill()
    parent.communicate()
    until = time.monotonic() + 60
    while Path(f"/proc/{launcher}").exists() and time.monotonic() < until:
        time.sleep(0.02)
    assert not Path(f"/proc/{launcher}").exists()


class Interrupted:
    """A stderr at whose first line somebody presses Ctrl-C."""

    def write(self, text: str) -> int:
        raise KeyboardInterrupt


def test_a_launcher_is_asked_to_end_so_that_it_can_end_its_workers(
    order: TrainingOrder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Path(sys.executable).write_text(LAUNCHER)
    monkeypatch.setitem(os.environ, "ASKED", str(tmp_path / "asked"))
    monkeypatch.setattr(sys, "stderr", Interrupted())
    with pytest.raises(KeyboardInterrupt):
        launch(order, 2)
    assert (tmp_path / "asked").exists()
