"""run.jsonl: what is written reads back, in strict JSON, whatever happens to the writer."""

import json
import math
import os
import subprocess
import sys
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from killing import KILLED, apart, in_child, watched
from raising import raises

from gradience.errors import InputError
from gradience.telemetry import SCHEMA, TelemetryReader, TelemetryWriter, last_position
from gradience.telemetry.records import MAX_LINE_BYTES, MAX_LINE_VALUES


def strict_lines(path):
    """Every line of the file, with NaN and Infinity refused as jq and JavaScript refuse them."""

    def refuse(token):
        raise AssertionError(f"{token} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def test_every_event_has_the_envelope_and_reads_back(tmp_path):
    path = tmp_path / "deep" / "run.jsonl"
    with TelemetryWriter(path, run_id="r1") as run:
        run.start({"lora": {"r": 16}}, meta={"framework": "plain"})
        run.train_step(10, loss=0.5, lr=1e-4)
        run.eval(10, {"loss": 0.7, "accuracy": 0.9}, split="eval")
        run.metrics("lora_spectra", 10, {"stable_rank": [1.0, 2.0]})
        run.write("recommendation", 10, recommendations=[{"action": "a", "reason": "b"}])
    for line in strict_lines(path):
        assert line["schema"] == SCHEMA
        assert line["run_id"] == "r1"
        assert {"ts", "event", "step"} <= line.keys()
    records = list(TelemetryReader(path))
    assert [record.event for record in records] == [
        "run_start", "train_step", "eval", "metrics", "recommendation", "run_end",
    ]  # fmt: skip
    assert records[1].number("loss") == 0.5
    assert records[2].number("metrics", "accuracy") == 0.9
    assert records[-1].text("status") == "ok"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=str)
def test_a_nonfinite_number_is_recorded_and_the_file_stays_json(tmp_path, value):
    path = tmp_path / "run.jsonl"
    with TelemetryWriter(path) as run:
        run.train_step(1, loss=value, grad_norm=2.0)
        run.eval(1, {"loss": value})
    step, evaluation = strict_lines(path)[:2]
    assert step["loss"] is None
    assert step["nonfinite"] == {"loss": str(value)}
    assert evaluation["nonfinite"] == {"metrics.loss": str(value)}
    read = list(TelemetryReader(path))
    assert read[0].number("loss") == pytest.approx(value, nan_ok=True)
    assert read[1].number("metrics", "loss") == pytest.approx(value, nan_ok=True)
    assert read[0].number("grad_norm") == 2.0


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(payload=st.dictionaries(st.text(), json_values, max_size=5))
def test_any_payload_is_one_strict_line(tmp_path_factory, payload):
    path = tmp_path_factory.mktemp("any") / "run.jsonl"
    payload = {f"p_{key}": value for key, value in payload.items()}
    with TelemetryWriter(path) as run:
        run.write("metrics", 1, **payload)
    assert len(strict_lines(path)) == 2


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "ok"), (KeyboardInterrupt, "interrupted"), (SystemExit, "interrupted"), (ValueError, "error")],
)
def test_the_context_manager_says_how_the_run_ended(tmp_path, error, status):
    path = tmp_path / "run.jsonl"
    try:
        with TelemetryWriter(path):
            if error:
                raise error
    except (KeyboardInterrupt, SystemExit, ValueError):
        pass
    end = strict_lines(path)[-1]
    assert (end["event"], end["status"]) == ("run_end", status)
    assert end.get("reason") == (error.__name__ if error else None)


def test_payload_cannot_forge_the_envelope(tmp_path):
    with (
        TelemetryWriter(tmp_path / "run.jsonl") as run,
        pytest.raises(ValueError, match="run_id"),
    ):
        run.write("alert", 1, run_id="someone else")


# ------------------------------------------------------------------ crashes


def write_for_ever(path):
    run, step = TelemetryWriter(path), 0
    while True:
        step += 1
        run.metrics("lora_spectra", step, {"values": list(range(step % 3000))})


def kill_writers(folder):
    for moment in range(2000, 2040):
        path = folder / f"{moment}.jsonl"
        assert in_child(lambda: write_for_ever(path), watched("telemetry/writer.py"), moment) == KILLED  # noqa: B023


