"""The folder of a run -> checks, mismatches and gaps.

Everything that can be recomputed is: digests, scores, counts, verdicts, the aggregate, and the pages.
The gaps name the rest: that the adapters gave these answers, and that the folder is the published one (`root`).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gradience import __version__
from gradience.adapters.config import read_config
from gradience.adapters.keys import config_name, parse_key
from gradience.adapters.locate import CONFIG as CONFIG_NAME
from gradience.adapters.locate import WEIGHTS
from gradience.adapters.tensors import TensorEntry, read_header
from gradience.bench import plan as plans
from gradience.bench.verdict import facts as seed_facts
from gradience.bench.verdict.aggregate import (
    AGGREGATE,
    BENCH,
    CONFIG,
    DOCUMENT,
    PLAN,
    aggregate,
    aggregate_run,
    benches_of,
    find_benches,
    no_longer_passing,
    source_of,
)
from gradience.bench.verdict.assemble import assemble, data_of
from gradience.bench.verify import folder as run_folder
from gradience.bench.verify.recompute import SeedFolder, gold_of, marking_of, numbers_of, repeated
from gradience.compress.carry import DISTILL_REPORT, REPORT
from gradience.digests import sha256_file, sha256_json
from gradience.errors import InputError
from gradience.evaluate.verb import EVALUATION
from gradience.files.records import ExamplesRun
from gradience.files.shared_names import given_text, path_text
from gradience.models.locate import recorded_base
from gradience.plan.modules import Ranks
from gradience.reading import MAX_DATA_BYTES, read_file
from gradience.reports.base.report import Stopwatch
from gradience.reports.bench import Bench, BenchAggregate, Status
from gradience.reports.bench_plan import PLANNED, BenchPlan
from gradience.reports.calibration import Calibration
from gradience.reports.evaluation import BASE
from gradience.reports.training import ADAPTER
from gradience.reports.training import REPORT as TRAINING
from gradience.training.settings import STREAMS, stream
from gradience.words import counted


@contextmanager
def checked_run(folder: Path, root: str | None = None) -> Iterator[run_folder.RunFolder]:
    """Yield the run or single seed in `folder`, packed or not, with the mismatches of its files and records.

    root: expected sha256 of its digests.json.
    Raises InputError (`not-a-run`, `nothing-to-verify`, `bad-archive`) if there is nothing to verify.
    """
    whole, only, above = folder, "", folder.absolute().parent
    name = folder.absolute().name
    if not (folder / PLAN).is_file() and name.startswith("seed_") and (above / PLAN).is_file():
        whole, only = above if folder.name != name else folder.parent, f"{name}/"
    elif not any((folder / name).is_file() for name in (PLAN, BENCH, AGGREGATE)):
        raise InputError(
            f"{folder}: no result found: no {PLAN}, {BENCH}, {AGGREGATE}, shrink.json, evaluation.json,"
            " evidence.json, compression_report.json or distill_report.json",
            code="not-a-run",
            hint="name the output folder of bench run, shrink, evaluate, evidence, compress or distill",
        )
    with run_folder.unpacked(whole) as place:
        run = run_folder.RunFolder(
            place, whole, only, run_folder.Findings(lambda text: run_folder.as_published(text, place, whole))
        )
        run_folder.check_files(place, run.findings, below=only, expected=root)
        run.status = _check_results(run)
        if (
            not any(check.result != "not done" for check in run.findings.checks)
            and not run.findings.mismatches
        ):
            raise InputError(
                f"{folder}: nothing to verify: no digests.json and no records of answers",
                code="nothing-to-verify",
                hint="unpack the published archive beside it, or name the output folder of `gradience bench run`",
            )
        yield run


# ---------------------------------------------------------------- the results of a run


def _check_results(run: run_folder.RunFolder) -> Status | None:
    """Check every seed, and the aggregate; return the verdict recorded in the folder."""
    plan: BenchPlan | None = None
    try:
        plan = run.plan()
    except InputError as error:
        if (run.folder / PLAN).exists() or run_folder.stages_of(run.folder):
            run.findings.mismatch(PLAN, str(error))
        run.findings.not_done("plan", "L1", f"{PLAN} cannot be read")
    several = plan is not None and len(plan.seeds) > 1
    places = [f"seed_{seed}/" for seed in plan.seeds] if plan is not None and several else [""]
    run.code = None if plan is None else plan.code
    run.places = [place for place in places if run.only in ("", place)]
    for place in sorted({f"{path.parent.name}/" for path in run.folder.glob(f"seed_*/{BENCH}")} - {*places}):
        run.findings.mismatch(f"{place}{BENCH}", f"a seed that {PLAN} does not name")
    status: Status | None = None
    there = [place for place in run.places if (run.folder / place / BENCH).is_file()]
    if plan is not None and there:
        _check_plan(run, plan)
    for place in there:
        with run.findings.inside(place):
            status = _check_seed(run, place, plan) or status
    if run.only or not (run.folder / AGGREGATE).is_file():
        return status if not several or run.only else None
    return _check_aggregate(run, plan)


def _check_plan(run: run_folder.RunFolder, plan: BenchPlan) -> None:
    if not any(run.configs()):
        run.findings.not_done(
            "plan",
            "L1",
            f"{PLAN} cannot be checked: no valid config in {CONFIG} or {BENCH}",
        )
        return
    with run.findings.check("plan", "L1", f"{PLAN} follows from the config: policy, seeds, variants", PLAN):
        config = run.config(plan)
        rows = plans.EvaluatedRows(looks=plans.looks_of(plan), groups=plan.groups)
        again = plans.bench_plan(
            config, plan.task, plan.splits, plan.task_code, plan.calibration, rows, plan.guards
        )
        if [*config.guards] != [guard.name for guard in plan.guards]:
            run.findings.mismatch(PLAN, "guards differ from the config", "guards")
        run.findings.compare_values(PLAN, plans.promised(plan), plans.promised(again))


def _check_seed(run: run_folder.RunFolder, place: str, plan: BenchPlan | None) -> Status | None:
    """Check one seed; return the status that it has recorded."""
    findings, seed = run.findings, run.folder / place
    recorded = findings.read(Bench, seed / BENCH)
    if recorded is None:
        return None
    findings.compare_page(seed / BENCH, recorded, recorded.run)
    run_folder.check_stages(seed, None if plan is None else plans.plan_digest(plan), findings)
    if plan is None or not run_folder.stages_of(seed):
        run.without_records.append(f"{place}{BENCH}")
        findings.not_done("results", "L1", f"{BENCH}: no records in the folder; cannot recompute")
        return recorded.status
    with findings.remaking(BENCH):
        _check_result(run, place, recorded, plan)
    return recorded.status


def _check_result(run: run_folder.RunFolder, place: str, recorded: Bench, plan: BenchPlan) -> None:
    """Recompute a seed's result from its config and records, and compare."""
    findings, config = run.findings, run.config(plan, recorded)
    marking = marking_of(config.task, plan, recorded)

    seed = int(place.removeprefix("seed_").rstrip("/")) if place else plan.seeds[0]
    lost = _decided_before(run, recorded, plan, seed)
    folder = SeedFolder(run.folder / place, config, seed, recorded, marking, findings, lost)
    if marking.why_not:
        findings.not_done("answers", "L2", marking.why_not)
        facts = folder.walk()
    else:
        with findings.check("answers", "L2", "answers extracted and rescored from the stored outputs"):
            facts = folder.walk()
    for name in folder.taken_as_recorded:
        findings.gap(f"{name}: that it ended in the recorded error")
    check_links(facts, plan, findings, None if marking.why_not else marking.rules.scoring_version)
    check_sizes(facts, findings)
    _check_gold(run, facts)
    _check_seeds(run, place, facts)
    with findings.check("results", "L1", f"{BENCH}: every count, verdict and number matches the records"):
        data = data_of(plan, recorded.data.source, recorded.data.counts)
        again = assemble(facts, marking.rules, data, plan, recorded.run)
        findings.compare_json(run.folder / place / BENCH, again, ignored=marking.unknown)
    run.seeds.append(seed)


