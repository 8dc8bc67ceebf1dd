"""Make, evaluate and test candidates from the largest to the smallest, until one is not shown."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from gradience.compress.rotate import write_rotated
from gradience.errors import InputError
from gradience.evaluate.adapters import AdapterInput, adapter_input
from gradience.evaluate.evaluator import AdapterAnswers, Answering, LoadedBase
from gradience.evaluate.inputs import EvaluateInputs
from gradience.evaluate.outcome import graded, row_of
from gradience.files.artifact import digest_of
from gradience.progress import Watcher
from gradience.reports.evaluation import EvaluatedAdapter
from gradience.reports.shrink import PlannedCandidate
from gradience.shrink.candidates import KINDS, CandidateSource
from gradience.shrink.plan import CONTROL, GUARDS, Prepared

CANDIDATES = "candidates"
Make = Callable[[PlannedCandidate], AdapterInput]


@dataclass(frozen=True, slots=True)
class SetResults:
    """Results on one data set."""

    inputs: EvaluateInputs
    reference: AdapterAnswers
    tested: Mapping[str, EvaluatedAdapter]
    """Name -> graded row of each candidate that was tested here."""
    control: AdapterAnswers | None = None
    """The rewrite control; None on a guard, and if it could not be written."""

    def shown(self, candidates: Sequence[PlannedCandidate]) -> list[PlannedCandidate]:
        """Return the candidates that are shown here."""
        grades = {name: row.grade for name, row in self.tested.items()}
        return [candidate for candidate in candidates if grades.get(candidate.name) == "B"]


@dataclass(frozen=True, slots=True)
class SearchResults:
    """Results on the data sets that were reached, the task first."""

    sets: Sequence[SetResults]
    base_fingerprint: str
    control_reason: str = ""
    """Reason for a missing rewrite control."""


def search_candidates(
    prepared: Prepared, output: Path, watcher: Watcher, make: Make, base: LoadedBase
) -> SearchResults:
    """Test on each data set the candidates that are shown on those before; on the task also the rewrite control.

    A candidate is shown only if it is shown on every data set, so one that fails is not tested on the later sets. Each
    set is tested from the largest candidate to the smallest, so the order of the candidates stays fixed.
    """
    control, reason = _control(prepared, output)
    candidates: Sequence[PlannedCandidate] = prepared.plan.candidates
    results: list[SetResults] = []
    fingerprint = ""
    for number, inputs in enumerate(prepared.sets, 1):
        folder, rows = output, 1 + len(candidates)
        if number == 1:
            rows += control is not None
        else:
            folder, control = output / GUARDS / inputs.name, None
            watcher.data_set(inputs.name, number, len(prepared.sets))
        answering = Answering(inputs, folder, watcher, rows=rows, likelihoods=number == 1, base=base)
        answering.kept.bind(digest_of(prepared.plan))
        results.append(answering.work(partial(results_on, candidates=candidates, make=make, control=control)))
        fingerprint, candidates = answering.fingerprint, results[-1].shown(candidates)
        if not candidates:
            break
    return SearchResults(results, fingerprint, reason)


def results_on(
    answering: Answering,
    candidates: Sequence[PlannedCandidate],
    make: Make,
    control: AdapterInput | None = None,
) -> SetResults:
    """Evaluate the adapter, its rewrite control if there is one, and the candidates in order on one data set."""
    reference = answering.reference()
    rewritten = None if control is None else answering.candidate(control, lambda row: True)
    tested = search_in_order(answering, reference, candidates, make)
    return SetResults(answering.inputs, reference, tested, rewritten)


def search_in_order(
    answering: Answering, reference: AdapterAnswers, candidates: Sequence[PlannedCandidate], make: Make
) -> dict[str, EvaluatedAdapter]:
    """Return the graded row of each candidate tested at the full level, up to the first that is not shown."""
    largest, rows = 0.0, dict[str, EvaluatedAdapter]()
    for candidate in candidates:
        row = row_of(answering.inputs, reference, answering.candidate(make(candidate), answering.stops))
        if row.bounds is not None:
            largest = max(largest, row.bounds.p_value)
            row = graded(answering.inputs, row, largest)
        rows[candidate.name] = row
        if row.grade != "B":
            break
    return rows


def maker(source: CandidateSource, output: Path) -> Make:
    """Return a function that makes each candidate below `output` once."""

    @cache
    def make(candidate: PlannedCandidate) -> AdapterInput:
        folder = output / CANDIDATES / candidate.name
        KINDS[candidate.kind].make(source, candidate.rank, folder)
        return adapter_input(candidate.name, folder)

    return make


def _control(prepared: Prepared, output: Path) -> tuple[AdapterInput | None, str]:
    """Return the rewrite control, or the reason for its absence."""
    folder = output / CANDIDATES / CONTROL
    try:
        write_rotated(prepared.source.adapter, folder)
    except InputError as error:
        return None, str(error)
    return adapter_input(CONTROL, folder), ""
