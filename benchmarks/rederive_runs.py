"""Recompute a kept run of Bench, shrink or evaluate from its records with the current code, and pack it in place.

python benchmarks/rederive_runs.py DIR…

Answers and trainings stay unchanged, byte for byte. The audits (their measures are kept, under the current names), the
plan, the results, the aggregate, the pages and the digests are recomputed; keys get their current names. So does a
control that was renamed: its folder, its stages, and the adapter's name in the first line of its records.
`rederived.json` in the run lists the previous root, every changed file with its previous digest, and everything that
is no longer counted:

- the check that the probe is ahead of its base, which these runs did not plan, stays off (`above_base: null`);
- a control made in a way, or at ranks, that no longer exist is not counted; its records stay in the archive.

A shrink or an evaluation keeps its records, its plan and its `run` block; its JSON, page, card and digests are made
again.
"""

import argparse
import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, TypeVar

from pack_results import pack
from pydantic import ValidationError

from gradience import __version__
from gradience.bench.arms import ARMS, CONTROLS
from gradience.bench.config import BenchConfig
from gradience.bench.plan import bench_plan, plan_digest
from gradience.bench.verdict.aggregate import (
    AGGREGATE,
    BENCH,
    DOCUMENT,
    PAGE,
    PLAN,
    aggregate_run,
    no_longer_passing,
)
from gradience.bench.verdict.assemble import assemble
from gradience.bench.verify.folder import Findings, unpacked
from gradience.bench.verify.recompute import SeedFolder, marking_of
from gradience.card import card_of
from gradience.evaluate.evaluator import RECORDS
from gradience.evaluate.records import RecordStore
from gradience.evaluate.verb import EVALUATION
from gradience.evaluate.verb import write_result as write_evaluation
from gradience.files.artifact import Artifact, digest_of
from gradience.files.digests import DIGESTS, files_below, root_of, write_digests
from gradience.reports.audit import AuditReport
from gradience.reports.bench import Bench, BenchAggregate
from gradience.reports.bench_plan import BenchPlan
from gradience.reports.compression import CompressionReport
from gradience.reports.evaluation import EvaluationReport
from gradience.reports.shrink import ShrinkPlan, ShrinkReport
from gradience.reports.training import MANIFEST, StageFile, StageManifest
from gradience.shrink.verb import SHRUNK
from gradience.shrink.verb import write_result as write_shrink
from gradience.verification.answers import evaluation_again, shrink_again

NOTE = "rederived.json"
A = TypeVar("A", bound=Artifact)
RENAMED = {"aa": "rewrite_control"}
"""Former name of a control -> its name."""
MADE_BY = {*ARMS, *(control.arm.name for control in CONTROLS.values() if control.arm is not None)}


def digests_of(run: Path) -> dict[str, str]:
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files_below(run).items()}