def _decided_before(run: run_folder.RunFolder, recorded: Bench, plan: BenchPlan, seed: int) -> dict[str, str]:
    """Variants that this seed did not train, of those that the seeds before it had decided; and why."""
    stopped = {result.name for result in recorded.variants if result.stopped_early}
    if not stopped:
        return {}
    benches = benches_of(run.folder, plan.seeds[: plan.seeds.index(seed)])
    lost = no_longer_passing(benches, plan.seeds, plan.policy) if benches else {}
    return {name: why for name, why in lost.items() if name in stopped}


def _check_gold(run: run_folder.RunFolder, facts: seed_facts.SeedFacts) -> None:
    """Check that all seeds of a run have the same examples, with the same gold answers."""
    if facts.probe is None or facts.probe.answers is None:
        return
    findings, file = run.findings, f"probe/eval/{seed_facts.ANSWERS}"
    examples = tuple(gold_of(row) for row in facts.probe.answers.records)
    key = (facts.probe.answers.run.examples_sha256, examples)
    if other := run.differs("examples", key, file):
        findings.mismatch(file, f"different examples or gold answers from {other}")
    if facts.base is not None and tuple(gold_of(row) for row in facts.base.records) != examples:
        findings.mismatch(f"base/eval/{seed_facts.ANSWERS}", f"examples or gold answers differ from {file}")


