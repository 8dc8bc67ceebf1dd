"""The callback on a real Trainer: it records, it agrees with the audit, it changes nothing."""

import errno
import inspect
import json
import logging
import math
import os
from itertools import product

import pytest
import torch
from hostile.programs import record as figure
from running import printed_by
from transformers import BitsAndBytesConfig

from gradience.audit.adapter import audit_adapter
from gradience.live import SpectralTracker
from gradience.live import callback as module
from gradience.live.callback import GradienceCallback, Sink, chart_values
from gradience.telemetry import TelemetryReader, TelemetryWriter
from tests.live.tiny import (
    assert_same_weights,
    give_random_factors,
    llama,
    lora_llama,
    losses,
    records,
    trainer,
    weights,
)

# ------------------------------------------------------------------ it changes nothing

VARIANTS = {
    "plain": ({}, {}),
    "dropout and rslora": ({"lora_dropout": 0.2, "use_rslora": True}, {}),
    "dora": ({"use_dora": True}, {}),
    "patterns": ({"rank_pattern": {"q_proj": 2}}, {}),
    "accumulation": ({}, {"gradient_accumulation_steps": 3}),
    "evaluation": ({"lora_dropout": 0.1}, {"eval_strategy": "steps", "eval_steps": 3}),
    "bf16": ({}, {"bf16": True}),
}


@pytest.mark.parametrize(("lora", "arguments"), VARIANTS.values(), ids=VARIANTS)
def test_losses_and_weights_are_bit_identical_with_and_without(tmp_path, lora, arguments):
    rows = 16 if "eval_strategy" in arguments else 0
    plain = trainer(tmp_path / "plain", lora_llama(**lora), eval_rows=rows, **arguments)
    plain.train()
    callback = GradienceCallback(spectra_every=1)
    watched = trainer(tmp_path / "watched", lora_llama(**lora), [callback], eval_rows=rows, **arguments)
    watched.train()
    assert losses(watched) == losses(plain)
    assert_same_weights(weights(watched), weights(plain))
    assert len(records(tmp_path / "watched" / "run.jsonl", "metrics", "lora_spectra")) == 12


# ------------------------------------------------------------------ it records


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    run = trainer(
        folder, callbacks=[GradienceCallback(notes="a note", spectra_every=4)], eval_rows=16,
        eval_strategy="steps", eval_steps=6, save_strategy="steps", save_steps=4, max_steps=14,
        lr_scheduler_type="cosine", warmup_steps=2,
    )  # fmt: skip
    run.train()
    return run, folder


def test_the_configuration(finished):
    run, folder = finished
    (start,) = records(folder / "run.jsonl", "run_start")
    config = start.mapping("config")
    assert config["notes"] == "a note"
    assert config["data"] == {"train_rows": 64}
    lora = config["lora"]
    assert (lora["r"], lora["alpha"], lora["scale"]) == (8, 16, 2.0)
    assert lora["trainable_params"] == sum(p.numel() for p in run.model.parameters() if p.requires_grad)
    assert config["optimizer"]["lr"] == 5e-3
    training = config["training"]
    assert (training["schedule"], training["warmup_steps"], training["max_steps"]) == ("cosine", 2, 14)
    assert training["effective_batch_size"] == 4
    assert config["base"]["hidden_size"] == 32
    assert config["base"]["quantization"] is None
    assert config["task_profile"] == "CAUSAL_LM"
    assert config["trainer"] == {"arguments": "TrainingArguments", "bases": []}
    assert config["evaluated_by"] is None


def test_steps_evaluations_and_the_end(finished):
    run, folder = finished
    path = folder / "run.jsonl"
    steps = records(path, "train_step")
    assert [r.step for r in steps] == list(range(1, 15))
    assert [r.number("loss") for r in steps] == losses(run)
    assert all(r.number("grad_norm") > 0 for r in steps)
    assert steps[2].number("lr") == pytest.approx(run.state.log_history[2]["learning_rate"])
    evaluations = records(path, "eval")
    assert [r.step for r in evaluations] == [6, 12, 14]
    first = evaluations[0]
    loss = first.number("metrics", "loss")
    assert first.number("metrics", "ppl") == pytest.approx(math.exp(loss))
    mean = sum(losses(run)[:6]) / 6
    assert first.number("metrics", "gap") == pytest.approx(loss - mean)
    (end,) = records(path, "run_end")
    assert (end.text("status"), end.step, end.text("reason")) == ("ok", 14, None)
    assert end.number("train_loss") == pytest.approx(run.state.log_history[-1]["train_loss"])


