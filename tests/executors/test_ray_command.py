"""What a task of Ray does with its command: no Ray is needed for it."""

from __future__ import annotations

import sys

from gradience.executors.ray import run_command


def test_a_command_has_its_log_and_its_environment(tmp_path):
    code = "import os, sys; print(os.environ['SAID']); sys.exit(75)"
    log = tmp_path / "logs" / "one.log"
    assert run_command([sys.executable, "-c", code], {"SAID": "hello"}, str(log)) == 75
    assert log.read_text() == "hello\n"


def test_a_machine_that_cannot_write_the_log_runs_it_all_the_same(tmp_path):
    (tmp_path / "file").write_text("")
    assert run_command([sys.executable, "-c", "print('lost')"], {}, str(tmp_path / "file" / "one.log")) == 0
