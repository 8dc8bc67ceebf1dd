"""The folder of a run -> what in it agrees with what, and what does not.

Everything that can be computed again is: digests, how answers are scored, counts, verdicts, the aggregate, the pages.
What is left is said: that the answers are those of the adapters, and that the folder is the one that was published
(`root`).
"""

import math
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from gradience import __version__
from gradience.adapters.locate import WEIGHTS
from gradience.bench.config.load import BenchConfig
from gradience.bench.plan.preregister import plan_digest
from gradience.bench.plan.variants import GUARDS
from gradience.bench.verdict.aggregate import no_longer_passing
from gradience.bench.verdict.assemble import assemble
from gradience.bench.verdict.facts import SeedFacts
from gradience.bench.verdict.folders import (
    AGGREGATE,
    BENCH,
    DOCUMENT,
    PAGE,
    PLAN,
    aggregate_folders,
    aggregate_run,
    benches_of,
    find_benches,
)
from gradience.bench.verify.data import check_data, config_of_plan, configs_of, plan_of
from gradience.bench.verify.files import check_files, check_stages, stages_of
from gradience.bench.verify.findings import CLOSE, Findings
from gradience.bench.verify.links import check_links, check_sizes
from gradience.bench.verify.packed import as_published, unpacked
from gradience.bench.verify.recompute import Marking, SeedFolder, gold_of, marking_of, numbers_of, rescored
from gradience.digests import sha256_file, sha256_json
from gradience.errors import GradienceError, InputError
from gradience.evaluate.verb import EVALUATION
from gradience.files import strict_json
from gradience.files.digests import root_of
from gradience.files.records import Evaluation
from gradience.files.shared_names import given_text, path_text, values_text
from gradience.reading import MAX_DATA_BYTES, read_file
from gradience.reports.base.report import Report
from gradience.reports.base.run import Stopwatch
from gradience.reports.bench import Bench, BenchAggregate, Status
from gradience.reports.bench_plan import BenchPlan
from gradience.reports.training import ADAPTER
from gradience.reports.verification import Verification
from gradience.words import counted

NAMES = ("name", "seed", "role")
"""Fields that identify the entries of a list."""
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
    "a fabricated run cannot be ruled out: a root or signature from another source shows that this is the published"
    " folder, and running its config again shows that its adapters give these answers"
)
UNVERIFIABLE = ("not-a-run", "nothing-to-verify")


@dataclass
class RunFolder:
    """A run, or one seed of it, and what has come out so far."""

    folder: Path
    """Folder of the run, with plan.json; temporary if the run is packed."""
    published: Path
    """Folder in which the run was published."""
    only: str = ""
    """The seed's folder inside it, if only that seed is verified."""
    findings: Findings = field(default_factory=Findings)
    code: str | None = None
    """Version of Gradience in the plan."""
    places: list[str] = field(default_factory=lambda: [""])
    """Folders of the verified seeds inside it."""
    seeds: list[int] = field(default_factory=list)
    """Seeds whose results were recomputed."""
    bases: dict[tuple[Any, ...], str] = field(default_factory=dict)
    """Name and digests of base and tokenizer -> the first file of records that has them."""
    unique: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    """(kind, digest) of what only one seed may have -> folder of that seed, and the first file that has it."""
    gold: dict[tuple[Any, ...], str] = field(default_factory=dict)
    """The examples and gold answers of a seed -> the first file that has them."""


