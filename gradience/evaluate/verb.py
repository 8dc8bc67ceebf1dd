"""`evaluate_adapters`, the function of `gradience evaluate`: read, check, answer, compare, write.

Several data sets are an ordinary evaluation in a folder for each, and one report that joins them:

DIR/plan.json              the data sets, their margins and the candidates, fixed before the first answer
DIR/NAME/                  the evaluation on one data set: records, report, page, digests
DIR/evaluation_sets.json   all of them, and the grade of each candidate: B only if it is shown on every data set
DIR/digests.json           all of these files, each with its sha256
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing, nullcontext
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from gradience.digests import sha256_file
from gradience.errors import InputError, require_installed
from gradience.evaluate.adapters import AdapterInput
from gradience.evaluate.engines import OURS, engine
from gradience.evaluate.engines.base import memory_errors
from gradience.evaluate.evaluator import Answering, LoadedBase
from gradience.evaluate.forecast import forecast_evaluation, margins_of
from gradience.evaluate.inputs import EvaluateInputs, read_adapters, read_inputs
from gradience.evaluate.outcome import EXPLORATORY, SHOWN, groups_in_order, report_of
from gradience.evaluate.records import MANIFEST, RECORDS, RecordStore, changed_claims, count_test
from gradience.evaluate.settings import EvaluateSettings, sets_of
from gradience.files.artifact import digest_of
from gradience.files.digests import files_below, other_run, refuse_other_run, remove_digests, write_digests
from gradience.files.shared_names import path_text
from gradience.files.whole import only_one
from gradience.progress import Watcher
from gradience.reports import evaluation
from gradience.reports.base.graded import Grade
from gradience.reports.base.report import Report, Stopwatch, save_with_page
from gradience.reports.bench_plan import PlannedSet
from gradience.reports.shrink import ShrinkPlan
from gradience.settings import public
from gradience.tasks.examples import fingerprint
from gradience.words import counted

EVALUATION, DOCUMENT = "evaluation.json", "evaluation.md"


@public(EvaluateSettings)
def evaluate_adapters(
    settings: EvaluateSettings,
) -> evaluation.EvaluationReport | evaluation.EvaluationForecast | evaluation.EvaluationSetsReport:
    """Evaluate several adapters of one base on the same examples, and compare each with the first.

    >>> report = evaluate_adapters(
    ...     ["my_adapter", "smaller"], base_model="embedded:minilm", task="reviews", limit=64
    ... )
    >>> [(row.name, row.n, row.grade) for row in report.adapters]  # 64 examples are too few to decide
    [('my_adapter', 64, None), ('smaller', 64, 'C')]

    The base is loaded once, and every adapter answers the same batches. A dry run returns the cost estimate, a preview
    also the first examples. With several data sets, such as `guards={"general": "general.jsonl"}`, the report is an
    `EvaluationSetsReport`. Keywords, named like the flags of `gradience evaluate`:

    Raises InputError if adapters, data or base cannot be used, UsageError for contradictory options or if `output`
    contains a run of another command, MissingExtra, LockedError if another evaluation is writing to `output`,
    OutputError for disk and memory errors.
    """
    named = sets_of(settings)  # raises for invalid settings before libraries are imported
    joint = bool(named[0].set_name)
    if settings.output is not None:
        refuse_other_run(Path(settings.output), "evaluate")
        if not joint and (Path(settings.output) / PLAN).is_file():
            raise other_run(Path(settings.output), f"{PLAN} of another run", "evaluate")
    require_libraries(settings.engine)
    sets = read_sets(settings)
    if settings.preview or settings.dry_run:
        return forecast_sets(sets)
    for inputs in sets:
        report_notes(inputs, len(inputs.adapters) - 1)
    output = None if settings.output is None else Path(settings.output)
    if not joint:
        return evaluate(sets[0], output)
    with nullcontext() if output is None else only_one(output):
        return evaluate_each(sets, output, settings.watcher or Watcher())


def report_notes(inputs: EvaluateInputs, candidates: int) -> None:
    """Report notes on the inputs, and the smallest margin that their examples can show."""
    settings, before = inputs.request, f"{inputs.name}: " if inputs.name else ""
    if settings.note is not None:
        for note in inputs.notes:
            settings.note(f"{before}{note}")
        if inputs.looks and settings.limit is not None and settings.limit < inputs.looks[0]:
            first = f"the first planned look, at {inputs.looks[0]} examples, is completed"
            settings.note(f"{before}--limit {settings.limit} has no effect below {inputs.looks[0]}: {first}")
    if settings.watcher is not None and candidates and not inputs.compares_nll:
        examples = len(inputs.examples)
        if inputs.by_agreement:
            from gradience.statistics.paired import largest_share

            least = largest_share(0, [len(set(inputs.group_of.values())) or examples])
            settings.watcher.smallest_margin(
                f"{before}{counted(examples, 'prompt')} can show that at most {100 * least:.2g} % of the answers"
                " change, if none does"
            )
            return
        margins = margins_of(examples, inputs.margin, candidates, inputs.looks)
        text = evaluation.smallest_margin_text(examples, inputs.margin, margins, inputs.looks)
        settings.watcher.smallest_margin(f"{before}{text}")


def evaluate(
    inputs: EvaluateInputs,
    output: Path | None,
    *,
    base: LoadedBase | None = None,
    plan: str | None = None,
    beside: Path | None = None,
) -> evaluation.EvaluationReport:
    """Evaluate the inputs. Finished records in `output` are reused.

    Of several data sets: the `base` that they share, the digest of their `plan`, and the folder of the whole run, which
    the ledger is `beside`.
    """
    watch, watcher = Stopwatch(inputs.request.command), inputs.request.watcher or Watcher()
    with ExitStack() as stack:
        folder = output or Path(stack.enter_context(TemporaryDirectory()))
        stack.enter_context(only_one(folder))
        answering = Answering(inputs, folder, watcher, base=base)
        if plan is not None:
            answering.kept.bind(plan)
        answering.inputs = inputs = as_planned(inputs, answering.kept)
        fingerprint, tests = answering.fingerprint, None
        if output is not None and len(inputs.adapters) > 1 and not inputs.request.no_ledger:
            claim = [
                [_digests(adapter) for adapter in inputs.adapters[1:]],
                str(inputs.margin),
                inputs.task.scoring,
            ]
            tests = count_test(
                beside or output, _digests(inputs.reference), answering.data, claim, watcher.note
            )
        with memory_errors():
            rows = answering.run()
        if output is None:
            for row in rows:
                row.files.clear()
        report = report_of(answering, rows, fingerprint, watch).model_copy(update={"tests": tests})
        if output is not None:
            write_result(report, output)
        return report


def as_planned(inputs: EvaluateInputs, kept: RecordStore) -> EvaluateInputs:
    """Return the inputs with what changed since the first answers. The plan is stored if there are none yet."""
    candidates, examples = [adapter.name for adapter in inputs.adapters[1:]], len(inputs.examples)
    planned = kept.planned(examples, candidates)
    if (changed := changed_claims(kept.manifest.claims, candidates)) is not None:
        inputs = replace(inputs, notes=(*inputs.notes, changed))
    if candidates:
        first = kept.first_margin("nll" if inputs.compares_nll else "correct", inputs.margin)
        inputs = replace(inputs, first_margin=first if first != inputs.margin else None)
        if planned < examples:
            note = f"{planned:,} examples were planned, and there are {examples:,} now: no grade is above C"
            inputs = replace(inputs, grown_from=planned, notes=(*inputs.notes, note))
    return inputs


def _digests(adapter: AdapterInput) -> tuple[str, str]:
    return adapter.identity.weights_sha256 or adapter.name, adapter.identity.config_sha256


def write_result(report: evaluation.EvaluationReport, output: Path) -> None:
    """Write the report, the page, and last the digests of both and of the records."""
    records = [file.path for row in report.adapters for file in row.records]
    _write(report, output, [EVALUATION, DOCUMENT, f"{RECORDS}/{MANIFEST}", *records])


def _write(report: Report, output: Path, names: Sequence[str]) -> None:
    remove_digests(output)
    save_with_page(report, output / names[0])
    write_digests(output, names)


def require_libraries(engine_name: str = "transformers") -> None:
    """Check that the libraries of an evaluation are installed. Raises MissingExtra, UsageError (`unknown-engine`).

    Those of our engines are not imported.
    """
    require_installed("scipy", extra="hf")
    if engine_name in OURS or engine(engine_name).local:
        require_installed("torch", "transformers", "peft", "accelerate", "datasets", extra="hf")


# ---------------------------------------------------------------- several data sets


P = TypeVar("P", evaluation.EvaluationPlan, ShrinkPlan)

PLAN, JOINT, JOINT_DOCUMENT = "plan.json", "evaluation_sets.json", "evaluation_sets.md"
EDITED = "plan.json is not the plan that the records name"
ORDER: tuple[Grade, ...] = ("X", "D", "C", "B")
"""Grades, the worst first."""
MISSING = "plan.json was missing, so the earlier plan is unknown"


def planned_set(inputs: EvaluateInputs) -> PlannedSet:
    """Return a data set as described in a plan."""
    return PlannedSet(name=inputs.name, guard=inputs.request.is_guard, **planned_fields(inputs))


def planned_fields(inputs: EvaluateInputs) -> dict[str, Any]:
    """Return the fields of a plan that describe a data set's examples, without its name."""
    return {
        "task": inputs.task.name,
        "role": inputs.role,
        "examples": len(inputs.examples),
        "examples_sha256": fingerprint(inputs.examples),
        "looks": inputs.looks,
        "groups": groups_in_order(inputs),
        "compares": inputs.compares,
        "margin": inputs.margin,
    }


