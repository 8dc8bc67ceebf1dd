"""The folder of a run -> checks, mismatches and gaps.

Everything that can be recomputed is: digests, scores, counts, verdicts, the aggregate, and the pages.
The gaps name the rest: that the adapters gave these answers, and that the folder is the published one (`root`).
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gradience import __version__
from gradience.adapters.locate import WEIGHTS
from gradience.bench.plan.preregister import EvaluatedRows, bench_plan, looks_of, plan_digest, promised
from gradience.bench.verdict.aggregate import aggregate, no_longer_passing
from gradience.bench.verdict.assemble import assemble
from gradience.bench.verdict.facts import ANSWERS, SeedFacts
from gradience.bench.verdict.folders import (
    AGGREGATE,
    BENCH,
    CONFIG,
    DOCUMENT,
    PAGE,
    PLAN,
    aggregate_run,
    benches_of,
    find_benches,
    source_of,
)
from gradience.bench.verify.findings import Findings
from gradience.bench.verify.folder import (
    RunFolder,
    as_published,
    check_files,
    check_stages,
    stages_of,
    unpacked,
)
from gradience.bench.verify.links import check_links, check_sizes
from gradience.bench.verify.recompute import SeedFolder, gold_of, marking_of, numbers_of, scored_again
from gradience.digests import sha256_json
from gradience.errors import InputError
from gradience.files import strict_json
from gradience.files.differences import differences
from gradience.files.records import Evaluation
from gradience.files.shared_names import given_text, path_text
from gradience.reading import MAX_DATA_BYTES, read_file
from gradience.reports.base.report import Report
from gradience.reports.base.run import RunInfo, Stopwatch
from gradience.reports.bench import Bench, BenchAggregate, Status
from gradience.reports.bench_plan import BenchPlan
from gradience.reports.training import ADAPTER
from gradience.words import counted

WORDS = ("description", "notes", "obstacles", "rank_basis", "reasons", "why", "words")
"""Fields that hold sentences, which another version may word in another way."""
UNVERIFIABLE = ("not-a-run", "nothing-to-verify")


@contextmanager
def checked_run(folder: Path, root: str | None = None) -> Iterator[RunFolder]:
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
    with unpacked(whole) as place:
        run = RunFolder(place, whole, only, Findings(lambda text: as_published(text, place, whole)))
        check_files(place, run.findings, below=only, expected=root)
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


def _check_results(run: RunFolder) -> Status | None:
    """Check every seed, and the aggregate; return the verdict recorded in the folder."""
    plan: BenchPlan | None = None
    try:
        plan = run.plan()
    except InputError as error:
        if (run.folder / PLAN).exists() or stages_of(run.folder):
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


def _check_plan(run: RunFolder, plan: BenchPlan) -> None:
    if not any(run.configs()):
        run.findings.not_done(
            "plan", "L1", f"{PLAN} cannot be checked: no valid config in {CONFIG} or {BENCH}"
        )
        return
    with run.findings.check("plan", "L1", f"{PLAN} follows from the config: policy, seeds, variants", PLAN):
        config = run.config(plan)
        rows = EvaluatedRows(looks=looks_of(plan), groups=plan.groups)
        again = bench_plan(
            config, plan.task, plan.splits, plan.task_code, plan.calibration, rows, plan.guards
        )
        if [*config.guards] != [guard.name for guard in plan.guards]:
            run.findings.mismatch(PLAN, "guards differ from the config", "guards")
        run.findings.compare_values(PLAN, promised(plan), promised(again))


def _check_seed(run: RunFolder, place: str, plan: BenchPlan | None) -> Status | None:
    """Check one seed; return the status that it has recorded."""
    findings, seed = run.findings, run.folder / place
    try:
        recorded = Bench.read(seed / BENCH)
    except InputError as error:
        findings.mismatch(BENCH, str(error))
        return None
    check_page(recorded, recorded.run, seed / PAGE, findings)
    check_stages(seed, None if plan is None else plan_digest(plan), findings)
    if plan is None or not stages_of(seed):
        run.without_records.append(f"{place}{BENCH}")
        findings.not_done("results", "L1", f"{BENCH}: no records in the folder; cannot recompute")
        return recorded.status
    with findings.remaking(BENCH):
        _check_result(run, place, recorded, plan)
    return recorded.status


def _check_result(run: RunFolder, place: str, recorded: Bench, plan: BenchPlan) -> None:
    """Recompute a seed's result from its config and records, and compare."""
    findings, config = run.findings, run.config(plan, recorded)
    marking = marking_of(config.task, plan, recorded)

    def mark(evaluation: Evaluation[Any], folder: Path) -> Evaluation[Any]:
        """Return the records, scored again; report any score that differs."""
        if marking.why_not:
            return evaluation
        return scored_again(evaluation, marking.rules, f"{folder.parent.name}/eval/{ANSWERS}", findings)

    seed = int(place.removeprefix("seed_").rstrip("/")) if place else plan.seeds[0]
    folder = SeedFolder(
        run.folder / place, config, seed, recorded, mark, _decided_before(run, recorded, plan, seed)
    )
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
        data = recorded.data.model_copy(
            update={
                "task": plan.task,
                "splits": plan.splits,
                "eval_role": plan.eval_role,
                "groups": plan.groups,
                "looks": looks_of(plan),
            }
        )
        again = assemble(facts, marking.rules, data, plan, recorded.run)
        compare_json(run.folder / place / BENCH, again, findings, (*NOT_COMPUTED, *marking.unknown))
    run.seeds.append(seed)


