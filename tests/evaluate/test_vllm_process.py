"""What is ours of the engine of vLLM: its process, what it refuses, its gate. vLLM itself: tests/conformance."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import adapters_to_compare as data
import pytest
from tiny_models import letters_tokenizer, llama, llama_adapter, sums

from gradience.bench.config.sections import RuntimeSettings
from gradience.cli.app import run
from gradience.errors import EngineError, InputError, UsageError
from gradience.evaluate.engines import engine
from gradience.evaluate.engines.transformers import TransformersEngine
from gradience.evaluate.engines.vllm.gate import refuse_disagreement
from gradience.evaluate.engines.vllm.interpreter import PYTHON, interpreter, versions_in
from gradience.evaluate.engines.vllm.process import VllmProcess
from gradience.evaluate.engines.vllm.slots import NO_SLOTS, Slots, slots_of
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
        (CAUSAL.model_copy(update={"type": "seq2seq_lm"}), None, "an encoder–decoder model"),
        (CAUSAL.model_copy(update={"quantization": "nf4"}), None, "a base in 4 bits"),
    ],
)
def test_what_it_is_not_used_for_is_refused_before_anything_is_loaded(model, labels, words):
    with pytest.raises(UsageError, match=f"not used for {words}") as refusal:
        engine("vllm").check(model, labels=labels)
    assert refusal.value.code == "engine-cannot"


def test_the_command_refuses_a_classifier_and_asks_for_a_python(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(data.classifiers(tmp_path / "labels"))
    given = ["evaluate", "reference", "other", "-b", "base", "--data", "rows.csv", "--engine", "vllm"]
    assert run([*given, "-o", "out"]) == 2
    assert "not used for a sequence classifier" in capsys.readouterr().err
    monkeypatch.delenv(PYTHON, raising=False)
    base = llama()
    base.save_pretrained(tmp_path / "base")
    letters_tokenizer().save_pretrained(tmp_path / "base")
    adapters = [str(llama_adapter(tmp_path / name, seed)) for seed, name in enumerate(("one", "two"))]
    (tmp_path / "rows.jsonl").write_text('{"prompt": "1 + 1 =", "answer": "2"}\n' * 2)
    given = ["evaluate", *adapters, "-b", str(tmp_path / "base"), "--data", str(tmp_path / "rows.jsonl")]
    given += ["-o", str(tmp_path / "out"), "--engine", "vllm"]
    assert run(given) == 2
    assert "the engine vllm needs a Python of its own" in capsys.readouterr().err
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
        EngineError, match=r"ended with code 1, asked to start.*No module named 'vllm'"
    ) as died:
        process.ask("start", settings={})
    assert (died.value.code, died.value.exit_code) == ("engine-died", 5)
    with pytest.raises(EngineError, match="ended with code 1"):
        process.ask("start", settings={})
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


def test_slots_are_as_large_as_what_is_served(tmp_path):
    small = slots_of(llama_adapter(tmp_path / "small", 1))
    patterned = llama_adapter(
        tmp_path / "large", 1, r=4, rank_pattern={"down_proj": 9}, target_modules=["down_proj"]
    )
    large = slots_of(patterned)
    assert small == (4, {"q_proj", "v_proj", "down_proj"})
    assert large == (9, {"down_proj"})
    assert not small.hold(large)
    assert not large.hold(small)
    both = small.joined(large)
    assert both.hold(small)
    assert both.hold(large)
    assert both.settings() == {
        "enable_lora": True,
        "max_loras": 1,
        "max_lora_rank": 16,  # vLLM allows 1, 8, 16, 32, …
        "lora_target_modules": ["down_proj", "q_proj", "v_proj"],
    }
    assert NO_SLOTS.settings() == {"enable_lora": False}
    assert Slots(513, frozenset("q")).settings()["max_lora_rank"] == 513  # for vLLM to refuse


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
        (engine_with(zero), "engine-ignores-adapter", "vLLM leaves this adapter out"),
        (engine_with(other), "engine-disagrees", "differ by up to .* nats per token, and 0.001 are allowed"),
        (engine_with(adapter, seed=3), "engine-disagrees", "vLLM computes otherwise"),
    ):
        with pytest.raises(InputError, match=words) as refusal:
            ask(under_test)
        assert refusal.value.code == code
    with pytest.raises(InputError) as refusal:
        ask(engine_with(adapter), engine_with(zero))
    assert refusal.value.code == "engine-disagrees"