def read_sets(
    settings: EvaluateSettings, adapters: tuple[AdapterInput, ...] | None = None
) -> tuple[EvaluateInputs, ...]:
    """Read and check every data set; no model is loaded. Raises as `sets_of` and `read_inputs` do.

    adapters: those of the settings, if they have been read. Several sets have a folder each, and the base is a row.
    """
    sets, adapters, output = [], adapters or read_adapters(settings), settings.output
    for request in sets_of(settings):
        if name := request.set_name:
            request = replace(request, with_base=True, output=output and Path(output, name))
        sets.append(read_inputs(request, adapters))
    return tuple(sets)


def forecast_sets(sets: Sequence[EvaluateInputs]) -> evaluation.EvaluationForecast:
    """Return the dry run: the memory that each evaluation needs, and the smallest margin that it can show."""
    first, *others = map(forecast_evaluation, sets)
    forecasts = {inputs.name: other for inputs, other in zip(sets[1:], others, strict=True)}
    notes = (f"{name}: {note}" for name, other in forecasts.items() for note in other.notes)
    return first.model_copy(update={"others": forecasts, "notes": (*first.notes, *notes)})


# ---------------------------------------------------------------- the plan


def plan_of(sets: Sequence[EvaluateInputs]) -> evaluation.EvaluationPlan:
    """Return the plan of an evaluation on several data sets."""
    from gradience.statistics.paired import LEVEL  # imports scipy

    inputs = sets[0]
    reference = inputs.reference.identity
    return evaluation.EvaluationPlan(
        reference_sha256=reference.weights_sha256,
        reference_config_sha256=reference.config_sha256,
        candidates=tuple(adapter.identity.weights_sha256 or adapter.name for adapter in inputs.adapters[1:]),
        base=path_text(inputs.model.name),
        sets=tuple(map(planned_set, sets)),
        level=Fraction(str(LEVEL)),
    )


