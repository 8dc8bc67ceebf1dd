"""A shrink or an evaluation, made again from its records by the functions that made it, and compared with its JSON."""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from gradience import __version__, tasks
from gradience.adapters.adapter import Adapter
from gradience.adapters.formats import open_adapter
from gradience.adapters.locate import WEIGHTS
from gradience.adapters.tensors import type_names
from gradience.bench.verify.folder import Findings, Link
from gradience.bench.verify.recompute import check_records, repeated, scored_again
from gradience.card import EVALUATED, card_of
from gradience.compare.adapters import compare_modules
from gradience.compress.carry import DISTILL_REPORT, REPORT
from gradience.digests import sha256_file
from gradience.distill.verb import mean_kl, p_closer
from gradience.errors import GradienceError, InputError
from gradience.evaluate import outcome as evaluated
from gradience.evaluate import verb as evaluation
from gradience.evaluate.adapters import AdapterIdentity, AdapterInput
from gradience.evaluate.evaluator import AdapterAnswers, Answering, T
from gradience.evaluate.inputs import EvaluateInputs, groups_of, in_look_order
from gradience.evaluate.records import MANIFEST, RECORDS, changed_claims
from gradience.evaluate.settings import EvaluateSettings
from gradience.evaluate.verb import JOINT, PLAN, bound_plan, joint_report
from gradience.files.card import read_card, with_block
from gradience.files.records import Evaluation, ExamplesRun, first, read_records
from gradience.files.shared_names import sentence_text
from gradience.models.locate import EMBEDDED, recorded_base
from gradience.models.settings import ModelSettings
from gradience.progress import Watcher
from gradience.ranks import max_lora_rank_step
from gradience.reports.base.report import Report, RunInfo, Stopwatch
from gradience.reports.bench_plan import PLANNED
from gradience.reports.compression import CompressionReport
from gradience.reports.distill import DistillReport
from gradience.reports.evaluation import (
    BASE,
    EvaluatedAdapter,
    EvaluationPlan,
    EvaluationReport,
    EvaluationSetsReport,
    KeptRecords,
    RecordsFile,
)
from gradience.reports.shrink import PlannedCandidate, ShrinkPlan, ShrinkReport, tested_by
from gradience.shrink import search
from gradience.shrink import verb as shrink
from gradience.shrink.candidates import DISTILLED, TRUNCATED
from gradience.shrink.search import GUARDS, SearchResults, SetResults, results_on
from gradience.tasks import base
from gradience.tasks.chat import Unchanged
from gradience.tasks.examples import Examples, fingerprint

Facts = Iterable[Link]
WEIGHTS_MATCH = "{}: digest, ranks, parameters and types match the weights"


class KnownAdapters(ExitStack):
    """The adapters that a result names, as far as they are here. Each is opened once."""

    def __init__(self, place: Path) -> None:
        """place: folder of the result."""
        super().__init__()
        self.place = place
        self._opened: dict[Path, Adapter] = {}

    def at(self, folder: Path) -> Adapter:
        """Return the adapter in this folder. Raises what `open_adapter` raises."""
        if folder not in self._opened:
            self._opened[folder] = self.enter_context(open_adapter(folder))
        return self._opened[folder]

    def named(self, path: str, sha256: str) -> Adapter | None:
        """Return the adapter that a report names, if it is in the result, beside it or here, with this digest."""
        name = Path(path).name
        for folder in (self.place / "candidates" / name, self.place.parent / name, Path(path)):
            with suppress(InputError):
                if os.path.exists(folder) and self.at(folder).sha256() == sha256:  # else a name on the hub
                    return self.at(folder)
        return None


# ---------------------------------------------------------------- adapters that were evaluated