def rederive(run: Path) -> None:
    """Recompute the unpacked run in the folder `run`."""
    earlier = json.loads((run / NOTE).read_text(encoding="utf-8")) if (run / NOTE).is_file() else None
    before, root = digests_of(run), root_of(run) or write_digests(run)
    renamed = {old: name for old, name in RENAMED.items() if rename_control(run, old, name)}
    rename_keys(run)
    plan = kept(BenchPlan, run / PLAN)
    places = {seed: run / f"seed_{seed}" if len(plan.seeds) > 1 else run for seed in plan.seeds}
    results = {seed: kept(Bench, place / BENCH) for seed, place in places.items()}
    for path in run.rglob("audit/audit.json"):
        rename_grid(path)
    former = {one.name for bench in results.values() for one in bench.variants if one.made_by not in MADE_BY}
    while True:
        config = config_of(results[plan.seeds[0]], former)
        code = {"code": plan.code}
        plan = bench_plan(config, plan.task, plan.splits, plan.task_code).model_copy(update=code)
        again: dict[int, Bench] = {}
        for seed, place in places.items():
            before_it = list(again.values())
            lost = no_longer_passing(before_it, plan.seeds, plan.policy) if before_it else {}
            stopped = {one.name for one in results[seed].variants if one.stopped_early}
            lost = {name: why for name, why in lost.items() if name in stopped}
            again[seed] = result_of(run, place, seed, config, plan, results[seed], lost)
        of_other_ranks = {
            one.name
            for seed, bench in again.items()
            for one in bench.variants
            if one.is_control
            and one.status == "ERROR" != getattr(results[seed].variant(one.name), "status", "")
        }
        if not of_other_ranks:
            break
        former |= of_other_ranks
    plan.save(run / PLAN)
    for path in run.rglob(MANIFEST):
        manifest = kept(StageManifest, path)
        files = {name: fact_of(path.parent / name, file) for name, file in manifest.files.items()}
        manifest.model_copy(update={"plan_digest": plan_digest(plan), "files": files}).save(path)
    for seed, place in places.items():
        again[seed].save(place / BENCH)
        (place / PAGE).write_text(again[seed].to_markdown(), encoding="utf-8")
    if (run / AGGREGATE).is_file():
        info = kept(BenchAggregate, run / AGGREGATE).run
        together = aggregate_run(list(again.values()), info, records_verified=True)
        together.save(run / AGGREGATE)
        (run / DOCUMENT).write_text(together.to_markdown(), encoding="utf-8")
    after = digests_of(run)
    note = {
        "why": "derived again from unchanged answers and trainings, since no released version wrote its files",
        "gradience_version": __version__,
        "root_before": root,
        "digests_before": {name: digest for name, digest in before.items() if after.get(name) != digest},
        "renamed": renamed,
        "unchanged_files": sum(after.get(name) == digest for name, digest in before.items()),
        "not_counted_any_more": sorted({*former, *(earlier or {}).get("not_counted_any_more", [])}),
        "earlier": earlier,
    }
    (run / NOTE).write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")
    write_digests(run)


def kept(model: type[A], path: Path) -> A:
    """Read an artifact, without the keys that its model no longer has."""
    values = json.loads(path.read_bytes())
    try:
        model.model_validate(values)
    except ValidationError as error:
        for place in (each["loc"] for each in error.errors() if each["type"] == "extra_forbidden"):
            holder = values
            for key in place[:-1]:
                holder = holder[key] if isinstance(holder, list) or key in holder else holder
            del holder[place[-1]]
        path.write_text(json.dumps(values), encoding="utf-8")
    return model.read(path)


def config_of(recorded: Bench, former: set[str]) -> BenchConfig:
    values: dict[str, Any] = json.loads(json.dumps(recorded.config))
    if recorded.probe is not None and recorded.probe.gate.base_correct is None:
        values["task"]["probe_gate"].setdefault("above_base", None)
    values["runtime"].pop("processes", None)  # was an option, always 1
    compression = values["compression"]
    for key in ("kind", "bound"):  # were options: always ranks, and the mean over trainings
        (compression.get("ladder") or {}).pop(key, None)
    compression["controls"] = [name for name in compression["controls"] if name not in former]
    return BenchConfig.model_validate(values)


def rename_keys(run: Path) -> None:
    """Give plan and results their current keys.

    A ladder has steps and bounds the mean over trainings, and a variant has one paired table. Evidence and ladder are
    recomputed.
    """
    for path, model in [
        (run / PLAN, BenchPlan),
        *((path, Bench) for path in run.rglob(BENCH)),
        *((path, BenchAggregate) for path in run.rglob(AGGREGATE)),
    ]:
        if not path.is_file():
            continue
        text = path.read_text(encoding="utf-8")
        names = [(f'"{old}"', f'"{new}"') for old, new in RENAMED.items()]
        for old, new in [
            ('"rungs":', '"steps":'),
            ('"new-run"', '"mean-over-trainings"'),
            ('"rewrite":', '"rewrite_control":'),
            ('kl_mean":', 'kl_per_example":'),
            ('"kl_standard_error":', '"kl_per_example_standard_error":'),
            *names,
        ]:
            text = text.replace(old, new)
        values = json.loads(text)
        values.pop("conditions", None)
        for row in values.get("seeds", []) if model is BenchAggregate else []:
            row.pop("unfinished", None)
        values["schema"] = model.schema_id
        if model is not BenchPlan:
            values |= {"ladder": None, "best": None}
        for variant in values.get("variants", []):
            variant["evidence"] = None
            variant.pop("paired", None)
            if model is Bench and variant["pairs"] is not None and "n11" not in variant["pairs"]:
                counts = variant["pairs"].values()
                variant["pairs"] = dict(zip(("n11", "n10", "n01", "n00"), counts, strict=True))
        path.write_text(json.dumps(values), encoding="utf-8")