def verify_run(
    folder: Path,
    *,
    root: str | None = None,
    plan: str | None = None,
    data: bool = False,
    regenerate: int | None = None,
    sample_seed: int | None = None,
    command: str = "",
    guard: Callable[[Path, Findings], object] = lambda folder, findings: None,
) -> Verification:
    """Verify the run in `folder`, or the single seed in it, packed (`everything.tar.xz`) or not.

    root, plan: sha256 that its digests.json and plan.json must have. data: compare all examples with the task's.
    regenerate: number of examples that each adapter answers again; the only step that needs the model. sample_seed:
    which examples; None draws anew. guard: checks the evaluation on a guard, in its folder, against its records.
    Raises InputError (`not-a-run`, `nothing-to-verify`, `bad-archive`) if there is nothing to verify.
    """
    watch = Stopwatch(command)
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
        findings = run.findings
        check_files(place, findings, below=only, expected=root)
        plan_found = check_plan_digest(place, plan, findings)
        status = _check_results(run)
        for path in sorted(place.glob(f"**/{GUARDS}/*/{EVALUATION}")):
            inside = path.parent.relative_to(place).as_posix()
            if inside.startswith(only):
                with findings.inside(inside):
                    _check_guard(guard, path.parent, findings)
        if not any(check.result != "not done" for check in findings.checks) and not findings.mismatches:
            raise InputError(
                f"{folder}: nothing to verify: no digests.json and no records of answers",
                code="nothing-to-verify",
                hint="unpack the published archive beside it, or name the output folder of `gradience bench run`",
            )
        again = None
        if data:
            check_data(place, whole, run.places, findings)
        if regenerate is not None:
            from gradience.bench.verify.regenerate import regenerated

            sample_seed = secrets.randbelow(2**32) if sample_seed is None else sample_seed
            again = regenerated(place, whole, run.places, findings, least=regenerate, seed=sample_seed)
    report = verification_of(folder, findings, watch, MADE_UP, root_of(whole), root, plan_found, plan)
    return report.model_copy(
        update={
            "code": run.code,
            "status": status,
            "seeds": tuple(run.seeds),
            "sample_seed": None if regenerate is None else sample_seed,
            "regenerated": again,
        }
    )


def _check_guard(check: Callable[[Path, Findings], object], folder: Path, findings: Findings) -> None:
    try:
        check(folder, findings)
    except (
        GradienceError,
        LookupError,
        ValueError,
        ArithmeticError,
        AssertionError,
    ) as error:  # as in `_check_seed`
        findings.mismatch(EVALUATION, f"cannot be made again: {type(error).__name__}: {error}")


def verification_of(
    folder: Path,
    findings: Findings,
    watch: Stopwatch,
    made_up: str,
    root: str | None,
    root_expected: str | None,
    plan: str | None,
    plan_expected: str | None,
) -> Verification:
    """Return the report of what was found in a folder. made_up: what no check can rule out, in words."""
    if root_expected is None:
        findings.gap("that this is the published folder: give its --root")
    findings.gap(made_up)
    return Verification(
        folder=path_text(folder),
        verdict=findings.verdict(from_outside=root_expected is not None or plan_expected is not None),
        level=findings.level,
        root=root,
        root_expected=root_expected,
        plan=plan,
        plan_expected=plan_expected,
        status=None,
        seeds=(),
        checks=tuple(findings.checks),
        mismatches=tuple(findings.mismatches),
        not_verified=tuple(findings.gaps),
        run=watch.run_info(),
    )


def check_plan_digest(folder: Path, expected: str | None, findings: Findings) -> str | None:
    """Return the sha256 of plan.json, if it is there; compare it with the one that is expected."""
    present = sha256_file(folder / PLAN) if (folder / PLAN).is_file() else None
    if expected is not None:
        with findings.check("plan digest", "L1", f"{PLAN} has the digest given with --plan"):
            if present != expected.strip().lower():
                findings.mismatch(
                    PLAN, f"sha256 is {present or 'unavailable: no file'}; expected: {expected}"
                )
    return present


# ---------------------------------------------------------------- the results of a run


def _check_results(run: RunFolder) -> Status | None:
    """Check every seed, and the aggregate; return the verdict recorded in the folder."""
    plan: BenchPlan | None = None
    try:
        plan = plan_of(run.folder)
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
    for place in run.places:
        if (run.folder / place / BENCH).is_file():
            status = _check_seed(run, place, plan) or status
    if run.only or not (run.folder / AGGREGATE).is_file():
        return status if not several or run.only else None
    return _check_aggregate(run, plan)