def check_evaluated(
    adapters: KnownAdapters,
    row: EvaluatedAdapter,
    reference: EvaluatedAdapter,
    file: str,
    findings: Findings,
    folder: Path | None = None,
) -> None:
    """Compare the row of an evaluation with the adapter. folder: where it must be; by default where it is found."""
    if row.role == BASE or row.sha256 is None:
        return
    if folder is None:
        opened = adapters.named(row.path, row.sha256) if row.path else None
        if opened is None:
            problem = f"its weights are not here (sha256 {row.sha256[:12]}…)"
            findings.gap(f"ranks and parameters of {row.name}: {problem}")
            return
        folder = opened.location.path
    place = adapters.place
    where = folder.relative_to(place).as_posix() if folder.is_relative_to(place) else folder.name
    with findings.check("adapter", "L1", f"the row {row.name} matches the files in {where}/", where):
        adapter = AdapterInput.of(row.name, folder, adapters.at(folder))
        smallest, largest = adapter.ranks or (None, None)
        whole = reference.lora_params
        again = {
            "sha256": adapter.identity.weights_sha256,
            "config_sha256": adapter.identity.config_sha256,
            "smallest_rank": smallest,
            "largest_rank": largest,
            "lora_params": adapter.lora_params,
            "other_params": adapter.other_params,
            "params_saved": row.params_saved and whole and 1 - adapter.lora_params / whole,
        }
        findings.compare((file, f"{row.name}.{field}", getattr(row, field), again[field]) for field in again)


# ---------------------------------------------------------------- adapters that were written


def check_compression(folder: Path, findings: Findings, adapters: KnownAdapters) -> CompressionReport | None:
    """Compare compression_report.json with the weights beside it; return the report, if there is one.

    If the reference adapter is found, the errors are measured again.
    """
    if not (folder / REPORT).is_file():
        return None
    report = CompressionReport.read(folder / REPORT)
    with findings.check("weights", "L1", WEIGHTS_MATCH.format(REPORT)):
        findings.compare(_compressed(report, adapters.at(folder)))
    before = adapters.named(report.source_path, report.source_sha256)
    if before is None:
        findings.gap(
            f"the errors in {REPORT}: the original is not here (sha256 {report.source_sha256[:12]}…)"
        )
        return report
    with findings.check("errors", "L1", f"{REPORT}: the errors of all modules, measured again"):
        now = {pair.module: pair for pair in adapters.at(folder).pairs}
        rows = {row.name: row for row in report.modules}
        for pair in before.pairs:
            error = compare_modules(pair, now.get(pair.module))[1].relative_difference
            row = rows.get(pair.module)
            if row is None:
                findings.mismatch(REPORT, f"{pair.module} is missing", "modules")
            elif not math.isclose(row.measured_error or 0.0, error or 0.0, rel_tol=1e-6, abs_tol=1e-8):
                problem = f"{row.measured_error} recorded, {error} measured"
                findings.mismatch(REPORT, problem, f"modules.{pair.module}.measured_error")
    return report


def _compressed(report: CompressionReport, adapter: Adapter) -> Facts:
    rows, pairs = report.modules, {pair.module: pair for pair in adapter.pairs}
    written = [row for row in rows if row.new_rank]
    old, new = sum(row.old_params for row in rows), sum(pair.params for pair in pairs.values())
    yield REPORT, "output_sha256", report.output_sha256, adapter.sha256()
    yield REPORT, "old_params", report.old_params, old
    yield REPORT, "new_params", report.new_params, new
    yield REPORT, "reduction", report.reduction, 1 - new / old if old else 0.0
    yield REPORT, "new_bytes", report.new_bytes, adapter.bytes
    yield REPORT, "dropped", [*report.dropped], [row.name for row in rows if not row.new_rank]
    largest = max((pair.rank for pair in pairs.values()), default=0)
    yield REPORT, "new_max_lora_rank", report.new_max_lora_rank, max_lora_rank_step(largest)
    yield REPORT, "modules", len(written), len(pairs)
    for row in written:
        pair = pairs.get(row.name)
        if pair is None:
            yield REPORT, f"modules.{row.name}", "recorded", "not in the file"
            continue
        at = f"modules.{row.name}"
        yield REPORT, f"{at}.stored_rank", row.stored_rank, pair.rank
        yield "adapter_config.json", row.name, pair.declared_rank or pair.rank, pair.rank
        yield REPORT, f"{at}.new_rank", row.new_rank <= row.stored_rank, True
        yield REPORT, f"{at}.new_params", row.new_params, pair.params
        yield REPORT, f"{at}.new_bytes", row.new_bytes, pair.bytes
        yield REPORT, f"{at}.dtype", row.dtype, type_names(pair.a.entry.dtype, pair.b.entry.dtype)
        scale = row.scale * report.strength
        yield REPORT, f"{at}.scale", scale, float(pair.scale or 0.0) * row.folded


