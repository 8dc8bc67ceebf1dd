"""Plan a shrink before the evaluation: candidates, margin and test rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from gradience.adapters.adapter import Adapter
from gradience.audit.adapter import audit_opened
from gradience.calibrate.settings import DistillSettings
from gradience.calibrate.verb import prompt_id
from gradience.calibrate.verb import read_inputs as read_prompts
from gradience.digests import sha256_file, sha256_text
from gradience.distill.verb import FEWEST
from gradience.errors import UsageError
from gradience.evaluate.adapters import BASE_ROW, AdapterInput, short_names
from gradience.evaluate.forecast import margins_of
from gradience.evaluate.inputs import EvaluateInputs, read_inputs, with_looks
from gradience.evaluate.settings import EvaluateSettings, sets_of
from gradience.evaluate.verb import PLAN, forecast_sets, planned_fields, planned_set
from gradience.files.shared_names import path_text
from gradience.models.locate import locate
from gradience.models.settings import BaseSettings
from gradience.reports.bench_plan import Compares
from gradience.reports.calibration import Calibration, calibration_argument
from gradience.reports.evaluation import ComparisonForecast
from gradience.reports.shrink import PlannedDistillation, ShrinkForecast, ShrinkPlan
from gradience.settings import paths_of, shared
from gradience.shrink.candidates import CandidateSource, plan_candidates, suggested
from gradience.shrink.settings import ShrinkSettings
from gradience.tasks.examples import LabeledExample

CONTROL = "rewrite_control"
GUARDS = "guards"
"""Folder with the records of each guard."""
TEST = (
    "non-inferiority at the margin by {}, one-sided, {}; in fixed sequence from the start down, each at the full level,"
    " until one is not shown"
)
MEASURES: Mapping[Compares, str] = {
    "correct": "Tango's score test",
    "nll": "Student's test",
    "agreement": "the exact binomial bound of changed answers",
}
AT_ONCE = "on all test rows"
AT_LOOKS = (
    "at planned looks with Lan and DeMets' alpha spending of Pocock's type, and a non-binding stop below a conditional"
    " power of 5 %"
)


@dataclass(frozen=True, kw_only=True)
class SearchInputs:
    """Inputs of a search, before it is planned."""

    sets: Sequence[EvaluateInputs]
    """Reference adapter and test rows of each data set in test order: the task, then the guards."""
    source: CandidateSource
    notes: Sequence[str] = ()
    """On prompts and calibration."""


@dataclass(frozen=True, kw_only=True)
class Prepared(SearchInputs):
    """Inputs and plan, before a model is loaded."""

    plan: ShrinkPlan


def read_search(settings: ShrinkSettings, opened: Adapter) -> SearchInputs:
    """Audit the open adapter, and read all rows. Raises what reading and auditing raise."""
    request, prompts = settings.evaluation, None
    if settings.prompts_beside_examples:
        request, prompts = replace(request, prompts=None), settings.prompts
    calibration = calibration_argument(settings.calibration)
    adapter = reference_of(settings, opened)
    sets = []
    for each in sets_of(request):
        inputs = read_inputs(replace(each, limit=_planned_limit(settings, each.set_name)), (adapter,))
        sets.append(with_looks(replace(inputs, request=each)))
    tested = frozenset(_asked(example) for inputs in sets for example in inputs.examples)
    distillation, notes = (
        (None, ()) if prompts is None else distillation_of(sets[0].request, opened, Path(prompts), tested)
    )
    source = CandidateSource(
        opened,
        audit_opened(opened),
        calibration=calibration,
        distillation=distillation,
        card=settings.card,
    )
    if adapter.fields.get("use_dora"):  # DoRA needs the weights of its base
        source = replace(source, base_model=locate(sets[0].model).folder)
    notes = (*notes, *notes_on_calibration(calibration, tested))
    return SearchInputs(sets=sets, source=source, notes=notes)


def reference_of(settings: ShrinkSettings, opened: Adapter) -> AdapterInput:
    """Return the facts of the open adapter, under its short name. Raises what `AdapterInput.of` raises."""
    path = Path(settings.adapter)
    return AdapterInput.of(short_names([path.resolve()])[0], path, opened)


def prepare(search: SearchInputs, ranks: Sequence[int] | None) -> Prepared:
    """Plan the candidates of `ranks` (by default, those that the audit suggests). Raises what planning raises."""
    source, adapter = search.source, search.sets[0].reference
    calibration, distillation = source.calibration, source.distillation
    planned, notes = plan_candidates(source, ranks)
    names = {*(candidate.name for candidate in planned), CONTROL, BASE_ROW}
    if adapter.name.casefold() in names:
        adapter = replace(adapter, name=f"{adapter.name}-original")
    inputs, *guards = (replace(each, adapters=(adapter,)) for each in search.sets)
    inputs = replace(inputs, notes=(*inputs.notes, *notes, *search.notes))
    from gradience.statistics.paired import LEVEL

    plan = ShrinkPlan(
        adapter=path_text(adapter.given),
        adapter_sha256=adapter.identity.weights_sha256,
        adapter_config_sha256=adapter.identity.config_sha256,
        rank=source.rank,
        lora_params=adapter.lora_params,
        base=path_text(inputs.model.name),
        **planned_fields(inputs),
        level=Fraction(str(LEVEL)),
        test=TEST.format(MEASURES[inputs.compares], AT_LOOKS if inputs.looks else AT_ONCE),
        suggested_rank=suggested(source),
        given=ranks is not None,
        candidates=planned,
        calibration_sha256=None if calibration is None else calibration.sha256,
        distillation=None
        if distillation is None
        else PlannedDistillation(
            prompts=path_text(distillation.prompts),
            prompts_sha256=sha256_file(Path(distillation.prompts)),
            **{name: getattr(distillation, name) for name in ("steps", "lr", "batch_size", "seed")},
        ),
        guards=tuple(map(planned_set, guards)),
    )
    return Prepared(sets=(inputs, *guards), source=source, plan=plan)


def _planned_limit(settings: ShrinkSettings, name: str) -> int | None:
    """Return the number of rows to read: with a smaller limit than planned, the tests stop at an earlier look.

    name: of the data set.
    """
    path = settings.folder / PLAN
    if settings.limit is None or not path.exists():
        return settings.limit
    plan = ShrinkPlan.read(path)
    planned = next((guard for guard in plan.guards if guard.name == name), plan)
    return max(settings.limit, planned.examples) if planned.looks else settings.limit


def forecast_shrink(prepared: Prepared) -> ShrinkForecast:
    """Return the dry run of `prepared`; only the base's config.json and tokenizer are read."""
    plan, (inputs, *guards) = prepared.plan, prepared.sets
    smaller = [
        replace(inputs.reference, name=candidate.name, lora_params=candidate.lora_params)
        for candidate in plan.candidates
    ]
    rewritten = replace(inputs.reference, name=CONTROL)
    tested = replace(inputs, adapters=(inputs.reference, rewritten, *smaller))
    expected = forecast_sets([tested, *guards])
    values = {name: getattr(expected, name) for name in ComparisonForecast.model_fields if name != "schema_"}
    values["batch_bytes"] = (
        max(each.batch_bytes or 0 for each in (expected, *expected.others.values())) or None
    )
    if expected.margins:  # the candidates are tested in sequence, each at the full level
        values["margins"] = margins_of(len(inputs.examples), inputs.margin, 1, inputs.looks)
    return ShrinkForecast(plan=plan, candidates=plan.candidates, **values)