def _check_seed(run: RunFolder, place: str, plan: BenchPlan | None) -> Status | None:
    """Check one seed; return the status that it has recorded."""
    findings, seed, file = run.findings, run.folder / place, f"{place}{BENCH}"
    try:
        recorded = Bench.read(seed / BENCH)
        values = strict_json.loads(read_file(seed / BENCH, MAX_DATA_BYTES), seed / BENCH, BENCH)
    except InputError as error:
        findings.mismatch(file, str(error))
        return None
    check_page(recorded, recorded.run.gradience_version, seed / PAGE, findings, f"{place}{PAGE}")
    config = None if plan is None else _check_protocol(run, plan, recorded, file)
    check_stages(seed, None if plan is None else plan_digest(plan), findings, inside=place)
    if plan is None or not stages_of(seed):
        findings.not_done("results", "L1", f"{file}: no records in the folder; cannot recompute")
        return recorded.status
    expected = int(place.removeprefix("seed_").rstrip("/")) if place else plan.seeds[0]
    if recorded.seed != expected:
        findings.mismatch(file, f"{recorded.seed}, but the folder belongs to seed {expected}", "seed")
    try:
        config = config or BenchConfig.model_validate(recorded.config)
        _check_result(run, place, recorded, values, plan, config, expected)
    except (GradienceError, LookupError, ValueError, ArithmeticError, AssertionError) as error:
        # files of unknown origin may be inconsistent, and then nothing can be computed from them
        findings.mismatch(file, f"cannot be recomputed from its records: {type(error).__name__}: {error}")
    return recorded.status


def _check_protocol(run: RunFolder, plan: BenchPlan, recorded: Bench, file: str) -> BenchConfig | None:
    """Compare a seed's result with the plan and with its own config; return that."""
    findings, result, planned = run.findings, recorded.model_dump(mode="json"), plan.model_dump(mode="json")
    steps = planned["ladder"]["names"] if planned["ladder"] else []
    named = [*planned["tests"], *steps, *planned["controls"]]
    facts = {
        "plan_digest": (recorded.plan_digest, plan_digest(plan)),
        "policy": (result["policy"], planned["policy"]),
        "planned_seeds": (result["planned_seeds"], planned["seeds"]),
        "smoke": (result["smoke"], planned["smoke"]),
        "protocol_digest": (result["protocol_digest"], planned["protocol_digest"]),
        "data.task": (result["data"]["task"], planned["task"]),
        "data.splits": (result["data"]["splits"], planned["splits"]),
        "data.eval_role": (result["data"]["eval_role"], planned["eval_role"]),
        "variants": ([variant.name for variant in recorded.variants], named),
    }
    with findings.check("plan", "L1", f"{file} follows plan.json: policy, seeds, variants, config"):
        for name, (recorded_value, expected) in facts.items():
            if recorded_value != expected:
                findings.mismatch(file, f"{recorded_value}; in plan.json {expected}", name)
        config = next(
            (
                config
                for config in configs_of(run.folder, [recorded])
                if config.digest() == recorded.config_digest
                and values_text(config.model_dump(mode="json")) == recorded.config
            ),
            None,
        )
        if config is None:
            findings.mismatch(file, "not the digest of `config`", "config_digest")
            return None
        if config.protocol_digest() != plan.protocol_digest:
            findings.mismatch(PLAN, f"not the digest of the config in {file}", "protocol_digest")
        stated = config.model_dump(mode="json")
        if [*config.guards] != [guard.name for guard in plan.guards]:
            findings.mismatch(PLAN, f"other guards than in the config of {file}", "guards")
        for name in ("policy", "seeds"):
            if stated[name] != planned[name]:
                findings.mismatch(PLAN, f"{planned[name]}; in the config {stated[name]}", name)
    return config