def check_distillation(folder: Path, findings: Findings, adapters: KnownAdapters) -> None:
    """Compare distill_report.json with the weights beside it, and recompute its means from its rows."""
    report = DistillReport.read(folder / DISTILL_REPORT)
    with findings.check("weights", "L1", WEIGHTS_MATCH.format(DISTILL_REPORT), DISTILL_REPORT):
        findings.compare(_distilled(report, adapters.at(folder)))
    with findings.check("held-out rows", "L1", f"{DISTILL_REPORT}: the means follow from these examples"):
        tokens = np.array([row.tokens for row in report.by_row], dtype=np.int64)
        before = np.array([row.kl_per_example_before for row in report.by_row])
        after = np.array([row.kl_per_example_after for row in report.by_row])
        best = min(report.checks, key=lambda check: (check.kl_per_token, check.step))
        again = {
            "before": mean_kl(before, tokens),
            "after": mean_kl(after, tokens),
            "change": mean_kl(after - before, tokens, least=-math.inf),
            "p_closer": p_closer(before, after, report.seed) if report.improved else None,
            "held_out_rows": len(report.by_row),
            "scored_tokens": int(tokens.sum()),
            "best_step": best.step,
            "improved": best.step > 0,
        }
        remade = report.model_copy(update=again).model_dump(include={*again})
        findings.compare_values(DISTILL_REPORT, report.model_dump(include={*again}), remade)


def _distilled(report: DistillReport, adapter: Adapter) -> Facts:
    yield DISTILL_REPORT, "output_sha256", report.output_sha256, adapter.sha256()
    yield DISTILL_REPORT, "trained_params", report.trained_params, adapter.lora_params
    if not report.improved:
        yield DISTILL_REPORT, "adapter_sha256", report.adapter_sha256, report.output_sha256


# ---------------------------------------------------------------- evaluations and shrinks


NOT_IN_RECORDS = ("tests",)
"""Fields that are taken as recorded."""
RECORDS_AGREE = "identities, adapters and settings agree; the answers were scored again"


def check_evaluation(place: Path, findings: Findings, adapters: KnownAdapters) -> None:
    """Compare evaluation.json with the result recomputed from the records beside it."""
    report = EvaluationReport.read(place / evaluation.EVALUATION)
    for row in report.adapters:
        check_evaluated(adapters, row, report.adapters[0], evaluation.EVALUATION, findings)
    with findings.check(
        "claims", "L1", "the candidates have not changed since the first answers, or a note says so"
    ):
        changed = changed_claims(_kept(place).claims, [row.name for row in report.candidates])
        if changed is not None and sentence_text(changed) not in report.notes:
            findings.mismatch(f"{RECORDS}/{MANIFEST}", changed, "claims")
    with findings.check("margin", "L1", "the margin has not changed since the first answers"):
        findings.compare(_margin_facts(place, report))
    check_answers(place, findings)


def check_answers(place: Path, findings: Findings) -> None:
    """Compare evaluation.json and its page with those recomputed from the records beside it."""
    report = EvaluationReport.read(place / evaluation.EVALUATION)
    again = evaluation_again(place, report, findings)
    _compare(place / evaluation.EVALUATION, report, report.run, again, findings)


def check_sets(place: Path, findings: Findings, adapters: KnownAdapters) -> None:
    """Compare evaluation_sets.json with plan.json and the evaluation of each data set, and these with their records."""
    report, plan = EvaluationSetsReport.read(place / JOINT), EvaluationPlan.read(place / PLAN)
    reports = {}
    for planned in plan.sets:
        with findings.inside(f"{planned.name}/"):
            check_evaluation(place / planned.name, findings, adapters)
        reports[planned.name] = EvaluationReport.read(place / planned.name / evaluation.EVALUATION)
    with findings.check("plan", "L1", f"{PLAN} is the plan of the records and of {JOINT}"):
        findings.compare(_sets_facts(place, report, plan, reports))
    again = joint_report(plan, report.plan_sha256, reports, Stopwatch())
    _compare(place / JOINT, report, report.run, again, findings)


def _sets_facts(
    place: Path, report: EvaluationSetsReport, plan: EvaluationPlan, reports: Mapping[str, EvaluationReport]
) -> Facts:
    digest = sha256_file(place / PLAN)
    yield JOINT, "plan_sha256", report.plan_sha256, digest
    yield JOINT, "plan", report.plan, plan
    for planned in plan.sets:
        done = reports[planned.name]
        yield f"{planned.name}/{RECORDS}/{MANIFEST}", "plan", bound_plan(place / planned.name), digest
        for field in PLANNED:
            at = f"sets.{planned.name}.{field}"
            yield PLAN, at, getattr(planned, field), getattr(done, field)
        tested = tuple(row.sha256 or row.name for row in done.candidates)
        yield PLAN, "candidates", plan.candidates, tested
        yield PLAN, "reference_sha256", plan.reference_sha256, done.adapters[0].sha256 or ""