def test_live_spectra_agree_with_an_audit_of_the_checkpoint_saved_at_that_step(finished):
    _, folder = finished
    path = folder / "run.jsonl"
    names = records(path, "metrics", "lora_modules")[0].mapping("metrics")["names"]
    spectra = {r.step: r.mapping("metrics") for r in records(path, "metrics", "lora_spectra")}
    assert sorted(spectra) == [1, 4, 8, 12, 14]  # the first log, every fourth, and the end
    for step in (4, 8, 12):
        report = audit_adapter(folder / f"checkpoint-{step}")
        audited = {layer.name: layer for layer in report.layers}
        assert sorted(audited) == sorted(names)
        for i, name in enumerate(names):
            layer = audited[name]
            assert spectra[step]["stable_rank"][i] == pytest.approx(layer.stable_rank, rel=1e-4)
            assert spectra[step]["fro_norm"][i] == pytest.approx(layer.fro_norm, rel=1e-4)
            assert spectra[step]["utilization"][i] == pytest.approx(layer.utilization, rel=1e-3)
            if not layer.borderline:
                assert spectra[step]["energy_rank_90"][i] == layer.energy_rank_90


def test_evaluations_before_and_after_training_belong_to_the_run(tmp_path):
    run = trainer(tmp_path, callbacks=[GradienceCallback()], eval_rows=8, max_steps=2)
    run.evaluate()
    run.train()
    run.evaluate(metric_key_prefix="test")
    rows = records(tmp_path / "run.jsonl")
    assert len({r.run_id for r in rows}) == 1
    assert [r.event for r in rows if r.event != "train_step" and r.event != "metrics"] == [
        "eval", "run_start", "run_end", "eval",
    ]  # fmt: skip
    assert rows[-1].text("split") == "test"
    assert rows[-1].number("metrics", "ppl") > 1


def test_resuming_appends_under_the_same_id_and_says_from_where(tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 4}
    whole = trainer(tmp_path / "whole", max_steps=8, **saving)
    whole.train()
    trainer(tmp_path / "run", callbacks=[GradienceCallback()], max_steps=8, **saving).train()
    again = trainer(tmp_path / "run", callbacks=[GradienceCallback()], max_steps=8, **saving)
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))
    rows = records(tmp_path / "run" / "run.jsonl")
    assert len({r.run_id for r in rows}) == 1
    starts = [r for r in rows if r.event == "run_start"]
    assert [r.number("resumed_from_step") for r in starts] == [None, 4]
    assert [r.step for r in rows if r.event == "train_step"] == [*range(1, 9), *range(5, 9)]
    assert losses(again)[-4:] == losses(whole)[-4:]
    assert_same_weights(weights(again), weights(whole))


