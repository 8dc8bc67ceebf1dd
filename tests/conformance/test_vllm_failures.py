"""What fails around real vLLM: one message each, nothing half-written, and the same answers when it is tried again.

`make conformance-vllm`. What needs no vLLM is in tests/evaluate/test_vllm_process.py.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model

from conformance.tiny_vllm import WITH_VLLM, counted_starts, tiny, write_models
from gradience import evaluate_adapters
from gradience.cli.app import run
from gradience.evaluate.engines.vllm.process import VllmProcess

pytestmark = WITH_VLLM
ADAPTERS = {
    "first": {"r": 4},
    "second": {"r": 8},
    "third": {"r": 16, "target_modules": ["q_proj", "up_proj"]},
}
PARENT = """
import sys, torch
from pathlib import Path
from gradience.evaluate.engines.vllm import VllmEngine
from gradience.models.settings import ModelSettings
engine = VllmEngine.load(ModelSettings(name=sys.argv[1], type="causal_lm", dtype="float32"), device="cpu")
engine.generate(None, ["1"], max_new_tokens=2)
print(engine._process._child.pid, flush=True)
while True:
    engine.generate(None, ["1 + 1 ="] * 64, max_new_tokens=100)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = write_models(tmp_path_factory.mktemp("failures"), ADAPTERS)
    rows = [{"prompt": row.prompt, "answer": row.answer} for row in tiny.sums(40)]
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def evaluate(folder: Path, out: Path, *adapters: str, base: str = "base") -> int:
    """The command, in small batches; its exit code."""
    given = [*(str(folder / name) for name in adapters), "-b", str(folder / base), "-o", str(out)]
    given += ["--data", str(folder / "rows.jsonl"), "--dtype", "float32", "--device", "cpu"]
    return run(["evaluate", *given, "--batch-size", "1", "--max-new-tokens", "4", "--engine", "vllm"])


def records(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "records").glob("*.jsonl")}


def test_room_is_made_once_for_adapters_of_rising_rank(folder):
    given = {"base_model": folder / "base", "data": folder / "rows.jsonl", "dtype": "float32", "limit": 8}
    with counted_starts() as starts:
        report = evaluate_adapters([folder / name for name in ADAPTERS], engine="vllm", device="cpu", **given)
    assert [row.n for row in report.adapters] == [8, 8, 8]
    assert len(starts) == 1


def test_an_architecture_that_it_does_not_have(folder, tmp_path, capsys):
    from transformers import XLNetConfig, XLNetLMHeadModel

    model = XLNetLMHeadModel(XLNetConfig(vocab_size=64, d_model=64, n_layer=2, n_head=2, d_inner=64))
    model.save_pretrained(folder / "xlnet")
    tiny.letters_tokenizer().save_pretrained(folder / "xlnet")
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["layer_1"], r=4)
    for seed, name in enumerate(("on_xlnet", "too")):
        base = XLNetLMHeadModel.from_pretrained(folder / "xlnet")
        tiny.trained(get_peft_model(base, config), seed).save_pretrained(folder / name)
    assert evaluate(folder, tmp_path / "out", "on_xlnet", "too", base="xlnet") == 3
    error = capsys.readouterr().err
    assert "refuses to load the base: Model architectures ['XLNetLMHeadModel'] are not supported" in error
    assert "Traceback" not in error
    assert not records(tmp_path / "out")


def test_too_little_memory(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "100000")
    assert evaluate(folder, tmp_path / "out", "first", "second") == 5
    error = capsys.readouterr().err
    assert "too little memory to load the base: ValueError: Available memory" in error
    assert "VLLM_CPU_KVCACHE_SPACE" in error
    assert "Traceback" not in error
    assert not records(tmp_path / "out")


@pytest.mark.parametrize(("at", "code"), [(2, 5), (5, 4)], ids=["in the reference", "in a candidate"])
def test_it_is_killed_in_the_middle_of_an_evaluation(folder, tmp_path, capsys, monkeypatch, at, code):
    """Of 40 rows in batches of 1 it is handed 16 at once, so each adapter is three questions."""
    ask, asked = VllmProcess.ask, []

    def killing(self, what, **question):
        asked.append(what)
        if asked.count("generate") == at:
            asked.append("killed")
            os.kill(self._child.pid, signal.SIGKILL)
            return ask(self, what, **question)
        return ask(self, what, **question)

    with monkeypatch.context() as patch:
        patch.setattr(VllmProcess, "ask", killing)
        assert evaluate(folder, tmp_path / "killed", "first", "second") == code
    said = capsys.readouterr()
    assert "the process of vLLM was ended by signal 9, asked to generate" in said.err + said.out
    assert "Traceback" not in said.err + said.out
    left = records(tmp_path / "killed")
    assert evaluate(folder, tmp_path / "killed", "first", "second") == evaluate(
        folder, tmp_path / "whole", "first", "second"
    )
    whole = records(tmp_path / "whole")
    assert records(tmp_path / "killed") == whole
    assert all(whole[name] == content for name, content in left.items())


def test_it_does_not_outlive_a_process_that_is_killed_while_it_answers(folder):
    parent = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", PARENT, str(folder / "base")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    server = int(parent.stdout.readline())
    below = [server, *descendants(server)]
    time.sleep(1)  # it answers
    parent.kill()
    parent.communicate()
    until = time.monotonic() + 60
    while any(map(runs, below)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not [pid for pid in below if runs(pid)]


def descendants(pid: int) -> list[int]:
    """Processes that a process started, and those that these started."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    children = [int(child) for child in path.read_text(encoding="utf-8").split()]
    return [*children, *(each for child in children for each in descendants(child))]


def runs(pid: int) -> bool:
    """Whether there is such a process, and not only its entry."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