def _check_seeds(run: run_folder.RunFolder, place: str, facts: seed_facts.SeedFacts) -> None:
    """Check that two seeds do not share an adapter or its numbers, and that all answers have one base.

    Outputs are not compared: two good adapters may well write the same.
    """
    findings = run.findings
    for outcome in filter(None, (facts.probe, *facts.outcomes)):
        name, adapter = outcome.planned.name, outcome.adapter
        numbers: dict[str, tuple[str, Any]] = {}
        if adapter is not None:
            file = f"{name}/{adapter.folder.parent.name}/{ADAPTER}/{WEIGHTS}"
            numbers[file] = "weights", adapter.sha256
        for kind, evaluation in (("answers", outcome.answers), ("scores", outcome.scores)):
            if evaluation is None:
                continue
            file, header = f"{name}/eval/{kind}.records.jsonl", evaluation.run
            base = (header.base, header.base_sha256, header.tokenizer_sha256)
            if other := run.differs("base", base, file):
                findings.mismatch(file, f"base or tokenizer differs from {other}", "base")
            values = [number for row in evaluation.records for number in numbers_of(row)]
            if values:
                numbers[file] = "numbers", sha256_json(values)
        for file, (kind, value) in numbers.items():
            before = run.unique.setdefault((kind, value), (place, findings.named_in_run(file)))
            if before[0] != place:
                findings.mismatch(file, f"the same {kind} as {before[1]}, under another seed")


def _check_aggregate(run: run_folder.RunFolder, plan: BenchPlan | None) -> Status | None:
    findings, path = run.findings, run.folder / AGGREGATE
    recorded = findings.read(BenchAggregate, path)
    if recorded is None:
        return None
    findings.compare_page(path, recorded, recorded.run)
    if plan is None:
        findings.not_done(
            "aggregate", "L1", f"{AGGREGATE}: its seeds are not in this folder: verify their folders"
        )
        findings.gap("the seeds of the aggregate, which are not in this folder")
        return recorded.status
    with (
        findings.check("aggregate", "L1", f"{AGGREGATE} matches the seeds"),
        findings.remaking(AGGREGATE),
    ):
        benches = benches_of(run.folder, plan.seeds)
        verified = {bench.seed for bench in benches} <= {*run.seeds} and not any(
            mismatch.file.startswith("seed_") for mismatch in findings.mismatches
        )
        again = aggregate_run(benches, recorded.run, records_verified=recorded.records_verified and verified)
        findings.compare_json(path, again)
    return recorded.status


# ---------------------------------------------------------------- facts recorded in two places of a seed


def check_links(
    facts: seed_facts.SeedFacts, plan: BenchPlan, findings: run_folder.Findings, version: int | None
) -> None:
    """Check that the files of a seed are consistent with each other.

    version: installed version of the task's scoring; None if its rules are unknown.
    """
    with findings.check(
        "links", "L1", "trainings, adapters, audit and answers are consistent with each other and the seed"
    ):
        findings.compare(_links(facts, plan, version))
    if facts.calibration is not None:
        description = (
            f"components and predictions of calibrated variants follow from {seed_facts.CALIBRATION}"
        )
        with findings.check("calibration", "L2", description):
            findings.compare(_of_calibration(facts, facts.calibration, plan))