def test_kill_9_loses_at_most_the_last_line(tmp_path):
    apart(kill_writers, tmp_path)
    written = sorted(tmp_path.glob("*.jsonl"))
    assert len(written) == 40
    counts = set()
    for path in written:
        reader = TelemetryReader(path)
        steps = [record.step for record in reader]
        assert steps == list(range(1, len(steps) + 1))
        assert not reader.issues
        counts.add(len(steps))
    assert len(counts) > 1  # before and after the write of a line


WRITES_SOME = """
import sys
from gradience.telemetry import TelemetryWriter
run = TelemetryWriter(sys.argv[1], run_id=sys.argv[2])
for step in range(300):
    run.metrics("big", step, {"values": [step] * (1 + step * 7 % 4000)})
"""


def test_three_writers_on_one_file_do_not_mix_lines(tmp_path):
    path = tmp_path / "run.jsonl"
    children = [subprocess.Popen([sys.executable, "-c", WRITES_SOME, str(path), f"w{i}"]) for i in range(3)]
    assert [child.wait() for child in children] == [0, 0, 0]
    reader = TelemetryReader(path)
    steps = {"w0": [], "w1": [], "w2": []}
    for record in reader:
        steps[record.run_id].append(record.step)
    assert all(seen == list(range(300)) for seen in steps.values())
    assert not reader.issues


def test_a_short_write_raises_and_the_next_line_is_whole(tmp_path, monkeypatch):
    run = TelemetryWriter(tmp_path / "run.jsonl")
    real = os.write
    monkeypatch.setattr("os.write", lambda fd, data: real(fd, data[:17]))
    with pytest.raises(OSError, match="wrote 17 of"):
        run.train_step(1, loss=1.0)
    monkeypatch.undo()
    run.train_step(2, loss=0.9)
    reader = TelemetryReader(run.path)
    assert [record.step for record in reader] == [2]
    assert {code: issue.count for code, issue in reader.issues.items()} == {"not-json": 1}


# ------------------------------------------------------------------ reading


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"nonsense\n", "not-json"),
        (b"[1, 2]\n", "not-an-object"),
        (b'{"schema": "s"}\n', "no-event"),
        (b"\xff\xfe\n", "not-json"),
        (b"[" * 100_000 + b"\n", "not-json"),
        (b'{"x": "' + b"a" * MAX_LINE_BYTES + b'"}\n', "line-too-long"),
        (b"[" + b"0," * MAX_LINE_VALUES + b"0, 0]\n", "line-too-long"),
        (b'{"event": "alert", "schema": "someone.else/v9"}\n', "other-schema"),
    ],
    ids=["text", "array", "no-event", "not-utf8", "deep", "long", "values", "schema"],
)
def test_a_bad_line_never_hides_its_neighbors(tmp_path, line, code):
    good = b'{"schema":"gradience.vnext.telemetry/v1","ts":1,"run_id":"r","event":"train_step","step":1}\n'
    path = tmp_path / "run.jsonl"
    path.write_bytes(good + line + good)
    reader = TelemetryReader(path)
    assert sum(record.event == "train_step" for record in reader) == 2
    assert {code: issue.count for code, issue in reader.issues.items()} == {code: 1}
    assert reader.issues[code].line == 2


@pytest.mark.parametrize(
    ("name", "code"), [("missing.jsonl", "run-not-found"), (".", "run-not-a-file")], ids=["missing", "folder"]
)
def test_what_is_no_file_is_said(tmp_path, name, code):
    with raises(InputError, code):
        list(TelemetryReader(tmp_path / name))


def test_last_position(tmp_path):
    path = tmp_path / "run.jsonl"
    assert last_position(path) is None
    path.write_bytes(b"")
    assert last_position(path) is None
    with TelemetryWriter(path, run_id="old") as run:
        run.train_step(5, loss=1.0)
    with TelemetryWriter(path, run_id="new") as run:
        run.start({})
        run.train_step(30, loss=1.0)
        run.metrics("wide", None, {"values": list(range(40_000))})
    assert last_position(path) == ("new", 30)
    path.write_bytes(path.read_bytes()[:-9])
    assert last_position(path) == ("new", 30)
    with TelemetryWriter(path, run_id="third"):
        pass
    assert last_position(path) == ("third", None)