def test_a_nan_loss_is_recorded(tmp_path):
    model = lora_llama()
    run = trainer(
        tmp_path, model, [GradienceCallback(spectra_every=1)], max_steps=3, logging_nan_inf_filter=False
    )
    with torch.no_grad():
        next(p for name, p in model.named_parameters() if "lora_B" in name).fill_(torch.nan)
    run.train()
    steps = records(tmp_path / "run.jsonl", "train_step")
    assert all(math.isnan(r.number("loss")) for r in steps[1:])
    for line in (tmp_path / "run.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)


def test_a_model_without_lora_is_recorded_without_spectra(tmp_path):
    trainer(tmp_path, llama(), [GradienceCallback(spectra_every=1)], max_steps=2).train()
    rows = records(tmp_path / "run.jsonl")
    assert not [r for r in rows if r.text("kind") in ("lora_modules", "lora_spectra")]
    assert rows[0].mapping("config")["lora"] is None
    assert rows[-1].text("status") == "ok"


@pytest.mark.parametrize(
    "config",
    [{"quant_method": "bitsandbytes", "load_in_4bit": True}, BitsAndBytesConfig(load_in_4bit=True)],
    ids=["as loaded from a file", "as given to from_pretrained"],
)
def test_qlora_is_named(tmp_path, config):
    model = lora_llama()
    model.config.quantization_config = config
    described = module.describe_run(trainer(tmp_path).args, trainer(tmp_path).state, model)
    quantization = described["base"]["quantization"]
    assert quantization["name"] == "QLoRA"
    assert quantization["bits"] == 4


def test_nothing_private_reaches_the_file(tmp_path):
    model = lora_llama()
    model.config._name_or_path = "/home/alice/models/secret-project"
    run = trainer(tmp_path, model, [GradienceCallback(notes="line\nline of a prompt")], max_steps=2)
    run.args.hub_token = "hf_AbCdEfGhIjKlMnOpQrStUvWx"
    run.train()
    text = (tmp_path / "run.jsonl").read_text()
    assert "alice" not in text
    assert "line of a prompt" not in text
    assert "hf_Ab" not in text
    assert '"[path]/secret-project"' in text


def test_it_measures_only_when_due(tmp_path, monkeypatch):
    measured = []
    real = SpectralTracker.measure
    monkeypatch.setattr(
        SpectralTracker, "measure", lambda self, step: measured.append(step) or real(self, step)
    )
    trainer(tmp_path / "a", callbacks=[GradienceCallback()], max_steps=25, logging_steps=1).train()
    assert measured == [1, 10, 20, 25]
    measured.clear()
    never = trainer(tmp_path / "b", callbacks=[GradienceCallback(spectra_every=0)])
    never.train()
    assert measured == []
    assert len(records(tmp_path / "b" / "run.jsonl", "train_step")) == len(losses(never))


def test_the_published_names_are_one_class():
    from gradience import GradienceCallback as short
    from gradience.vnext.integrations.hf import GradienceCallback as published

    assert short is published is GradienceCallback


def test_trackers_get_five_numbers():
    snapshot = SpectralTracker(give_random_factors(lora_llama())).measure(1)
    few = chart_values(snapshot.to_metrics()["summary"])
    assert len(few) == 5
    assert {"gradience/energy_rank_90_p90", "gradience/fro_norm"} <= few.keys()


# ---------------------------------------------------------------- The callback breaks nothing: whatever


def functions_of_the_callback():
    """Every function that a hook may run, by the object that holds it: each is made to fail in turn."""
    named = [
        (TelemetryWriter, n) for n in ("__init__", "start", "train_step", "eval", "metrics", "end", "close")
    ]
    named += [(SpectralTracker, n) for n in ("__init__", "modules", "measure")]
    helpers = ("describe_run", "class_names", "is_language_model", "open_sinks", "chart_values", "_versions")
    named += [(module, n) for n in helpers]
    private = ("_reset", "_open", "_file", "_log_step")
    named += [(GradienceCallback, n) for n in (*private, "_measure", "_send", "_finish")]
    return [
        pytest.param(holder, name, id=f"{getattr(holder, '__name__', holder)}.{name}")
        for holder, name in named
    ]


FOUR_STEPS = {"eval_rows": 8, "max_steps": 4, "eval_strategy": "steps", "eval_steps": 2}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    run = trainer(tmp_path_factory.mktemp("plain"), **FOUR_STEPS)
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

    def fail(*args, **kwargs):
        raise error

    run = trainer(tmp_path, callbacks=[GradienceCallback(spectra_every=1)], **FOUR_STEPS)
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
    return {code: issue.count for code, issue in reader.issues.items()}


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

    run = trainer(tmp_path, callbacks=[GradienceCallback(spectra_every=1)], **FOUR_STEPS)
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
import gc, os, signal, sys
from pathlib import Path
from transformers import TrainerCallback
from gradience import GradienceCallback
from tests.live.tiny import trainer

folder, *acts = sys.argv[1:]
gc.freeze()  # or each child would take two seconds to take its libraries apart
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
    codes = map(int, printed_by(SCRIPT, folder, *acts).split())
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
