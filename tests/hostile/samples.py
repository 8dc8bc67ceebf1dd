"""A good one of every file that is read again: made by hand, or by a run of Bench that is kept in the repository."""

import tarfile
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import bench_sample
import fleet_sample
import prompt_samples
import sets_sample
from test_audit_text import small
from test_faces import SAMPLES

from gradience import ToRank, audit_adapter, plan_compression, verify
from gradience.bench.plan import bench_plan
from gradience.bench.run.stages import stage_key
from gradience.digests import sha256_text
from gradience.evaluate.forecast import margins_of
from gradience.files.digests import Digests, write_digests
from gradience.monitor import monitor_runs
from gradience.reports.bench import Bench
from gradience.reports.bench_status import BenchStatus, SeedStatus, StageStatus
from gradience.reports.compression import CompressionPlan
from gradience.reports.evaluation import (
    EvaluationForecast,
    KeptFile,
    KeptRecords,
    Ledger,
)
from gradience.reports.forecast import BenchForecast, Check, Requirement, ScoredExample
from gradience.reports.registry import ARTIFACTS, model_of
from gradience.reports.shrink import PlannedDistillation, ShrinkForecast, ShrinkReport
from gradience.reports.training import StageManifest, TrainingReport
from gradience.reports.verification import Verification

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "benchmarks" / "results" / "minilm_reviews_demo" / "everything.tar.xz"
SHRUNK = ROOT / "benchmarks" / "results" / "minilm_shrink" / "shrink.json"


def kept(name: str) -> bytes:
    """A file of the run of Bench that is kept in the repository."""
    with tarfile.open(KEPT) as archive:
        member = archive.extractfile(name)
        assert member is not None
        return member.read()


@cache
def whole_run(at: str) -> dict[str, bytes]:
    """The files of the smallest kept run, digests.json among them, by their places below `at`."""
    results = KEPT.parents[1] / "smollm2_gsm8k_smoke"
    with tempfile.TemporaryDirectory() as name, tarfile.open(results / KEPT.name) as archive:
        folder = Path(name)
        archive.extractall(folder, filter="data")
        for file in ("plan.json", "bench.json", "bench.md"):
            (folder / file).write_bytes((results / file).read_bytes())
        write_digests(folder)
        return {
            f"{at}/{path.relative_to(folder)}": path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }


def seeds() -> list[Bench]:
    return bench_sample.three_seeds()


def artifacts() -> dict[str, Any]:
    """One of each."""
    models = {name: model_of(name).__name__ for name in ARTIFACTS}
    reports = {name: SAMPLES[model]() for name, model in models.items() if model in SAMPLES}
    config = bench_sample.config()
    return reports | {
        "audit": small(),
        "bench_plan": bench_plan(config, "gsm8k", seeds()[0].data.splits),
        "bench_forecast": forecast(),
        "bench_status": bench_status(),
        "calibration_forecast": prompt_samples.calibration_forecast(),
        "digests": Digests(files={"bench.json": sha256_text("")}),
        "distill_forecast": prompt_samples.distill_forecast(),
        "evaluation_forecast": evaluation_forecast(),
        "evaluation_plan": sets_sample.sets_plan(),
        "fleet_row": fleet_sample.fleet_row(),
        "kept_records": KeptRecords(files={"a.jsonl": KeptFile(key="0", sha256=None)}),
        "ledger": Ledger(key="0" * 32, tests={"1": ("2",)}),
        "monitor": monitor_runs([ROOT / "tests" / "monitor" / "runs" / "nan.jsonl"]),
        "shrink": shrink(),
        "shrink_forecast": shrink_forecast(),
        "shrink_plan": shrink().plan,
        "stage": StageManifest.model_validate_json(kept("probe/train/manifest.json")),
        "training": TrainingReport.model_validate_json(kept("probe/train/training.json")),
        "verification": verification(),
    }


def bench_status() -> BenchStatus:
    """A run of one seed, of which one stage runs and one has failed."""
    moment = datetime(2026, 11, 27, tzinfo=UTC)
    stages = (
        StageStatus(name="probe/train", state="done", seconds=2.5),
        StageStatus(name="probe/eval", state="running", since=moment),
        StageStatus(
            name="audit", state="failed", message="ValueError: no rows", log=("Traceback", "ValueError")
        ),
    )
    return BenchStatus(
        run="mine",
        looked=moment,
        state="going on",
        seeds=(SeedStatus(seed=42, result=None, stages=stages),),
    )


