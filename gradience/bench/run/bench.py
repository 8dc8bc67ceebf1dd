"""A whole Bench run: write the plan before anything is trained, run each seed, and aggregate.

DIR/plan.json                  everything fixed before the run
DIR/config.yaml                the config of the run, with all its defaults
DIR/bench.json, bench.md       the result of one seed; with several seeds in DIR/seed_<n>/ each,
DIR/bench_aggregate.json, .md  and theirs together
DIR/digests.json               every file with its sha256, written last
…/probe/train, probe/eval, audit, uniform_median/train, …   the stages
…/run.log                      log with the tracebacks of failures; one for each seed
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from gradience.bench.config import UNCOUNTED, BenchConfig
from gradience.bench.plan import PROBE, bench_plan, evaluated_rows, plan_digest, promised, read_guards
from gradience.bench.run.on_ray import run_on_ray
from gradience.bench.run.prompts import planned_calibration
from gradience.bench.run.seed import LOG, SeedRun, logged
from gradience.bench.run.stages import remove_weights
from gradience.bench.verdict import aggregate as folders
from gradience.bench.verdict.aggregate import differences, no_longer_passing
from gradience.bench.verdict.assemble import assemble, data_of
from gradience.bench.verdict.evidence import LookRules
from gradience.bench.verdict.facts import SeedFacts
from gradience.bench.verify.verify import checked_run
from gradience.digests import code_version, sha256_file
from gradience.errors import InputError, UsageError
from gradience.evaluate.engines import engine, require_local
from gradience.evaluate.verb import planned_set
from gradience.files import strict_yaml
from gradience.files.digests import refuse_other_run, write_digests
from gradience.files.whole import only_one, write_whole
from gradience.models.load import choose_device, threads
from gradience.progress import Watcher
from gradience.reading import read_file
from gradience.reports.base.report import Stopwatch, save_with_page
from gradience.reports.bench import Bench, BenchAggregate
from gradience.reports.bench_plan import BenchPlan, DataSplit
from gradience.tasks.base import rendered
from gradience.tasks.user_code import is_file
from gradience.words import listed


def run_bench(
    config: BenchConfig,
    output: Path,
    watcher: Watcher,
    *,
    command: str = "",
) -> tuple[list[Bench], BenchAggregate | None]:
    """Run, or resume, the seeds of `config` in the folder `output`; only the seed `only_seed` if it is set.

    Returns the result of each seed that was run, and the aggregate of all finished seeds if several are
    planned. Raises LockedError if another run is writing there, UsageError (`output-other-run`) if the folder holds a
    run of a different config or different data, and the errors of loading, reading and writing.
    """
    runtime = config.runtime
    if runtime.executor == "local":  # a cluster's machines have devices of their own
        choose_device(runtime.device)
    require_local(runtime.engine)
    engine(runtime.engine).check(config.model)
    task = rendered(config.task.load(), config.model)
    splits = [
        DataSplit(
            role=role, n=len(task.examples.of(role, most)), sha256=task.examples.fingerprint(role, most)
        )
        for role, most in config.limits.items()
    ]
    rows, guards = evaluated_rows(config, task), tuple(map(planned_set, read_guards(config)))
    calibration = planned_calibration(config, task)
    planned = bench_plan(config, task.name, splits, task.code, calibration, rows, guards)
    planned = planned.model_copy(update={"code": code_version()})
    refuse_other_run(output, "bench run")
    # The folder is created only now, after the checks.
    with only_one(output), threads(runtime.threads):
        plan = _plan_on_disk(config, planned, output, watcher)
        watcher.planned(f"plan: {sha256_file(output / folders.PLAN)} (sha256 of {output / folders.PLAN})")
        watch = Stopwatch(command)
        benches: list[Bench] = []
        runs, known = dict[int, SeedRun](), dict[int, SeedFacts]()
        at_looks = uses_looks(config) and bool(rows.looks)
        if runtime.executor == "ray":
            known = run_on_ray(config, task, plan_digest(plan), output, watcher)
        for number, seed in enumerate(config.due, start=1):
            watcher.seed(seed, number, len(config.due))
            folder, of_seed = folders.folder_of_seed(output, config.seeds, seed), Stopwatch(command)
            if seed not in known:
                lost = {}  # variants that cannot pass after the seeds so far
                if config.only_seed is None and config.compression.stop_early:
                    lost = no_longer_passing(benches, config.seeds, config.policy)
                runs[seed] = SeedRun(
                    config, task, seed, folder, watcher,
                    plan=plan_digest(plan), lost=lost, uses_looks=uses_looks(config),
                )  # fmt: skip
                with logged(folder / LOG):
                    known[seed] = runs[seed].run()
            data = data_of(plan, task.source, task.examples.counts)
            bench = assemble(known[seed], task, data, plan, of_seed.run_info())
            save_with_page(bench, folder / folders.BENCH)
            if not at_looks:  # else the ladder still needs the adapters
                _remove_adapters(config, bench, known[seed])
            benches.append(bench)
        rules = LookRules.of(benches) if at_looks else None
        if rules is not None:
            known = evaluate_ladder(runs, known, rules, watcher)
            benches = [assemble(known[bench.seed], task, bench.data, plan, bench.run) for bench in benches]
            for bench in benches:
                save_with_page(bench, runs[bench.seed].folder / folders.BENCH)
                _remove_adapters(config, bench, known[bench.seed])
        together = None
        if len(config.seeds) > 1 and not config.smoke:
            results = folders.benches_of(output, config.seeds)  # of the planned seeds that are finished
            others = {bench.seed for bench in results} - {bench.seed for bench in benches}
            verified = all(_follows_from_records(output / f"seed_{seed}") for seed in others)
            together = folders.aggregate_run(results, watch.run_info(), records_verified=verified)
            save_with_page(together, output / folders.AGGREGATE)
        write_digests(output)
        return benches, together


def _follows_from_records(folder: Path) -> bool:
    """Return True if a seed's result, written by another process, matches its records."""
    try:
        with checked_run(folder) as run:
            return bool(run.seeds) and not run.findings.mismatches
    except InputError:  # there are no records
        return False


