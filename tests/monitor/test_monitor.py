"""Monitor on resumed runs, several runs, files of the original project, and very long files."""

import json
from pathlib import Path

import pytest
from running import printed_by

from gradience.monitor import monitor_runs
from gradience.reports.base.blocks import View
from gradience.telemetry import RunStatus, TelemetryWriter

RUNS = Path(__file__).parent / "runs"


def write(path, losses, *, run_id="r", start=None, resumed=None, status=RunStatus.OK, evals=(), every=1):
    """A run log by the public writer: losses per step, evaluations as (step, loss)."""
    run = TelemetryWriter(path, run_id=run_id)
    run.start({"lora": {"r": 8, "alpha": 16}}, resumed_from_step=resumed)
    for i, loss in enumerate(losses, 1):
        step = (start or 0) + i * every
        run.train_step(step, loss=loss, lr=1e-3, grad_norm=1.0)
        for at, value in evals:
            if at == step:
                run.eval(step, {"loss": value})
    if status is not None:
        run.end(status, step=(start or 0) + len(losses) * every)
    run.close()
    return path


def only(path, **options):
    return monitor_runs(path, **options).runs[0]


def test_a_resumed_run_is_one_run_without_the_steps_that_were_done_twice(tmp_path):
    path = tmp_path / "run.jsonl"
    write(path, [5, 4, 9, 9], status=None)  # killed after step 4, checkpoint at step 2
    write(path, [3, 2], start=2, resumed=2)
    run = only(path)
    assert [(p.step, p.mean) for p in run.loss.points] == [(1, 5), (2, 4), (3, 3), (4, 2)]
    assert (run.outcome, run.resumed_from, run.last_step, run.runs_in_file) == ("ok", (2,), 4, 1)


def test_the_last_of_several_runs_in_a_file_is_reported(tmp_path):
    path = tmp_path / "run.jsonl"
    write(path, [1.0], run_id="a")
    write(path, [2.0, 3.0], run_id="b")
    run = only(path)
    assert (run.run_id, run.runs_in_file, run.loss.count) == ("b", 2, 2)
    assert "last of 2 runs" in monitor_runs([path]).to_text()


@pytest.mark.parametrize(
    ("status", "outcome"), [*((each, str(each.value)) for each in RunStatus), (None, "unfinished")]
)
def test_outcomes(tmp_path, status, outcome):
    assert only(write(tmp_path / "run.jsonl", [1.0], status=status)).outcome == outcome


def test_a_torn_line_is_skipped_and_said(tmp_path):
    path = write(tmp_path / "run.jsonl", [1.0, 0.9])
    path.write_bytes(path.read_bytes()[:-20])
    run = only(path)
    assert (run.loss.count, run.outcome) == (2, "unfinished")
    assert [(note.code, note.count) for note in run.read_notes] == [("torn-line", 1)]
    assert "the last line was cut off" in monitor_runs([path]).to_text()


def test_logs_with_one_name_are_told_apart_and_nothing_is_claimed_without_evaluations(tmp_path):
    paths = [tmp_path / seed / "train" / "run.jsonl" for seed in ("seed_1", "seed_2")]
    for path in paths:
        path.parent.mkdir(parents=True)
        write(path, [2.0, 1.0])
    runs = monitor_runs(paths).runs
    assert [run.file for run in runs] == ["seed_1/train/run.jsonl", "seed_2/train/run.jsonl"]
    text = monitor_runs(paths).to_text()
    assert "best eval" not in text
    assert "no errors and no warnings; 2 runs without an evaluation" in text
    said = " ".join(monitor_runs(paths[0]).to_text().split())
    assert "No evaluation was recorded, so overfitting was not checked." in said


def test_the_threshold_of_the_gap_is_the_users(tmp_path):
    losses = [1.0] * 10
    path = write(tmp_path / "run.jsonl", losses, evals=[(10, 1.5)])
    assert [a.code for a in only(path).alerts] == ["memorization-gap"]  # exp(0.5) = 1.65
    assert only(path, gap_threshold=1.7).alerts == ()


PREDECESSOR = [
    {"event": "run_start", "step": None, "config": {"model_name": "distilbert", "optimizer": {"lr": 5e-5},
     "lora": {"r": 32, "alpha": 32.0}, "training": {"batch_size": 8, "gradient_accumulation": 2}}, "meta": {}},
    {"event": "train_step", "step": 10, "loss": 0.6865, "lr": 4.91e-05, "grad_norm": 1.46, "epoch": 0.04},
    {"event": "train_step", "step": 100, "epoch": 0.4},
    {"event": "eval", "step": 100, "split": "eval", "metrics": {"loss": 0.51, "accuracy": 0.81}},
    {"event": "alert", "step": 100, "severity": "critical", "code": "guard_abort", "message": "m", "context": {}},
    {"event": "recommendation", "step": 100, "recommendations": [{"action": "lower_lr", "confidence": 0.8}]},
    {"event": "run_end", "step": None, "status": "aborted"},
]  # fmt: skip