def _kept(place: Path) -> KeptRecords:
    """Return the content of the records' manifest; empty without one."""
    manifest = place / RECORDS / MANIFEST
    return KeptRecords.read(manifest) if manifest.is_file() else KeptRecords(files={})


def _margin_facts(place: Path, report: EvaluationReport) -> Facts:
    margins = _kept(place).margins
    compares = "nll" if report.adapters[0].likelihood is not None else "correct"
    if compares in margins and report.candidates:
        first = report.margin if report.first_margin is None else report.first_margin
        yield evaluation.EVALUATION, "first_margin", first, margins[compares]


def evaluation_again(place: Path, report: EvaluationReport, findings: Findings) -> EvaluationReport:
    """Return the evaluation recomputed from the records. findings: gets the mismatches with `report`."""
    recorded = _Recorded(place, report, report.adapters, findings, likelihoods=False)
    with findings.check("records", "L2", RECORDS_AGREE):
        rows = recorded.run()
    again = evaluated.report_of(recorded, rows, report.conditions.base_fingerprint, Stopwatch())
    return again.model_copy(update={"groups": report.groups})


def check_shrink(place: Path, findings: Findings, adapters: KnownAdapters) -> None:
    """Compare shrink.json with what plan.json and the records give, and adapter/ with the smallest candidate."""
    report, plan = ShrinkReport.read(place / shrink.SHRUNK), ShrinkPlan.read(place / PLAN)
    with findings.check("plan", "L1", f"{PLAN} is the plan of the records and of {shrink.SHRUNK}"):
        findings.compare(_plan_facts(place, report, plan))
    for row in _rows_of(report):
        if row.name != report.smallest:
            check_evaluated(adapters, row, report.reference, shrink.SHRUNK, findings)
    if report.smallest is not None:
        with findings.remaking(shrink.ADAPTER):  # the records do not need its weights
            _check_adapter(place, report, findings, adapters)
    _compare(place / shrink.SHRUNK, report, report.run, shrink_again(place, report, plan, findings), findings)


def _compare(path: Path, report: Report, run: RunInfo, again: Report, findings: Findings) -> None:
    """Compare a result and its page with the result computed again from the records."""
    with findings.check("result", "L1", f"{path.name}: every number and sentence matches the records"):
        findings.compare_json(path, again, ignored=NOT_IN_RECORDS)
    findings.compare_page(path, report, run)


def shrink_again(place: Path, report: ShrinkReport, plan: ShrinkPlan, findings: Findings) -> ShrinkReport:
    """Return the shrink report recomputed from plan and records. findings: gets the mismatches with `report`."""
    results: list[SetResults] = []
    candidates: Sequence[PlannedCandidate] = plan.candidates
    with findings.check("records", "L2", RECORDS_AGREE):
        for folder, like_task, rows in _recorded_sets(report):
            with findings.inside(folder):
                recorded = _Recorded(place / folder, like_task, rows, findings, likelihoods=not results)
                control = None if results or report.control.result is None else report.control.result.name
                rewritten = None if control is None else recorded.known[control]
                results.append(results_on(recorded, candidates, recorded.named, rewritten))
            candidates = results[-1].shown(candidates)
    searched = SearchResults(results, report.conditions.base_fingerprint, report.control.reason)
    return search.report_of(plan, sha256_file(place / PLAN), searched, Stopwatch())


def _recorded_sets(report: ShrinkReport) -> Iterator[tuple[str, ShrinkReport, Sequence[EvaluatedAdapter]]]:
    """Yield each data set: its folder, the report as if it were the task, and its rows."""
    yield "", report, _rows_of(report)
    for planned, guard in zip(report.plan.guards, report.guards, strict=False):
        like_task = {"plan": report.plan.on(planned), "task": planned.task, "source": guard.source}
        rows = [guard.reference, *guard.results]
        yield f"{GUARDS}/{guard.name}/", report.model_copy(update=like_task), rows