def _decided_before(run: RunFolder, recorded: Bench, plan: BenchPlan, seed: int) -> dict[str, str]:
    """Variants that this seed did not train, of those that the seeds before it had decided; and why."""
    stopped = {result.name for result in recorded.variants if result.stopped_early}
    if not stopped:
        return {}
    benches = benches_of(run.folder, plan.seeds[: plan.seeds.index(seed)])
    lost = no_longer_passing(benches, plan.seeds, plan.policy) if benches else {}
    return {name: why for name, why in lost.items() if name in stopped}


def _check_gold(run: RunFolder, facts: SeedFacts) -> None:
    """Check that all seeds of a run have the same examples, with the same gold answers."""
    if facts.probe is None or facts.probe.answers is None:
        return
    findings, file = run.findings, f"probe/eval/{ANSWERS}"
    examples = tuple(gold_of(row) for row in facts.probe.answers.records)
    key = (facts.probe.answers.run.examples_sha256, examples)
    if run.gold and key not in run.gold:
        findings.mismatch(file, f"different examples or gold answers from {next(iter(run.gold.values()))}")
    run.gold.setdefault(key, findings.named_in_run(file))
    if facts.base is not None and tuple(gold_of(row) for row in facts.base.records) != examples:
        findings.mismatch(f"base/eval/{ANSWERS}", f"examples or gold answers differ from {file}")


def _check_seeds(run: RunFolder, place: str, facts: SeedFacts) -> None:
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
            if run.bases and base not in run.bases:
                first = next(iter(run.bases.values()))
                findings.mismatch(file, f"base or tokenizer differs from {first}", "base")
            run.bases.setdefault(base, findings.named_in_run(file))
            values = [number for row in evaluation.records for number in numbers_of(row)]
            if values:
                numbers[file] = "numbers", sha256_json(values)
        for file, (kind, value) in numbers.items():
            before = run.unique.setdefault((kind, value), (place, findings.named_in_run(file)))
            if before[0] != place:
                findings.mismatch(file, f"the same {kind} as {before[1]}, under another seed")


def _check_aggregate(run: RunFolder, plan: BenchPlan | None) -> Status | None:
    findings, path = run.findings, run.folder / AGGREGATE
    try:
        recorded = BenchAggregate.read(path)
    except InputError as error:
        findings.mismatch(AGGREGATE, str(error))
        return None
    check_page(recorded, recorded.run, run.folder / DOCUMENT, findings)
    if plan is None:
        findings.not_done(
            "aggregate", "L1", f"{AGGREGATE}: its seeds are not in this folder: verify their folders"
        )
        findings.gap("the seeds of the aggregate, which are not in this folder")
        return recorded.status
    with findings.check("aggregate", "L1", f"{AGGREGATE} matches the seeds"), findings.remaking(AGGREGATE):
        benches = benches_of(run.folder, plan.seeds)
        verified = {bench.seed for bench in benches} <= {*run.seeds} and not any(
            mismatch.file.startswith("seed_") for mismatch in findings.mismatches
        )
        again = aggregate_run(benches, recorded.run, records_verified=recorded.records_verified and verified)
        compare_json(path, again, findings, NOT_COMPUTED)
    return recorded.status


def check_page(result: Report, run: RunInfo, path: Path, findings: Findings) -> None:
    """Compare the page beside a result, if there is one, with the page made from its JSON. run: the run that wrote
    it."""
    version, name = run.gradience_version, path.name
    if not path.is_file():
        return
    if version != __version__:
        findings.not_done("pages", "L1", f"{name}: written by another version ({version}), not compared")
        return
    with findings.check("pages", "L1", f"{name} matches its JSON, byte for byte", name):
        if read_file(path, MAX_DATA_BYTES) != result.to_markdown().encode():
            findings.mismatch(name, "differs from the page generated from its JSON")


NOT_COMPUTED = ("schema", "run")
"""Fields that are taken as recorded."""


def compare_json(path: Path, again: Report, findings: Findings, ignored: Collection[str]) -> None:
    """Name the fields in which the file of a result differs from what was made again."""
    values = strict_json.loads(read_file(path, MAX_DATA_BYTES), path, path.name)
    computed = again.model_dump(mode="json")
    version = computed["run"]["gradience_version"]
    for field, recorded, expected in differences(values, computed, ignored=ignored):
        if version != __version__ and {*field.split(".")} & {*WORDS}:
            findings.gap(f"sentences of version {version}: not compared")
        else:
            findings.differ(path.name, field, recorded, expected)


# ---------------------------------------------------------------- an aggregate of verified runs


def aggregate_checked(folders: Sequence[Path], *, command: str = "") -> BenchAggregate:
    """Read and aggregate the runs in `folders`, after checking each against its own records.

    A result that contradicts its records or digests is refused. A result without records is used unchecked, with a
    note.
    Raises InputError (`bench-altered`), and what `find_benches`, `Bench.read` and `aggregate` raise.
    """
    watch, paths = Stopwatch(command), find_benches(folders)
    benches = [Bench.read(path) for path in paths]
    unchecked = [name for folder in folders for name in _unchecked(folder)]
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
        if error.code not in UNVERIFIABLE:
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
