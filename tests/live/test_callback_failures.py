"""The callback breaks nothing: whatever fails in it, training goes on, and the file says how the process ended."""

import errno
import inspect
import logging
import os
import subprocess
import sys
from itertools import product

import pytest
import torch
from hostile.programs import record as figure

from gradience.live import SpectralTracker
from gradience.live import callback as module
from gradience.live.callback import GradienceCallback, Speed
from gradience.live.sinks import Sink
from gradience.telemetry import TelemetryReader, TelemetryWriter
from tests.live.tiny import (
    assert_same_weights,
    losses,
    records,
    trainer,
    weights,
)


def functions_of_the_callback():
    """Every function that a hook may run, by the object that holds it: each is made to fail in turn."""
    named = [
        (TelemetryWriter, n) for n in ("__init__", "start", "train_step", "eval", "metrics", "end", "close")
    ]
    named += [(SpectralTracker, n) for n in ("__init__", "modules", "measure")]
    named += [(Speed, n) for n in ("__init__", "leave_out", "at")]
    named += [
        (module, n)
        for n in (
            "describe_run",
            "describe_trainer",
            "is_language_model",
            "open_sinks",
            "chart_values",
            "_versions",
        )
    ]
    private = ("_reset", "_open", "_file", "_log_step")
    named += [(GradienceCallback, n) for n in (*private, "_measure", "_send", "_finish")]
    return [
        pytest.param(holder, name, id=f"{getattr(holder, '__name__', holder)}.{name}")
        for holder, name in named
    ]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    run = trainer(
        tmp_path_factory.mktemp("plain"), eval_rows=8, max_steps=4, eval_strategy="steps", eval_steps=2
    )
    run.train()
    return run


@pytest.mark.parametrize(("holder", "name"), functions_of_the_callback())
def test_an_exception_anywhere_is_one_warning_and_training_goes_on(
    tmp_path, monkeypatch, caplog, undisturbed, holder, name
):
    goes_on(RuntimeError("injected"), tmp_path, monkeypatch, caplog, undisturbed, holder, name)


EXCEPTIONS = (
    *(OSError(errno.ENOSPC, "full"), OSError(errno.EIO, "broken"), PermissionError(errno.EACCES, "denied")),
    *(MemoryError(), RecursionError(), UnicodeEncodeError("ascii", "σ", 0, 1, "no"), KeyError("loss")),
    *(FloatingPointError(), StopIteration(), torch.OutOfMemoryError("out of memory"), AssertionError()),
)


@pytest.mark.hostile
def test_any_exception_anywhere_leaves_the_training_as_it_is(tmp_path, monkeypatch, caplog, undisturbed):
    functions = [parameters.values for parameters in functions_of_the_callback()]
    for number, (error, (holder, name)) in enumerate(product(EXCEPTIONS, functions)):
        caplog.clear()
        goes_on(error, tmp_path / str(number), monkeypatch, caplog, undisturbed, holder, name)
    cases = {"functions": len(functions), "exceptions": len(EXCEPTIONS)}
    figure("R8", "exceptions in the callback, training equal in every bit", **cases)


def goes_on(error, tmp_path, monkeypatch, caplog, undisturbed, holder, name):
    """One warning, the same losses and the same weights in every bit, and a file that reads."""
    callback = GradienceCallback(spectra_every=1)

    def fail(*args, **kwargs):
        raise error

    run = trainer(
        tmp_path, callbacks=[callback], eval_rows=8, max_steps=4, eval_strategy="steps", eval_steps=2
    )  # fmt: skip
    monkeypatch.setattr(holder, name, fail)
    with caplog.at_level(logging.WARNING, logger="gradience"):
        run.train()
    warnings = [r for r in caplog.records if r.name.startswith("gradience") and r.exc_info]
    assert len(warnings) == 1
    assert "disabled itself" in warnings[0].message
    assert warnings[0].exc_info[1] is error
    assert losses(run) == losses(undisturbed)
    assert_same_weights(weights(run), weights(undisturbed))
    monkeypatch.undo()
    if (tmp_path / "run.jsonl").exists():
        assert not _read_issues(tmp_path / "run.jsonl")


def _read_issues(path):
    reader = TelemetryReader(path)
    list(reader)
    return dict(reader.issue_counts)


def test_every_hook_of_the_callback_is_guarded():
    for name, hook in inspect.getmembers(GradienceCallback, inspect.isfunction):
        if name.startswith("on_") and name in vars(GradienceCallback):
            assert hasattr(hook, "__wrapped__"), name