def _check_result(
    run: RunFolder,
    place: str,
    recorded: Bench,
    values: dict[str, Any],
    plan: BenchPlan,
    config: BenchConfig,
    seed: int,
) -> None:
    """Make the result of a seed again and compare it, field by field."""
    findings, file = run.findings, f"{place}{BENCH}"
    marking = marking_of(config_of_plan(run.folder, run.published, plan).task, plan, recorded)
    mark, lost = partial(_marked, run, place, marking), _decided_before(run, recorded, plan, seed)
    folder = SeedFolder(run.folder / place, config, seed, recorded, mark, lost)
    if marking.why_not:
        findings.not_done("answers", "L2", marking.why_not)
        facts = folder.facts()
    else:
        problem = f"{place or 'the run'}: answers extracted and rescored from the stored outputs"
        with findings.check("answers", "L2", problem):
            facts = folder.facts()
    for name in folder.taken_as_recorded:
        findings.gap(f"{place}{name}: that it ended in the recorded error")
    version = None if marking.why_not else marking.rules.scoring_version
    check_links(facts, plan, findings, inside=place, version=version)
    check_sizes(facts, findings, inside=place)
    _check_gold(run, place, facts)
    _check_seeds(run, place, facts)
    with findings.check("results", "L1", f"{file}: every count, verdict and number matches the records"):
        looks = () if plan.ladder is None else plan.ladder.looks
        data = recorded.data.model_copy(update={"splits": plan.splits, "groups": plan.groups, "looks": looks})
        again = assemble(facts, marking.rules, data, plan, recorded.run)
        _compare(values, again, file, findings, (*APART, *marking.unknown))
    run.seeds.append(seed)


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
    """Return the records, scored again; report any score that differs."""
    if marking.why_not:
        return evaluation
    again = rescored(evaluation, marking.rules)
    if again.changed:
        name = f"{place}{folder.parent.name}/eval/answers.records.jsonl"
        some = ", ".join(again.changed[:3])
        run.findings.mismatch(
            name, f"{len(again.changed):,} answers are scored otherwise than the task scores them: {some}"
        )
    return again.evaluation


def _check_gold(run: RunFolder, place: str, facts: SeedFacts) -> None:
    """Check that all seeds of a run have the same examples, with the same gold answers."""
    if facts.probe is None or facts.probe.answers is None:
        return
    file = f"{place}probe/eval/answers.records.jsonl"
    examples = tuple(gold_of(row) for row in facts.probe.answers.records)
    key = (facts.probe.answers.run.examples_sha256, examples)
    if run.gold and key not in run.gold:
        run.findings.mismatch(
            file, f"different examples or gold answers from {next(iter(run.gold.values()))}"
        )
    run.gold.setdefault(key, file)
    if facts.base is not None and tuple(gold_of(row) for row in facts.base.records) != examples:
        run.findings.mismatch(
            f"{place}base/eval/answers.records.jsonl", f"other examples or gold answers than {file}"
        )


def _check_seeds(run: RunFolder, place: str, facts: SeedFacts) -> None:
    """Check that two seeds do not share an adapter or its numbers, and that all answers have one base.

    Outputs are not compared: two good adapters may well write the same.
    """
    findings = run.findings
    for outcome in filter(None, (facts.probe, *facts.outcomes)):
        name, adapter = outcome.planned.name, outcome.adapter
        numbers: dict[str, tuple[str, Any]] = {}
        if adapter is not None:
            file = f"{place}{name}/{adapter.folder.parent.name}/{ADAPTER}/{WEIGHTS}"
            numbers[file] = "weights", adapter.sha256
        for kind, evaluation in (("answers", outcome.answers), ("scores", outcome.scores)):
            if evaluation is None:
                continue
            file, header = f"{place}{name}/eval/{kind}.records.jsonl", evaluation.run
            base = (header.base, header.base_sha256, header.tokenizer_sha256)
            first = run.bases.setdefault(base, file)
            if len(run.bases) > 1 and first == file:
                findings.mismatch(
                    file, f"another base or tokenizer than {next(iter(run.bases.values()))}", "base"
                )
            values = [number for row in evaluation.records for number in numbers_of(row)]
            if values:
                numbers[file] = "numbers", sha256_json(values)
        for file, (kind, value) in numbers.items():
            before = run.unique.setdefault((kind, value), (place, file))
            if before[0] != place:
                findings.mismatch(file, f"the same {kind} as {before[1]}, under another seed")


