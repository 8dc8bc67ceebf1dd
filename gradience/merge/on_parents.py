"""Test a merged adapter against each parent on that parent's examples, after an optional search.

OUTPUT/                    the merged adapter with its report
OUTPUT/evaluation/NAME/    the comparison with each parent; a run that is interrupted resumes there
OUTPUT.search/             candidates of the search, and their comparisons on the dev examples
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from string import ascii_uppercase

from gradience.errors import UsageError, did_you_mean
from gradience.evaluate.adapters import AdapterInput, adapter_input, short_names
from gradience.evaluate.halves import split, with_adapters
from gradience.evaluate.inputs import EvaluateInputs, read_inputs
from gradience.evaluate.settings import EvaluateSettings, sets_of
from gradience.evaluate.verb import evaluate, report_notes, require_libraries
from gradience.merge.parents import Parent, open_parents
from gradience.merge.settings import SPARSE, MergeSettings, Method
from gradience.merge.verb import merge_or_resume, write_report
from gradience.reports.base.graded import Grade
from gradience.reports.base.run import Stopwatch
from gradience.reports.evaluation import EvaluatedAdapter
from gradience.reports.merge import MergeReport, ParentEvidence, ParentTests, ParentVerdict, SearchedMerge
from gradience.settings import shared

EVALUATIONS = "evaluation"
GRID: tuple[tuple[Method, float, float], ...] = (
    *(("svd", share, 1.0) for share in (0.5, 0.7, 1.0)),
    *(("ties", share, density) for share in (1.0, 1.5) for density in (0.2, 0.5)),
    ("dare", 0.7, 0.5),
    *(("knots", 1.0, density) for density in (0.5, 1.0)),
)
"""Search grid, fixed in advance: (method, weight of every parent, density). In a tie, the first candidate wins."""


def merge_and_test(settings: MergeSettings, output: Path) -> MergeReport:
    """Merge, and compare the result with each parent on its examples. Raises what `merge_adapters` raises."""
    watch = Stopwatch(settings.command)
    require_libraries(settings.engine)
    with ExitStack() as stack:
        parents = open_parents(settings, output, stack)
        sets = _read_sets(parents, settings, output)
        searched: tuple[SearchedMerge, ...] = ()
        if settings.search:
            halves = {name: split(inputs) for name, inputs in sets.items()}
            sets = {name: test for name, (_, test) in halves.items()}
            dev = {name: half for name, (half, _) in halves.items()}
            place = output.with_name(f"{output.name}.search")
            parents, settings, searched = _search(parents, settings, dev, place)
        report = merge_or_resume(parents, settings, output)
    evidence, candidate = [], adapter_input(output.name, output)
    for parent in parents:
        folder = f"{EVALUATIONS}/{parent.name}"
        reference, merged = _compared(sets[parent.name], [candidate], output / folder)
        evidence.append(
            ParentEvidence(parent=parent.name, reference=reference, merged=merged, evaluation=folder)
        )
    verdict = verdict_of([row.merged.grade for row in evidence])
    tested = ParentTests(verdict=verdict, parents=tuple(evidence))
    report = report.model_copy(update={"certificate": tested, "search": searched, "run": watch.run_info()})
    write_report(report, output)
    return report


def verdict_of(grades: Sequence[Grade | None]) -> ParentVerdict:
    """Return the verdict on a merge with these grades on its parents' examples."""
    if "B" in grades:
        return "holds on some parents" if set(grades) - {"B"} else "holds on all parents"
    if "D" in grades:
        return "do not merge"
    return "not evaluated" if "X" in grades else "inconclusive"


def _read_sets(parents: Sequence[Parent], settings: MergeSettings, output: Path) -> dict[str, EvaluateInputs]:
    """Return the examples of each parent, by its name. Raises UsageError (no-such-parent, no-data)."""
    named = dict(zip(ascii_uppercase, parents, strict=False)) | {parent.name: parent for parent in parents}
    sets: dict[str, EvaluateInputs] = {}
    for each in sets_of(EvaluateSettings(**shared(settings, EvaluateSettings) | {"adapters": ()})):
        if each.name not in named:
            raise UsageError(
                f"--data {each.name}=…: no adapter is named {each.name}",
                code="no-such-parent",
                hint=did_you_mean(each.name, tuple(named), f"the names are {', '.join(named)}"),
            )
        parent = named[each.name]
        request = replace(each.settings, adapters=(parent.path,), output=output / EVALUATIONS / parent.name)
        reference = AdapterInput.of(parent.name, parent.path, parent.opened)
        sets[parent.name] = read_inputs(request, (reference,))
    missing = [parent.name for parent in parents if parent.name not in sets]
    if missing:
        raise UsageError(
            f"no examples for {', '.join(missing)}: a merge is tested on every parent's own data",
            code="no-data",
            hint=f"add --data {missing[0]}=rows.jsonl",
        )
    return sets


def _compared(
    inputs: EvaluateInputs, candidates: Sequence[AdapterInput], folder: Path
) -> tuple[EvaluatedAdapter, ...]:
    """Compare candidates with a parent on its examples, and return the rows of all."""
    adapters = (inputs.reference, *candidates)
    names = short_names([adapter.given.resolve() for adapter in adapters])
    named = [replace(adapter, name=name) for adapter, name in zip(adapters, names, strict=True)]
    inputs = with_adapters(inputs, named)
    report_notes(inputs, len(candidates))
    return evaluate(inputs, folder).adapters


# ---------------------------------------------------------------- search


def _search(
    parents: Sequence[Parent], settings: MergeSettings, dev: Mapping[str, EvaluateInputs], folder: Path
) -> tuple[list[Parent], MergeSettings, tuple[SearchedMerge, ...]]:
    """Return the best candidate on the dev examples, and the results of all candidates."""
    merges, candidates, gains = [], [], []
    for method, share, density in GRID:
        weighted = [parent._replace(weight=share) for parent in parents]
        asked = replace(settings, method=method, density=density)
        place = folder / "candidates" / f"{method}-{share:g}-{density:g}"
        merge_or_resume(weighted, replace(asked, force=False), place)
        merges.append((weighted, asked))
        candidates.append(adapter_input(place.name, place))
    for name, inputs in dev.items():
        _, *tested = _compared(inputs, candidates, folder / "dev" / name)
        # A candidate that could not be evaluated counts as the worst.
        gains.append([-1.0 if row.gain is None else row.gain for row in tested])
    deltas = list(zip(*gains, strict=True))
    best = max(range(len(GRID)), key=lambda place: (min(deltas[place]), sum(deltas[place])))
    rows = tuple(
        SearchedMerge(
            method=method,
            weights=(share,) * len(parents),
            density=density if method in SPARSE else None,
            deltas=deltas[place],
            chosen=place == best,
        )
        for place, (method, share, density) in enumerate(GRID)
    )
    return *merges[best], rows
