"""The certificate of a merge: the merged adapter against each parent on that parent's examples; a search before it.

OUTPUT/                    the merged adapter with its report
OUTPUT/evaluation/NAME/    the comparison with each parent; a run that is interrupted resumes there
OUTPUT.search/             rows of the search, its candidates, and their comparisons on the dev rows
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from gradience.digests import in_first_half
from gradience.errors import UsageError, did_you_mean
from gradience.evaluate.settings import EvaluateSettings
from gradience.evaluate.verb import evaluate_adapters, require_libraries
from gradience.files.rows import rows_of
from gradience.files.whole import check_output, write_whole
from gradience.merge.parents import Parent, open_parents
from gradience.merge.settings import MergeSettings, Method
from gradience.merge.verb import write_merge, write_report
from gradience.reports.base.run import Stopwatch
from gradience.reports.evaluation import EvaluatedAdapter, EvaluationReport
from gradience.reports.merge import (
    Certificate,
    CertificateVerdict,
    MergeReport,
    ParentEvidence,
    SearchedMerge,
)
from gradience.settings import shared

EVALUATIONS = "evaluation"


class Candidate(NamedTuple):
    """One entry of the grid. share: weight of every parent."""

    method: Method
    share: float
    density: float | None = None

    @property
    def name(self) -> str:
        """Name of its folder."""
        return "-".join(
            [self.method, f"{self.share:g}", *([] if self.density is None else [f"{self.density:g}"])]
        )


GRID = (
    *(Candidate("svd", share) for share in (0.5, 0.7, 1.0)),
    *(Candidate("ties", share, density) for share in (1.0, 1.5) for density in (0.2, 0.5)),
    Candidate("dare", 0.7, 0.5),
    *(Candidate("knots", 1.0, density) for density in (0.5, 1.0)),
)
"""Candidates of a search, fixed in advance. If several are equally good on the dev rows, the first is chosen."""


def certified(settings: MergeSettings, output: Path, watch: Stopwatch) -> MergeReport:
    """Merge, and compare the result with each parent on its examples. Raises what `merge_adapters` raises."""
    require_libraries(settings.engine)
    with ExitStack() as stack:
        parents = open_parents(settings, stack)
        data = _data_of(parents, settings)
        for parent in parents:
            check_output(output, parent.path, force=settings.force or output.exists())
        rows: tuple[SearchedMerge, ...] = ()
        if settings.search:
            settings, data, rows = _search(parents, settings, data, output, stack)
            parents = [
                parent._replace(weight=weight)
                for parent, weight in zip(parents, settings.weights or (), strict=True)
            ]
        report = write_merge(parents, settings, output, watch, stack, resumes=True)
    evidence = []
    for parent in parents:
        if parent.name in data:
            folder = f"{EVALUATIONS}/{parent.name}"
            evaluation = _evaluated([parent.path, output], data[parent.name], settings, output / folder)
            reference, merged = evaluation.adapters[0], evaluation.candidates[0]
            evidence.append(
                ParentEvidence(
                    parent=parent.name,
                    data=data[parent.name].name,
                    reference=reference,
                    merged=merged,
                    evaluation=folder,
                )
            )
    certificate = Certificate(verdict=_verdict(evidence), parents=tuple(evidence))
    report = report.model_copy(update={"certificate": certificate, "search": rows, "run": watch.run_info()})
    write_report(report, output)
    return report


def _verdict(evidence: Sequence[ParentEvidence]) -> CertificateVerdict:
    shown = [row.merged.grade == "B" for row in evidence]
    if all(shown):
        return "holds on all parents"
    if any(shown):
        return "holds on some parents"
    return "inconclusive" if all(row.merged.grade == "C" for row in evidence) else "do not merge"


def _data_of(parents: Sequence[Parent], settings: MergeSettings) -> dict[str, Path]:
    """Return the examples of every parent by its name. Raises UsageError (no-such-parent, no-data)."""
    names = {parent.letter: parent.name for parent in parents} | {
        parent.name: parent.name for parent in parents
    }
    for name in settings.data:
        if name not in names:
            raise UsageError(
                f"--data {name}={settings.data[name]}: no adapter is called {name}",
                code="no-such-parent",
                hint=did_you_mean(name, tuple(names), f"the names are {', '.join(names)}"),
            )
    data = {names[name]: path for name, path in settings.data.items()}
    missing = [parent.name for parent in parents if parent.name not in data]
    if missing:
        raise UsageError(
            f"no examples for {', '.join(missing)}: a merge is tested on every parent's own data",
            code="no-data",
            hint=f"add --data {missing[0]}=rows.jsonl",
        )
    return data


def _evaluated(
    adapters: Sequence[Path], data: Path, settings: MergeSettings, folder: Path, **more: Any
) -> EvaluationReport:
    """Compare adapters with the first on one file of examples."""
    keywords = shared(settings, EvaluateSettings) | {"adapters": adapters, "data": data, "output": folder}
    report = evaluate_adapters(**{**keywords, "dtype": "auto", **more})
    assert isinstance(report, EvaluationReport)
    return report


# ---------------------------------------------------------------- search


def _search(
    parents: Sequence[Parent],
    settings: MergeSettings,
    data: Mapping[str, Path],
    output: Path,
    stack: ExitStack,
) -> tuple[MergeSettings, dict[str, Path], tuple[SearchedMerge, ...]]:
    """Return the settings of the best candidate on the dev rows, the test rows, and the results of all candidates."""
    folder = output.with_name(f"{output.name}.search")
    halves = {name: _split(path, folder / "rows", name) for name, path in data.items()}
    tried, folders = {}, {}
    for candidate in GRID:
        weights = tuple(candidate.share for _ in parents)
        tried[candidate] = replace(
            settings, method=candidate.method, weights=weights, density=candidate.density, force=False
        )
        folders[candidate] = folder / "candidates" / candidate.name
        weighted = [parent._replace(weight=candidate.share) for parent in parents]
        write_merge(weighted, tried[candidate], folders[candidate], Stopwatch(), stack, resumes=True)
    deltas: dict[Candidate, list[float]] = {candidate: [] for candidate in GRID}
    for parent in parents:
        report = _evaluated(
            [parent.path, *folders.values()],
            halves[parent.name][0],
            settings,
            folder / "dev" / parent.name,
            all_rows=True,
            no_ledger=True,
        )
        for candidate, row in zip(GRID, report.candidates, strict=True):
            deltas[candidate].append(_gain(row))
    best = max(GRID, key=lambda candidate: (min(deltas[candidate]), sum(deltas[candidate])))
    rows = tuple(
        SearchedMerge(
            method=candidate.method,
            weights=tuple(candidate.share for _ in parents),
            density=candidate.density,
            deltas=tuple(deltas[candidate]),
            chosen=candidate == best,
        )
        for candidate in GRID
    )
    chosen = replace(tried[best], force=settings.force)
    return chosen, {name: test for name, (_, test) in halves.items()}, rows


def _gain(row: EvaluatedAdapter) -> float:
    """Return the difference from the parent; −1 for a candidate that could not be evaluated."""
    if row.pairs is not None:
        return row.pairs.delta
    return -1.0 if row.likelihood is None or row.likelihood.delta is None else -row.likelihood.delta


def _split(path: Path, folder: Path, name: str) -> tuple[Path, Path]:
    """Write the rows of a file as dev and test rows, halves by the digest of the content: equal rows stay together."""
    halves: tuple[list[str], list[str]] = ([], [])
    for _, row in rows_of(path):
        half = 0 if in_first_half(json.dumps(row, sort_keys=True)) else 1
        halves[half].append(json.dumps(row, ensure_ascii=False) + "\n")
    folder.mkdir(parents=True, exist_ok=True)
    files = folder / f"{name}.dev.jsonl", folder / f"{name}.test.jsonl"
    for file, lines in zip(files, halves, strict=True):
        write_whole(file, ["".join(lines).encode()])
    return files