PLACES = (
    '{"x":@,',
    '{"x": @ ,',
    '{"x" :\t-@,',
    '{"x":[1,@],',
    '{"x":[ @],',
    '{"x":{"y":-@},',
    '{"y": [], "x": [[@]],',
)
NUMBERS = (
    "1e101", "1E+101", "1.5e101", "12345.678e150", "1" * 150, f"{'9' * 101}.5", "1e999", "1" * 5000,
    "1e99", "0.5", "1e-300", "7", f"0.{'3' * 80}", "0.1e12", "9" * 59, "Infinity",
)  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number[:16])
def test_no_number_beyond_what_can_be_summed_is_read(tmp_path, place, number):
    """Most lines are read a short way, which must see every number that needs the long one: decimal says which."""
    path = tmp_path / "run.jsonl"
    path.write_text(f'{place.replace("@", number)} "event":"train_step"}}\n', encoding="utf-8")
    (record,) = TelemetryReader(path)
    value = record.data["x"]
    while isinstance(value, dict | list):
        value = value["y"] if isinstance(value, dict) else value[-1]
    exact = Decimal(number) * (-1 if "-@" in place else 1)
    fits = abs(exact) <= Decimal("1e100")
    assert (None if value is None else float(value)) == (float(exact) if fits else None)
    assert ("nonfinite" in record.data) is not fits


# ---------------------------------------------------------------- What reaches run.jsonl and what does not


HIDDEN = {
    "prompt": ("prompt", "Summarize this letter", "data"),
    "messages": ("messages", [{"role": "user", "content": "hello"}], "data"),
    "nested": ("inputs", {"row": {"a": "secret words"}}, None),
    "token ids": ("input_ids", [1, 2, 3], "data"),
    "token by name": ("hub_token", "short", "secret"),
    "api key by name": ("openai_api_key", "short", "secret"),
    "hex key by name": ("wandb_key", "0123456789abcdef0123456789abcdef01234567", "secret"),
    "short key by name": ("mlflow_key", "a1b2c3d4e5f6a7b8", "secret"),
    "long": ("notes", "x y " * 100, "long"),
    "several lines": ("notes", "line one\nline two", "text"),
    "e-mail": ("author", "alice@example.org", "e-mail"),
    "opaque": ("x", "a8f5f167f44f4964e6c998dee827110cZZZZ", "opaque"),
}

KEPT = {
    "number called tokens": ("num_tokens", 1234),
    "pad token": ("pad_token_id", 0),
    "a number in a data field": ("labels", 2),
    "measures of a module called query": ("by_family", {"attention.self.query": {"modules": 6, "r": 2.5}}),
    "url": ("dataset", "https://example.org/data"),
    "url in a sentence": ("notes", "see https://example.org/a@b and k@90 of it"),
    "name of a column": ("sort_key", "stable_rank_mean_2"),
    "module under key": ("key", "layers.0.self_attn.k_proj"),
    "sentence": ("notes", "second try with a smaller rank"),
}


def written(tmp_path, **payload):
    with TelemetryWriter(tmp_path / "run.jsonl") as run:
        run.write("metrics", 1, kind="x", metrics=payload)
    return next(iter(TelemetryReader(run.path))).mapping("metrics")


@pytest.mark.parametrize(("field", "value", "reason"), HIDDEN.values(), ids=HIDDEN)
def test_hidden(tmp_path, field, value, reason):
    mark = written(tmp_path, **{field: value})[field]
    assert reason is None or mark.startswith(f"[REDACTED {reason}")
    assert "secret words" not in str(mark)
    assert str(value) not in (tmp_path / "run.jsonl").read_text()


@pytest.mark.parametrize(("field", "value"), KEPT.values(), ids=KEPT)
def test_kept(tmp_path, field, value):
    assert written(tmp_path, **{field: value})[field] == value


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("/home/alice/models/mistral", "[path]/mistral"),
        ("/home/alice", "[path]"),
        ("~/models/mistral", "[path]/mistral"),
        (r"C:\Users\alice\mistral", "[path]/mistral"),
        (r"C:\Users\alice", "[path]"),
        ("file:///Users/alice/x/y", "[path]/y"),
        ("/data", "[path]"),
    ],
)
def test_paths_lose_the_folders_above(tmp_path, path, kept):
    assert written(tmp_path, model_name=path)["model_name"] == kept
    assert "alice" not in (tmp_path / "run.jsonl").read_text()