def test_a_file_of_the_original_project(tmp_path):
    path = tmp_path / "run.jsonl"
    envelope = {"schema": "gradience.vnext.telemetry/v1", "ts": 1768400325.6, "run_id": "f8"}
    path.write_text("".join(json.dumps(envelope | record) + "\n" for record in PREDECESSOR))
    run = only(path)
    assert (run.setup.model, run.setup.r, run.setup.effective_batch_size) == ("distilbert", 32, 16)
    assert run.outcome == "interrupted"
    assert run.evaluations["eval"].last.metrics == {"accuracy": 0.81}


ODD_NUMBERS = (
    *("NaN", "-Infinity", "1e999", "1e308", "1e200", "1e-320", '"\\ud800"'),
    *("9" * 309, "-" + "9" * 5000),
)
NUMBERS = {
    "time": '"event": "train_step", "step": 3, "ts": X, "loss": 1.0',
    "elapsed": '"event": "train_step", "step": 3, "loss": 1.0, "elapsed_s": X',
    "step": '"event": "train_step", "step": X, "loss": 1.0',
    "loss": '"event": "train_step", "step": 3, "loss": X, "lr": X, "grad_norm": X, "samples_per_second": X',
    "config": '"event": "run_start", "config": {"lora": {"r": X, "alpha": X}, "optimizer": {"lr": X}}',
    "resumed": '"event": "run_start", "resumed_from_step": X, "config": {"training": {"batch_size": X}}',
    "evaluation": '"event": "eval", "step": 3, "metrics": {"loss": X, "accuracy": X, "train_loss": X}',
    "spectra": '"event": "metrics", "kind": "lora_spectra", "step": 3, "metrics": {"summary": {"modules": X,'
    ' "nonfinite": X, "untrained": X, "stable_rank_mean": X}, "energy_rank_90": [X], "by_family": {"q":'
    ' {"modules": X}}}',
    "modules": '"event": "metrics", "kind": "lora_modules", "step": 3, "metrics": {"r": [X], "unmeasured": {"a": X}}',
    "audit": '"event": "metrics", "kind": "lora_audit", "step": 3, "metrics": {"stable_rank_mean": X, "n_layers": X}',
}


@pytest.mark.parametrize("number", ODD_NUMBERS, ids=lambda number: number[:9])
@pytest.mark.parametrize("record", NUMBERS.values(), ids=NUMBERS)
def test_odd_numbers_give_a_report_in_strict_json(tmp_path, record, number):
    path = tmp_path / "run.jsonl"
    lines = (RUNS / "good.jsonl").read_text().splitlines()[:30]
    run_id = json.loads(lines[0])["run_id"]
    odd = f'{{"schema": "gradience.vnext.telemetry/v1", "run_id": "{run_id}", {record.replace("X", number)}}}'
    path.write_text("\n".join([*lines[:20], *[odd] * 2, *lines[20:]]))
    report = monitor_runs([path])
    json.loads(report.to_json(), parse_constant=pytest.fail)
    report.to_text(view=View(full=True))


def test_a_number_beyond_the_largest_counts_as_infinite(tmp_path):
    path = tmp_path / "run.jsonl"
    lines = ["1.5", "NaN", "1e999", "1" + "0" * 400, "2.5"]
    path.write_text(
        "".join(f'{{"event": "train_step", "step": {n}, "loss": {x}}}\n' for n, x in enumerate(lines, 1))
    )
    run = only(path)
    assert (run.loss.count, run.loss.nonfinite, run.loss.first_nonfinite_step) == (2, 3, 2)


# ------------------------------------------------------------------ words and numbers


MEASURE = """
import sys
from pathlib import Path
from gradience.monitor import monitor_runs
run = monitor_runs([sys.argv[1]]).runs[0]
# Not getrusage: its peak includes what the parent held when it forked.
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(run.loss.count, int(peak.split()[1]) / 1024)
"""


def memory_for(lines, folder):
    """Megabytes that a process takes at most which reads so many steps."""
    path = folder / f"{lines}.jsonl"
    head = '{"schema":"gradience.vnext.telemetry/v1","ts":1795568975.626,"run_id":"r","event":"train_step","step":'
    with path.open("w") as file:
        for i in range(lines):
            file.write(
                f'{head}{i},"loss":{2 / (1 + i / 1e5):.6f},"grad_norm":1.5,"lr":0.005,"elapsed_s":{i / 50}}}\n'
            )
    count, megabytes = map(float, printed_by(MEASURE, path).split())
    assert count == lines
    return megabytes


on_linux = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="reads the peak memory from Linux"
)


@on_linux
def test_five_times_as_many_lines_are_read_in_the_same_memory(tmp_path):
    """A list of one number per line would take 2.5 MB more."""
    assert memory_for(100_000, tmp_path) - memory_for(20_000, tmp_path) < 1