def write_plan(
    plan: P,
    path: Path,
    folders: Callable[[P], Iterable[Path]],
    claim_of: Callable[[P], Mapping[str, str]],
    watcher: Watcher,
) -> P:
    """Write a plan, and return it with the changes made after the first answers, earlier ones and those of now.

    folders: of the evaluations that follow a plan. claim_of: everything that the claim of a plan depends on, in words,
    with the digest of its reference under `adapter`. watcher: is notified of each new change, and of the digest.
    Raises InputError if an existing plan cannot be read.
    """
    earlier = type(plan).read(path) if path.exists() else None
    bound = {bound_plan(folder) for folder in folders(earlier or plan)} - {None}
    known = set() if earlier is None else {sha256_file(path), digest_of(earlier)}
    changes: list[str] = [EDITED if known else MISSING] if bound - known else []
    before: tuple[str, ...] = ()
    old, new = claim_of(earlier or plan), claim_of(plan)
    if earlier is not None and old["adapter"] == new["adapter"]:
        before = earlier.changes
        for name in new if bound else ():
            was, is_now = ("were", "are") if name.endswith("s") else ("was", "is")
            if old[name] != new[name]:
                changes.append(f"the {name} {was} {old[name]}, and {is_now} {new[name]}")
    for change in changes:
        watcher.note(f"the plan changed after answers existed ({change}), so the result is exploratory")
    plan = plan.model_copy(update={"changes": (*before, *changes)})
    plan.save(path)
    watcher.planned(f"plan: {digest_of(plan)} (sha256 of {path})")
    return plan


def bound_plan(folder: Path) -> str | None:
    """Return the digest of the plan that the records of a data set name: None without answers, "" if it is unknown."""
    if not any((folder / RECORDS).glob("*.jsonl*")):
        return None
    try:
        return evaluation.KeptRecords.read(folder / RECORDS / MANIFEST).plan or ""
    except InputError:  # missing, or of another version
        return ""