def _rows_of(report: ShrinkReport) -> list[EvaluatedAdapter]:
    rows = [report.reference, report.control.result, *(candidate.result for candidate in report.candidates)]
    return [row for row in rows if row is not None]


def _plan_facts(place: Path, report: ShrinkReport, plan: ShrinkPlan) -> Facts:
    digest, reference = sha256_file(place / PLAN), report.reference
    yield f"{RECORDS}/{MANIFEST}", "plan", _kept(place).plan, digest
    for guard in report.guards:
        bound = bound_plan(place / GUARDS / guard.name)
        yield f"{GUARDS}/{guard.name}/{RECORDS}/{MANIFEST}", "plan", bound, digest
    yield shrink.SHRUNK, "plan_sha256", report.plan_sha256, digest
    yield shrink.SHRUNK, "plan", report.plan, plan
    yield PLAN, "adapter_sha256", plan.adapter_sha256, reference.sha256
    yield PLAN, "adapter_config_sha256", plan.adapter_config_sha256, reference.config_sha256
    yield PLAN, "rank", plan.rank, reference.largest_rank
    yield PLAN, "lora_params", plan.lora_params, reference.lora_params
    yield PLAN, "base", plan.base, report.base
    yield PLAN, "task", plan.task, report.task
    for candidate in plan.candidates:
        saved = round(1 - candidate.lora_params / plan.lora_params, 9)
        yield PLAN, f"candidates.{candidate.name}.params_saved", round(candidate.params_saved, 9), saved
        row = next(outcome.result for outcome in report.candidates if outcome.name == candidate.name)
        if row is not None and row.lora_params is not None:
            at = f"candidates.{candidate.name}.result"
            yield shrink.SHRUNK, f"{at}.lora_params", row.lora_params, candidate.lora_params
            if candidate.kind == TRUNCATED.name:
                largest = min(candidate.rank, plan.rank)
                yield shrink.SHRUNK, f"{at}.largest_rank", row.largest_rank, largest


def _check_adapter(place: Path, report: ShrinkReport, findings: Findings, adapters: KnownAdapters) -> None:
    """Check that adapter/ is the smallest candidate shown, and that its compression report and its card match."""
    folder = place / shrink.ADAPTER
    chosen = next(candidate for candidate in report.candidates if candidate.name == report.smallest)
    if chosen.result is None or not (folder / WEIGHTS).is_file():
        findings.gap(f"the size of {report.smallest}: its weights are not in {shrink.ADAPTER}/")
        return
    check_evaluated(adapters, chosen.result, report.reference, shrink.SHRUNK, findings, folder=folder)
    with findings.inside(f"{shrink.ADAPTER}/"):
        compression = check_compression(folder, findings, adapters)
        if compression is not None and chosen.kind != DISTILLED.name:
            findings.compare(
                (
                    (REPORT, "source_sha256", compression.source_sha256, report.plan.adapter_sha256),
                    (REPORT, "old_params", compression.old_params, report.plan.lora_params),
                    (REPORT, "new_params", compression.new_params, chosen.lora_params),
                )
            )
    card = read_card(folder)
    if EVALUATED.encode() in card and report.run.gradience_version == __version__:
        with findings.check("card", "L1", "the model card in adapter/ matches shrink.json, byte for byte"):
            if with_block(card, card_of(folder, report, opened=adapters.at(folder)).block) != card:
                findings.mismatch(f"{shrink.ADAPTER}/README.md", f"its block differs from {shrink.SHRUNK}")


def check_data(name: str, place: Path, findings: Findings) -> None:
    """Compare the examples of all records with those of the task, if the task comes with Gradience."""
    if name == JOINT:
        for planned in EvaluationPlan.read(place / PLAN).sets:
            with findings.inside(f"{planned.name}/"):
                check_data(evaluation.EVALUATION, place / planned.name, findings)
    if name not in (evaluation.EVALUATION, shrink.SHRUNK):
        return
    kind = ShrinkReport if name == shrink.SHRUNK else EvaluationReport
    report = kind.read(place / name)
    plan = tested_by(report)
    try:
        if plan.role is None:
            raise InputError("the rows of a file", code="own-rows", hint="")
        as_guard = tasks.GUARDS.get(report.task, {}) if plan.compares == "nll" else {}
        task = tasks.load(report.task, as_guard, needed=())
        if isinstance(task, base.ChatTask):
            raise InputError("conversations", code="own-rows", hint="")
    except GradienceError as error:
        findings.not_done("data", "data", f"{name}: not compared with the task's data: {error}")
        return
    rows: Sequence[Any] = task.examples.of(plan.role)
    examples = rows[: plan.examples]
    if plan.looks:
        groups = groups_of(task, examples) if plan.groups is not None else {}
        examples = in_look_order(examples, groups)
    description = (
        f"{len(examples):,} of {len(rows):,} {plan.role} examples of {report.task}: ids, texts, gold answers"
    )
    with findings.check("data", "data", description):
        if fingerprint(examples) != plan.examples_sha256:
            problem = f"not the digest of the first {plan.examples:,} of {len(rows):,} examples of the task"
            findings.mismatch(name, problem, "examples_sha256")
        for path in sorted((place / RECORDS).glob("*.jsonl")):
            check_records(path, f"{RECORDS}/{path.name}", task, examples, findings, looks=plan.looks)


