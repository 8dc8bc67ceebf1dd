"""Down the rungs: each is made, evaluated and tested, and the first that is not shown ends the walk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gradience.compress.adapter import Documents
from gradience.compress.rotate import write_rotated
from gradience.errors import InputError
from gradience.evaluate.answering import Answering, Answers
from gradience.evaluate.inputs import AdapterInput, adapter_input
from gradience.evaluate.outcome import graded, row_of
from gradience.progress import Watcher
from gradience.reports.evaluation import EvaluatedAdapter
from gradience.reports.shrink import PlannedRung
from gradience.shrink.plan import CONTROL, DEV, Prepared
from gradience.shrink.rungs import KINDS

RUNGS = "rungs"
Make = Callable[[PlannedRung], AdapterInput]


@dataclass(frozen=True, slots=True)
class TestedRung:
    """A rung, its answers, and its row with the grade that they have."""

    rung: PlannedRung
    answers: Answers
    row: EvaluatedAdapter


@dataclass(frozen=True, slots=True)
class Walk:
    """What was evaluated on the test rows."""

    reference: Answers
    control: Answers | None
    """None where it could not be written."""
    control_reason: str
    tested: tuple[TestedRung, ...]


def start_on_dev(prepared: Prepared, output: Path, watcher: Watcher, make: Make) -> Sequence[TestedRung]:
    """Test the rungs on the dev rows, from the largest down to the first that is not shown there."""
    if not prepared.dev:
        return ()
    rungs, inputs = prepared.plan.rungs, replace(prepared.inputs, examples=prepared.dev)
    answering = Answering(inputs, output / DEV, watcher, rows=1 + len(rungs))
    return answering.work(lambda asked: tuple(down(asked, asked.reference(), rungs, make)))


def start_of(dev: Sequence[TestedRung]) -> int:
    """Return the place of the rung to begin with: one above the smallest that is shown on the dev rows.

    That one passes again more surely than the smallest itself, whose luck on the dev rows chose it.
    """
    shown = sum(tested.row.grade == "B" for tested in dev)
    return max(0, shown - 2)


def walk(
    prepared: Prepared, start: int, output: Path, watcher: Watcher, make: Make
) -> tuple[Answering, Walk]:
    """Evaluate the adapter, its rewrite control, and the rungs from `start` down, on the test rows."""
    rungs = prepared.plan.rungs[start:]
    control, reason = _control(prepared, output)
    rows = 1 + (control is not None) + len(rungs)
    answering = Answering(prepared.inputs, output, watcher, rows=rows, likelihoods=True)

    def evaluate(asked: Answering) -> Walk:
        reference = asked.reference()
        rewritten = None if control is None else asked.candidate(control)
        return Walk(reference, rewritten, reason, tuple(down(asked, reference, rungs, make)))

    return answering, answering.work(evaluate)


def down(
    answering: Answering, reference: Answers, rungs: Sequence[PlannedRung], make: Make
) -> Iterator[TestedRung]:
    """Test each rung at the full level; the first that is not shown is the last."""
    largest = 0.0
    for rung in rungs:
        answers = answering.candidate(make(rung))
        row = row_of(answering.inputs, reference, answers)
        if row.bounds is not None:
            largest = max(largest, row.bounds.p_value)
            row = graded(answering.inputs, row, largest)
        yield TestedRung(rung, answers, row)
        if row.grade != "B":
            return


def maker(prepared: Prepared, output: Path, documents: Documents | None) -> Make:
    """Return what makes a rung below `output`, once."""
    ready: dict[str, AdapterInput] = {}

    def make(rung: PlannedRung) -> AdapterInput:
        if rung.name not in ready:
            folder = output / RUNGS / rung.name
            KINDS[rung.kind].make(prepared.source, rung.rank, folder, documents)
            ready[rung.name] = adapter_input(rung.name, folder)
        return ready[rung.name]

    return make


def _control(prepared: Prepared, output: Path) -> tuple[AdapterInput | None, str]:
    """The adapter in other factors; or why it has none."""
    folder = output / RUNGS / CONTROL
    try:
        write_rotated(prepared.source.adapter, folder)
    except InputError as error:
        return None, str(error)
    return adapter_input(CONTROL, folder), ""
