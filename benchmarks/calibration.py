"""Predicted and measured KL of truncations: uniform SVD, global SVD, calibrated; seeds × budgets × methods of one task.

    python benchmarks/calibration.py --output OUT --base embedded:minilm --task reviews --max-length 64 \
        --adapter 42=runs/minilm_reviews/seed_42/probe/train/adapter --budgets 8 4 2 1

OUT/results.jsonl has one line for each seed, method and budget (a budget is the parameters of that uniform rank); what
is there is not measured again, so an interrupted run resumes. OUT/kl/ has KL(original ‖ smaller) of each test example.
`rewrite` is the control: the same update in other factors, whose KL is the noise of storage and kernels.

Calibration rows are training examples without their labels; `--completions sampled` takes their gold completions away
as well. Language models are scored teacher-forced on the gold responses; correct is that every token is the likeliest.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gradience import AuditReport, ToBudget, ToRank, audit_adapter, calibrate_adapter, plan_compression, tasks
from gradience.artifacts.calibration import Calibration
from gradience.artifacts.compression import CompressionPlan
from gradience.bench.arms.controls.random_directions import write_random_directions
from gradience.compress.adapter import write_compressed
from gradience.evaluate import evaluate_classification, evaluate_scores, kl_divergence
from gradience.evaluate.engines.transformers import TransformersEngine
from gradience.models.settings import ModelSettings
from gradience.plan.calibrated import svd_kl, with_calibration
from gradience.plan.modules import modules_of
from gradience.tasks.base import ClassificationTask

PROBE = "probe"


@dataclass
class Probe:
    """One original, its calibration, and what makes smaller ones of it."""

    seed: str
    folder: Path
    work: Path
    report: AuditReport
    calibration: Calibration

    def plan(self, method: str, budget: int) -> CompressionPlan:
        uniform = plan_compression(self.report, ToRank(budget))
        if method == "svd_global":
            return plan_compression(self.report, ToBudget(max_params=uniform.new_params))
        if method == "calibrated":
            limit = ToBudget(max_params=uniform.new_params)
            return plan_compression(self.report, limit, calibration=self.calibration)
        return uniform

    def write(self, method: str, plan: CompressionPlan) -> Path:
        target = self.work / f"{method}_{plan.max_rank}_{plan.new_params}"
        shutil.rmtree(target, ignore_errors=True)
        ranks = {row.name: row.new_rank for row in plan.modules}
        if method == "rewrite":
            write_random_directions(self.folder, self.folder, ranks, target, seed=0)
        elif method == "random":
            smaller = target.with_name("smaller")  # gives the shapes
            write_compressed(self.folder, plan, smaller, force=True)
            write_random_directions(self.folder, smaller, ranks, target, seed=0)
        else:
            given = self.calibration if plan.calibration_sha256 else None
            write_compressed(self.folder, plan, target, calibration=given)
        return target

    def predicted(self, method: str, plan: CompressionPlan) -> float | None:
        """KL per scored token; None where the calibration does not know the directions."""
        if plan.prediction is not None:
            return plan.prediction.kl
        if method not in ("svd_uniform", "svd_global"):
            return None
        modules = with_calibration(self.report, modules_of(self.report), self.calibration)
        return svd_kl(modules, {row.name: row.new_rank for row in plan.modules})


class Measure:
    """The probe's answers on the test examples, and how far another adapter's are from them."""

    def __init__(
        self, engine: TransformersEngine, examples: Sequence[Any], options: argparse.Namespace
    ) -> None:
        self.engine, self.examples, self.options = engine, examples, options
        self.labels = engine.classifies
        self.reference = self._classified(PROBE) if self.labels else None

    def __call__(self, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int]:
        """KL of each example, whether it flips, whether probe and adapter are correct, and the scored tokens."""
        if self.reference is not None:
            before, after = self.reference, self._classified(name)
            kl = kl_divergence(
                np.array([row.logits for row in before]), np.array([row.logits for row in after])
            )
            flips = np.array([x.predicted != y.predicted for x, y in zip(before, after, strict=True)])
            right = [np.array([row.correct for row in rows]) for rows in (before, after)]
            return kl, flips, *right, len(kl)
        scores = evaluate_scores(
            self.engine,
            [PROBE, name],
            self.examples,
            reference=PROBE,
            batch_size=self.options.batch_size,
            max_length=self.options.max_length,
            allow_inert=True,
        )
        before, after = (scores[each].records for each in (PROBE, name))
        kl, flips = np.array([row.kl for row in after]), np.array([row.flips > 0 for row in after])
        right = [np.array([row.exact for row in rows]) for rows in (before, after)]
        return kl, flips, *right, sum(row.n_tokens for row in after)

    def _classified(self, name: str) -> Sequence[Any]:
        return evaluate_classification(
            self.engine,
            name,
            self.examples,
            batch_size=self.options.batch_size,
            max_length=self.options.max_length,
            allow_inert=True,
        ).records


def main() -> None:
    options = parsed()
    task = tasks.load(options.task, json.loads(options.options))
    classifies = isinstance(task, ClassificationTask)
    training, testing = (list(task.examples.of(role)) for role in ("train", "confirm"))
    options.output.mkdir(parents=True, exist_ok=True)
    prompts = options.output / "prompts.jsonl"
    prompts.write_text(
        "".join(json.dumps(row) + "\n" for row in rows_of(training[: options.rows], classifies, options))
    )
    results = options.output / "results.jsonl"
    known = {tuple(map(json.loads(line).get, ("seed", "method", "budget"))) for line in lines_of(results)}
    for given in options.adapter:
        seed, _, folder = given.partition("=")
        wanted = [(seed, *each) for each in cells(options) if (seed, *each) not in known]
        if wanted:
            for row in measured(
                seed, Path(folder), wanted, task, testing[: options.examples], prompts, options
            ):
                with results.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(json.dumps(row), flush=True)


def cells(options: argparse.Namespace) -> Iterator[tuple[str, int]]:
    yield "rewrite", 0
    for budget in options.budgets:
        for method in options.methods:
            yield method, budget


def measured(
    seed: str,
    folder: Path,
    wanted: Sequence[tuple[str, str, int]],
    task: Any,
    testing: Sequence[Any],
    prompts: Path,
    options: argparse.Namespace,
) -> Iterator[dict[str, Any]]:
    work = options.output / f"seed_{seed}"
    work.mkdir(exist_ok=True)
    probe = prepared(seed, folder, work, prompts, options)
    labels = len(task.label_names) if isinstance(task, ClassificationTask) else None
    kind = "causal_lm" if labels is None else "seqcls"
    settings = ModelSettings(name=options.base, type=kind, dtype=options.dtype)
    engine = TransformersEngine.load(settings, labels=labels, device=options.device)
    engine.add(PROBE, folder)
    measure = Measure(engine, testing, options)
    for _, method, budget in wanted:
        if budget >= max(layer.r for layer in probe.report.layers):
            continue
        plan = probe.plan(method, budget or 2**30)
        target = probe.write(method, plan)
        engine.add(method, target)
        kl, flips, before, after, tokens = measure(method)
        engine.remove(method)
        (options.output / "kl").mkdir(exist_ok=True)
        np.save(options.output / "kl" / f"{seed}_{method}_{budget}.npy", kl.astype(np.float32))
        shutil.rmtree(target)
        yield {
            "task": options.task,
            "seed": seed,
            "method": method,
            "budget": budget,
            "params": plan.new_params,
            "weight_error": plan.predicted_error,
            "predicted_kl": probe.predicted(method, plan),
            "predicted_se": plan.prediction.standard_error if plan.prediction else None,
            "kl": float(kl.sum() / tokens),
            "kl_se": float(kl.std(ddof=1) * np.sqrt(len(kl)) / tokens),
            "n": len(kl),
            "tokens": tokens,
            "flips": int(flips.sum()),
            "probe_correct": int(before.sum()),
            "only_probe_correct": int((before & ~after).sum()),
            "only_variant_correct": int((after & ~before).sum()),
        }


def prepared(seed: str, folder: Path, work: Path, prompts: Path, options: argparse.Namespace) -> Probe:
    """The probe with its calibration, which is read where it is there already."""
    report = audit_adapter(folder)
    path = work / "calibration.safetensors"
    if path.exists():
        return Probe(seed, folder, work, report, Calibration.read(path))
    started = time.perf_counter()
    calibration = calibrate_adapter(
        folder,
        path,
        prompts=prompts,
        base_model=options.base,
        batch_size=options.batch_size,
        max_length=options.max_length,
        dtype=options.dtype,
        device=options.device,
    )
    seconds = {"seed": seed, "rows": calibration.report.rows, "seconds": time.perf_counter() - started}
    (work / "calibration_cost.json").write_text(json.dumps(seconds) + "\n")
    return Probe(seed, folder, work, report, calibration)


def rows_of(
    examples: Sequence[Any], classifies: bool, options: argparse.Namespace
) -> Iterator[dict[str, str]]:
    for example in examples:
        if classifies:
            second = getattr(example, "text_pair", None)
            yield {"text": example.text, **({} if second is None else {"text_pair": second})}
        elif options.completions == "given":
            yield {"prompt": example.prompt, "completion": example.response}
        else:
            yield {"prompt": example.prompt}


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add: Callable[..., Any] = parser.add_argument
    add("--output", type=Path, required=True)
    add("--base", required=True)
    add("--task", required=True)
    add("--options", default="{}", help="of the task, as JSON")
    add("--adapter", action="append", required=True, metavar="SEED=FOLDER")
    add("--budgets", type=int, nargs="+", default=[16, 8, 4, 2, 1])
    add("--methods", nargs="+", default=["svd_uniform", "svd_global", "calibrated", "random"])
    add("--rows", type=int, default=256, help="training examples to calibrate on")
    add("--examples", type=int, default=None, help="test examples at most")
    add("--completions", choices=["given", "sampled"], default="given")
    add("--batch-size", type=int, default=16)
    add("--max-length", type=int, default=None)
    add("--dtype", default="auto")
    add("--device", default="cpu")
    return parser.parse_args()


if __name__ == "__main__":
    main()
