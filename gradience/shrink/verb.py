"""`shrink_adapter`, the function behind `gradience shrink`: audit, plan, make, evaluate, write.

DIR/plan.json       plan, written before anything is evaluated
DIR/calibration.safetensors   calibration on the prompts, if it was made here
DIR/candidates/NAME/     each candidate with its compression report; and the rewrite control
DIR/records/        answers on the test examples
DIR/guards/NAME/    answers on a guard
DIR/adapter/        smallest candidate shown to stay within the margin; its card names the evidence
DIR/shrink.json     evidence
DIR/digests.json    sha256 of all these files except the candidates

`--over strength` evaluates all strengths and ranks on dev rows, and tests the best on test rows. It writes instead:

DIR/candidates/NAME/   each point of the grid, as `gradience compress --strength` writes it
DIR/dev/               the evaluation of all points on the dev rows; its plot `frontier`
DIR/test/              the evaluation of the chosen point on the test rows
DIR/adapter/           the chosen point, if it is shown on every data set
"""

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from gradience.adapters.adapter import Adapter
from gradience.adapters.formats import open_adapter
from gradience.adapters.locate import CONFIG, WEIGHTS
from gradience.audit.adapter import audit_opened
from gradience.calibrate.settings import DistillSettings
from gradience.calibrate.verb import prompt_id
from gradience.calibrate.verb import read_inputs as read_prompts
from gradience.digests import sha256_file, sha256_text
from gradience.distill.verb import FEWEST
from gradience.errors import InputError, UsageError
from gradience.evaluate import verb as evaluation
from gradience.evaluate.adapters import BASE_ROW, AdapterInput, adapter_input, short_names
from gradience.evaluate.engines import require_local
from gradience.evaluate.engines.base import memory_errors
from gradience.evaluate.evaluator import LoadedBase
from gradience.evaluate.forecast import margins_of
from gradience.evaluate.inputs import EvaluateInputs, read_inputs, split, with_adapters, with_looks
from gradience.evaluate.records import MANIFEST, RECORDS, count_test
from gradience.evaluate.settings import EvaluateSettings, sets_of
from gradience.files.card import CardOf, write_card
from gradience.files.digests import files_below, refuse_other_run, remove_digests, write_digests
from gradience.files.shared_names import path_text
from gradience.files.whole import check_output, only_one, whole_folder, write_errors
from gradience.models.locate import locate
from gradience.models.settings import BaseSettings
from gradience.progress import Watcher
from gradience.reports.base.report import Stopwatch, save_with_page
from gradience.reports.bench_plan import Compares
from gradience.reports.calibration import Calibration, calibration_argument
from gradience.reports.evaluation import ComparisonForecast, EvaluationForecast, EvaluationSetsReport
from gradience.reports.shrink import PlannedDistillation, ShrinkForecast, ShrinkPlan, ShrinkReport
from gradience.settings import paths_of, public, shared
from gradience.shrink import search
from gradience.shrink.candidates import (
    DISTILLED,
    CandidateSource,
    TruncatedKind,
    calibration_on,
    plan_candidates,
    suggested,
)
from gradience.shrink.settings import ShrinkSettings
from gradience.tasks.examples import LabeledExample

SHRUNK, DOCUMENT, ADAPTER = "shrink.json", "shrink.md", "adapter"
CALIBRATION = "calibration.safetensors"
CALIBRATES = "the search calibrates on the prompts first: sizes, start and memory will differ"

