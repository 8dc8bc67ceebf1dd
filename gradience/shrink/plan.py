"""What is decided before anything is evaluated: candidates, margin, rows, and which of those choose where to start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from gradience.audit.adapter import audit_adapter
from gradience.digests import sha256_text
from gradience.evaluate.adapters import BASE_ROW
from gradience.evaluate.answering import RECORDS
from gradience.evaluate.inputs import Inputs, read_inputs
from gradience.files.shared_names import path_text
from gradience.models.locate import locate
from gradience.reports.calibration import calibration_argument
from gradience.reports.shrink import DevRows, ShrinkPlan
from gradience.shrink.candidates import Source, plan_candidates, with_base
from gradience.shrink.prompts import distillation_of, notes_on_prompts, planned_distillation
from gradience.shrink.settings import ShrinkSettings
from gradience.tasks.examples import LabelledExample, fingerprint

PLAN = "plan.json"
DEV = "dev"
CONTROL = "rewrite"
UNSPLIT = 2000
"""Up to so many rows all are tested on; of more, never fewer."""
FEW_CANDIDATES = 4
"""Of so many all are tested on all rows: dev rows would save nothing (docs/decisions/016-shrink.md)."""
TEST = (
    "non-inferiority at the margin by {}, one-sided, on all test rows; in fixed sequence from the start down, each at"
    " the full level, until one is not shown"
)


@dataclass(frozen=True, slots=True)
class Prepared:
    """All that is known before a model is loaded."""

    inputs: Inputs
    """The adapter alone, and the rows that the candidates are tested on."""
    dev: Sequence[Any]
    """Rows that choose the start."""
    source: Source
    plan: ShrinkPlan


def prepare(settings: ShrinkSettings) -> Prepared:
    """Read and audit the adapter, read the rows, and plan. Raises what reading, auditing and planning raise."""
    request, candidates = settings.evaluation, settings.ranks
    calibration = calibration_argument(settings.calibration)
    inputs = read_inputs(request)
    adapter = inputs.reference
    prompts = settings.distill_prompts
    distillation, distillation_ids = (
        (None, ()) if prompts is None else distillation_of(request, Path(prompts))
    )
    source = Source(
        adapter.folder, audit_adapter(adapter.folder), calibration=calibration, distillation=distillation
    )
    if adapter.fields.get("use_dora"):  # which is written anew for the base that it stands on
        source = with_base(source, locate(inputs.model).folder)
    planned, notes = plan_candidates(source, candidates)
    names = {*(candidate.name for candidate in planned), CONTROL, BASE_ROW}
    if adapter.name.casefold() in names:
        adapter = replace(adapter, name=f"{adapter.name}-original")
    test, dev, dev_rows = split(inputs, len(planned))
    planned_distill = None if distillation is None else planned_distillation(distillation)
    known = notes_on_prompts(test, calibration, distillation_ids)
    inputs = replace(inputs, adapters=(adapter,), examples=test, notes=(*inputs.notes, *notes, *known))
    suggestions = source.audit.suggestions
    from gradience.statistics.paired import LEVEL

    plan = ShrinkPlan(
        adapter=path_text(adapter.given),
        adapter_sha256=adapter.identity.weights_sha256,
        adapter_config_sha256=adapter.identity.config_sha256,
        rank=source.rank,
        lora_params=adapter.lora_params,
        base=path_text(inputs.model.name),
        task=inputs.task.name,
        role=inputs.role,
        examples=len(test),
        examples_sha256=fingerprint(test),
        dev=dev_rows,
        compares="nll" if inputs.compares_nll else "correct",
        margin=inputs.margin,
        level=Fraction(str(LEVEL)),
        test=TEST.format("Student's test" if inputs.compares_nll else "Tango's score test"),
        suggested_rank=None if suggestions is None else suggestions.p90.rank,
        given=candidates is not None,
        candidates=planned,
        calibration_sha256=None if calibration is None else calibration.sha256,
        distillation=planned_distill,
    )
    return Prepared(inputs, dev, source, plan)


# ---------------------------------------------------------------- rows


def split(inputs: Inputs, candidates: int) -> tuple[Sequence[Any], Sequence[Any], DevRows | None]:
    """Return the rows that are tested on, the dev rows, and what the plan says of those.

    For up to 4 candidates, or 2,000 rows, there are none. Else they are the task's own where it has some; or the rows
    beyond 2,000, at most half of all, chosen by what they hold, so that neither order nor seed matters.
    """
    rows = inputs.examples
    if len(rows) <= UNSPLIT or candidates <= FEW_CANDIDATES:
        return rows, (), None
    given = inputs.task.examples.of("dev")[: len(rows) // 2] if inputs.role == "confirm" else ()
    if given:
        return rows, given, _dev_rows("task", given)
    size = min(len(rows) // 2, len(rows) - UNSPLIT)
    order = sorted(range(len(rows)), key=lambda place: sha256_text(f"dev\0{_content(rows[place])}"))
    chosen = {*order[:size]}
    test = [row for place, row in enumerate(rows) if place not in chosen]
    dev = [row for place, row in enumerate(rows) if place in chosen]
    return test, dev, _dev_rows("split", dev)


def _dev_rows(source: Any, rows: Sequence[Any]) -> DevRows:
    return DevRows(source=source, examples=len(rows), examples_sha256=fingerprint(rows))


def _content(row: Any) -> str:
    if isinstance(row, LabelledExample):
        return f"{row.text}\0{row.text_pair or ''}"
    return f"{row.prompt}\0{row.response}"


# ---------------------------------------------------------------- on the disk


def settle(plan: ShrinkPlan, output: Path, note: Callable[[str], None]) -> ShrinkPlan:
    """Write the plan to the disk, and return it with what was another while answers were there already.

    note: told of each such change. Raises InputError for a plan that is there and cannot be read.
    """
    path = output / PLAN
    if not path.exists():
        plan.save(path)
        return plan
    earlier = ShrinkPlan.read(path)
    if earlier.adapter_sha256 == plan.adapter_sha256:
        changes = _changes(earlier, plan) if any((output / RECORDS).glob("*.jsonl*")) else ()
        for change in changes:
            note(f"the plan has changed after answers were there: {change}")
        plan = plan.model_copy(update={"changes": (*earlier.changes, *changes)})
    plan.save(path)
    return plan


def _changes(earlier: ShrinkPlan, now: ShrinkPlan) -> tuple[str, ...]:
    """What of the claim is another, in sentences."""

    def ranks(plan: ShrinkPlan) -> str:
        cut = all(candidate.kind == "truncated" for candidate in plan.candidates)
        return ", ".join(str(candidate.rank) if cut else candidate.words for candidate in plan.candidates)

    changes = []
    if [(candidate.kind, candidate.rank) for candidate in earlier.candidates] != [
        (candidate.kind, candidate.rank) for candidate in now.candidates
    ]:
        changes.append(f"the candidates were {ranks(earlier)}, and are {ranks(now)}")
    # That there is none any more is said by the candidates.
    if earlier.calibration_sha256 and now.calibration_sha256 not in (None, earlier.calibration_sha256):
        changes.append("the calibration is another")
    if earlier.distillation and now.distillation not in (None, earlier.distillation):
        changes.append("the prompts or settings of the distillation are others")
    if earlier.margin != now.margin:
        before, after = (plan.drop(plan.margin) for plan in (earlier, now))
        changes.append(f"the margin was {before}, and is {after}")
    if (earlier.examples_sha256, earlier.dev) != (now.examples_sha256, now.dev):
        changes.append(f"the rows are others: {earlier.examples:,} were tested on, now {now.examples:,}")
    if earlier.base != now.base:
        changes.append(f"the base was {earlier.base}, and is {now.base}")
    if earlier.adapter_config_sha256 != now.adapter_config_sha256:
        changes.append("the adapter's config is another")
    return tuple(changes)
