"""What is ours of the engine of vLLM: its process, what it refuses, its gate. vLLM itself: tests/conformance."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import venv
from itertools import chain

import adapters_to_compare as data
import pytest
import torch
from peft import PeftModel
from tiny_models import letters_tokenizer, llama, llama_adapter, sums

from gradience.bench.config.sections import RuntimeSettings
from gradience.cli.app import run
from gradience.errors import EngineError, InputError, UsageError
from gradience.evaluate.engines import engine as engine_class
from gradience.evaluate.engines.transformers import TransformersEngine
from gradience.evaluate.engines.vllm import VllmEngine
from gradience.evaluate.engines.vllm.engine import NO_SLOTS, needs_of, refuse_disagreement
from gradience.evaluate.engines.vllm.process import PYTHON, VllmProcess, _first_line, interpreter, versions_in
from gradience.models.settings import ModelSettings

CAUSAL = ModelSettings(name="base", type="causal_lm")
PARENT = """
import sys
from gradience.evaluate.engines.vllm.process import VllmProcess
process = VllmProcess(sys.executable, {})
print(process._child.pid, flush=True)
sys.stdin.read()
"""


# --- its Python


def test_its_python_is_named_by_whoever_runs_it(monkeypatch, tmp_path):
    for named in (None, "", str(tmp_path / "none")):
        monkeypatch.setenv(PYTHON, named) if named is not None else monkeypatch.delenv(PYTHON, raising=False)
        with pytest.raises(UsageError) as refusal:
            interpreter()
        assert (refusal.value.code, "--engine-python" in refusal.value.hint) == ("no-engine-python", True)
    monkeypatch.setenv(PYTHON, sys.executable)
    assert interpreter() == sys.executable


def test_a_python_without_vllm_and_what_is_no_python():
    with pytest.raises(UsageError, match="vLLM is not installed there") as refusal:
        versions_in(sys.executable)
    assert refusal.value.code == "no-vllm"
    with pytest.raises(UsageError, match="cannot be used as the Python of vLLM") as refusal:
        versions_in("/bin/true")
    assert refusal.value.code == "no-engine-python"


@pytest.mark.parametrize(
    ("model", "labels", "words"),
    [
        (CAUSAL, 2, "a sequence classifier"),
        (CAUSAL.model_copy(update={"type": "seqcls"}), None, "a sequence classifier"),
        (CAUSAL.model_copy(update={"quantization": "nf4"}), None, "a base in 4 bits"),
    ],
)
def test_what_it_is_not_used_for_is_refused_before_anything_is_loaded(model, labels, words):
    with pytest.raises(UsageError, match=f"does not support {words}") as refusal:
        engine_class("vllm").check(model, labels=labels)
    assert refusal.value.code == "engine-cannot"


def test_the_command_refuses_a_classifier_and_asks_for_a_python(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(data.classifiers(tmp_path / "labels"))
    given = ["evaluate", "reference", "other", "-b", "base", "--data", "rows.csv", "--engine", "vllm"]
    assert run([*given, "-o", "out"]) == 2
    assert "does not support a sequence classifier" in capsys.readouterr().err
    monkeypatch.delenv(PYTHON, raising=False)
    base = llama()
    base.save_pretrained(tmp_path / "base")
    letters_tokenizer().save_pretrained(tmp_path / "base")
    adapters = [str(llama_adapter(tmp_path / name, seed)) for seed, name in enumerate(("one", "two"))]
    (tmp_path / "rows.jsonl").write_text('{"prompt": "1 + 1 =", "answer": "2"}\n' * 2)
    given = ["evaluate", *adapters, "-b", str(tmp_path / "base"), "--data", str(tmp_path / "rows.jsonl")]
    given += ["-o", str(tmp_path / "out"), "--engine", "vllm"]
    assert run(given) == 2
    assert "the engine vllm needs its own Python" in capsys.readouterr().err
    monkeypatch.setenv(PYTHON, "")
    assert run([*given, "--engine-python", sys.executable]) == 2
    assert "vLLM is not installed there" in capsys.readouterr().err
    assert run([*given[:-1], "llm"]) == 2
    assert "'llm' is not one of transformers, vllm" in capsys.readouterr().err


def test_a_config_names_the_engine_and_never_a_python():
    assert "engine" not in RuntimeSettings().model_dump()
    assert RuntimeSettings(engine="vllm").model_dump()["engine"] == "vllm"
    with pytest.raises(ValueError, match="not one of transformers, vllm"):
        RuntimeSettings(engine="other")
    with pytest.raises(ValueError, match="Extra inputs"):
        RuntimeSettings(engine_python="/usr/bin/python3")


# --- its process


def test_a_process_that_dies_says_what_it_printed_last():
    process = VllmProcess(sys.executable, {})
    with pytest.raises(
        EngineError, match=r"ended with code 1, asked to sing.*'Server' object has no attribute 'sing'"
    ) as died:
        process.ask("sing")
    assert (died.value.code, died.value.exit_code) == ("engine-died", 5)
    with pytest.raises(EngineError, match="ended with code 1"):
        process.ask("sing")
    process.close()


def test_a_process_that_is_killed_is_told_from_one_that_fails():
    process = VllmProcess(sys.executable, {})
    os.kill(process._child.pid, signal.SIGKILL)
    with pytest.raises(EngineError, match="was ended by signal 9") as died:
        process.ask("start", settings={})
    assert "out of memory" in died.value.hint
    process.close()


def test_it_ends_with_the_process_that_started_it():
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    child = int(parent.stdout.readline())
    assert runs(child)
    parent.kill()
    parent.communicate()
    until = time.monotonic() + 60
    while runs(child) and time.monotonic() < until:
        time.sleep(0.02)
    assert not runs(child)


def runs(pid: int) -> bool:
    """Whether there is such a process, and not only its entry."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# --- its slots


