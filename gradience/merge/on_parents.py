"""Test a merged adapter against each parent on that parent's examples, after an optional search.

OUTPUT/                    the merged adapter with its report
OUTPUT/evaluation/NAME/    the comparison with each parent; a run that is interrupted resumes there
OUTPUT.search/             rows of the search, its candidates, and their comparisons on the dev rows
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from gradience.digests import in_first_half
from gradience.errors import UsageError, did_you_mean
from gradience.evaluate.adapters import AdapterInput, adapter_input, short_names
from gradience.evaluate.inputs import read_inputs
from gradience.evaluate.settings import EvaluateSettings, sets_of
from gradience.evaluate.verb import evaluate, report_notes, require_libraries
from gradience.files.rows import rows_of
from gradience.files.whole import check_output, write_whole
from gradience.merge.parents import Parent, open_parents
from gradience.merge.settings import SPARSE, MergeSettings, Method
from gradience.merge.verb import merge_or_resume, write_report
from gradience.reports.base.graded import Grade
from gradience.reports.base.run import Stopwatch
from gradience.reports.evaluation import EvaluatedAdapter, EvaluationReport
from gradience.reports.merge import (
    MergeReport,
    ParentEvidence,
    ParentTests,
    ParentVerdict,
    SearchedMerge,
)
from gradience.settings import shared

EVALUATIONS = "evaluation"


GRID: tuple[tuple[Method, float, float], ...] = (
    *(("svd", share, 1.0) for share in (0.5, 0.7, 1.0)),
    *(("ties", share, density) for share in (1.0, 1.5) for density in (0.2, 0.5)),
    ("dare", 0.7, 0.5),
    *(("knots", 1.0, density) for density in (0.5, 1.0)),
)
"""Search grid, fixed in advance: (method, weight of every parent, density). In a tie, the first candidate wins."""


def merge_and_test(settings: MergeSettings, output: Path, watch: Stopwatch) -> MergeReport:
    """Merge, and compare the result with each parent on its examples. Raises what `merge_adapters` raises."""
    require_libraries(settings.engine)
    with ExitStack() as stack:
        parents = open_parents(settings, stack)
        tests = _tests_of(parents, settings)
        for parent in parents:
            check_output(output, parent.path, force=settings.force or output.exists())
        references = {
            parent.name: AdapterInput.of(parent.name, parent.path, parent.opened) for parent in parents
        }
        rows: tuple[SearchedMerge, ...] = ()
        if settings.search:
            settings, tests, rows = _search(parents, references, settings, tests, output, stack)
            parents = _weighted(parents, settings)
        report = merge_or_resume(parents, settings, output, watch, stack)
    evidence, merged = [], adapter_input(output.name, output)
    for name, reference in references.items():
        folder = f"{EVALUATIONS}/{name}"
        evaluation = _evaluated(tests[name], (reference, merged), output / folder)
        evidence.append(
            ParentEvidence(
                parent=name,
                reference=evaluation.adapters[0],
                merged=evaluation.candidates[0],
                evaluation=folder,
            )
        )
    verdict = verdict_of([row.merged.grade for row in evidence])
    tested = ParentTests(verdict=verdict, parents=tuple(evidence))
    report = report.model_copy(update={"certificate": tested, "search": rows, "run": watch.run_info()})
    write_report(report, output)
    return report


def verdict_of(grades: Sequence[Grade | None]) -> ParentVerdict:
    """Return the verdict on a merge with these grades on its parents' examples."""
    if "B" in grades:
        return "holds on some parents" if set(grades) - {"B"} else "holds on all parents"
    if "D" in grades:
        return "do not merge"
    return "not evaluated" if "X" in grades else "inconclusive"


def _tests_of(parents: Sequence[Parent], settings: MergeSettings) -> dict[str, EvaluateSettings]:
    """Return the settings of the test of each parent, by its name. Raises UsageError (no-such-parent, no-data)."""
    names = {name: parent.name for parent in parents for name in (parent.letter, parent.name)}
    tests = {}
    for named in sets_of(EvaluateSettings(**shared(settings, EvaluateSettings) | {"adapters": ()})):
        if named.name not in names:
            raise UsageError(
                f"--data {named.name}=…: no adapter is named {named.name}",
                code="no-such-parent",
                hint=did_you_mean(named.name, tuple(names), f"the names are {', '.join(names)}"),
            )
        tests[names[named.name]] = named.settings
    missing = [parent.name for parent in parents if parent.name not in tests]
    if missing:
        raise UsageError(
            f"no examples for {', '.join(missing)}: a merge is tested on every parent's own data",
            code="no-data",
            hint=f"add --data {missing[0]}=rows.jsonl",
        )
    return tests


