"""`evaluate_adapters`: what `gradience evaluate` does, as one function: read, check, answer, compare, write."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from gradience.errors import require_installed
from gradience.evaluate.adapters import AdapterInput
from gradience.evaluate.answering import Answering
from gradience.evaluate.engines import OURS, engine
from gradience.evaluate.engines.base import memory_errors
from gradience.evaluate.evaluator import LoadedBase
from gradience.evaluate.forecast import forecast_evaluation, margins_of, preview_evaluation, read_preview
from gradience.evaluate.inputs import EvaluateInputs, read_inputs
from gradience.evaluate.kept import MANIFEST, RECORDS, changed_claims
from gradience.evaluate.ledger import count_test
from gradience.evaluate.outcome import report_of
from gradience.evaluate.sets import has_several, sets_of
from gradience.evaluate.settings import EvaluateSettings, ExampleSettings
from gradience.files.digests import remove_digests, write_digests
from gradience.models.lock import only_one
from gradience.progress import Watcher
from gradience.reading import open_stream
from gradience.reports.base.report import save_with_page
from gradience.reports.base.run import Stopwatch
from gradience.reports.evaluation import EvaluationForecast, EvaluationPreview, EvaluationReport, showable
from gradience.reports.evaluation_sets import (
    EvaluationPlan,
    EvaluationSetsForecast,
    EvaluationSetsPreview,
    EvaluationSetsReport,
)
from gradience.settings import public
from gradience.words import counted

EVALUATION, DOCUMENT = "evaluation.json", "evaluation.md"


@public(EvaluateSettings)
def evaluate_adapters(
    settings: EvaluateSettings,
) -> (
    EvaluationReport
    | EvaluationForecast
    | EvaluationPreview
    | EvaluationSetsReport
    | EvaluationSetsForecast
    | EvaluationSetsPreview
):
    """Evaluate several adapters of one base on the same examples, and compare each with the first.

    >>> report = evaluate_adapters(
    ...     ["my_adapter", "smaller"], base_model="embedded:minilm", task="reviews", limit=64
    ... )
    >>> [(row.name, row.n, row.grade) for row in report.adapters]  # 64 examples are too few to decide
    [('my_adapter', 64, None), ('smaller', 64, 'C')]

    The base is loaded once, and every adapter answers the same batches. A dry run returns what the evaluation needs, a
    preview its first examples. With several data sets, such as `guards={"general": "general.jsonl"}`, the report is an
    `EvaluationSetsReport`. The keywords are the flags of `gradience evaluate`:

    Raises InputError if adapters, data or base cannot be used, UsageError for contradictory options,
    MissingExtra, LockedError if another evaluation is writing to `output`, OutputError for disk and memory
    errors.
    """
    several = has_several(settings) or joint_before(settings)
    if several:
        sets_of(settings)  # refuses what is wrong before libraries are imported
    require_libraries(settings.engine)
    if several:
        from gradience.evaluate.joint import evaluate_sets

        return evaluate_sets(settings)
    if settings.preview:
        return preview_evaluation(read_preview(settings))
    inputs = read_inputs(settings)
    if settings.dry_run:
        return forecast_evaluation(inputs)
    say_notes(settings, inputs, len(inputs.adapters) - 1)
    return evaluate(inputs, None if settings.output is None else Path(settings.output))


def joint_before(settings: EvaluateSettings) -> bool:
    """Return True if the output holds a run of several data sets: leaving its guards out is a change of its plan."""
    plan = None if settings.output is None else Path(settings.output) / "plan.json"
    if plan is None or not plan.is_file():
        return False
    with open_stream(plan) as file:
        return EvaluationPlan.schema_id.encode() in file.read(100)


def say_notes(settings: ExampleSettings, inputs: EvaluateInputs, candidates: int, before: str = "") -> None:
    """Report what was noticed in the inputs, and the margin that their examples can show. before: starts each line."""
    if settings.note is not None:
        for note in inputs.notes:
            settings.note(f"{before}{note}")
    if settings.watcher is not None and candidates and not inputs.compares_nll:
        examples = len(inputs.examples)
        if inputs.by_agreement:
            from gradience.statistics.agreement import largest_share

            least = largest_share(0, [len(set(inputs.group_of.values())) or examples])
            settings.watcher.showable(
                f"{before}{counted(examples, 'prompt')} can show that at most {100 * least:.2g} % of the answers"
                " change, if none does"
            )
            return
        able = showable(examples, margins_of(examples, candidates, inputs.looks))
        settings.watcher.showable(f"{before}{able}")


def evaluate(
    inputs: EvaluateInputs,
    output: Path | None,
    *,
    base: LoadedBase | None = None,
    plan: str | None = None,
    beside: Path | None = None,
) -> EvaluationReport:
    """Evaluate what was read; what is finished in `output` is used again.

    Of several data sets: the `base` that they share, the digest of their `plan`, and the folder of the whole run, which
    the ledger is `beside`.
    """
    watch, watcher = Stopwatch(inputs.request.command), inputs.request.watcher or Watcher()
    with nullcontext() if output is None else only_one(output):
        answering = Answering(inputs, output, watcher, base=base)
        if answering.kept is not None and plan is not None:
            answering.kept.bind(plan)
        if answering.kept is not None:
            candidates, examples = [adapter.name for adapter in inputs.adapters[1:]], len(inputs.examples)
            planned = answering.kept.planned(examples, candidates)
            if (changed := changed_claims(answering.kept.claims, candidates)) is not None:
                answering.inputs = inputs = replace(inputs, notes=(*inputs.notes, changed))
            first = inputs.margin
            if len(inputs.adapters) > 1:
                first = answering.kept.first_margin("nll" if inputs.compares_nll else "correct", first)
            if first != inputs.margin:
                answering.inputs = inputs = replace(inputs, first_margin=first)
            if planned < examples and inputs.looks:
                note = (
                    f"{planned:,} examples were planned, and there are {examples:,} now: no grade is above C"
                )
                answering.inputs = replace(inputs, grown_from=planned, notes=(*inputs.notes, note))
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
        report = report_of(answering, rows, fingerprint, watch).model_copy(update={"tests": tests})
        if output is not None:
            write_result(report, output)
        return report


def _digests(adapter: AdapterInput) -> tuple[str, str]:
    return adapter.identity.weights_sha256 or adapter.name, adapter.identity.config_sha256


def write_result(report: EvaluationReport, output: Path) -> None:
    """Write the report, the page, and last the digests of both and of the records that it rests on."""
    names = [
        EVALUATION,
        DOCUMENT,
        f"{RECORDS}/{MANIFEST}",
        *(file.path for row in report.adapters for file in row.records),
    ]
    remove_digests(output)
    save_with_page(report, output / EVALUATION)
    write_digests(output, names)


def require_libraries(engine_name: str = "transformers") -> None:
    """Check that the libraries of an evaluation are there. Raises MissingExtra, UsageError (`unknown-engine`).

    Those of our engines are not imported.
    """
    require_installed("scipy", extra="hf")
    if engine_name in OURS or engine(engine_name).local:
        require_installed("torch", "transformers", "peft", "accelerate", "datasets", extra="hf")
