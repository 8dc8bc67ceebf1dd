"""The four trackers, really installed: what the callback measured is read back from each store."""

import importlib
import json
import struct
import time
from pathlib import Path

import pytest
from running import printed_by, python

from gradience.live.callback import GradienceCallback
from gradience.telemetry import TelemetryReader
from tests.live.tiny import trainer

pytestmark = [pytest.mark.conformance, pytest.mark.filterwarnings("ignore")]

TAG = "gradience/energy_rank_90_p90"


def measured(folder):
    """Step -> k@90 of nine modules in ten, as run.jsonl has it."""
    return {
        record.step: record.mapping("metrics")["summary"]["energy_rank_90_p90"]
        for record in TelemetryReader(folder / "run.jsonl")
        if record.text("kind") == "lora_spectra"
    }


def train(folder, tracker):
    run = trainer(folder, callbacks=[GradienceCallback(spectra_every=3)], report_to=[tracker], max_steps=8)
    run.train()
    charts = measured(folder)
    assert sorted(charts) == [1, 3, 6, 8]
    return charts


def test_tensorboard(tmp_path):
    importlib.import_module("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    charts = train(tmp_path, "tensorboard")
    (folder,) = tmp_path.glob("runs/*/gradience")
    events = EventAccumulator(str(folder)).Reload()
    assert {event.step: event.value for event in events.Scalars(TAG)} == pytest.approx(charts)
    assert len(events.Tags()["scalars"]) == 5
    # The Trainer's own scalars are where they were.
    scalars_of_trainer = EventAccumulator(str(folder.parent)).Reload()
    assert len(scalars_of_trainer.Scalars("train/loss")) == 8


def test_wandb_offline(tmp_path, monkeypatch):
    wandb = importlib.import_module("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    charts = train(tmp_path, "wandb")
    wandb.finish()
    (log,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    deadline = time.monotonic() + 60  # its service process writes the end of the log after finish() returns
    while len(wandb_history(log, TAG)) < len(charts) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert wandb_history(log, TAG) == pytest.approx(charts)


def wandb_history(log, tag):
    """Step -> value from the binary log of an offline run: protobuf records in LevelDB's log format."""
    from wandb.proto import wandb_internal_pb2

    by_step = {}
    for data in leveldb_records(log.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
        if tag in items:
            by_step[int(json.loads(items["train/global_step"]))] = json.loads(items[tag])
    return by_step


def leveldb_records(data):
    """Payloads of a LevelDB log whose file header is 7 bytes: (crc, length, kind) before every fragment."""
    block, header = 32768, 7
    position, parts = header, []
    while position + header <= len(data):
        room = block - position % block
        if room < header:
            position += room
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        if kind == 0:
            return
        parts.append(data[position + header : position + header + length])
        position += header + length
        if kind in (1, 4):  # the whole record, or its last fragment
            yield b"".join(parts)
            parts = []


def test_mlflow_file_store(tmp_path, monkeypatch):
    mlflow = importlib.import_module("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "store").as_uri())
    charts = train(tmp_path, "mlflow")
    (run,) = mlflow.search_runs(output_format="list")
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, TAG)
    assert {point.step: point.value for point in history} == pytest.approx(charts)
    assert "loss" in run.data.metrics  # the Trainer's own


TRACKIO = """
import sys
import time
from pathlib import Path
from gradience.live.callback import GradienceCallback
from tests.live.tiny import trainer
trainer(Path(sys.argv[1]), callbacks=[GradienceCallback(spectra_every=3)], report_to=["trackio"], max_steps=8,
        project="conformance", run_name="one").train()
"""


def test_trackio(tmp_path):
    importlib.import_module("trackio")
    environment = {"TRACKIO_DIR": str(tmp_path / "store"), "HF_HUB_OFFLINE": "1"}
    root = Path(__file__).parents[2]
    done = python("-c", TRACKIO, tmp_path / "out", environment=environment, cwd=root)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "no longer reports" not in done.stderr
    read = (
        "import json; from trackio.sqlite_storage import SQLiteStorage as S;"
        "print(json.dumps(S.get_logs('conformance', 'one'), default=str))"
    )
    logs = printed_by(read, environment=environment)
    rows = [row for row in json.loads(logs.splitlines()[-1]) if TAG in row]
    assert {int(row["train/global_step"]): row[TAG] for row in rows} == pytest.approx(
        measured(tmp_path / "out")
    )


def test_nothing_is_imported_that_the_run_does_not_report_to(tmp_path):
    code = (
        "import sys; from pathlib import Path; from gradience.live.callback import GradienceCallback;"
        "from tests.live.tiny import trainer;"
        "trainer(Path(sys.argv[1]), callbacks=[GradienceCallback(spectra_every=1)], max_steps=2).train();"
        "found = {'tensorboard', 'wandb', 'mlflow', 'trackio'} & set(sys.modules); sys.exit(str(found) if found else 0)"
    )
    printed_by(code, tmp_path)


def test_a_tracker_that_fails_is_left_out_and_the_file_goes_on(tmp_path, monkeypatch, caplog):
    from gradience.live import callback

    def fail(values, step):
        raise ConnectionError("no network")

    monkeypatch.setitem(callback.SINKS, "tensorboard", lambda folder: callback.Sink(fail))
    train(tmp_path, "tensorboard")
    assert sum("no longer reports to tensorboard" in record.message for record in caplog.records) == 1