def verification() -> Verification:
    """What is said of a run in which one file was touched."""
    with tempfile.TemporaryDirectory() as name:
        for place, content in whole_run("run").items():
            path = Path(name, place)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content + (b" " if path.name == "plan.json" else b""))
        return verify(Path(name, "run"))


def forecast() -> BenchForecast:
    config = bench_sample.config()
    return BenchForecast(
        config_digest=config.digest(),
        protocol_digest=config.protocol_digest(),
        smoke=False,
        model="m",
        task="t",
        seeds=(42,),
        checks=(Check(what="data", name="rows.csv", state="found", note="3 rows"),),
        requirements=(Requirement(what="disk", needed="at most 2 GB", here="9 GB free"),),
        stages=("probe", "audit"),
        trainings=1,
        evaluations=2,
        examples=None,
        gate="0.1",
        policy=config.policy,
        cost=None,
        assumptions=("none",),
    )


FORECAST: dict[str, Any] = {
    "margins": margins_of(200, Fraction("0.025"), 1),
    "weights_bytes": None,
    "adapter_bytes": 1,
    "batch_bytes": None,
    "process_bytes": None,
    "assumptions": ("none",),
    "notes": ("a note",),
}


def evaluation_forecast() -> EvaluationForecast:
    scored = (ScoredExample(id="a", prompt="p", response="r", scored="r", extracted="r", correct=True),)
    return EvaluationForecast(
        base="m", task="t", adapters=("a", "b"), with_base=True, examples=200, margin="0.025",
        scored_by="exact", scored=scored, **FORECAST,
    )  # fmt: skip


def shrink() -> ShrinkReport:
    report = ShrinkReport.read(SHRUNK)
    distillation = PlannedDistillation(
        prompts="prompts.jsonl", prompts_sha256="0" * 64, steps=100, lr=3e-4, batch_size=8, seed=42
    )
    plan = report.plan.model_copy(update={"distillation": distillation, "calibration_sha256": "0" * 64})
    return report.model_copy(update={"plan": plan})


def shrink_forecast() -> ShrinkForecast:
    return ShrinkForecast(plan=shrink().plan, candidates=shrink().plan.candidates, **FORECAST)


def plan_of(files: Mapping[str, bytes]) -> CompressionPlan:
    """The plan to compress the adapter in `files` to rank 2."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / name).parent.mkdir(exist_ok=True)
            (Path(folder) / name).write_bytes(content)
        return plan_compression(audit_adapter(Path(folder) / "adapter"), ToRank(2))


def records() -> bytes:
    """Six answers of the kept run."""
    header, *lines = kept("probe/eval/answers.records.jsonl").splitlines(keepends=True)
    count = len(lines)
    return b"".join([header.replace(f'"n":{count}'.encode(), b'"n":6'), *lines[:6]])


def stage_folder() -> dict[str, bytes]:
    """A finished stage that says what its one file holds."""
    text = "made"
    manifest = StageManifest(
        stage="probe",
        key=stage_key("probe", {"seed": 1}),
        seconds=1.0,
        peak_memory_bytes=None,
        files={"made": {"sha256": sha256_text(text), "bytes": len(text)}},
    )
    return {"out/probe/manifest.json": manifest.to_json().encode(), "out/probe/made": text.encode()}


TEXT, WORDS = '"text number {0}, with a comma"', ("bad", "good", "good")
TALK = '[{{"role": "user", "content": "number {0}"}}, {{"role": "assistant", "content": "then {1}"}}]'
LINES = {
    "csv_rows": ("text,label\n", f"{TEXT},{{word}}"),
    "csv_scores": ("id,score,prompt\n", f"q{{0}},{{right:d}},{TEXT}"),
    "jsonl_scores": ("", '{{"id": "q{0}", "score": {share}, "prompt": "text number {0}", "output": "{0}"}}'),
    "jsonl_rows": ("", '{{"text": "text number {0}", "label": "{word}"}}'),
    "jsonl_prompts": ("", '{{"id": {0}, "prompt": "number {0} and", "completion": " then {1}"}}'),
    "jsonl_messages": ("", f'{{{{"messages": {TALK}}}}}'),
}
"""Name -> the first line, and the form of every other one."""


def lines(name: str) -> bytes:
    """Forty lines of one of these forms."""
    first, form = LINES[name]
    rows = (form.format(i, i + 1, word=WORDS[i % 3], right=i % 3 > 0, share=i / 40) for i in range(40))
    return (first + "".join(f"{row}\n" for row in rows)).encode()
