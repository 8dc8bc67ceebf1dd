"""Two processes with gloo: one file, one writer, the same losses with and without the callback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gradience.telemetry import TelemetryReader

pytestmark = pytest.mark.conformance

ROOT = Path(__file__).parents[2]
SCRIPT = """
import json, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
from gradience.live.callback import GradienceCallback
from tests.live.tiny import trainer
folder, watched = Path(sys.argv[1]), sys.argv[2] == "watched"
callbacks = [GradienceCallback(spectra_every=2)] if watched else []
run = trainer(folder, callbacks=callbacks, max_steps=6, eval_rows=8, eval_strategy="steps", eval_steps=3,
              ddp_backend="gloo", save_strategy="steps", save_steps=3)
run.train(resume_from_checkpoint=str(folder / "checkpoint-3") if len(sys.argv) > 3 else None)
if run.is_world_process_zero():
    losses = [entry["loss"] for entry in run.state.log_history if "loss" in entry]
    (folder / "losses.json").write_text(json.dumps([losses, run.args.world_size]))
import torch.distributed
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""


def two_processes(folder, mode, *more):
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29517", "script.py",
        str(folder), mode, *more,
    ]  # fmt: skip
    folder.mkdir(exist_ok=True)
    (folder / "script.py").write_text(SCRIPT)
    command[5] = str(folder / "script.py")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "losses.json").read_text())


def test_one_of_two_processes_writes_and_nothing_changes(tmp_path):
    plain, world = two_processes(tmp_path / "plain", "plain")
    watched, _ = two_processes(tmp_path / "watched", "watched")
    assert world == 2
    assert watched == plain
    reader = TelemetryReader(tmp_path / "watched" / "run.jsonl")
    records = list(reader)
    assert not reader.issues
    assert [r.event for r in records].count("run_start") == 1
    assert [r.step for r in records if r.event == "train_step"] == [1, 2, 3, 4, 5, 6]
    assert [r.step for r in records if r.text("kind") == "lora_spectra"] == [
        1,
        2,
        4,
        6,
    ]  # after the first log as well
    assert records[0].mapping("config")["training"]["world_size"] == 2
    assert records[-1].text("status") == "ok"
    again, _ = two_processes(tmp_path / "watched", "watched", "resume")
    assert again[-3:] == plain[-3:]
    assert {r.run_id for r in TelemetryReader(tmp_path / "watched" / "run.jsonl")} == {records[0].run_id}