def rename_control(run: Path, former: str, name: str) -> bool:
    """Give the stages of a control its name: folder, manifests, and the adapter in the header of its records.

    Return True if the run has the control under its former name.
    """
    folders = [path for path in run.rglob(former) if path.is_dir()]
    for folder in folders:
        stages = folder.rename(folder.with_name(name))
        for path in stages.rglob("*.records.jsonl"):
            header, answers = path.read_bytes().split(b"\n", 1)
            now = header.replace(f'"adapter":"{former}"'.encode(), f'"adapter":"{name}"'.encode(), 1)
            assert json.loads(now) == json.loads(header) | {"adapter": name}
            path.write_bytes(now + b"\n" + answers)
        for path in stages.rglob(MANIFEST):
            manifest = kept(StageManifest, path)
            files = {file: fact_of(path.parent / file, fact) for file, fact in manifest.files.items()}
            stage = manifest.stage.replace(former, name, 1)
            manifest.model_copy(update={"stage": stage, "files": files}).save(path)
    return bool(folders)


def rename_grid(path: Path) -> None:
    """Give an audit the current keys: the allowed ranks of its suggestions had another name."""
    values = json.loads(path.read_text(encoding="utf-8"))
    if "grid" in values["suggestions"]:
        values["suggestions"]["allowed_ranks"] = values["suggestions"].pop("grid")
    values.pop("effects", None)
    values["adapter"].pop("initial", None)
    path.write_text(json.dumps(values | {"schema": AuditReport.schema_id}), encoding="utf-8")
    kept(AuditReport, path).save(path)


def fact_of(path: Path, file: StageFile) -> StageFile:
    """Return a manifest's entry for a file: updated if the file exists, else unchanged. Weights are not kept."""
    if not path.is_file():
        return file
    content = path.read_bytes()
    return file.model_copy(update={"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)})


def result_of(
    run: Path,
    place: Path,
    seed: int,
    config: BenchConfig,
    plan: BenchPlan,
    recorded: Bench,
    lost: dict[str, str],
) -> Bench:
    marking = marking_of(config.task, plan, recorded)
    folder = SeedFolder(place, config, seed, recorded, marking, Findings(), lost)
    return assemble(folder.walk(), marking.rules, recorded.data, plan, recorded.run)


def rederive_result(place: Path) -> None:
    """Recompute the unpacked result of a shrink or an evaluation in the folder `place`."""
    findings = Findings()
    if (place / SHRUNK).is_file():
        shrunk, plan = kept(ShrinkReport, place / SHRUNK), kept(ShrinkPlan, place / PLAN)
        plan.save(place / PLAN)
        for path in place.rglob("compression_report.json"):
            kept(CompressionReport, path).save(path)
        RecordStore(place / RECORDS, print).bind(digest_of(plan))
        again = shrink_again(place, shrunk, plan, findings)
        same = {"run": shrunk.run, "tests": shrunk.tests}
        write_shrink(again.model_copy(update=same), place, card_of)
    else:
        report = kept(EvaluationReport, place / EVALUATION)
        same = {"run": report.run, "tests": report.tests}
        evaluated = evaluation_again(place, report, findings).model_copy(update=same)
        write_evaluation(evaluated, place)
    for mismatch in findings.mismatches:
        print(f"{mismatch.file} {mismatch.field}: {mismatch.what}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+")
    for run in parser.parse_args().runs:
        with unpacked(run) as place, tempfile.TemporaryDirectory() as name:
            copy = Path(shutil.copytree(place, Path(name) / "run"))
            (rederive_result if {SHRUNK, EVALUATION} & {path.name for path in run.iterdir()} else rederive)(
                copy
            )
            pack(copy, run)
        print(f"{run}: root {hashlib.sha256((run / DIGESTS).read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
