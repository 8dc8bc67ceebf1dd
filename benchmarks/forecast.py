"""The forecast of `gradience bench run --dry-run` against real runs: ratios forecast / measured, of seconds and bytes.

python benchmarks/forecast.py          short runs, now, on one thread: a probe is trained and evaluated
python benchmarks/forecast.py kept     the runs in benchmarks/results; the one on GSM8K when GRADIENCE_GSM8K names the
                                       folder of its two files

Short runs are measured in seconds of the processor, which other processes do not touch, as the machine's rates are. The
kept runs have seconds of a clock, on a machine of this kind that had other work; minilm_reviews_demo had half a core.
"""

from __future__ import annotations

import json
import os
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

from gradience import tasks
from gradience.bench.config.load import BenchConfig, load_config
from gradience.bench.config.shipped import find_config
from gradience.bench.plan.forecast import forecast
from gradience.evaluate.evaluator import Evaluator
from gradience.training.trainer import train

ROOT = Path(__file__).resolve().parent
KEPT = ("minilm_reviews_demo", "smollm2_arithmetic", "smollm2_gsm8k_smoke")
"""One thread."""
SHORT = {
    "minilm_reviews_demo": ["train.max_steps=40", "task.eval_samples=640"],
    "smollm2_arithmetic": ["train.max_steps=8", "task.eval_samples=64"],
}
LIBRARIES = 450e6
"""Resident bytes of a process that has imported torch, transformers and peft (measured here, torch 2.13 for CPUs)."""


def short(name: str, overrides: list[str]) -> dict[str, object]:
    """Forecast a short run, then run it."""
    config = load_config(find_config(name), [*overrides, "runtime.threads=1", "runtime.device=cpu"])
    torch.set_num_threads(1)
    here, memory = _forecast(config)
    task = tasks.load(config.task.profile, config.task.options)
    with tempfile.TemporaryDirectory() as scratch:
        started = time.process_time()
        lora, recipe = config.lora.peft_arguments(), config.train
        report = train(
            task, model=config.model, lora=lora, recipe=recipe, seed=42, output=Path(scratch), device="cpu"
        )
        training = time.process_time() - started
        evaluator = Evaluator(
            task,
            config.model,
            task.examples.of("confirm", config.task.eval_samples),
            batch_size=recipe.per_device_eval_batch_size,
            max_length=recipe.max_length,
            device="cpu",
        )
        probe = ("probe", Path(scratch, "adapter"))
        evaluator.engine_with(*probe)  # a run loads the base once for all evaluations
        started = time.process_time()
        evaluator.answers(*probe, Path(scratch, "answers.jsonl"))
        evaluation = time.process_time() - started
        if config.model.type == "causal_lm":
            started = time.process_time()
            evaluator.scores(*probe, Path(scratch, "scores.jsonl"), reference=probe)
            evaluation += 2 * (time.process_time() - started)  # a variant is read beside the probe
    peak = report.peak_memory_bytes or 0
    return _rows(name, here, memory, training, evaluation, peak)


def kept(name: str, folder: Path) -> dict[str, object]:
    """Forecast and measurement of a run that is kept."""
    first = min((ROOT / "results" / name).rglob("bench.json"))
    values = json.loads(first.read_text())["config"]
    files = os.environ.get("GRADIENCE_GSM8K")
    if values["task"]["profile"] == "gsm8k":
        values["task"]["options"] = {f"{part}_file": f"{files}/{part}.jsonl" for part in ("train", "test")}
    here, memory = _forecast(BenchConfig.model_validate(values))
    reports = [json.loads(path.read_text()) for path in folder.rglob("train/training.json")]
    evaluations = [
        json.loads(path.read_text())["seconds"]
        for path in folder.rglob("eval/manifest.json")
        if path.parts[-3] != "probe"
    ]
    peak = min(
        report["peak_memory_bytes"] for report in reports
    )  # of the process so far: the first training's
    return _rows(
        name, here, memory, median(report["seconds"] for report in reports), median(evaluations), peak
    )


def _forecast(config: BenchConfig) -> tuple[tuple[float, float], float]:
    """Seconds of a training and of an evaluation, and bytes."""
    cost = forecast(config).cost
    assert cost is not None, "the shape of the model is not known here"
    here = next(each for each in cost.times if each.machine.startswith("this processor"))
    memory = cost.weights_bytes + cost.trained_bytes + cost.activation_bytes + LIBRARIES
    return (here.training, here.evaluation), memory


def _rows(
    name: str, here: tuple[float, float], memory: float, training: float, evaluation: float, peak: int
) -> dict[str, object]:
    pairs = {
        "training, s": (here[0], training),
        "evaluation, s": (here[1], evaluation),
        "memory, MB": (memory / 1e6, peak / 1e6),
    }
    return {"run": name} | {
        what: {
            "forecast": round(predicted, 1),
            "measured": round(real, 1),
            "ratio": round(predicted / real, 2),
        }
        for what, (predicted, real) in pairs.items()
    }


def main() -> None:
    if sys.argv[1:] != ["kept"]:
        for name, overrides in SHORT.items():
            print(json.dumps(short(name, overrides), indent=2), flush=True)
        return
    for name in KEPT if os.environ.get("GRADIENCE_GSM8K") else KEPT[:2]:
        with tempfile.TemporaryDirectory() as scratch:
            with tarfile.open(ROOT / "results" / name / "everything.tar.xz") as archive:
                archive.extractall(scratch, filter="data")
            print(json.dumps(kept(name, Path(scratch)), indent=2), flush=True)


if __name__ == "__main__":
    main()