def slots_of(folder):
    return needs_of(folder, "cuda")


def test_slots_are_as_large_as_what_is_served(tmp_path):
    small = slots_of(llama_adapter(tmp_path / "small", 1))
    patterned = llama_adapter(
        tmp_path / "large", 1, r=4, rank_pattern={"down_proj": 9}, target_modules=["down_proj"]
    )
    large = slots_of(patterned)
    assert small == (8, {"q_proj", "v_proj", "down_proj"})  # vLLM allows 1, 8, 16, 32, …
    assert large == (16, {"down_proj"})
    assert small.hold(slots_of(llama_adapter(tmp_path / "rank7", 1, r=7)))
    assert not small.hold(large)
    assert not large.hold(small)
    both = small.joined(large)
    assert both.hold(small)
    assert both.hold(large)
    assert both.settings() == {
        "enable_lora": True,
        "max_loras": 1,
        "max_lora_rank": 16,
        "lora_target_modules": ["down_proj", "q_proj", "v_proj"],
    }
    assert NO_SLOTS.settings() == {"enable_lora": False}
    assert slots_of(llama_adapter(tmp_path / "huge", 1, r=513)).rank == 513  # for vLLM to refuse


# --- what is refused before it is started


def test_lora_on_the_head_is_refused_on_a_processor(tmp_path):
    adapter = llama_adapter(tmp_path / "adapter", 1, target_modules=["q_proj", "lm_head"])
    with pytest.raises(InputError, match="LoRA on lm_head, with which vLLM cannot read prompts") as refusal:
        needs_of(adapter, "cpu")
    assert refusal.value.code == "engine-cannot"
    assert needs_of(adapter, "cuda").modules == {"q_proj", "lm_head"}


def test_room_is_made_for_all_that_will_come_and_not_for_what_is_refused(engine, tmp_path):
    small, large, head = (
        llama_adapter(tmp_path / name, 1, **lora)
        for name, lora in {
            "small": {},
            "large": {"r": 17, "target_modules": ["up_proj"]},
            "head": {"r": 200, "target_modules": ["lm_head"]},
        }.items()
    )
    engine.expect([small, tmp_path / "none"])
    assert engine._expected == slots_of(small)
    engine.expect([large, head])
    assert engine._expected == (32, {"q_proj", "v_proj", "down_proj", "up_proj"})
    with pytest.raises(InputError) as refusal:
        engine.add("head", head)
    assert (refusal.value.code, engine._process, dict(engine.adapters)) == ("engine-cannot", None, {})


# --- a vLLM that is installed and cannot run


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """An environment whose vLLM lacks a library of the GPU's driver, as one that was made for another machine."""
    folder = tmp_path_factory.mktemp("broken")
    venv.create(folder, with_pip=False)
    packages = next(folder.glob("lib/python*/site-packages"))
    (packages / "vllm").mkdir()
    (packages / "vllm" / "__init__.py").write_text("import ctypes\nctypes.CDLL('libnone.so.12')\n")
    about = packages / "vllm-0.32.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0\n")
    (about / "top_level.txt").write_text("vllm\n")
    return str(folder / "bin" / "python")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    llama().save_pretrained(folder)
    letters_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def engine(broken, base, monkeypatch):
    monkeypatch.setenv(PYTHON, broken)
    return VllmEngine(TransformersEngine(llama(), letters_tokenizer()), base, torch.device("cpu"))


def test_a_vllm_that_cannot_be_imported_is_told_in_one_message(engine, broken, base, tmp_path, capsys):
    assert versions_in(broken) == {"vllm": "0.32.0"}
    adapters = [str(llama_adapter(tmp_path / name, seed)) for seed, name in enumerate(("one", "two"))]
    (tmp_path / "rows.jsonl").write_text('{"prompt": "1 + 1 =", "answer": "2"}\n' * 2)
    given = ["evaluate", *adapters, "-b", str(base), "--data", str(tmp_path / "rows.jsonl")]
    assert run([*given, "-o", str(tmp_path / "out"), "--engine", "vllm", "--device", "cpu"]) == 3
    error = capsys.readouterr().err
    assert f"vLLM 0.32.0 refuses to be imported by {broken}: OSError: libnone.so.12: cannot open" in error
    assert "--engine-python" in error
    assert "Traceback" not in error
    assert not list((tmp_path / "out").rglob("*.jsonl"))


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        ("ValueError: no\nmore", "ValueError: no"),
        (
            "ValidationError: 1 validation error for M\nfield\n  Input should be 1 [type=int, input_value=2]\n",
            "Input should be 1",
        ),
        (
            "ValidationError: 1 validation error for M\n  Value error, no [type=value_error, input_value=2]\n    For",
            "no",
        ),
        ("ValueError: not one of " + "name " * 100, "ValueError: not one of " + "name " * 55 + "…"),
    ],
)
def test_a_refusal_is_one_line(raised, said):
    assert _first_line(raised) == said


