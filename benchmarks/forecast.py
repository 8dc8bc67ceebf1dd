"""The forecast of `gradience bench run --dry-run` against what a run took: ratios of seconds and of bytes.

python benchmarks/forecast.py                     the runs that are kept in benchmarks/results, on this processor
python benchmarks/forecast.py DIR                 a run of your own, best right after it and on the same machine

The machine is measured now. So a kept run says something only where this machine is like the one that it ran on, and a
busy machine makes every forecast longer. Ratios: forecast / measured; the memory is the whole process's, torch's own
libraries included, of which the forecast knows nothing.
"""

from __future__ import annotations

import json
import sys
import tarfile
import tempfile
from pathlib import Path
from statistics import median

from gradience.bench.config import BenchConfig
from gradience.bench.forecast import forecast

ROOT = Path(__file__).resolve().parent
KEPT = ("minilm_reviews_demo", "smollm2_arithmetic", "smollm2_gsm8k_smoke")
"""One seed each, one thread."""
LIBRARIES = 450e6
"""Resident bytes of a process that has imported torch, transformers and peft (measured here, torch 2.13 for CPUs)."""


def compared(folder: Path) -> dict[str, object]:
    """Forecast and measurement of one seed's folder."""
    config = BenchConfig.model_validate(json.loads((folder / "bench.json").read_text())["config"])
    cost = forecast(config).cost
    assert cost is not None, "the shape of the model is not known here"
    here = next(time for time in cost.times if time.machine.startswith("this processor"))
    reports = [json.loads(path.read_text()) for path in folder.glob("*/train/training.json")]
    asked = [
        json.loads(path.read_text())["seconds"]
        for path in folder.glob("*/eval/manifest.json")
        if path.parts[-3] != "probe"
    ]
    training, evaluation = median(report["seconds"] for report in reports), median(asked)
    peak = min(
        report["peak_memory_bytes"] for report in reports
    )  # of the process so far: the first training's
    memory = cost.weights_bytes + cost.trained_bytes + cost.activation_bytes + LIBRARIES
    return {
        "run": folder.name,
        "training": _row(here.training, training),
        "evaluation": _row(here.evaluation, evaluation),
        "memory, MB": _row(memory / 1e6, peak / 1e6),
        "machine": here.machine,
    }


def _row(forecast: float, measured: float) -> dict[str, float]:
    return {
        "forecast": round(forecast, 1),
        "measured": round(measured, 1),
        "ratio": round(forecast / measured, 2),
    }


def main() -> None:
    if sys.argv[1:]:
        print(json.dumps([compared(Path(folder)) for folder in sys.argv[1:]], indent=2))
        return
    with tempfile.TemporaryDirectory() as scratch:
        found = []
        for name in KEPT:
            folder = Path(scratch, name)
            with tarfile.open(ROOT / "results" / name / "everything.tar.xz") as archive:
                archive.extractall(folder, filter="data")
            (folder / "bench.json").write_bytes((ROOT / "results" / name / "bench.json").read_bytes())
            found.append(compared(folder))
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