TESTED = (
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

STRENGTHS = (0.9, 0.8, 0.7, 0.6, 0.5)
"""Default grid."""
DEV, TEST = "dev", "test"
RULE = (
    "on the dev rows, the task's drop is at most half of its margin; of these, the largest gain on the guards, in units"
    " of their margins"
)


@public(ShrinkSettings)
def shrink_adapter(
    settings: ShrinkSettings,
) -> ShrinkReport | ShrinkForecast | EvaluationSetsReport | EvaluationForecast:
    """Write the smallest tested adapter whose drop from `adapter` is shown to be below the margin; return the evidence.

    >>> report = shrink_adapter(
    ...     "my_adapter", "shrunk", base_model="embedded:minilm", task="reviews", limit=64, ranks=[4], margin=5
    ... )
    >>> report.smallest, [candidate.status for candidate in report.candidates]
    ('rank4', ['shown'])

    Candidates are smaller copies, tested on the same examples from the largest down. The search ends at the first that
    is not shown to stay within the margin. With `guards`, a candidate must stay within the margin of each guard as
    well. `over="strength"` tests scaled copies instead, and needs `guards`. Returns:

    - a `ShrinkReport`, or with `over="strength"` the `EvaluationSetsReport` of the chosen strength on the test rows
    - for a dry run a `ShrinkForecast` (plan and cost), or with `over="strength"` an `EvaluationForecast`

    Keywords, named like the flags of `gradience shrink`:

    Raises what `compress_adapter` and `evaluate_adapters` raise, UsageError if no candidate is smaller.
    """
    require_local(settings.engine)
    sets_of(settings.evaluation)  # raises for invalid settings before libraries are imported
    evaluation.require_libraries(settings.engine)
    over_strength = settings.over == "strength"
    if over_strength and not settings.guards:
        raise UsageError(
            "--over strength needs a guard, to measure what the adapter forgets",
            code="strength-needs-guard",
            hint="add --guard general=rows.jsonl, or for a language model --guard text",
        )
    if over_strength and settings.prompts is not None:
        raise UsageError(
            "--over strength needs examples with answers, so --prompts cannot be used",
            code="strength-needs-answers",
            hint="give --data or --task instead",
        )
    if not settings.dry_run:
        refuse_output(Path(settings.adapter), settings.folder, over_strength=over_strength)
    with open_adapter(Path(settings.adapter), tokenizer=settings.tokenizer != "base") as opened:
        if over_strength:
            return search_strength(settings, opened)
        read = read_search(settings, opened)
        prepared = prepare(read, settings.ranks)
        calibrates = settings.prompts_beside_examples and settings.calibration is None
        if settings.dry_run:
            forecast = forecast_shrink(prepared)
            notes = (CALIBRATES,) if calibrates else ()
            return forecast.model_copy(update={"notes": (*forecast.notes, *notes)})
        if calibrates:
            source = replace(read.source, calibration=_calibration(settings, read.source))
            prepared = prepare(replace(read, source=source), settings.ranks)
        evaluation.report_notes(prepared.sets[0], 1)
        return shrink(prepared, settings)


def _calibration(settings: ShrinkSettings, source: CandidateSource) -> Calibration | None:
    """Return the calibration on the prompts, made once; None if no module can be calibrated, as with DoRA."""
    watcher, output = settings.watcher or Watcher(), settings.folder
    assert source.distillation is not None
    request = replace(source.distillation.student, progress=watcher.step)
    with only_one(output):
        watcher.stage(f"{Path(settings.adapter).name}/calibration", 1, None)
        try:
            return calibration_on(request, source.adapter, output / CALIBRATION)
        except InputError as error:
            if error.code != "nothing-calibrated":
                raise
            watcher.note(str(error))
            return None


# ---------------------------------------------------------------- the plan


def read_search(settings: ShrinkSettings, opened: Adapter) -> search.SearchInputs:
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
    return search.SearchInputs(sets=sets, source=source, notes=notes)


def reference_of(settings: ShrinkSettings, opened: Adapter) -> AdapterInput:
    """Return the facts of the open adapter, under its short name. Raises what `AdapterInput.of` raises."""
    path = Path(settings.adapter)
    return AdapterInput.of(short_names([path.resolve()])[0], path, opened)


def prepare(read: search.SearchInputs, ranks: Sequence[int] | None) -> search.Prepared:
    """Plan the candidates of `ranks` (by default, those that the audit suggests). Raises what planning raises."""
    source, adapter = read.source, read.sets[0].reference
    calibration, distillation = source.calibration, source.distillation
    planned, notes = plan_candidates(source, ranks)
    names = {*(candidate.name for candidate in planned), search.CONTROL, BASE_ROW}
    if adapter.name.casefold() in names:
        adapter = replace(adapter, name=f"{adapter.name}-original")
    inputs, *guards = (replace(each, adapters=(adapter,)) for each in read.sets)
    inputs = replace(inputs, notes=(*inputs.notes, *notes, *read.notes))
    from gradience.statistics.paired import LEVEL

    plan = ShrinkPlan(
        adapter=path_text(adapter.given),
        adapter_sha256=adapter.identity.weights_sha256,
        adapter_config_sha256=adapter.identity.config_sha256,
        rank=source.rank,
        lora_params=adapter.lora_params,
        base=path_text(inputs.model.name),
        **evaluation.planned_fields(inputs),
        level=Fraction(str(LEVEL)),
        test=TESTED.format(MEASURES[inputs.compares], AT_LOOKS if inputs.looks else AT_ONCE),
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
        guards=tuple(map(evaluation.planned_set, guards)),
    )
    return search.Prepared(sets=(inputs, *guards), source=source, plan=plan)


def _planned_limit(settings: ShrinkSettings, name: str) -> int | None:
    """Return the number of rows to read: with a smaller limit than planned, the tests stop at an earlier look.

    name: of the data set.
    """
    path = settings.folder / evaluation.PLAN
    if settings.limit is None or not path.exists():
        return settings.limit
    plan = ShrinkPlan.read(path)
    planned = next((guard for guard in plan.guards if guard.name == name), plan)
    return max(settings.limit, planned.examples) if planned.looks else settings.limit


def forecast_shrink(prepared: search.Prepared) -> ShrinkForecast:
    """Return the dry run of `prepared`; only the base's config.json and tokenizer are read."""
    plan, (inputs, *guards) = prepared.plan, prepared.sets
    smaller = [
        replace(inputs.reference, name=candidate.name, lora_params=candidate.lora_params)
        for candidate in plan.candidates
    ]
    rewritten = replace(inputs.reference, name=search.CONTROL)
    tested = replace(inputs, adapters=(inputs.reference, rewritten, *smaller))
    expected = evaluation.forecast_sets([tested, *guards])
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


def refuse_output(adapter: Path, output: Path, *, over_strength: bool) -> None:
    """Refuse an output in or over the adapter, or with an adapter in it that no such search has written.

    Raises UsageError (`output-is-input`, `output-exists`, `not-ours`, `output-other-run`).
    """
    refuse_other_run(output, "shrink --over strength" if over_strength else "shrink")
    ours = (f"{DEV}/{evaluation.JOINT}",) if over_strength else (SHRUNK, evaluation.PLAN)
    check_output(output / ADAPTER, adapter, force=any((output / name).exists() for name in ours))
    if output.resolve() == adapter.resolve():
        raise UsageError(
            f"{output}: the output is the adapter itself",
            code="output-is-input",
            hint="choose another output folder",
        )


def shrink(prepared: search.Prepared, settings: ShrinkSettings) -> ShrinkReport:
    """Search for the smallest candidate shown to stay within the margin. Finished work in the folder is reused."""
    watch, watcher, output = Stopwatch(settings.command), settings.watcher or Watcher(), settings.folder
    with only_one(output):
        plan = evaluation.write_plan(
            prepared.plan, output / evaluation.PLAN, lambda _: [output], claim_of, watcher
        )
        prepared = replace(prepared, plan=plan)
        tests = None if prepared.sets[0].request.no_ledger else _count(plan, output, watcher.note)
        make = search.maker(prepared.source, output)
        for candidate in plan.candidates:
            if candidate.kind == DISTILLED.name:  # while no other base is loaded
                watcher.stage(f"{candidate.name}/distill", 1, None)
                make(candidate)
        with memory_errors(), closing(LoadedBase()) as base:
            results = search.search_candidates(prepared, output, watcher, make, base)
        report = search.report_of(plan, sha256_file(output / evaluation.PLAN), results, watch)
        report = report.model_copy(update={"tests": tests})
        put_in_place(output, report.smallest, watcher.note)
        write_result(report, output, settings.card)
        return report


def _count(plan: ShrinkPlan, output: Path, note: Callable[[str], None]) -> int | None:
    """Count the test of a plan, identified by its fields other than names."""
    names = {"adapter", "base", "changes", "suggested_rank", "given"}
    claim = plan.model_dump(mode="json", exclude=names)
    reference = plan.adapter_sha256, plan.adapter_config_sha256
    return count_test(output, reference, plan.examples_sha256, claim, note)


def write_result(report: ShrinkReport, output: Path, card: CardOf | None) -> None:
    """Write the report, its pages, and last the digests of all files, including plan, adapter and records."""
    remove_digests(output)
    save_with_page(report, output / SHRUNK)
    if card is not None and report.smallest is not None:
        write_card(output / ADAPTER, card(output / ADAPTER, report))
    rows = [report.reference, report.control.result, *(candidate.result for candidate in report.candidates)]
    names = {
        evaluation.PLAN,
        SHRUNK,
        DOCUMENT,
        f"{RECORDS}/{MANIFEST}",
        *(file.path for row in rows if row for file in row.records),
    }
    beside = (f"{ADAPTER}/", f"{search.GUARDS}/", CALIBRATION)
    write_digests(output, {*names, *(name for name in files_below(output) if name.startswith(beside))})


def put_in_place(output: Path, name: str | None, note: Callable[[str], None]) -> None:
    """Copy the candidate of this name to `adapter/`, as it was evaluated; None removes the adapter there."""
    target = output / ADAPTER
    if name is None:
        with write_errors(target):
            if target.exists():
                shutil.rmtree(target)
                note(
                    f"{target} was removed: no smaller adapter is shown any more; {output / search.CANDIDATES}"
                    " holds the tested candidates"
                )
        return
    source = output / search.CANDIDATES / name
    if target.exists() and all(_same(source / file, target / file) for file in (WEIGHTS, CONFIG)):
        return
    if target.exists():
        note(f"{target} was replaced: it holds {name} now")
    with whole_folder(target, force=True) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True)