def _links(facts: seed_facts.SeedFacts, plan: BenchPlan, version: int | None) -> Iterator[run_folder.Link]:
    if facts.probe is None or facts.probe.adapter is None:
        return
    probe = facts.probe.adapter
    if facts.audit is not None:
        yield "audit/audit.json", "adapter.sha256", facts.audit.adapter.sha256, probe.sha256
    digests = {adapter.name: adapter.sha256 for _, adapter in facts.adapters()}
    for name, report in facts.guards.items():
        file = f"{plans.GUARDS}/{name}/{EVALUATION}"
        for row in report.adapters:
            if row.role != BASE:
                yield file, f"{row.name}.sha256", row.sha256, digests.get(row.name)
        planned = next((guard for guard in plan.guards if guard.name == name), None)
        for field in PLANNED:
            yield file, field, getattr(report, field), planned and getattr(planned, field)
    for outcome, adapter in facts.adapters():
        yield from _of_adapter(adapter, probe, outcome.planned, facts, plan)
        yield from _of_answers(adapter, probe, outcome, plan)
        if outcome.answers is not None and outcome.answers.run.scoring is not None:
            run, file = outcome.answers.run, f"{adapter.name}/eval/{seed_facts.ANSWERS}"
            yield file, "scoring", run.scoring, _scoring(run, plan, version)


def _of_adapter(
    adapter: seed_facts.StoredAdapter,
    probe: seed_facts.StoredAdapter,
    planned: plans.PlannedVariant,
    facts: seed_facts.SeedFacts,
    plan: BenchPlan,
) -> Iterator[run_folder.Link]:
    at, config = f"{adapter.name}/{adapter.folder.parent.name}", adapter.folder / CONFIG_NAME
    training, distilled = adapter.training, adapter.distillation
    base = recorded_base(plan.model)
    if base not in ("", ".."):  # `.`: the folder of the config, whose name the plan does not hold
        if training is not None:  # only the last part of a name: the base may be stored elsewhere
            yield f"{at}/{TRAINING}", "base", Path(training.base).name, base
        if config.is_file():
            named = Path(read_config(config).base_model or "").name
            yield f"{at}/{ADAPTER}/{CONFIG_NAME}", "base_model_name_or_path", named, base
    if training is not None:
        file, recipe = f"{at}/{TRAINING}", facts.config.train.model_dump(mode="json")
        data = next(split for split in plan.splits if split.role == "train")
        streams = {name: stream(facts.seed, name) for name in STREAMS}
        lora = facts.config.lora.peft_arguments() | planned.lora_arguments()
        yield file, "adapter_sha256", training.adapter_sha256, adapter.sha256
        yield file, "start.seed", training.start.seed, facts.seed
        yield file, "start.streams", training.start.streams, streams
        yield file, "trained", training.trained, planned.making.trains
        yield file, "recipe", training.recipe, {key: recipe.get(key) for key in training.recipe}
        yield file, "lora", training.lora, json.loads(json.dumps(lora))
        yield file, "examples.task", training.examples.task, plan.task
        yield file, "examples.sha256", training.examples.sha256, data.sha256
    settings = facts.config.compression.distillation
    if settings is not None and distilled is not None and probe.training is not None:
        file, steps = f"{at}/{ADAPTER}/{DISTILL_REPORT}", settings.steps_of(probe.training.planned_steps)
        yield file, "teacher_sha256", distilled.teacher_sha256, probe.sha256
        yield file, "output_sha256", distilled.output_sha256, adapter.sha256
        yield file, "seed", distilled.seed, facts.seed
        yield file, "lr", distilled.lr, settings.lr
        yield file, "planned_steps", distilled.planned_steps, steps


