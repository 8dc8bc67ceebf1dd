"""`gradience check` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gradience.cli.app import run

CONFIGS = Path(__file__).parent / "configs"


def test_the_screen(capsys):
    assert run(["check", "--training", str(CONFIGS / "trl.yaml")]) == 0
    out = capsys.readouterr().out
    assert "read as trl" in out
    assert "only attention is adapted" in out
    assert "advised: all-linear" in out
    assert max(map(len, out.splitlines())) <= 100


def test_an_error_finding_is_exit_code_1_and_json_says_the_same(tmp_path, capsys):
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({"peft_type": "LORA", "r": 0, "lora_alpha": 8}))
    assert run(["check", "--peft", str(path), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["schema"] == "gradience.check/1"
    assert [f["code"] for f in report["findings"] if f["severity"] == "error"] == ["impossible-number"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], 2),
        (["--peft", "nowhere.json"], 3),
        (["--peft-dir", "."], 3),
        (["--task", "cooking", "--peft", "x"], 2),
    ],
    ids=["nothing", "missing", "no config in folder", "unknown task"],
)
def test_exit_codes_of_what_cannot_be_checked(arguments, code, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert run(["check", *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "error:" in captured.err


def test_names_from_strangers_cannot_steer_the_terminal(tmp_path, capsys):
    path = tmp_path / "adapter_config.json"
    path.write_text(
        json.dumps({"peft_type": "LORA", "r": 8, "lora_alpha": 8, "target_modules": ["\x1b[31mq_proj"]})
    )
    run(["check", "--peft", str(path), "--verbose"])
    assert "\x1b" not in capsys.readouterr().out