# ---------------------------------------------------------------- records in place of a model


class _Recorded(Answering):
    """An evaluation that reads its records: no model is loaded. An adapter without records is reported as missing."""

    def __init__(
        self,
        place: Path,
        report: EvaluationReport | ShrinkReport,
        rows: Sequence[EvaluatedAdapter],
        findings: Findings,
        *,
        likelihoods: bool,
    ) -> None:
        """likelihoods: of the gold responses, beside generated answers."""
        self.place, self.findings, self.rows = place, findings, {row.name: row for row in rows}
        self.report, self.plan, self.watcher = report, tested_by(report), Watcher()
        looks = self.plan.looks or (self.plan.examples,)
        self.evaluator = cast(Any, SimpleNamespace(forget=lambda name: None, looks=looks, follows=False))
        self._read: dict[str, Evaluation[Any]] = {}
        self._examples: dict[tuple[str, int], str] = {}  # their digest, by kind of records and number
        self.known = {row.name: _adapter_of(row) for row in rows if row.role != BASE}
        self._likelihoods, first_file = likelihoods, f"{RECORDS}/{rows[0].name}.jsonl"
        answers = read_records(place / first_file)
        self._header = answers.run
        if report.base not in EMBEDDED:  # records hold the name of its folder, which depends on the package
            findings.compare([(first_file, "base", self._header.base, recorded_base(report.base))])
        group_of = zip((row.id for row in answers.records), self.plan.groups or (), strict=False)
        self.inputs = self._inputs(rows, dict(group_of))
        self._reference = AdapterAnswers(self.inputs.reference)
        self.rules = _rules_of(self.inputs.task, self._header)
        if isinstance(self.rules, str):
            findings.not_done("scores", "L2", self.rules)
        self.listed = _kept(place).files

    def _inputs(self, rows: Sequence[EvaluatedAdapter], group_of: Mapping[str, int]) -> EvaluateInputs:
        """Return the inputs as far as an outcome depends on them."""
        report, plan, looks = self.report, self.plan, self.evaluator.looks
        settings = EvaluateSettings(
            tuple(row.path or row.name for row in rows if row.role != BASE),
            margin=plan.margin if rows[0].likelihood is not None else 100 * plan.margin,
            with_base=any(row.role == BASE for row in rows),
            limit=next((r.n for r in rows if r.look is not None and r.look.stopped == "limit"), None),
        )
        evaluation = None if isinstance(report, ShrinkReport) else report
        return EvaluateInputs(
            settings,
            tuple(self.known.values())[: 1 if evaluation is None else None],
            ModelSettings(name=report.base),
            _task_of(report, self._header),
            range(plan.examples),
            plan.role,
            report.notes,
            measures_divergence=any((self.place / RECORDS).glob("*.scores.jsonl")),
            group_of=group_of,
            grown_from=None if evaluation is None else evaluation.grown_from,
            first_margin=None if evaluation is None else evaluation.first_margin,
            looks=looks if len(looks) > 1 else (),
        )

    @cached_property
    def data(self) -> str:
        """The digest of the examples as recorded: records hold no texts (`check_data` compares it)."""
        return self.plan.examples_sha256

    def named(self, candidate: PlannedCandidate) -> AdapterInput:
        """Return a candidate of the plan as its row names it."""
        return self.known[candidate.name]

    def work(self, do: Callable[[Answering], T]) -> T:
        return do(self)

    def _keep(
        self, row: AdapterAnswers, stage: str, files: Mapping[str, Mapping[str, Any]], make: Any
    ) -> list[Evaluation[Any]]:
        """Return the records up to the row's look."""
        for file in files:
            if file not in self._read:
                self._read[file] = self._checked(row, file)
        return [first(self._read[file], self.evaluator.looks[row.look - 1]) for file in files]

    def _checked(self, row: AdapterAnswers, file: str) -> Evaluation[Any]:
        path, name = self.place / RECORDS / file, f"{RECORDS}/{file}"
        recorded = self.rows[row.file_name]
        if not path.is_file():
            if recorded.grade != "X":
                self.findings.mismatch(name, "missing")
            self.findings.gap(f"{row.file_name}: the reason why it could not be evaluated")
            raise InputError(recorded.reason.partition(": ")[2], code="not-evaluated", hint="")
        read, digest = read_records(path), sha256_file(path)
        self.findings.compare(self._facts(row, file, read, digest))
        row.files.append(RecordsFile(path=name, sha256=digest))
        if isinstance(self.rules, str) or read.run.kind != self._header.kind:
            return read
        return scored_again(read, self.rules, name, self.findings)

    def _facts(self, row: AdapterAnswers, file: str, read: Evaluation[Any], digest: str) -> Facts:
        run, recorded, name = read.run, self.rows[row.file_name], f"{RECORDS}/{file}"
        reference, looks = self.rows[self.inputs.reference.name], self.evaluator.looks
        # Records of dev rows have a number of their own.
        answered = [look for look in looks if look >= (recorded.n or 0)] or looks[-1:]
        compared = reference if row.adapter is None and run.kind == "classification" else recorded
        examples = self._examples.setdefault((run.kind, run.n), run.examples_sha256)
        yield name, "id", repeated(read.records)[:3], []
        yield name, "n", run.n, run.n if run.n in answered else answered[0]
        yield name, "looks", run.looks, looks[: len(run.looks)]
        yield name, "base", run.base, self._header.base
        yield name, "adapter", run.adapter, None if compared.role == BASE else compared.name
        yield name, "examples_sha256", run.examples_sha256, examples
        if compared.sha256 is not None:
            yield name, "adapter_sha256", run.adapter_sha256, compared.sha256
            yield name, "adapter_config_sha256", run.adapter_config_sha256, compared.config_sha256
        if run.kind == "scores" and reference.sha256 is not None:
            yield name, "reference_sha256", run.reference_sha256, reference.sha256
        if file in self.listed:
            yield name, "sha256", digest, self.listed[file].sha256