# --- its gate: two engines that really compute; the one under test is given another adapter under the same name


def engine_with(folder, seed: int = 0):
    made_of = TransformersEngine(llama(seed), letters_tokenizer())
    made_of.add("a", folder)
    return made_of


def test_the_gate_compares_log_probabilities_and_sees_what_is_left_out(tmp_path):
    prompts = [row.prompt for row in sums(8)]
    adapter, other = (llama_adapter(tmp_path / str(seed), seed) for seed in (1, 2))
    zero = llama_adapter(tmp_path / "zero", 1, B=False)
    peft = engine_with(adapter)

    def ask(under_test, reference=peft):
        refuse_disagreement(under_test, reference, ["a"], prompts, None)

    ask(engine_with(adapter))
    ask(engine_with(zero), engine_with(zero))  # what changes nothing in PEFT may change nothing
    for under_test, code, words in (
        (engine_with(zero), "engine-ignores-adapter", "vLLM ignores this adapter"),
        (engine_with(other), "engine-disagrees", "differ by up to .* nats per token, and 0.001 are allowed"),
        (engine_with(adapter, seed=3), "engine-disagrees", "vLLM and PEFT disagree"),
    ):
        with pytest.raises(InputError, match=words) as refusal:
            ask(under_test)
        assert refusal.value.code == code
    with pytest.raises(InputError) as refusal:
        ask(engine_with(adapter), engine_with(zero))
    assert refusal.value.code == "engine-disagrees"


# --- what it makes of the process's answers, which here come from transformers


class Computing:
    """Stands in for the process: a model for each adapter, asked token by token."""

    def __init__(self, *_):
        self.models = {None: llama()}

    def ask(self, method, *, number=None, path="", rows=(), room=(), first=(), end=0, **_):
        if method == "start":
            return {"device": "cpu", "max_model_len": 129}
        if method == "add":
            self.models[number] = PeftModel.from_pretrained(llama(), path).eval()
        if method == "generate":
            return [self.written(number, row, most, end) for row, most in zip(rows, room, strict=True)]
        if method == "score":
            return [self.terms(number, row, start) for row, start in zip(rows, first, strict=True)]
        return None

    def logits(self, number, row):
        with torch.inference_mode():
            return self.models[number](input_ids=torch.tensor([row])).logits[0]

    def written(self, number, row, most, end):
        ids = list(row)
        while len(ids) < len(row) + most and ids[len(row) :][-1:] != [end]:
            ids.append(int(self.logits(number, ids)[-1].argmax()))
        return ids[len(row) :]

    def terms(self, number, row, start):
        logs = self.logits(number, row).log_softmax(-1)
        places = range(start, len(row))
        return [[float(logs[p - 1, row[p]]), bool(logs[p - 1].argmax() == row[p])] for p in places]

    def close(self):
        self.models.clear()


def test_answers_are_cut_and_summed_as_those_of_transformers(base, broken, tmp_path, monkeypatch):
    monkeypatch.setenv(PYTHON, broken)
    monkeypatch.setattr("gradience.evaluate.engines.vllm.engine.VllmProcess", Computing)
    vllm = VllmEngine(TransformersEngine(llama(), letters_tokenizer()), base, torch.device("cpu"))
    peft, rows = TransformersEngine(llama(), letters_tokenizer()), sums(6)
    for seed, name in enumerate(("a", "b"), 1):
        folder = llama_adapter(tmp_path / name, seed, r=4 * seed)
        for engine in (vllm, peft):
            engine.add(name, folder)
    prompts, pairs = [row.prompt for row in rows], [(row.prompt, row.response) for row in rows]
    for name in ("a", "b"):
        vllm.verify(name, prompts, None)
    for name in (None, "a", "b"):
        given = {"max_new_tokens": 6, "stop": ["1"]}
        assert vllm.generate(name, prompts, **given) == peft.generate(name, prompts, **given)
    for how in ({}, {"end": False}, {"rolling": True, "end": False, "max_length": 7}):
        ours, theirs = ([engine.score(name, pairs, **how) for name in (None, "a")] for engine in (vllm, peft))
        for score, expected in zip(chain(*ours), chain(*theirs), strict=True):
            assert (score.n_tokens, score.exact) == (expected.n_tokens, expected.exact)
            assert score.loglikelihood == pytest.approx(expected.loglikelihood, abs=1e-4)
    vllm.close()