def _scoring(run: ExamplesRun, plan: BenchPlan, version: int | None) -> str:
    """Return the scoring that a header must name: as recorded, if it is that of the plan's task.

    The version is compared only with that of the Gradience that answered.
    """
    recorded = run.scoring or ""
    is_known = version is not None and run.versions.get("gradience") == __version__
    start = f"{plan.task} {version if is_known else recorded.removeprefix(f'{plan.task} ').partition(',')[0]}"
    code = plan.task_code
    end = "" if code is None else f", {code.sha256}"
    is_planned = (recorded == start or recorded.startswith(f"{start}, ")) and recorded.endswith(end)
    return recorded if is_planned else f"{start}{end}"


def _of_answers(
    adapter: seed_facts.StoredAdapter,
    probe: seed_facts.StoredAdapter,
    outcome: seed_facts.Outcome,
    plan: BenchPlan,
) -> Iterator[run_folder.Link]:
    name, looks, config = adapter.name, plans.looks_of(plan), adapter.folder / CONFIG_NAME
    planned = next(split for split in plan.splits if split.role == plan.eval_role)
    for kind, evaluation in (("answers", outcome.answers), ("scores", outcome.scores)):
        if evaluation is None:
            continue
        run, file = evaluation.run, f"{name}/eval/{kind}.records.jsonl"
        yield file, "adapter", run.adapter, name
        yield file, "adapter_sha256", run.adapter_sha256, adapter.sha256
        if config.is_file():
            yield file, "adapter_config_sha256", run.adapter_config_sha256, sha256_file(config)
        is_early = outcome.planned.step is not None and run.n in looks
        answered = tuple(look for look in looks if look <= run.n)
        yield file, "n", run.n, run.n if is_early else planned.n
        yield file, "looks", run.looks, answered if len(answered) > 1 else ()
        yield file, "id", repeated(evaluation.records)[:3], []
        if kind == "scores":
            yield file, "reference_sha256", run.reference_sha256, probe.sha256


def _of_calibration(
    facts: seed_facts.SeedFacts, calibration: Calibration, plan: BenchPlan
) -> Iterator[run_folder.Link]:
    """Compare the calibration. Only the range of ranks can be checked, because the result does not record
    them by module.
    """
    file, report, planned = f"calibration/{seed_facts.CALIBRATION}", calibration.report, plan.calibration
    probe = facts.probe and facts.probe.adapter
    yield file, "adapter_sha256", report.adapter_sha256, probe and probe.sha256
    yield file, "seed", report.seed, facts.seed
    yield file, "prompts_sha256", report.prompts_sha256, planned and planned.prompts_sha256
    yield file, "rows", report.rows + report.duplicates, planned and planned.rows
    for outcome, adapter in facts.adapters():
        if (of_adapter := adapter.compression) is not None:
            file = f"{adapter.name}/adapter/{ADAPTER}/{REPORT}"
            ranks = {module.name: module.new_rank for module in of_adapter.modules}
            yield file, "calibration_sha256", of_adapter.calibration_sha256, calibration.sha256
            yield file, "prediction", of_adapter.prediction, outcome.planned.predicted
            yield file, "modules", ranks, dict(outcome.planned.ranks)


# ---------------------------------------------------------------- sizes


def check_sizes(facts: seed_facts.SeedFacts, findings: run_folder.Findings) -> None:
    """Compare the published size of each adapter with its config and with the header of its weights.

    If the weights were not kept, use the header that was recorded when they were written.
    """
    if facts.probe is None or facts.audit is None:
        return
    full: Ranks = {layer.name: layer.r for layer in facts.audit.layers}
    recorded = unknown = 0
    with findings.check("sizes", "L1", "ranks, scales and parameter counts of adapters"):
        for outcome, adapter in facts.adapters():
            ranks = full if adapter.name == plans.PROBE or not adapter.lora else outcome.planned.ranks
            weights, header = adapter.folder / WEIGHTS, adapter.folder.parent / seed_facts.HEADER
            with findings.inside(f"{adapter.name}/{adapter.folder.parent.name}/"):
                try:
                    findings.compare(_of_config(facts.probe.adapter, adapter, ranks))
                    if weights.is_file():
                        findings.compare(_of_header(seed_facts.header_of(weights), adapter, ranks))
                    elif header.is_file():
                        content = read_file(header, MAX_DATA_BYTES)
                        tensors, _ = read_header(header, content, adapter.bytes)
                        findings.compare(_of_header(tensors, adapter, ranks))
                        recorded += 1
                    else:
                        unknown += 1
                except InputError as error:
                    findings.mismatch("", str(error))
    if recorded:
        findings.gap(
            f"sizes of {counted(recorded, 'adapter')}: compared only with recorded headers, because the weights were"
            " not kept; nothing shows that a header belongs to the digest"
        )
    if unknown:
        findings.gap(
            f"sizes of {counted(unknown, 'adapter')}: compared only with configs and recorded counts, because weights"
            " and headers are missing"
        )