def _same(a: Path, b: Path) -> bool:
    return b.is_file() and sha256_file(a) == sha256_file(b)


# ---------------------------------------------------------------- over strength


def search_strength(settings: ShrinkSettings, opened: Adapter) -> EvaluationSetsReport | EvaluationForecast:
    """Choose a point on the dev rows, and return its evaluation on the test rows.

    If no point is chosen, only the reference and the base are evaluated there. Raises what reading, compressing and
    evaluating raise.
    """
    watcher, output = settings.watcher or Watcher(), settings.folder
    reference, calibration = reference_of(settings, opened), calibration_argument(settings.calibration)
    source = CandidateSource(opened, audit_opened(opened), calibration=calibration, card=settings.card)
    sets = evaluation.read_sets(replace(settings.evaluation, output=output), (reference,))
    points = grid(settings.strengths or STRENGTHS, settings.ranks or (source.rank,), source.rank)
    dev, test = zip(*map(split, sets), strict=True)

    def evaluated(
        part: Iterable[EvaluateInputs], candidates: Sequence[AdapterInput], folder: Path
    ) -> EvaluationSetsReport:
        tested = [with_adapters(each, (reference, *candidates)) if candidates else each for each in part]
        with only_one(folder):
            return evaluation.evaluate_each(tested, folder, watcher)

    if settings.dry_run:
        planned = [
            replace(reference, name=name, lora_params=kind.plan(source, rank).new_params)
            for name, (kind, rank) in points.items()
        ]
        return evaluation.forecast_sets([with_adapters(each, (reference, *planned)) for each in dev])
    for each in sets:
        evaluation.report_notes(each, 0)
    with only_one(output):
        for name, (kind, rank) in points.items():
            kind.make(source, rank, output / search.CANDIDATES / name)
        scaled = {name: adapter_input(name, output / search.CANDIDATES / name) for name in points}
        chosen = choose(evaluated(dev, [*scaled.values()], output / DEV))
        watcher.note(f"{chosen or 'no point'} is chosen: {RULE}")
        report = evaluated(test, [] if chosen is None else [scaled[chosen]], output / TEST)
        put_in_place(
            output, chosen if "B" in [row.grade for row in report.candidates] else None, watcher.note
        )
    return report