# ---------------------------------------------------------------- rows


def distillation_of(
    settings: EvaluateSettings, opened: Adapter, prompts: Path, tested: frozenset[str]
) -> tuple[DistillSettings, tuple[str, ...]]:
    """Return settings to distill the smallest candidate (defaults of `gradience distill`), and a note on excluded
    prompts.

    Prompts that are also test examples are used neither to calibrate nor to distill.

    Raises UsageError (`too-few-rows`), and what reading prompts raises.
    """
    adapter = paths_of(settings.adapters)[0]
    base = {**shared(settings, BaseSettings), "max_length": settings.max_length, "left_out": tested}
    distillation = DistillSettings(adapter, teacher=adapter, prompts=prompts, **base)
    rows = read_prompts(distillation.student, opened).rows
    if len(rows.all) < FEWEST:
        raise UsageError(
            f"{prompts}: {len(rows.all)} different rows that are not tested, but distillation needs at least {FEWEST}",
            code="too-few-rows",
            hint="give a few hundred prompts like those that the adapter will see",
        )
    if not rows.left_out:
        return distillation, ()
    return distillation, (
        f"{rows.left_out:,} of the {rows.left_out + len(rows.all):,} prompts are test examples and are left out",
    )


def notes_on_calibration(calibration: Calibration | None, tested: frozenset[str]) -> tuple[str, ...]:
    """Return a note on prompts of a given calibration that are also test examples."""
    if calibration is None:
        return ()
    known = calibration.report.prompt_ids
    if not known:
        return ("this calibration does not list its prompts: make sure that none of them is a test example",)
    both = sum(prompt in tested for prompt in known)
    if not both:
        return ()
    return (
        f"{both:,} of the {len(known):,} calibration prompts are also test examples: all results may be too good",
    )


def _asked(example: Any) -> str:
    if isinstance(example, LabeledExample):
        return prompt_id(example.text, example.text_pair)
    return prompt_id(str(example.prompt))


# ---------------------------------------------------------------- on the disk


def claim_of(plan: ShrinkPlan) -> dict[str, str]:
    """Return everything that affects the claim of a plan, in words."""
    cut = all(candidate.kind == "truncated" for candidate in plan.candidates)
    guards = [f"{each.name} ({each.margin_words}, {each.examples_sha256[:8]})" for each in plan.guards]
    trained = plan.distillation
    return {
        "adapter": plan.adapter_sha256,
        "candidates": ", ".join(str(row.rank) if cut else row.words for row in plan.candidates),
        "calibration": (plan.calibration_sha256 or "none")[:8],
        "distillation": "none" if trained is None else f"{trained.prompts} ({sha256_text(str(trained))[:8]})",
        "margin": plan.margin_words,
        "examples": f"{plan.examples:,} {'at looks' if plan.looks else 'at once'} ({plan.examples_sha256[:8]})",
        "guards": ", ".join(guards) or "none",
        "base": plan.base,
        "adapter's config": plan.adapter_config_sha256[:8],
    }