def _evaluated(test: EvaluateSettings, adapters: Sequence[AdapterInput], folder: Path) -> EvaluationReport:
    """Compare adapters with the first on one data set."""
    names = short_names([adapter.given.resolve() for adapter in adapters])
    named = tuple(replace(adapter, name=name) for adapter, name in zip(adapters, names, strict=True))
    request = replace(test, adapters=tuple(adapter.given for adapter in adapters), output=folder)
    inputs = read_inputs(request, named)
    report_notes(request, inputs, len(adapters) - 1)
    return evaluate(inputs, folder)


# ---------------------------------------------------------------- search


def _search(
    parents: Sequence[Parent],
    references: Mapping[str, AdapterInput],
    settings: MergeSettings,
    tests: Mapping[str, EvaluateSettings],
    output: Path,
    stack: ExitStack,
) -> tuple[MergeSettings, dict[str, EvaluateSettings], tuple[SearchedMerge, ...]]:
    """Return the settings of the best candidate on the dev rows, the test rows, and the results of all candidates."""
    folder = output.with_name(f"{output.name}.search")
    halves = {name: _split(test, folder / "rows", name) for name, test in tests.items()}
    tried, candidates = [], []
    for method, share, density in GRID:
        shares = (share,) * len(parents)
        asked = replace(settings, method=method, weights=shares, density=density, force=False)
        place = folder / "candidates" / f"{method}-{share:g}-{density:g}"
        merge_or_resume(_weighted(parents, asked), asked, place, Stopwatch(), stack)
        tried.append(asked)
        candidates.append(adapter_input(place.name, place))
    gains = []
    for name, reference in references.items():
        dev = replace(halves[name][0], all_rows=True, no_ledger=True)
        report = _evaluated(dev, (reference, *candidates), folder / "dev" / name)
        gains.append([_gain(row) for row in report.candidates])
    deltas = list(zip(*gains, strict=True))
    best = max(range(len(tried)), key=lambda place: (min(deltas[place]), sum(deltas[place])))
    rows = tuple(
        SearchedMerge(
            method=asked.method,
            weights=tuple(asked.weights or ()),
            density=asked.density if asked.method in SPARSE else None,
            deltas=deltas[place],
            chosen=place == best,
        )
        for place, asked in enumerate(tried)
    )
    chosen = replace(tried[best], force=settings.force)
    return chosen, {name: test for name, (_, test) in halves.items()}, rows


def _weighted(parents: Sequence[Parent], settings: MergeSettings) -> list[Parent]:
    weights = settings.weights or ()
    return [parent._replace(weight=weight) for parent, weight in zip(parents, weights, strict=True)]


def _gain(row: EvaluatedAdapter) -> float:
    """Return the difference from the parent; −1 for a candidate that could not be evaluated."""
    if row.pairs is not None:
        return row.pairs.delta
    return -1.0 if row.likelihood is None or row.likelihood.delta is None else -row.likelihood.delta


def _split(test: EvaluateSettings, folder: Path, name: str) -> tuple[EvaluateSettings, EvaluateSettings]:
    """Return the test on the dev rows and on the test rows, halves of its file by content: equal rows stay together.

    Raises UsageError (no-data) if the examples are not in a file.
    """
    if test.data_file is None:
        raise UsageError(
            f"--search splits the examples of {name}, which are not in a file",
            code="no-data",
            hint=f"give a file: --data {name}=rows.jsonl",
        )
    halves: tuple[list[str], list[str]] = ([], [])
    for _, row in rows_of(test.data_file):
        half = 0 if in_first_half(json.dumps(row, sort_keys=True)) else 1
        halves[half].append(json.dumps(row, ensure_ascii=False) + "\n")
    folder.mkdir(parents=True, exist_ok=True)
    files = folder / f"{name}.dev.jsonl", folder / f"{name}.test.jsonl"
    for file, lines in zip(files, halves, strict=True):
        write_whole(file, ["".join(lines).encode()])
    return replace(test, data=files[0]), replace(test, data=files[1])
