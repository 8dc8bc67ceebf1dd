"""`make gpu`, scaled down on the processor: every part runs or says why not, and what is finished is not run again."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
import gpu_day  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
NEED_MORE = {"nf4": "bitsandbytes", "vllm": "GRADIENCE_ENGINE_PYTHON", "oom": "needs a GPU"}


def test_the_day_on_a_processor(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("GRADIENCE_ENGINE_PYTHON", raising=False)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    before = set(ROOT.glob("docs/results/*"))
    given = ["--small", "--here", "--output", str(tmp_path)]

    def fails(place):
        raise RuntimeError("out of order")

    with monkeypatch.context() as patch:
        patch.setitem(gpu_day.PARTS, "generate", fails)
        assert gpu_day.main([*given, "--skip", "distill", "--only", "train,generate,distill"]) == 1
    assert "generate: failed RuntimeError: out of order" in capsys.readouterr().out
    trained = (tmp_path / "parts" / "train.json").read_bytes()

    assert gpu_day.main(given) == 0
    assert (tmp_path / "parts" / "train.json").read_bytes() == trained  # not run again
    [path] = tmp_path.glob("*-no-GPU.json")
    summary = json.loads(path.read_text())
    states = {name: result["state"] for name, result in summary["parts"].items()}
    assert states == {name: "not run" if name in NEED_MORE else "done" for name in gpu_day.PARTS}
    for name, reason in NEED_MORE.items():
        assert reason in summary["parts"][name]["reason"]
    figures = {name: result.get("figures") for name, result in summary["parts"].items()}
    assert figures["train"]["steps"] == 2
    assert figures["train"]["seconds per step"] > 0
    assert figures["evaluate"]["adapters"] == 2
    assert figures["regenerate"]["verdict"] == "consistent"
    assert len(figures["precision"]["equal answers of both adapters"]) == 2
    assert figures["forecast"]["hours of a seed"] >= 0
    page = path.with_suffix(".md").read_text()
    assert "a tiny Mistral (scaled down: no figure is a result)" in page
    assert "Not run: the memory of a processor cannot be limited here" in page
    assert set(ROOT.glob("docs/results/*")) == before  # results of a processor are not kept

    place = gpu_day.Place(tmp_path, True, tmp_path / "rows")
    assert gpu_day.run_apart(place, "oom", 120)["state"] == "not run"
    assert gpu_day.run_apart(place, "forecast", 0.01) == {"state": "failed", "reason": "stopped after 0 s"}
