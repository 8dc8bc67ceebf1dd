"""`shrink_adapter`, the function behind `gradience shrink`: audit, plan, make, evaluate, write.

DIR/plan.json       plan, written before anything is evaluated
DIR/calibration.safetensors   calibration on the prompts, if it was made here
DIR/candidates/NAME/     each candidate with its compression report; and the rewrite control
DIR/records/        answers on the test examples
DIR/guards/NAME/    answers on a guard
DIR/adapter/        smallest candidate shown to stay within the margin; its card names the evidence
DIR/shrink.json     evidence
DIR/digests.json    sha256 of all these files except the candidates
"""

import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from gradience.adapters.formats import open_adapter
from gradience.adapters.locate import CONFIG, WEIGHTS
from gradience.digests import sha256_file
from gradience.errors import InputError, UsageError
from gradience.evaluate.engines import require_local
from gradience.evaluate.engines.base import memory_errors
from gradience.evaluate.evaluator import LoadedBase
from gradience.evaluate.kept import MANIFEST, RECORDS, count_test
from gradience.evaluate.settings import sets_of
from gradience.evaluate.verb import PLAN, report_notes, require_libraries, write_plan
from gradience.files.card import CardOf, write_card
from gradience.files.digests import files_below, refuse_other_run, remove_digests, write_digests
from gradience.files.whole import check_output, only_one, whole_folder, write_errors
from gradience.progress import Watcher
from gradience.reports.base.report import save_with_page
from gradience.reports.base.run import Stopwatch
from gradience.reports.calibration import Calibration
from gradience.reports.evaluation import EvaluationForecast
from gradience.reports.evaluation_sets import EvaluationSetsReport
from gradience.reports.shrink import ShrinkForecast, ShrinkPlan, ShrinkReport
from gradience.settings import public
from gradience.shrink.candidates import DISTILLED, CandidateSource, calibration_on
from gradience.shrink.outcome import report_of
from gradience.shrink.plan import GUARDS, Prepared, changes_of, forecast_shrink, prepare, read_search
from gradience.shrink.search import CANDIDATES, maker, search_candidates
from gradience.shrink.settings import ShrinkSettings

SHRUNK, DOCUMENT, ADAPTER = "shrink.json", "shrink.md", "adapter"
CALIBRATION = "calibration.safetensors"
CALIBRATES = "the search calibrates on the prompts first: sizes, start and memory will differ"


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
    require_libraries(settings.engine)
    from gradience.shrink import strength

    over_strength = settings.over == "strength"
    if over_strength:
        strength.refuse(settings)
    elif not settings.dry_run:
        refuse_output(Path(settings.adapter), settings.folder)
    with open_adapter(Path(settings.adapter), tokenizer=settings.tokenizer != "base") as opened:
        if over_strength:
            return strength.search_strength(settings, opened)
        search = read_search(settings, opened)
        prepared = prepare(search, settings.ranks)
        calibrates = settings.prompts_beside_examples and settings.calibration is None
        if settings.dry_run:
            forecast = forecast_shrink(prepared)
            notes = (CALIBRATES,) if calibrates else ()
            return forecast.model_copy(update={"notes": (*forecast.notes, *notes)})
        if calibrates:
            source = replace(search.source, calibration=_calibration(settings, search.source))
            prepared = prepare(replace(search, source=source), settings.ranks)
        report_notes(prepared.sets[0], 1)
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


def refuse_output(adapter: Path, output: Path) -> None:
    """Refuse an output in or over the adapter, or with an adapter in it that no search has written.

    Raises UsageError (`output-is-input`, `output-exists`, `not-ours`, `output-other-run`).
    """
    refuse_other_run(output, "shrink")
    check_output(output / ADAPTER, adapter, force=(output / SHRUNK).exists() or (output / PLAN).exists())
    if output.resolve() == adapter.resolve():
        raise UsageError(
            f"{output}: the output is the adapter itself",
            code="output-is-input",
            hint="choose another output folder",
        )


def shrink(prepared: Prepared, settings: ShrinkSettings) -> ShrinkReport:
    """Search for the smallest candidate shown to stay within the margin. Finished work in the folder is reused."""
    watch, watcher, output = Stopwatch(settings.command), settings.watcher or Watcher(), settings.folder
    with only_one(output):
        plan = write_plan(prepared.plan, output / PLAN, lambda _: [output], changes_of, watcher)
        prepared = replace(prepared, plan=plan)
        tests = None if prepared.sets[0].request.no_ledger else _count(plan, output, watcher.note)
        make = maker(prepared.source, output)
        for candidate in plan.candidates:
            if candidate.kind == DISTILLED.name:  # while no other base is loaded
                watcher.stage(f"{candidate.name}/distill", 1, None)
                make(candidate)
        with memory_errors(), closing(LoadedBase()) as base:
            results = search_candidates(prepared, output, watcher, make, base)
        report = report_of(plan, sha256_file(output / PLAN), results, watch)
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
        PLAN,
        SHRUNK,
        DOCUMENT,
        f"{RECORDS}/{MANIFEST}",
        *(file.path for row in rows if row for file in row.records),
    }
    beside = (f"{ADAPTER}/", f"{GUARDS}/", CALIBRATION)
    write_digests(output, {*names, *(name for name in files_below(output) if name.startswith(beside))})


def put_in_place(output: Path, name: str | None, note: Callable[[str], None]) -> None:
    """Copy the candidate of this name to `adapter/`, as it was evaluated; None removes the adapter there."""
    target = output / ADAPTER
    if name is None:
        with write_errors(target):
            if target.exists():
                shutil.rmtree(target)
                note(
                    f"{target} was removed: no smaller adapter is shown any more; {output / CANDIDATES}"
                    " holds the tested candidates"
                )
        return
    source = output / CANDIDATES / name
    if target.exists() and all(_same(source / file, target / file) for file in (WEIGHTS, CONFIG)):
        return
    if target.exists():
        note(f"{target} was replaced: it holds {name} now")
    with whole_folder(target, force=True) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True)


def _same(a: Path, b: Path) -> bool:
    return b.is_file() and sha256_file(a) == sha256_file(b)
