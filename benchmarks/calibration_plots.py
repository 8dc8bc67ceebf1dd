"""The plots of what benchmarks/calibration.py measured: predicted against measured KL, and what each size costs.

    python benchmarks/calibration_plots.py benchmarks/results/calibrate_* --output docs/images

Each folder holds `results.jsonl`; the lines of all of them are put together by their task. Writes
calibration_prediction.svg and calibration_quality.svg. Rows of a seed that is no number (`bundled`) are another
adapter's, and left out. Needs the extra `plots`.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from gradience.reports.plots.matplotlib import image_of
from gradience.reports.plots.plot import Axis, Lines, Plot, Points, Reference

METHODS = {
    "svd_uniform": "SVD, uniform",
    "svd_global": "SVD, by energy",
    "calibrated": "calibrated",
    "calibrated_distill": "calibrated, distilled",
    "random": "random directions",
    "under_limit": "calibrated, under the limit of KL",
}
"""Method of a line -> its name; another one is called as it is. In this order, so that each has its mark and color."""
REWRITE, RANDOM = "rewrite", "random"
"""The axis of Δ does not reach down to random directions."""
CONTROLS = (REWRITE, "probe_distilled")
FACTOR = 3.0
MARGIN = 2.5
PARAMS = "LoRA parameters"

Row = dict[str, Any]


def rows_of(folders: Iterable[Path]) -> dict[str, list[Row]]:
    """Task -> the lines of its numbered seeds."""
    tasks: dict[str, list[Row]] = {}
    for folder in folders:
        for line in (folder / "results.jsonl").read_text().splitlines():
            row = json.loads(line)
            if str(row["seed"]).isdigit():
                tasks.setdefault(row["task"], []).append(row)
    return tasks


def methods_in(rows: Sequence[Row]) -> list[str]:
    """The methods that there are, controls left out."""
    there = {row["method"] for row in rows} - {*CONTROLS}
    return [name for name in METHODS if name in there] + sorted(there - set(METHODS))


def delta(row: Row) -> float:
    """Δ of correct answers, smaller − original, in points."""
    return 100 * (row["only_variant_correct"] - row["only_probe_correct"]) / row["n"]


# ---------------------------------------------------------------- predicted against measured


def prediction_plot(task: str, rows: Sequence[Row]) -> Plot:
    """Each smaller adapter at its predicted and its measured KL, beside the diagonal and a band around it."""
    known = [row for row in rows if row["predicted_kl"] and row["kl"] > 0 and row["method"] not in CONTROLS]
    values = [row[name] for row in known for name in ("predicted_kl", "kl")]
    low, high = min(values) / 2, max(values) * 2
    band = Lines(
        f"within a factor of {FACTOR:g}",
        [low, high],
        [low, high],
        [low / FACTOR, high / FACTOR],
        [low * FACTOR, high * FACTOR],
        tone="dim",
    )
    series = [
        Points(
            METHODS.get(method, method),
            [row["predicted_kl"] for row in known if row["method"] == method],
            [row["kl"] for row in known if row["method"] == method],
        )
        for method in methods_in(known)
    ]
    noise = max((row["kl"] for row in rows if row["method"] == REWRITE), default=0.0)
    within = sum(1 / FACTOR <= row["kl"] / row["predicted_kl"] <= FACTOR for row in known)
    return Plot(
        f"prediction-{task}",
        f"{task}: predicted and measured KL",
        Axis("predicted KL", "nats per scored token", "log", low, high),
        Axis("measured KL", "nats per scored token", "log", low, high),
        [*series, band],
        f"On {task} {within} of {len(known)} smaller adapters have a measured KL within a factor of {FACTOR:g} of the"
        " predicted one.",
        [Reference(noise, "rewrite control")] if noise > low else [],
    )


# ---------------------------------------------------------------- what each size costs


def size_lines(
    rows: Sequence[Row], value: Callable[[Row], float], mean: Callable[[Sequence[float]], float]
) -> list[Lines]:
    """For each method its mean over seeds at each budget, with the range of the seeds as a band; what has no budget is
    left out."""
    lines = []
    budgeted = [row for row in rows if row["budget"]]
    for method in methods_in(budgeted):
        mine = [row for row in budgeted if row["method"] == method]
        budgets = sorted({row["budget"] for row in mine})
        cells = [[row for row in mine if row["budget"] == budget] for budget in budgets]
        figures = [[value(row) for row in cell] for cell in cells]
        lines.append(
            Lines(
                METHODS.get(method, method),
                [fmean(row["params"] for row in cell) for cell in cells],
                list(map(mean, figures)),
                list(map(min, figures)),
                list(map(max, figures)),
                band="range of the seeds",
                marked=True,
            )
        )
    return lines


def geometric(values: Sequence[float]) -> float:
    return math.exp(fmean(map(math.log, values)))


def kl_plot(task: str, rows: Sequence[Row]) -> Plot:
    lines = size_lines([row for row in rows if row["kl"] > 0], lambda row: float(row["kl"]), geometric)
    lowest = min(min(line.low) for line in lines)
    noise = max((row["kl"] for row in rows if row["method"] == REWRITE), default=0.0)
    return Plot(
        f"kl-{task}",
        f"{task}: measured KL by size",
        Axis(PARAMS, scale="log"),
        Axis("measured KL", "nats per scored token", "log"),
        lines,
        f"KL from the original on {task}, {seeds(rows)}: geometric mean, and the range of the seeds.",
        [Reference(noise, "rewrite control")] if noise > lowest / 10 else [],
    )


def delta_plot(task: str, rows: Sequence[Row]) -> Plot:
    shown = [delta(row) for row in rows if row["budget"] and row["method"] != RANDOM]
    low, high = min(-MARGIN, *shown) - 1, max(0.0, *shown) + 1
    return Plot(
        f"delta-{task}",
        f"{task}: Δ of correct answers by size",
        Axis(PARAMS, scale="log"),
        Axis("Δ, smaller − original", "points", low=low, high=high),
        size_lines(rows, delta, fmean),
        f"Δ of correct answers on {task}, {seeds(rows)}: mean, and the range of the seeds.",
        [Reference(0.0, ""), Reference(-MARGIN, f"−{MARGIN:g} points", tone="bad")],
    )


def seeds(rows: Sequence[Row]) -> str:
    names = sorted({row["seed"] for row in rows}, key=int)
    return f"seed{'s' * (len(names) > 1)} {', '.join(names)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--output", type=Path, default=Path("docs/images"))
    options = parser.parse_args()
    tasks = rows_of(options.folders)
    predicted = [prediction_plot(task, rows) for task, rows in tasks.items()]
    costs = [plot(task, rows) for plot in (kl_plot, delta_plot) for task, rows in tasks.items()]
    options.output.mkdir(parents=True, exist_ok=True)
    for name, plots, columns in (
        ("calibration_prediction", predicted, 3),
        ("calibration_quality", costs, max(2, len(tasks))),
    ):
        path = options.output / f"{name}.svg"
        path.write_bytes(image_of(plots, "svg", columns=columns))
        print(f"{path}: {' '.join(plot.sentence for plot in plots)}")


if __name__ == "__main__":
    main()
