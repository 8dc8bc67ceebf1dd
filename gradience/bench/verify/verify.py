"""The folder of a run -> what in it agrees with what, and what does not.

Everything that can be computed again is: digests, how answers are scored, counts, verdicts, the aggregate, the pages.
What is left is said: that the answers are those of the adapters, and that the folder is the one that was published
(`root`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from gradience import __version__
from gradience.adapters import strict_json
from gradience.bench.arms.registry import control_of
from gradience.bench.config.load import BenchConfig
from gradience.bench.verdict.aggregate import no_longer_passing
from gradience.bench.verdict.assemble import assemble
from gradience.bench.verdict.facts import SeedFacts
from gradience.bench.verdict.folders import AGGREGATE, BENCH, PLAN, aggregate_run, benches_of
from gradience.bench.verify.calibration import check_calibration
from gradience.bench.verify.difference import Difference, differences
from gradience.bench.verify.files import check_files
from gradience.bench.verify.findings import Findings
from gradience.bench.verify.links import check_links
from gradience.bench.verify.marking import Marking, marking_of
from gradience.bench.verify.protocol import check_protocol, plan_of
from gradience.bench.verify.recompute import SeedFolder
from gradience.bench.verify.rescore import gold_of, rescored
from gradience.bench.verify.stages import check_stages, stages_of
from gradience.errors import GradienceError, InputError
from gradience.files.digests import root_of
from gradience.files.records import Evaluation
from gradience.files.shared_names import path_text
from gradience.reading import MAX_DATA_BYTES, read_file
from gradience.reports.base.report import Report
from gradience.reports.base.run import Stopwatch
from gradience.reports.bench import Bench, Status
from gradience.reports.bench_aggregate import BenchAggregate
from gradience.reports.bench_plan import BenchPlan
from gradience.reports.verification import RegeneratedAnswers, Verification

APART = (
    "schema",
    "run",
    "config",
    "config_digest",
    "protocol_digest",
    "plan_digest",
    "data.source",
    "data.counts",
)
"""Fields of a result that its records do not give: digests are checked by themselves, times and sources as recorded."""
WORDS = ("reasons", "notes", "rank_basis", "why", "words")
"""Fields that hold sentences, which another version may word in another way."""
MADE_UP = (
    "that nobody made up the whole run: a root or a signature from elsewhere shows that the folder is the one that was"
    " published, and running its config again that its adapters answer so"
)
Page = Callable[[Report], str]
Regenerate = Callable[[Path, str, Findings], tuple[RegeneratedAnswers, ...]]
"""(folder of the run, the seed's folder inside it or nothing, findings) -> what was answered again."""


@dataclass
class RunFolder:
    """A run, or one seed of it, and what has come out so far."""

    folder: Path
    """Of the run: where plan.json lies."""
    only: str = ""
    """The seed's folder inside it, where that alone is verified."""
    findings: Findings = field(default_factory=Findings)
    seeds: list[int] = field(default_factory=list)
    """Whose results were made again."""
    gold: dict[tuple[Any, ...], str] = field(default_factory=dict)
    """The examples and gold answers of a seed -> the first file that has them."""


def verify_run(
    folder: Path,
    *,
    root: str | None = None,
    page_of: Page | None = None,
    regenerate: Regenerate | None = None,
    command: str = "",
) -> Verification:
    """Verify the run in `folder`, or the one seed of it that lies there.

    root: sha256 that its digests.json must have. page_of: what renders a result as Markdown; without it pages are not
    compared. regenerate: what answers examples again; it needs the model, and nothing else here does.
    Raises InputError (`not-a-run`, `nothing-to-verify`) where there is nothing that could be verified.
    """
    watch = Stopwatch(command)
    run = _opened(folder)
    findings = run.findings
    check_files(run.folder, findings, below=run.only, expected=root)
    status = _check_results(run, page_of)
    if not any(check.result != "not done" for check in findings.checks) and not findings.mismatches:
        raise InputError(
            f"{folder}: nothing to verify its results by: no digests.json, and no records of answers",
            code="nothing-to-verify",
            hint="unpack what was published beside it, or name the folder that `gradience bench run` wrote",
        )
    regenerated = regenerate(run.folder, run.only, findings) if regenerate is not None else None
    if root is None:
        findings.gap("that this is the folder that was published: give its --root")
    findings.gap(MADE_UP)
    return Verification(
        folder=path_text(folder),
        verified=not findings.mismatches,
        level=findings.level,
        root=root_of(run.folder),
        root_expected=root,
        status=status,
        seeds=tuple(run.seeds),
        checks=tuple(findings.checks),
        mismatches=tuple(findings.mismatches),
        not_verified=tuple(findings.gaps),
        regenerated=regenerated,
        run=watch.run_info(),
    )


def _opened(folder: Path) -> RunFolder:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder", code="not-a-run", hint="name the folder of a run")
    above = folder.absolute().parent
    if not (folder / PLAN).is_file() and folder.name.startswith("seed_") and (above / PLAN).is_file():
        return RunFolder(folder.parent, f"{folder.name}/")
    if not any((folder / name).is_file() for name in (PLAN, BENCH, AGGREGATE)):
        raise InputError(
            f"{folder}: no run: neither {PLAN} nor {BENCH} nor {AGGREGATE} in it",
            code="not-a-run",
            hint="name the folder that `gradience bench run` wrote",
        )
    return RunFolder(folder)


# ---------------------------------------------------------------- the results of a run


def _check_results(run: RunFolder, page_of: Page | None) -> Status | None:
    """Check every seed, and the aggregate; return the verdict that stands in the folder."""
    plan: BenchPlan | None = None
    digest = ""
    try:
        plan, digest = plan_of(run.folder)
    except InputError as error:
        if (run.folder / PLAN).exists() or stages_of(run.folder):
            run.findings.mismatch(PLAN, str(error))
        run.findings.not_done("plan", "L1", f"{PLAN} cannot be read")
    several = plan is not None and len(plan.seeds) > 1
    places = [f"seed_{seed}/" for seed in plan.seeds] if plan is not None and several else [""]
    for place in sorted({f"{path.parent.name}/" for path in run.folder.glob(f"seed_*/{BENCH}")} - {*places}):
        run.findings.mismatch(f"{place}{BENCH}", f"a seed that {PLAN} does not name")
    status: Status | None = None
    for place in places:
        if run.only in ("", place) and (run.folder / place / BENCH).is_file():
            status = _check_seed(run, place, plan, digest, page_of) or status
    if run.only or not (run.folder / AGGREGATE).is_file():
        return status if not several or run.only else None
    return _check_aggregate(run, plan, page_of)


def _check_seed(
    run: RunFolder, place: str, plan: BenchPlan | None, digest: str, page_of: Page | None
) -> Status | None:
    """Check one seed; return the status that it has recorded."""
    findings, seed, file = run.findings, run.folder / place, f"{place}{BENCH}"
    try:
        recorded = Bench.read(seed / BENCH)
        values = strict_json.loads(read_file(seed / BENCH, MAX_DATA_BYTES), seed / BENCH, BENCH)
    except InputError as error:
        findings.mismatch(file, str(error))
        return None
    _check_page(recorded, f"{place}bench.md", run, page_of)
    if plan is not None:
        check_protocol(run.folder, plan, digest, values, file, findings)
    check_stages(seed, digest or None, findings, inside=place)
    if plan is None or not stages_of(seed):
        findings.not_done("results", "L1", f"{file}: no records beside it, from which it could be made again")
        return recorded.status
    expected = int(place.removeprefix("seed_").rstrip("/")) if place else plan.seeds[0]
    if recorded.seed != expected:
        findings.mismatch(file, f"{recorded.seed}; its folder is that of seed {expected}", "seed")
    try:
        _check_result(run, place, recorded, values, plan, expected)
    except (GradienceError, LookupError, ValueError, ArithmeticError, AssertionError) as error:
        # what stands in a stranger's files need not fit together: then nothing can be made of it
        findings.mismatch(file, f"cannot be made again from its records: {type(error).__name__}: {error}")
    return recorded.status


def _check_result(
    run: RunFolder, place: str, recorded: Bench, values: dict[str, Any], plan: BenchPlan, seed: int
) -> None:
    """Make the result of a seed again and compare it, field by field."""
    findings, file = run.findings, f"{place}{BENCH}"
    config = BenchConfig.model_validate(_with_the_gate_of(recorded, values["config"], findings, place))
    marking = marking_of(run.folder, plan, recorded)
    mark, lost = partial(_marked, run, place, marking), _decided_before(run, recorded, plan, seed)
    folder = SeedFolder(run.folder / place, config, seed, recorded, mark, lost)
    if marking.why_not:
        findings.not_done("answers", "L2", marking.why_not)
        facts = folder.facts()
    else:
        with findings.check(
            "answers",
            "L2",
            f"{place or 'the run'}: answers extracted and scored again from the stored outputs",
        ):
            facts = folder.facts()
    unknown = (*APART, *marking.unknown)
    if folder.is_earlier:
        findings.gap(
            f"{place}audit/audit.json, of an earlier version: the ranks of the variants are as recorded"
        )
        unknown = (*unknown, "audit")
    if folder.calibration_is_gone:
        findings.gap(f"{place}calibration, which was not kept: the ranks that rest on it are as recorded")
    for name in folder.taken_as_recorded:
        findings.gap(f"{place}{name}: that it ended in the error that is recorded")
    check_links(facts, plan, values["config"], findings, inside=place)
    check_calibration(facts, plan, findings, inside=place)
    _check_gold(run, place, facts)
    with findings.check("results", "L1", f"{file}: every count, verdict and number is that of the records"):
        data = recorded.data.model_copy(update={"splits": plan.splits})
        again = assemble(facts, marking.rules, data, plan, recorded.run)
        given = recorded.notes[
            : max(0, len(recorded.notes) - len(again.notes))
        ]  # what the config's reader said
        again = again.model_copy(update={"notes": (*given, *again.notes)})
        _compare(
            values,
            again.model_dump(mode="json"),
            file,
            run,
            unknown,
            "" if folder.is_earlier else recorded.run.gradience_version,
        )
    run.seeds.append(seed)


def _with_the_gate_of(
    recorded: Bench, config: dict[str, Any], findings: Findings, place: str
) -> dict[str, Any]:
    """The config as it was meant: a run of an earlier version did not hold its probe against the base."""
    task = config.get("task")
    gate = task.get("probe_gate") if isinstance(task, dict) else None
    if not isinstance(task, dict) or not isinstance(gate, dict):
        return config  # it is refused where it is read as a config
    if recorded.probe is None or recorded.probe.gate.above_base is not None or "above_base" in gate:
        return config
    findings.gap(f"{place}that the probe has more correct than its base: an earlier version did not ask")
    return config | {"task": task | {"probe_gate": gate | {"above_base": None}}}


def _decided_before(run: RunFolder, recorded: Bench, plan: BenchPlan, seed: int) -> dict[str, str]:
    """Variants that this seed did not train, of those that the seeds before it had decided; and why."""
    stopped = {result.name for result in recorded.variants if result.stopped_early}
    if not stopped:
        return {}
    before = [run.folder / f"seed_{other}" / BENCH for other in plan.seeds[: plan.seeds.index(seed)]]
    benches = [Bench.read(path) for path in before if path.is_file()]
    lost = no_longer_passing(benches, plan.seeds, plan.policy) if benches else {}
    return {name: why for name, why in lost.items() if name in stopped}


def _marked(
    run: RunFolder, place: str, marking: Marking, evaluation: Evaluation[Any], folder: Path
) -> Evaluation[Any]:
    """The records, marked again; says where they were marked otherwise."""
    again = rescored(evaluation, marking.rules) if not marking.why_not else None
    if again is None:
        return evaluation
    if again.changed:
        name = f"{place}{folder.parent.name}/eval/answers.records.jsonl"
        some = ", ".join(again.changed[:3])
        run.findings.mismatch(
            name, f"{len(again.changed):,} answers are scored otherwise than the task scores them: {some}"
        )
    return again.evaluation


def _check_gold(run: RunFolder, place: str, facts: SeedFacts) -> None:
    """The seeds of a run were all asked the same examples, with the same gold answers."""
    if facts.probe is None or facts.probe.answers is None:
        return
    file = f"{place}probe/eval/answers.records.jsonl"
    examples = tuple(gold_of(row) for row in facts.probe.answers.records)
    key = (facts.probe.answers.run.examples_sha256, examples)
    if run.gold and key not in run.gold:
        run.findings.mismatch(file, f"other examples or gold answers than {next(iter(run.gold.values()))}")
    run.gold.setdefault(key, file)
    if facts.base is not None and tuple(gold_of(row) for row in facts.base.records) != examples:
        run.findings.mismatch(
            f"{place}base/eval/answers.records.jsonl", f"other examples or gold answers than {file}"
        )


def _check_aggregate(run: RunFolder, plan: BenchPlan | None, page_of: Page | None) -> Status | None:
    findings = run.findings
    try:
        recorded = BenchAggregate.read(run.folder / AGGREGATE)
        values = strict_json.loads(
            read_file(run.folder / AGGREGATE, MAX_DATA_BYTES), run.folder / AGGREGATE, AGGREGATE
        )
    except InputError as error:
        findings.mismatch(AGGREGATE, str(error))
        return None
    _check_page(recorded, "bench_aggregate.md", run, page_of)
    if plan is None:
        findings.not_done("aggregate", "L1", f"{AGGREGATE}: its seeds are elsewhere: verify their folders")
        findings.gap("the seeds of the aggregate, which are elsewhere")
        return recorded.status
    try:
        benches = benches_of(run.folder, plan.seeds)
        verified = {bench.seed for bench in benches} <= {*run.seeds} and not any(
            one.file.startswith("seed_") for one in findings.mismatches
        )
        again = aggregate_run(
            run.folder, benches, recorded.run, records_verified=bool(recorded.records_verified) and verified
        )
    except GradienceError as error:
        findings.mismatch(AGGREGATE, f"cannot be made again from its seeds: {error}")
        return recorded.status
    with findings.check("aggregate", "L1", f"{AGGREGATE} is that of the seeds"):
        _compare(
            values,
            again.model_dump(mode="json"),
            AGGREGATE,
            run,
            ("schema", "run"),
            recorded.run.gradience_version,
        )
    return recorded.status


def _check_page(result: Bench | BenchAggregate, name: str, run: RunFolder, page_of: Page | None) -> None:
    """Compare the page beside a result with what its JSON gives."""
    path = run.folder / name
    if page_of is None or not path.is_file():
        return
    version = result.run.gradience_version
    if version != __version__:
        run.findings.not_done(
            "pages", "L1", f"{name}: written by version {version}, this is {__version__}: not compared"
        )
        return
    with run.findings.check("pages", "L1", f"{name} is the page of its JSON, byte for byte"):
        try:
            same = read_file(path, MAX_DATA_BYTES) == page_of(result).encode()
        except InputError as error:
            run.findings.mismatch(name, str(error))
            return
        if not same:
            run.findings.mismatch(name, "not the page that its JSON gives")


def _compare(
    recorded: Any, computed: Any, file: str, run: RunFolder, ignored: tuple[str, ...], version: str
) -> None:
    for one in differences(recorded, computed, ignored=ignored):
        words = one.is_text and any(part in WORDS for part in one.field.split("."))
        if one.unrecorded:
            run.findings.gap(
                f"{file}: {one.field.rpartition('.')[2]}, which an earlier version did not record"
            )
        elif one.field.endswith(".made_by"):
            _check_making(one, file, run.findings)
        elif words and version != __version__:
            run.findings.gap(f"sentences of version {version}: not compared")
        else:
            run.findings.mismatch(file, one.what, one.field)


def _check_making(one: Difference, file: str, findings: Findings) -> None:
    """An earlier version may have made a control in another way, which is known."""
    control = control_of(one.field.split(".")[1])
    if control is not None and str(one.recorded) in control.formerly:
        findings.gap(f"{file}: {control.name}, which an earlier version made in another way")
    else:
        findings.mismatch(file, one.what, one.field)