def _plan_on_disk(config: BenchConfig, plan: BenchPlan, output: Path, watcher: Watcher) -> BenchPlan:
    """Return the plan in the folder, which is written now unless an earlier run wrote the same."""
    path = output / folders.PLAN
    before = BenchPlan.read(path) if path.is_file() else None
    if before is not None and promised(before) != promised(plan):
        raise _other_run(output, config, before, plan)
    if before is not None and before.code != plan.code:
        watcher.note(
            f"the plan was written by Gradience at {before.code or 'an unknown commit'}; this is {plan.code}"
        )
    if before is not None and before.task_code == plan.task_code:
        return before
    if before is not None:
        watcher.note("the task's own code has changed: trainings are reused, evaluations are repeated")
    write_whole(
        output / folders.CONFIG, [yaml.safe_dump(_resumable(config, output), sort_keys=False).encode()]
    )
    plan.save(path)
    return plan


def _resumable(config: BenchConfig, output: Path) -> dict[str, Any]:
    """Return the config with all its defaults, and with paths relative to `output`."""
    values = config.model_dump(mode="json", exclude_none=True)
    if config.task.probe_gate.above_base is None:  # an explicit null turns off the default
        values["task"]["probe_gate"]["above_base"] = None
    if config.runtime.executor != "local":
        values["runtime"]["executor"] = config.runtime.executor
    if config.task.options or config.guards or is_file(config.task.profile):
        values["task"]["folder"] = os.path.relpath(config.task.folder or ".", output)
    if config.model.path.exists():
        values["model"]["folder"] = os.path.relpath(config.model.folder or ".", output)
    return values


