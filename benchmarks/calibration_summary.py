"""What the proof of calibration comes to, as Markdown, from the lines that `calibration.py` wrote.

    python benchmarks/calibration_summary.py benchmarks/results/calibrate_*

Each folder has results.jsonl and kl.npz (KL of each test example, `seed_method_budget`); `--pack OUT` makes such a
folder of an OUT of `calibration.py`. What is judged, and how, stands in docs/decisions/013-calibration-proof.md.
"""

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

Row = dict[str, Any]
SVD, CALIBRATED, DISTILLED = "svd_uniform", "calibrated", "calibrated_distill"
REWRITE, LIMITED = "rewrite", "under_limit"
NAMES = {
    "rewrite": "probe, other factors",
    "probe_distilled": "probe, distilled",
    "svd_uniform": "SVD, uniform",
    "svd_global": "SVD, by energy",
    "calibrated": "calibrated",
    "calibrated_distill": "calibrated, distilled",
    "random": "random directions",
}


def main() -> None:
    options = parsed()
    for out in options.pack:
        print(pack(out))
    everything: list[Row] = []
    for folder in options.folders:
        rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
        kls = np.load(folder / "kl.npz")
        everything += rows
        print(f"\n## {rows[0]['task']}\n")
        print("\n".join(table(rows)))
        print("\n".join(["", *ratios(rows, kls)]))
    if everything:
        print("\n## Predictions\n")
        print("\n".join(predictions(everything)))
        print("\n## The smallest adapter within the limit of predicted KL\n")
        print("\n".join(limited(everything)))


def pack(out: Path) -> Path:
    """One file for all the arrays, so that a folder can be kept."""
    arrays = {path.stem: np.load(path) for path in sorted((out / "kl").glob("*.npy"))}
    np.savez_compressed(out / "kl.npz", **arrays)
    return out / "kl.npz"


def table(rows: Sequence[Row]) -> list[str]:
    """Mean over seeds, and the seeds' own changes of accuracy."""
    lines = [
        "| budget | adapter | seeds | predicted KL × 1000 | measured KL × 1000 | changed answers | points by seed |",
        "|---:|---|---:|---:|---:|---:|---|",
    ]
    for budget in sorted({row["budget"] for row in rows}, key=lambda budget: -budget if budget else -99):
        for method in NAMES:
            cell = [row for row in rows if (row["budget"], row["method"]) == (budget, method)]
            if not cell:
                continue
            said = [row["predicted_kl"] for row in cell if row["predicted_kl"] is not None]
            measured = mean(row["kl"] for row in cell)
            lines.append(
                f"| {budget or 'all'} | {NAMES[method]} | {len(cell)} | {mean(said)} | {measured}"
                f" | {100 * sum(row['flips'] for row in cell) / sum(row['n'] for row in cell):.1f} %"
                f" | {', '.join(f'{points(row):+.1f}' for row in cell)} |"
            )
    return lines


def ratios(rows: Sequence[Row], kls: Any) -> list[str]:
    """Calibrated over uniform SVD, measured, with the interval of a bootstrap over examples in pairs."""
    lines = ["| budget | seed | calibrated / uniform SVD | distilled / uniform SVD |", "|---:|---|---|---|"]
    for budget in sorted({row["budget"] for row in rows} - {0}, reverse=True):
        for seed in dict.fromkeys(row["seed"] for row in rows):
            names = [f"{seed}_{method}_{budget}" for method in (SVD, CALIBRATED, DISTILLED)]
            if names[0] in kls and names[1] in kls:
                cells = [interval(kls[name], kls[names[0]]) if name in kls else "" for name in names[1:]]
                lines.append(f"| {budget} | {seed} | {cells[0]} | {cells[1]} |")
    return lines


def interval(part: np.ndarray, whole: np.ndarray, draws: int = 2000) -> str:
    drawn = np.random.default_rng(0).integers(len(whole), size=(draws, len(whole)))
    low, high = np.quantile(part[drawn].sum(axis=1) / whole[drawn].sum(axis=1), [0.025, 0.975])
    return f"{part.sum() / whole.sum():.2f} ({low:.2f} to {high:.2f})"


def predictions(rows: Sequence[Row]) -> list[str]:
    """Where the measured KL is at least three times that of the rewrite control; random directions have none."""
    floors = {(row["task"], row["seed"]): row["kl"] for row in rows if row["method"] == REWRITE}
    known = [row for row in rows if row["predicted_kl"] is not None]
    clear = [row for row in known if row["kl"] >= 3 * floors[row["task"], row["seed"]]]
    lines = [
        f"{len(clear)} of {len(known)} predictions have a measured KL of at least three times the rewrite control's.",
        "",
        "| task | predictions | rank correlation | measured / predicted | of the calibrated ones |",
        "|---|---:|---:|---|---|",
    ]
    for task in [*dict.fromkeys(row["task"] for row in clear), "all"]:
        of = [row for row in clear if task in (row["task"], "all")]
        lines.append(f"| {task} | {len(of)} | {correlation(of)} | {span(of)} | {span(of, CALIBRATED)} |")
    lines += [
        "",
        "| budget | predictions | rank correlation | measured / predicted |",
        "|---:|---:|---:|---|",
    ]
    for budget in sorted({row["budget"] for row in clear} - {0}, reverse=True):
        of = [row for row in clear if row["budget"] == budget]
        lines.append(f"| {budget} | {len(of)} | {correlation(of)} | {span(of)} |")
    return lines


def limited(rows: Sequence[Row]) -> list[str]:
    """Of each task and seed the smallest adapter whose predicted KL is within the limit."""
    lines = [
        "| task | seed | parameters | predicted KL × 1000 | measured | points | only probe / only variant |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        if row["method"] == LIMITED:
            counts = f"{row['only_probe_correct']} / {row['only_variant_correct']}"
            lines.append(
                f"| {row['task']} | {row['seed']} | {row['params']:,} | {1000 * row['predicted_kl']:.3g}"
                f" | {1000 * row['kl']:.3g} | {points(row):+.2f} | {counts} |"
            )
    return lines


def points(row: Row) -> float:
    return 100 * (row["only_variant_correct"] - row["only_probe_correct"]) / row["n"]


def mean(values: Iterable[float]) -> str:
    some = list(values)
    return f"{1000 * float(np.mean(some)):.3g}" if some else ""


def correlation(rows: Sequence[Row]) -> str:
    if len(rows) < 3:
        return ""
    both = [[row[name] for row in rows] for name in ("predicted_kl", "kl")]
    return f"{spearmanr(*both).statistic:.3f}"


def span(rows: Sequence[Row], method: str | None = None) -> str:
    some = [row["kl"] / row["predicted_kl"] for row in rows if method in (None, row["method"])]
    return f"{min(some):.2f} to {max(some):.2f}" if some else ""


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folders", type=Path, nargs="*")
    parser.add_argument("--pack", type=Path, nargs="+", default=[], metavar="OUT")
    return parser.parse_args()


if __name__ == "__main__":
    main()