def _check_aggregate(run: RunFolder, plan: BenchPlan | None) -> Status | None:
    findings, path = run.findings, run.folder / AGGREGATE
    try:
        recorded = BenchAggregate.read(path)
        values = strict_json.loads(read_file(path, MAX_DATA_BYTES), path, AGGREGATE)
    except InputError as error:
        findings.mismatch(AGGREGATE, str(error))
        return None
    check_page(recorded, recorded.run.gradience_version, run.folder / DOCUMENT, findings, DOCUMENT)
    if plan is None:
        findings.not_done(
            "aggregate", "L1", f"{AGGREGATE}: its seeds are not in this folder: verify their folders"
        )
        findings.gap("the seeds of the aggregate, which are not in this folder")
        return recorded.status
    try:
        benches = benches_of(run.folder, plan.seeds)
        verified = {bench.seed for bench in benches} <= {*run.seeds} and not any(
            mismatch.file.startswith("seed_") for mismatch in findings.mismatches
        )
        again = aggregate_run(
            benches, recorded.run, records_verified=bool(recorded.records_verified) and verified
        )
    except GradienceError as error:
        findings.mismatch(AGGREGATE, f"cannot be recomputed from its seeds: {error}")
        return recorded.status
    with findings.check("aggregate", "L1", f"{AGGREGATE} matches the seeds"):
        _compare(values, again, AGGREGATE, findings, ("schema", "run"))
    return recorded.status


def check_page(result: Report, version: str, path: Path, findings: Findings, name: str) -> None:
    """Compare the page beside a result, if there is one, with what its JSON gives. version: that wrote it."""
    if not path.is_file():
        return
    if version != __version__:
        why = f"{name}: not compared: written by another version ({version})"
        findings.not_done("pages", "L1", why)
        return
    with findings.check("pages", "L1", f"{name} matches its JSON, byte for byte"):
        try:
            if read_file(path, MAX_DATA_BYTES) != result.to_markdown().encode():
                findings.mismatch(name, "differs from the page generated from its JSON")
        except InputError as error:
            findings.mismatch(name, str(error))


# ---------------------------------------------------------------- two values of JSON


def _compare(
    recorded: Any, again: Bench | BenchAggregate, file: str, findings: Findings, ignored: Collection[str]
) -> None:
    """Name the fields in which a recorded result differs from the one that was made again."""
    version = again.run.gradience_version
    for difference in differences(recorded, again.model_dump(mode="json"), ignored=ignored):
        if difference.is_text and version != __version__ and set(difference.field.split(".")) & {*WORDS}:
            findings.gap(f"sentences of version {version}: not compared")
        else:
            findings.mismatch(file, difference.problem, difference.field)


def compare_json(path: Path, again: Report, findings: Findings, ignored: Collection[str]) -> None:
    """Name the fields in which the file of a result differs from what was made again."""
    values = strict_json.loads(read_file(path, MAX_DATA_BYTES), path, path.name)
    for difference in differences(values, again.model_dump(mode="json"), ignored=ignored):
        findings.mismatch(path.name, difference.problem, difference.field)


class ValueDifference(NamedTuple):
    """One place in which a recorded value differs from the computed one."""

    field: str
    problem: str
    is_text: bool
    """True if both are sentences, whose wording may differ between versions."""


