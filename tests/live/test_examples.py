"""The loops of examples/ run, and monitor reads what they write. The README's callback runs too."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gradience.monitor import monitor_runs
from tests.live.tiny import Tokens, lora_llama

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["plain_loop", "accelerate_loop", pytest.param("lightning_loop", marks=pytest.mark.conformance)]
)
def test_an_example_writes_what_monitor_reads(tmp_path, name):
    script = ROOT / "examples" / f"{name}.py"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    run = monitor_runs([tmp_path / "run.jsonl"]).runs[0]
    assert run.outcome == "ok"
    assert run.loss.last < run.loss.first
    assert run.rank_use.modules == 2
    assert len(run.rank_use.points) >= 5


def test_the_callback_of_the_readme_runs(tmp_path, monkeypatch):
    from transformers import Trainer, TrainingArguments

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = (
        block for block in re.findall(r"```py\n(.*?)```", text, re.DOTALL) if "GradienceCallback" in block
    )
    monkeypatch.chdir(tmp_path)
    args = TrainingArguments(
        "out", max_steps=3, logging_steps=1, use_cpu=True, report_to=[], save_strategy="no"
    )
    names = {
        "Trainer": Trainer,
        "model": lora_llama(),
        "args": args,
        "train_dataset": Tokens(),
        "eval_dataset": Tokens(8),
    }
    exec(code, names)
    names["trainer"].train()
    assert monitor_runs([tmp_path / "out" / "run.jsonl"]).runs[0].outcome == "ok"