def _other_run(output: Path, config: BenchConfig, before: BenchPlan, plan: BenchPlan) -> UsageError:
    """Return the error for a folder with a run of another plan; it names the settings or the data that differ."""
    path = output / folders.CONFIG
    changed = []
    if path.is_file():
        earlier_config = strict_yaml.loads(read_file(path, strict_yaml.MAX_BYTES), path)
        changed = [*differences(earlier_config, _resumable(config, output), ignored=UNCOUNTED)]
    if changed:
        problem = "another config: " + listed(
            [f"`{key}` is {was} there, {now} here" for key, was, now in changed]
        )
    else:
        other = [new.role for old, new in zip(before.splits, plan.splits, strict=False) if old != new]
        problem = (
            f"other data: the {' and '.join(other)} examples differ"
            if other
            else f"another plan ({folders.PLAN})"
        )
    return UsageError(
        f"{output}: contains a run of {problem}",
        code="output-other-run",
        hint="give another --output" + (f", or --config {path} to resume it" if path.is_file() else ""),
    )


def _remove_adapters(config: BenchConfig, bench: Bench, facts: SeedFacts) -> None:
    """Delete the adapters that `keep_adapters` does not keep. Reports, records and manifests stay."""
    if config.runtime.keep_adapters == "all" or bench.status == "ERROR":  # the next run still needs them
        return
    gone = list(facts.outcomes)
    if config.runtime.keep_adapters == "none" and facts.probe is not None:
        gone.append(facts.probe)
    remove_weights(outcome.adapter.folder.parent for outcome in gone if outcome.adapter is not None)


# ---------------------------------------------------------------- the ladder


def uses_looks(config: BenchConfig) -> bool:
    """Return True if this process evaluates the ladder at looks, after all seeds have trained.

    Otherwise each seed answers all examples: a single seed cannot decide when the test of all seeds stops, and on a
    cluster the seeds run at the same time.
    """
    return config.only_seed is None and config.runtime.executor == "local"


def evaluate_ladder(
    runs: Mapping[int, SeedRun], facts: Mapping[int, SeedFacts], rules: LookRules, watcher: Watcher
) -> dict[int, SeedFacts]:
    """Evaluate the ladder steps up to the looks that their tests need, and return the facts of each seed.

    All seeds share one loaded base. If a seed has no variants, nothing can be concluded and no step is evaluated.
    """
    known, evaluator = dict(facts), next(iter(runs.values())).evaluator
    if not all(of_seed.outcomes for of_seed in known.values()):
        return known
    planned = [outcome.planned for outcome in next(iter(known.values())).outcomes]
    try:
        for run in runs.values():
            run.evaluator = evaluator
        for step in (variant for variant in planned if variant.step is not None):
            is_probe = all(of_seed.outcome(step.name).planned.same_as == PROBE for of_seed in known.values())
            if not (is_probe or _is_shown(step.name, runs, known, rules, watcher)):
                break
    finally:
        evaluator.close()
    return known


def _is_shown(
    name: str, runs: Mapping[int, SeedRun], known: dict[int, SeedFacts], rules: LookRules, watcher: Watcher
) -> bool:
    """Evaluate a step look by look until its test stops, updating `known`; return True if it is shown."""
    stages = 0
    for look in range(1, len(rules.looks) + 1):
        for number, (seed, run) in enumerate(runs.items(), start=1):
            watcher.seed(seed, number, len(runs))
            run.number, run.planned = stages, None
            with logged(run.folder / LOG):
                known[seed] = run.evaluate_step(known[seed], name, look)
            stages = run.number
        rows = [_differences(of_seed, name) for of_seed in known.values()]
        if not all(rows):  # a seed could not be evaluated
            return False
        stopped = rules.decide(np.stack([row[: min(map(len, rows))] for row in rows])).stopped
        if stopped is not None:
            return stopped == "shown"
    return False


def _differences(facts: SeedFacts, name: str) -> list[int]:
    """Return step − probe for each answered example; a variant that equals another has its values."""
    same = facts.outcome(name).planned.same_as or name
    answers = None if same == PROBE else facts.outcome(same).answers
    if facts.probe is None or facts.probe.answers is None or answers is None:
        return []
    pairs = zip(answers.records, facts.probe.answers.records, strict=False)
    return [after.correct - before.correct for after, before in pairs]