def _adapter_of(row: EvaluatedAdapter) -> AdapterInput:
    path = Path(row.path or row.name)
    ranks = None if row.smallest_rank is None else (row.smallest_rank, row.largest_rank or 0)
    identity = AdapterIdentity(path, row.sha256 or "", row.config_sha256 or "")
    return AdapterInput(row.name, path, identity, ranks, row.lora_params or 0, row.other_params or 0)


def _task_of(report: EvaluationReport | ShrinkReport, header: ExamplesRun) -> base.Task:
    shared: dict[str, Any] = {"name": report.task, "source": report.source, "examples": Examples((), {})}
    if header.kind == "classification":
        return base.ClassificationTask(**shared, label_names=())
    if header.kind == "choices":
        return base.ChoiceTask(**shared)
    if header.kind == "scores":
        return base.LikelihoodTask(**shared)
    decide = Unchanged() if tested_by(report).compares == "agreement" else None
    return base.GenerationTask(
        **shared, filters={}, same=lambda a, b: a == b, decide=decide, max_new_tokens=0
    )


def _rules_of(task: base.Task, header: ExamplesRun) -> base.Scoring | str:
    """Return the rule by which answers are scored again, or why they are not."""
    if isinstance(task, base.ClassificationTask):
        return base.LabelScoring()
    if isinstance(task, base.LikelihoodTask):
        return task
    if isinstance(task, base.GenerationTask) and isinstance(task.decide, Unchanged):
        return task
    if task.name not in tasks.PROFILES:
        if isinstance(task, base.ChoiceTask):
            return base.ChoiceScoring(
                choose_by="per_character" if "per_char" in str(header.scoring) else "sum"
            )
        return f"the rules of the task {task.name} are not in Gradience: answers were not scored again"
    try:
        return tasks.scoring_of(task.name, {})
    except GradienceError as error:
        return f"answers were not scored again: {error}"