def differences(
    recorded: Any, computed: Any, *, ignored: Collection[str] = (), at: str = ""
) -> Iterator[ValueDifference]:
    """Yield the differences between two values. Counts and texts must be equal, floats to 1e-9; null equals a
    missing key.

    ignored: full names of fields that are not compared.
    """
    if at in ignored:
        return
    if isinstance(recorded, Mapping) and isinstance(computed, Mapping):
        for key in (*computed, *(key for key in recorded if key not in computed)):
            field = f"{at}.{key}" if at else str(key)
            yield from differences(recorded.get(key), computed.get(key), ignored=ignored, at=field)
    elif isinstance(recorded, list) and isinstance(computed, list):
        key = next((name for name in NAMES if all(_has(entry, name) for entry in recorded + computed)), None)
        if key is not None and recorded and computed:
            ours, theirs = ({str(entry[key]): entry for entry in entries} for entries in (recorded, computed))
            if list(ours) != list(theirs):
                problem = f"{', '.join(ours)} recorded; {', '.join(theirs)} by the records"
                yield ValueDifference(at, problem, is_text=False)
            for name in ours.keys() & theirs.keys():
                yield from differences(ours[name], theirs[name], ignored=ignored, at=f"{at}.{name}")
        elif len(recorded) != len(computed):
            is_text = all(isinstance(entry, str) for entry in recorded + computed)
            yield ValueDifference(at, f"{len(recorded)} recorded, {len(computed)} by the records", is_text)
        else:
            for place, (ours, theirs) in enumerate(zip(recorded, computed, strict=True)):
                yield from differences(ours, theirs, ignored=ignored, at=f"{at}.{place}")
    elif not _equal(recorded, computed):
        is_text = isinstance(recorded, str) and isinstance(computed, str)
        problem = f"{_shown(recorded)} recorded, {_shown(computed)} by the records"
        yield ValueDifference(at, problem, is_text)


def _has(entry: Any, name: str) -> bool:
    return isinstance(entry, Mapping) and name in entry


def _equal(recorded: Any, computed: Any) -> bool:
    if recorded is None or computed is None:
        return _is_nothing(recorded) and _is_nothing(computed)
    if isinstance(recorded, bool) or isinstance(computed, bool):
        return recorded is computed
    if isinstance(recorded, float) or isinstance(computed, float):
        numbers = isinstance(recorded, int | float) and isinstance(computed, int | float)
        return numbers and math.isclose(recorded, computed, rel_tol=CLOSE, abs_tol=CLOSE)
    return bool(recorded == computed)


def _is_nothing(value: Any) -> bool:
    """null, and what a missing field means: an empty text, list or mapping."""
    return value is None or value in ("", [], {})


def _shown(value: Any) -> str:
    return "nothing" if _is_nothing(value) else str(value)


# ---------------------------------------------------------------- an aggregate of verified runs


def aggregate_checked(folders: Sequence[Path], *, command: str = "") -> BenchAggregate:
    """Aggregate the runs in `folders`, as `aggregate_folders` does, each held against its own records first.

    What its own records and digests contradict is refused; a result that has none beside it is taken unchanged, and
    a note says so. Raises InputError (`bench-altered`), and what `aggregate_folders` raises.
    """
    for path in find_benches(folders):  # first: whether there is anything at all, and can be read
        Bench.read(path)
    unchecked = [name for folder in folders for name in _unchecked(folder)]
    notes = []
    if unchecked:
        notes = [f"nothing to check the counts of {', '.join(unchecked)} by: no records beside the result"]
    return aggregate_folders(folders, command=command, notes=notes, records_verified=not unchecked)


def _unchecked(folder: Path) -> list[str]:
    """Return the results in a folder that nothing confirms. Raises InputError if something contradicts
    one.
    """
    place = folder if folder.is_dir() else folder.parent
    try:
        verification = verify_run(place)
    except InputError as error:
        if error.code not in UNVERIFIABLE:
            raise
        return [path_text(folder)]
    # an aggregate in the folder may be older than its seeds: a new one is made of them
    wrong = [mismatch for mismatch in verification.mismatches if mismatch.file not in (AGGREGATE, DOCUMENT)]
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
    return [
        check.what.partition(":")[0]
        for check in verification.checks
        if check.name == "results" and check.result == "not done"
    ]
