"""Two trained adapters of one base, merged by every method, each compared with both parents on their own examples.

    python benchmarks/merge_quality.py A B --data A.jsonl --data B.jsonl --base embedded:smollm2 --output DIR

Writes DIR/METHOD (the merged adapters), DIR/evaluation/A and B (all methods against that parent), and
prints the table of docs/results/merge.md. A run that is interrupted resumes.
"""

import argparse
from pathlib import Path

from gradience import EvaluationReport, MergeReport, evaluate_adapters, merge_adapters
from gradience.reports.base.numbers import percent
from gradience.words import points

METHODS = ("linear", "svd", "ties", "dare", "knots")


def merged(parents: list[Path], method: str, weights: list[float], folder: Path) -> MergeReport:
    """Return the report of one merge, made unless it is there."""
    if (folder / "merge_report.json").exists():
        return MergeReport.read(folder / "merge_report.json")
    return merge_adapters(parents, folder, method=method, weights=weights)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parents", nargs=2, type=Path)
    parser.add_argument("--data", action="append", type=Path, required=True)
    parser.add_argument("--base", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--limits", nargs=2, type=int, default=[300, 300], help="rows of each data file")
    parser.add_argument("--weights", nargs=2, type=float, default=[1.0, 1.0])
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--with-base", action="store_true")
    options = parser.parse_args()
    folders = {method: options.output / method for method in METHODS}
    reports = {
        method: merged(options.parents, method, options.weights, folder) for method, folder in folders.items()
    }
    evaluations = []
    for parent, data, limit in zip(options.parents, options.data, options.limits, strict=True):
        folder = options.output / "evaluation" / parent.name
        evaluation = (
            EvaluationReport.read(folder / "evaluation.json")
            if (folder / "evaluation.json").exists()
            else evaluate_adapters(
                [parent, *folders.values()],
                data=data,
                base_model=options.base,
                output=folder,
                limit=limit,
                all_rows=True,
                with_base=options.with_base,
                max_new_tokens=options.max_new_tokens,
                no_ledger=True,
            )
        )
        assert isinstance(evaluation, EvaluationReport)
        evaluations.append(evaluation)
    names = [parent.name for parent in options.parents]
    rows, weights = options.limits, options.weights
    print(f"\n{rows[0]} and {rows[1]} rows; weights {weights[0]:g}, {weights[1]:g}\n")
    print(
        "| | rank | error | "
        + " | ".join(f"{name} | Δ (95 % interval) | grade" for name in names)
        + " | verdict |"
    )
    print("|---|" + "---|" * (2 + 3 * len(names) + 1))
    rows = [{row.name: row for row in evaluation.adapters} for evaluation in evaluations]
    for name in [*names, *METHODS, "base"]:
        cells, grades = [], []
        for table in rows:
            row = table.get(name)
            if row is None:
                cells += ["", "", ""]
                continue
            cells.append(f"{row.correct}/{row.n}")
            pairs = row.pairs
            interval = (
                "" if pairs is None else f"{points(pairs.delta)} ({points(pairs.low)} … {points(pairs.high)})"
            )
            cells += [interval, row.grade or ""]
            grades.append(row.grade)
        report = reports.get(name)
        facts = ["", ""] if report is None else [str(report.largest_rank), percent(report.error)]
        shown = sum(grade == "B" for grade in grades)
        verdict = ("do not merge", "holds on some parents", "holds on all parents")[shown]
        verdict = "inconclusive" if set(grades) == {"C"} else verdict
        verdict = "" if report is None else verdict
        print("| " + " | ".join([name, *facts, *cells, verdict]) + " |")


if __name__ == "__main__":
    main()