@pytest.mark.parametrize(
    "code", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT], ids=errno.errorcode.get
)
def test_a_disk_that_fails_half_way_leaves_a_readable_file(tmp_path, monkeypatch, caplog, undisturbed, code):
    real, count = os.write, 0

    def write(fd, data):
        nonlocal count
        count += 1
        if count == 5:
            return real(fd, bytes(data)[: len(data) // 2])  # the last blocks that were free
        if count > 5:
            raise OSError(code, os.strerror(code))
        return real(fd, data)

    run = trainer(
        tmp_path, callbacks=[GradienceCallback(spectra_every=1)], eval_rows=8, max_steps=4,
        eval_strategy="steps", eval_steps=2,
    )  # fmt: skip
    monkeypatch.setattr("os.write", write)
    with caplog.at_level(logging.WARNING, logger="gradience"):
        run.train()
    monkeypatch.undo()
    assert losses(run) == losses(undisturbed)
    assert sum("disabled itself" in r.message for r in caplog.records) == 1
    assert len(records(tmp_path / "run.jsonl")) == 4
    assert _read_issues(tmp_path / "run.jsonl") == {"torn-line": 1}


def unclosable():
    raise ConnectionError("no network")


def test_a_tracker_that_cannot_be_closed_takes_no_end_from_the_file(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(
        module, "open_sinks", lambda *_: {"mine": Sink(lambda values, step: None, unclosable)}
    )
    trainer(tmp_path, callbacks=[GradienceCallback()], max_steps=2).train()
    [end] = records(tmp_path / "run.jsonl", "run_end")
    assert end.text("status") == "ok"
    assert sum("could not end its part of mine" in record.message for record in caplog.records) == 1


def test_only_the_first_process_writes(tmp_path):
    run = trainer(tmp_path, callbacks=[GradienceCallback()], max_steps=2)
    callback = next(c for c in run.callback_handler.callbacks if isinstance(c, GradienceCallback))
    run.state.is_world_process_zero = False
    for name in ("on_train_begin", "on_log", "on_evaluate", "on_train_end"):
        returned = getattr(callback, name)(
            run.args, run.state, run.control, model=run.model, logs={"loss": 1.0}, metrics={"eval_loss": 1.0}
        )
        assert returned is None
    assert not (tmp_path / "run.jsonl").exists()


SCRIPT = """
import os, signal, sys
from pathlib import Path
from transformers import TrainerCallback
from gradience import GradienceCallback
from tests.live.tiny import trainer

folder, *acts = sys.argv[1:]
for place, act in enumerate(acts):
    child = os.fork()
    if not child:
        os.dup2(2, 1)  # codes alone are printed
        break  # and ends below, as any process ends
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    sys.exit()

class Stop(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 5:
            exec(act)

trainer(Path(folder, str(place)), callbacks=[GradienceCallback(spectra_every=2), Stop()], max_steps=9).train()
"""

ENDS = {
    "exception": ("raise ValueError('private text')", 1, "error", "ValueError"),
    "ctrl-c": ("raise KeyboardInterrupt", None, "interrupted", "KeyboardInterrupt"),
    "exit": ("sys.exit(3)", 3, "interrupted", "the process ended"),
    "sigterm": ("os.kill(os.getpid(), signal.SIGTERM)", -15, None, None),
    "sigkill": ("os.kill(os.getpid(), signal.SIGKILL)", -9, None, None),
}


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """Each of ENDS, in a process of its own that is forked when the libraries are loaded: exit code and folder."""
    folder, acts = tmp_path_factory.mktemp("ended"), [act for act, *_ in ENDS.values()]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), *acts], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    codes = map(int, done.stdout.split())
    return {
        name: (code, folder / str(place)) for place, (name, code) in enumerate(zip(ENDS, codes, strict=True))
    }


@pytest.mark.slow
@pytest.mark.parametrize("how", ENDS)
def test_how_a_process_ended_is_recorded_where_it_can_be(ended, how):
    _, code, status, reason = ENDS[how]
    left, folder = ended[how]
    assert code is None or left == code
    rows = records(folder / "run.jsonl")
    assert [r.step for r in rows if r.event == "train_step"] == [1, 2, 3, 4]
    assert not _read_issues(folder / "run.jsonl")
    ends = [(r.text("status"), r.text("reason")) for r in rows if r.event == "run_end"]
    assert ends == ([(status, reason)] if status else [])
    assert "private text" not in (folder / "run.jsonl").read_text()
