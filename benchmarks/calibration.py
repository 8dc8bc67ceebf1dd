"""Predicted and measured KL of smaller adapters: SVD, calibrated, distilled, random, on one task.

    python benchmarks/calibration.py --output OUT --base embedded:minilm --task reviews --max-length 64 \
        --adapter 42=runs/minilm_reviews/seed_42/probe/train/adapter --budgets 8 4 2 1

OUT/results.jsonl has one line for each seed, method and budget (a budget is the parameters of that uniform rank); what
is there is not measured again, so an interrupted run resumes. OUT/kl/ has KL(original ‖ smaller) of each test example.
`rewrite` is a control: the same update in other factors, whose KL is the noise of storage and kernels.
`probe_distilled` is another: the probe itself, distilled as `calibrated_distill` is. All of a seed are read in the same
batches.

Calibration rows are training examples without their labels; `--completions sampled` takes their gold completions away
as well. Language models are scored teacher-forced on the gold responses; correct is that every token is the likeliest.
"""

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
from gradience.adapters.formats import open_adapter
from gradience.bench.arms import PROBE_DISTILLED, Arm, ArmSource, write_random_directions
from gradience.bench.run.prompts import Distillation, PromptRun, distill_variant
from gradience.calibrate.settings import CalibrateSettings
from gradience.compress.adapter import write_compressed
from gradience.evaluate import Classification, Scores, evaluate_rows, kl_divergence
from gradience.evaluate.engines.transformers.engine import TransformersEngine
from gradience.models.settings import ModelSettings
from gradience.plan.compression import ToKl, left_out, with_calibration
from gradience.plan.modules import modules_of
from gradience.reports.calibration import Calibration
from gradience.reports.compression import CompressionPlan
from gradience.tasks.base import ClassificationTask

PROBE = "probe"
METHODS = [
    "svd_uniform",
    "svd_global",
    "calibrated",
    "calibrated_distill",
    "random",
    "probe_distilled",
    "under_limit",
]
CONTROLS = ("rewrite", "probe_distilled")
LIMITED = "under_limit"
"""The smallest adapter whose predicted KL is at most `--max-kl-per-token`. Once a seed, like the controls; budget 0."""
COSTLY = ("calibrated_distill", "random")
"""Made at the budgets `--few` alone."""


@dataclass
class Probe:
    """One original, its calibration, and what makes smaller ones of it."""

    seed: str
    folder: Path
    work: Path
    report: AuditReport
    calibration: Calibration
    distillation: Distillation
    max_kl_per_token: float

    def plan(self, method: str, budget: int) -> CompressionPlan:
        if method == LIMITED:
            return plan_compression(self.report, ToKl(self.max_kl_per_token), calibration=self.calibration)
        uniform = plan_compression(self.report, ToRank(budget or 2**30))
        if method == "svd_global":
            return plan_compression(self.report, ToBudget(max_params=uniform.new_params))
        if method.startswith("calibrated"):
            limit = ToBudget(max_params=uniform.new_params)
            return plan_compression(self.report, limit, calibration=self.calibration)
        return uniform

    def write(self, method: str, plan: CompressionPlan) -> Path:
        target = self.work / method / f"{plan.new_params}"
        shutil.rmtree(target.parent, ignore_errors=True)
        target.parent.mkdir(parents=True)
        ranks = {row.name: row.new_rank for row in plan.modules}
        if method == "probe_distilled":
            assert PROBE_DISTILLED.arm is not None
            assert PROBE_DISTILLED.arm.make is not None
            self.distill(PROBE_DISTILLED.arm.make, ranks, target)
        elif method.endswith("_distill"):
            self.distill(lambda source, ranks, folder: self.smaller(plan, folder), ranks, target)
        elif method == "rewrite":
            write_random_directions(self.folder, self.folder, ranks, target, seed=0)
        elif method == "random":
            smaller = target.with_name("smaller")  # gives the shapes
            self.smaller(plan, smaller)
            write_random_directions(self.folder, smaller, ranks, target, seed=0)
        else:
            self.smaller(plan, target)
        return target

    def smaller(self, plan: CompressionPlan, target: Path) -> None:
        given = self.calibration if plan.calibration_sha256 else None
        write_compressed(open_adapter(self.folder), plan, target, calibration=given)

    def distill(self, begin: Callable[[ArmSource, Any, Path], None], ranks: Any, target: Path) -> None:
        """As Bench distills: the probe teaches, no label is read."""
        source = ArmSource(self.folder, self.report, int(self.seed))
        distill_variant(
            Arm("distill", begin, distills=True),
            source,
            ranks,
            target,
            self.distillation,
            lambda done, total: None,
        )

    def predicted(self, method: str, plan: CompressionPlan) -> float | None:
        """KL per scored token; None where the calibration does not know the directions."""
        if method in ("calibrated", LIMITED) and plan.prediction is not None:
            return plan.prediction.kl_per_token
        if method not in ("svd_uniform", "svd_global"):
            return None
        modules = with_calibration(self.report, modules_of(self.report), self.calibration)
        change = left_out(modules, {row.name: row.new_rank for row in plan.modules}, svd=True)
        (tokens,) = {module.effects.tokens for module in modules if module.effects is not None}
        return float(np.square(change).sum() / 2 / tokens)