def grid(strengths: Sequence[float], ranks: Sequence[int], rank: int) -> dict[str, tuple[TruncatedKind, int]]:
    """Return every strength at every rank, the strongest and largest first; without the adapter itself.

    >>> [*grid((0.5, 1.0), (8, 4), rank=8)]
    ['strength0.5', 'strength1-rank4', 'strength0.5-rank4']
    """
    return {
        f"strength{by:g}" + ("" if each == rank else f"-rank{each}"): (TruncatedKind(strength=by), each)
        for each in sorted({min(each, rank) for each in ranks}, reverse=True)
        for by in sorted(set(strengths), reverse=True)
        if (each, by) != (rank, 1.0)
    }


def choose(report: EvaluationSetsReport) -> str | None:
    """Return the candidate that `RULE` chooses; None if none is better on the guards."""

    def drops(name: str, *, guard: bool) -> list[float]:
        """Drops on the task or on the guards, in units of the margins."""
        sets = [planned for planned in report.plan.sets if planned.guard == guard]
        return [-(report.rows_on(each.name)[name].gain or 0.0) / float(each.margin) for each in sets]

    rows = [row.name for row in report.candidates if row.grade != "X"]
    kept = [name for name in rows if max(drops(name, guard=False)) <= 0.5]
    best = min(kept, key=lambda name: sum(drops(name, guard=True)), default=None)
    return best if best is not None and sum(drops(best, guard=True)) < 0 else None