def _claim(plan: evaluation.EvaluationPlan) -> dict[str, str]:
    sets = [f"{each.name} ({each.task}, {each.compares}, {each.examples_sha256[:8]})" for each in plan.sets]
    return {"adapter": plan.reference_sha256, "data sets": ", ".join(sets)}


# ---------------------------------------------------------------- the result


def evaluate_each(
    sets: Sequence[EvaluateInputs], output: Path | None, watcher: Watcher
) -> evaluation.EvaluationSetsReport:
    """Evaluate every data set on one base, join the results, and write them."""
    watch, plan, digest = Stopwatch(sets[0].request.command), plan_of(sets), None
    if output is not None:
        plan = write_plan(
            plan, output / PLAN, lambda plan: [output / each.name for each in plan.sets], _claim, watcher
        )
        digest = digest_of(plan)
    reports: dict[str, evaluation.EvaluationReport] = {}
    with closing(LoadedBase()) as base:
        for number, inputs in enumerate(sets, 1):
            watcher.data_set(inputs.name, number, len(sets))
            folder = output and output / inputs.name
            reports[inputs.name] = evaluate(inputs, folder, base=base, plan=digest, beside=output)
    report = joint_report(plan, digest, reports, watch)
    if output is not None:
        below = [name for name in files_below(output) if name.partition("/")[0] in reports]
        _write(report, output, [JOINT, JOINT_DOCUMENT, PLAN, *below])
    return report


def joint_report(
    plan: evaluation.EvaluationPlan,
    digest: str | None,
    reports: Mapping[str, evaluation.EvaluationReport],
    watch: Stopwatch,
) -> evaluation.EvaluationSetsReport:
    """Join the evaluations of the data sets of a plan."""
    return evaluation.EvaluationSetsReport(
        base=plan.base,
        plan=plan,
        plan_sha256=digest,
        adapters=joint_rows(reports, changed=bool(plan.changes)),
        evaluations=dict(reports),
        run=watch.run_info(),
    )


def joint_rows(
    reports: Mapping[str, evaluation.EvaluationReport], *, changed: bool = False
) -> tuple[evaluation.JointAdapter, ...]:
    """Return every adapter with its grade over all data sets.

    The null hypothesis "worse by the margin on at least one data set" is rejected if each data set rejects its own at
    the full level, so its p-value is the largest of theirs (R. L. Berger, Technometrics 24 (1982) 295-300). Holm's
    adjustment for several candidates is then of these p-values: that of each data set alone would let different
    candidates fail on different data sets at the full level each.
    """
    from gradience.statistics.paired import LEVEL, holm_adjusted

    rows_of = {
        rows[0].name: dict(zip(reports, rows, strict=True))
        for rows in zip(*(report.adapters for report in reports.values()), strict=True)
    }
    p_values = {
        name: max(1.0 if row.bounds is None else row.bounds.p_value for row in on_sets.values())
        for name, on_sets in rows_of.items()
        if any(row.role == evaluation.CANDIDATE for row in on_sets.values())
    }
    adjusted, joined = holm_adjusted(p_values), []
    for name, on_sets in rows_of.items():
        grade, reason = joint_grade(on_sets)
        if grade == "B" and adjusted[name] > LEVEL:
            grade, reason = "C", f"inconclusive after adjustment for {len(adjusted)} candidates: {reason}"
        if grade == "B" and changed:
            grade, reason = "C", f"{reason}; {EXPLORATORY.format('the plan was changed')}"
        tested = grade not in (None, "X")
        joined.append(
            evaluation.JointAdapter(
                name=name,
                role=next(iter(on_sets.values())).role,
                grade=grade,
                reason=reason,
                p_value=p_values[name] if tested else None,
                adjusted_p=adjusted[name] if tested else None,
                grades={of: row.grade for of, row in on_sets.items() if row.grade is not None},
            )
        )
    return tuple(joined)


def joint_grade(rows: Mapping[str, evaluation.EvaluatedAdapter]) -> tuple[Grade | None, str]:
    """Return the worst grade of an adapter on the data sets (X, D, C, B), and why; None for reference and base.

    rows: data set -> the adapter's row on it.
    """
    worst = next((each for each in ORDER if any(row.grade == each for row in rows.values())), None)
    reasons = {of: row.reason for of, row in rows.items() if row.grade == worst}
    said = "; ".join(f"{of}: {why.removeprefix(SHOWN)}" for of, why in reasons.items() if worst is not None)
    return worst, f"{SHOWN.removesuffix(': ')} on every data set; {said}" if worst == "B" else said