Answers = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int]
"""KL of each example, whether it flips, whether probe and adapter are correct, and the scored tokens."""


class Measure:
    """The probe's answers on the test examples, and how far those of others are from them."""

    def __init__(
        self, engine: TransformersEngine, examples: Sequence[Any], options: argparse.Namespace
    ) -> None:
        self.engine, self.examples, self.options = engine, examples, options
        self.reference = self._classified(PROBE) if engine.classifies else None

    def __call__(self, names: Sequence[str]) -> dict[str, Answers]:
        """All of `names` on the same batches."""
        if self.reference is not None:
            return {name: self._changed(self.reference, self._classified(name)) for name in names}
        scores = {
            name: evaluate_rows(
                self.engine,
                Scores(reference=PROBE, max_length=self.options.max_length),
                name,
                self.examples,
                batch_size=self.options.test_batch_size,
                allow_inert=True,
            )
            for name in [PROBE, *names]
        }
        before = np.array([row.exact for row in scores[PROBE].records])
        return {name: self._further(before, scores[name].records) for name in names}

    def _further(self, before: np.ndarray, after: Sequence[Any]) -> Answers:
        kl, flips = np.array([row.kl for row in after]), np.array([row.flips > 0 for row in after])
        return kl, flips, before, np.array([row.exact for row in after]), sum(row.n_tokens for row in after)

    def _changed(self, before: Sequence[Any], after: Sequence[Any]) -> Answers:
        kl = kl_divergence(np.array([row.logits for row in before]), np.array([row.logits for row in after]))
        flips = np.array([x.predicted != y.predicted for x, y in zip(before, after, strict=True)])
        right = [np.array([row.correct for row in rows]) for rows in (before, after)]
        return kl, flips, *right, len(kl)

    def _classified(self, name: str) -> Sequence[Any]:
        return evaluate_rows(
            self.engine,
            Classification(max_length=self.options.max_length),
            name,
            self.examples,
            batch_size=self.options.test_batch_size,
            allow_inert=True,
        ).records


def main() -> None:
    options = parsed()
    task = tasks.load(options.task, json.loads(options.options))
    training, testing = (list(task.examples.of(role)) for role in ("train", "confirm"))
    options.output.mkdir(parents=True, exist_ok=True)
    prompts = options.output / "prompts.jsonl"
    rows = [json.dumps(row) for row in rows_of(training[: max(options.rows, options.distill_rows)], options)]
    prompts.write_text("".join(f"{row}\n" for row in rows[: options.rows]))
    results = options.output / "results.jsonl"
    known = {tuple(map(json.loads(line).get, ("seed", "method", "budget"))) for line in lines_of(results)}
    for given in options.adapter:
        seed, _, folder = given.partition("=")
        wanted = [each for each in cells(options) if (seed, *each) not in known]
        if wanted:
            labels = len(task.label_names) if isinstance(task, ClassificationTask) else None
            probe = prepared(seed, Path(folder), labels, prompts, rows[: options.distill_rows], options)
            for row in measured(probe, wanted, labels, testing[: options.examples], options):
                with results.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(json.dumps(row), flush=True)


def cells(options: argparse.Namespace) -> list[tuple[str, int]]:
    """Methods and budgets, the same budget side by side."""
    few = options.budgets if options.few is None else options.few
    methods = [method for method in options.methods if method not in (*CONTROLS, LIMITED)]
    return [
        ("rewrite", 0),
        *((method, 0) for method in ("probe_distilled", LIMITED) if method in options.methods),
        *(
            (method, budget)
            for budget in options.budgets
            for method in methods
            if method not in COSTLY or budget in few
        ),
    ]