def _of_config(
    probe: seed_facts.StoredAdapter | None, adapter: seed_facts.StoredAdapter, ranks: Ranks
) -> Iterator[run_folder.Link]:
    path, file = adapter.folder / CONFIG_NAME, f"{ADAPTER}/{CONFIG_NAME}"
    if not path.is_file():
        return
    config = read_config(path)
    for module, rank in ranks.items():
        if rank:  # a module at rank 0 is not written
            yield file, f"rank of {module}", config.rank_of(config_name(module)), rank
    if probe is not None and (probe.folder / CONFIG_NAME).is_file():
        for module, before, after in seed_facts.changed_scales(
            read_config(probe.folder / CONFIG_NAME), config, ranks
        ):
            yield file, f"scale of {module}", after, before


def _of_header(
    header: Mapping[str, TensorEntry], adapter: seed_facts.StoredAdapter, ranks: Ranks
) -> Iterator[run_folder.Link]:
    weights = f"{ADAPTER}/{WEIGHTS}"
    keys = {name: parse_key(name) for name in header}
    stored = {
        key.module: header[name].shape[0]
        for name, key in keys.items()
        if key.role in ("A", "embedding_A") and not key.ghost and header[name].shape
    }
    for module, rank in ranks.items():
        if module in stored or not rank:  # the experts of a block share one tensor under another name
            yield weights, f"rank of {module}", stored.get(module, 0), rank
    counts, report = seed_facts.parameters_of(header), adapter.training
    if report is not None:
        yield TRAINING, "lora_params", report.lora_params, counts[0]
    else:
        yield seed_facts.SIZES, "", [adapter.lora_params, adapter.other_params], [*counts]


# ---------------------------------------------------------------- an aggregate of verified runs


def aggregate_checked(runs: Sequence[Path], *, command: str = "") -> BenchAggregate:
    """Read and aggregate the runs in these folders, after checking each against its own records.

    A result that contradicts its records or digests is refused. A result without records is used unchecked, with a
    note.
    Raises InputError (`bench-altered`), and what `find_benches`, `Bench.read` and `aggregate` raise.
    """
    watch, paths = Stopwatch(command), find_benches(runs)
    benches = [Bench.read(path) for path in paths]
    unchecked = [name for folder in runs for name in _unchecked(folder)]
    notes = []
    if unchecked:
        notes = [f"nothing to check the counts of {', '.join(unchecked)} by: no records beside the result"]
    return aggregate(
        benches,
        [source_of(path) for path in paths],
        run=watch.run_info(),
        notes=notes,
        records_verified=not unchecked,
    )


def _unchecked(folder: Path) -> list[str]:
    """Return the results in a folder that nothing confirms. Raises InputError if something contradicts one."""
    place = folder if folder.is_dir() else folder.parent
    try:
        with checked_run(place) as run:
            mismatches, unchecked = run.findings.mismatches, run.without_records
    except InputError as error:
        if error.code not in ("not-a-run", "nothing-to-verify"):
            raise
        return [path_text(folder)]
    # an aggregate in the folder may be older than its seeds: a new one is made of them
    wrong = [mismatch for mismatch in mismatches if mismatch.file not in (AGGREGATE, DOCUMENT)]
    if wrong:
        first, count = wrong[0], len(wrong)
        location = f"{given_text(place)}/{first.file}" + (f": {first.field}" if first.field else "")
        rest = f" (and {counted(count - 1, 'other mismatch', 'other mismatches')})" if count > 1 else ""
        raise InputError(
            f"{location}: {first.what}{rest}",
            code="bench-altered",
            hint=f"gradience verify {given_text(place)} lists all problems; to complete an interrupted"
            " or edited run, repeat gradience bench run with the same --config and --output",
        )
    return unchecked
