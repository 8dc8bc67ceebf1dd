"""Make, evaluate and test candidates from the largest to the smallest, until one is not shown."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from gradience.compress.rotate import write_rotated
from gradience.errors import InputError
from gradience.evaluate.adapters import AdapterInput, adapter_input
from gradience.evaluate.answering import AdapterAnswers, Answering
from gradience.evaluate.evaluator import LoadedBase
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
class TestedCandidate:
    """A candidate with its answers and its graded row."""

    candidate: PlannedCandidate
    answers: AdapterAnswers
    row: EvaluatedAdapter


@dataclass(frozen=True, slots=True)
class TaskResults:
    """Results on the task's test rows."""

    reference: AdapterAnswers
    control: AdapterAnswers | None
    """None if it could not be written."""
    control_reason: str
    tested: tuple[TestedCandidate, ...]


@dataclass(frozen=True, slots=True)
class GuardResults:
    """Results on one guard."""

    inputs: EvaluateInputs
    reference: AdapterAnswers
    tested: tuple[TestedCandidate, ...]


def search_candidates(
    prepared: Prepared, output: Path, watcher: Watcher, make: Make, base: LoadedBase
) -> tuple[Answering, TaskResults]:
    """Evaluate the adapter, its rewrite control, and the candidates in order on the task's test rows."""
    candidates = prepared.plan.candidates
    control, reason = _control(prepared, output)
    rows = 1 + (control is not None) + len(candidates)
    answering = Answering(prepared.inputs, output, watcher, rows=rows, likelihoods=True, base=base)

    def evaluate(current: Answering) -> TaskResults:
        reference = current.reference()
        rewritten = None if control is None else current.candidate(control, lambda row: True)
        return TaskResults(
            reference, rewritten, reason, tuple(search_in_order(current, reference, candidates, make))
        )

    return answering, answering.work(evaluate)


def search_guards(
    prepared: Prepared, results: TaskResults, output: Path, watcher: Watcher, make: Make, base: LoadedBase
) -> tuple[GuardResults, ...]:
    """Test on each guard the candidates that are shown on the earlier data sets.

    A candidate is shown only if it is shown on every data set, so one that fails is not tested on the later sets. Each
    set is tested from the largest candidate to the smallest, so the order of the candidates stays fixed.
    """
    all_results, shown = [], shown_of(results.tested)
    for number, guard in enumerate(prepared.guards, 2):
        if not shown:
            break
        watcher.data_set(guard.name, number, 1 + len(prepared.guards))
        answering = Answering(guard, output / GUARDS / guard.name, watcher, rows=1 + len(shown), base=base)
        answering.kept.bind(digest_of(prepared.plan))
        all_results.append(answering.work(partial(_on_guard, candidates=shown, make=make)))
        shown = shown_of(all_results[-1].tested)
    return tuple(all_results)


def _on_guard(answering: Answering, candidates: Sequence[PlannedCandidate], make: Make) -> GuardResults:
    reference = answering.reference()
    tested = tuple(search_in_order(answering, reference, candidates, make))
    return GuardResults(answering.inputs, reference, tested)


def shown_of(tested: Sequence[TestedCandidate]) -> list[PlannedCandidate]:
    """Return the candidates that are shown."""
    return [each.candidate for each in tested if each.row.grade == "B"]


def search_in_order(
    answering: Answering, reference: AdapterAnswers, candidates: Sequence[PlannedCandidate], make: Make
) -> Iterator[TestedCandidate]:
    """Yield each candidate tested at the full level, up to the first that is not shown."""
    largest = 0.0
    for candidate in candidates:
        answers = answering.candidate(make(candidate), answering.stops)
        row = row_of(answering.inputs, reference, answers)
        if row.bounds is not None:
            largest = max(largest, row.bounds.p_value)
            row = graded(answering.inputs, row, largest)
        yield TestedCandidate(candidate, answers, row)
        if row.grade != "B":
            return


def maker(source: CandidateSource, output: Path) -> Make:
    """Return a function that makes each candidate below `output` once."""
    ready: dict[str, AdapterInput] = {}

    def make(candidate: PlannedCandidate) -> AdapterInput:
        if candidate.name not in ready:
            folder = output / CANDIDATES / candidate.name
            KINDS[candidate.kind].make(source, candidate.rank, folder)
            ready[candidate.name] = adapter_input(candidate.name, folder)
        return ready[candidate.name]

    return make


def _control(prepared: Prepared, output: Path) -> tuple[AdapterInput | None, str]:
    """Return the rewrite control, or the reason for its absence."""
    folder = output / CANDIDATES / CONTROL
    try:
        write_rotated(prepared.source.adapter, folder)
    except InputError as error:
        return None, str(error)
    return adapter_input(CONTROL, folder), ""