def measured(
    probe: Probe,
    wanted: Sequence[tuple[str, int]],
    labels: int | None,
    testing: Sequence[Any],
    options: argparse.Namespace,
) -> Iterator[dict[str, Any]]:
    engine = TransformersEngine.load(model_of(labels, options), labels=labels, device=options.device)
    engine.add(PROBE, probe.folder)
    measure = Measure(engine, testing, options)
    kept = options.output / "kl"
    kept.mkdir(exist_ok=True)
    full = max(layer.r for layer in probe.report.layers)
    plans = {cell: probe.plan(*cell) for cell in wanted if cell[1] < full}
    names = {cell: f"{cell[0]}_{cell[1]}" for cell in plans}
    for cell, plan in plans.items():
        engine.add(names[cell], probe.write(cell[0], plan))
        shutil.rmtree(probe.work / cell[0])
    answers = measure(list(names.values()))
    for (method, budget), plan in plans.items():
        name = names[method, budget]
        np.save(kept / f"{probe.seed}_{name}.npy", answers[name][0].astype(np.float32))
        yield line(probe, method, budget, plan, answers[name], options)


def line(
    probe: Probe,
    method: str,
    budget: int,
    plan: CompressionPlan,
    answers: Answers,
    options: argparse.Namespace,
) -> dict[str, Any]:
    kl, flips, before, after, tokens = answers
    predicted = probe.predicted(method, plan)
    return {
        "task": options.named or options.task,
        "seed": probe.seed,
        "method": method,
        "budget": budget,
        "params": plan.new_params,
        "weight_error": plan.predicted_error,
        "predicted_kl": predicted,
        "predicted_se": plan.prediction.standard_error if plan.prediction and predicted else None,
        "kl": float(kl.sum() / tokens),
        "kl_se": float(kl.std(ddof=1) * np.sqrt(len(kl)) / tokens),
        "n": len(kl),
        "tokens": tokens,
        "flips": int(flips.sum()),
        "probe_correct": int(before.sum()),
        "only_probe_correct": int((before & ~after).sum()),
        "only_variant_correct": int((after & ~before).sum()),
    }


def model_of(labels: int | None, options: argparse.Namespace) -> ModelSettings:
    kind = "causal_lm" if labels is None else "seqcls"
    return ModelSettings(name=options.base, type=kind, dtype=options.dtype)


def prepared(
    seed: str,
    folder: Path,
    labels: int | None,
    prompts: Path,
    rows: Sequence[str],
    options: argparse.Namespace,
) -> Probe:
    """The probe with its calibration, which is read where it is there already."""
    work = options.output / f"seed_{seed}"
    work.mkdir(exist_ok=True)
    report = audit_adapter(folder)
    given = PromptRun(
        tuple(rows),
        model_of(labels, options),
        labels,
        CalibrateSettings(
            adapter=folder,
            prompts=prompts,
            batch_size=options.batch_size,
            max_length=None if labels is None else options.max_length,
            completion_tokens=64,
            device=options.device,
        ),
    )
    distillation = Distillation(given, steps=options.distill_steps, lr=3e-4)
    path = work / "calibration.safetensors"
    if path.exists():
        return Probe(
            seed, folder, work, report, Calibration.read(path), distillation, options.max_kl_per_token
        )
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
    return Probe(seed, folder, work, report, calibration, distillation, options.max_kl_per_token)


def rows_of(examples: Sequence[Any], options: argparse.Namespace) -> Iterator[dict[str, str]]:
    for example in examples:
        if hasattr(example, "text"):
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
    add("--methods", nargs="+", default=METHODS)
    add("--max-kl-per-token", type=float, default=0.002, help="of the adapters `under_limit`")
    add("--few", type=int, nargs="+", help="budgets of distilled and random adapters, where not all")
    add("--rows", type=int, default=256, help="training examples to calibrate on")
    add("--examples", type=int, default=None, help="test examples at most")
    add("--completions", choices=["given", "sampled"], default="given")
    add("--distill-rows", type=int, default=512, help="training examples to distill on")
    add("--distill-steps", type=int, default=30, help="a tenth of the probe's, as Bench does")
    add("--batch-size", type=int, default=16)
    add("--test-batch-size", type=int, default=64)
    add("--named", help="the task in the results, in place of its profile")
    add("--max-length", type=int, default=None)
    add("--dtype", default="auto")
    add("--device", default="cpu")
    return parser.parse_args()


if __name__ == "__main__":
    main()
