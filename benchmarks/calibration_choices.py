"""Choices inside a calibration, tried against what ships: what moments are over, a mean put back, completions.

    python benchmarks/calibration_choices.py --output OUT --base embedded:minilm --task reviews --max-length 64 \
        --adapter bundled=gradience/examples/minilm-reviews-r8 --budgets 4 1

OUT/choices.jsonl has one line for each choice and budget (the parameters of that uniform rank): KL(original ‖ smaller)
on test examples, and its ratio to that of `tokens` with a 95 % interval, bootstrapped over examples in pairs.

tokens    what ships: C and G over tokens, every token the same; given completions
rows      every row the same: a token weighs one over the tokens of its row
sums      moments of the rows' own gradients J = Σ t·hᵀ, each side in the metric of the other factor
centered   C, the components' order and the prediction for h minus its mean, with `+mean`
sampled   as tokens, the completions of the rows taken away: the adapted model writes them
+mean     what is left out is replaced by its mean over tokens, as a bias of each module: s·B·(I − P)·E[h]

A language model is scored on the gold responses, with `--on written` on those that the original writes, greedily.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from gradience import ToBudget, ToRank, audit_adapter, calibrate_adapter, plan_compression, tasks
from gradience.adapters.formats import open_adapter
from gradience.calibrate import measure
from gradience.compress.adapter import write_compressed
from gradience.compress.settings import WritingSettings
from gradience.evaluate import Classification, Generation, Scores, evaluate_rows, kl_divergence
from gradience.evaluate.engines.transformers.engine import TransformersEngine
from gradience.models.settings import ModelSettings
from gradience.reports.calibration import Calibration
from gradience.tasks.base import AnswerScoring, ClassificationTask

PROBE = "probe"
CHOICES = ["tokens", "rows", "sums", "centered", "sampled"]
gather_moments, gather_effects, backward = measure.gather_moments, measure.gather_effects, measure.backward


class Means:
    """E[h] of each module over the tokens that the moments are over."""

    def __init__(self) -> None:
        self.sums: dict[str, Any] = {}
        self.counts: dict[str, int] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        return self.sums[name].cpu().double().numpy() / self.counts[name]

    def moments(self, *arguments: Any) -> Any:
        """`gather_moments`, which leaves the means here."""

        def noting(model: Any, layers: Any, batch: Any, seed: int, consumer: Any) -> None:
            def note(name: str, h: torch.Tensor, t: torch.Tensor) -> None:
                rows = batch.by_row(h.float())
                self.sums[name] = self.sums.get(name, 0) + rows.sum(dim=(0, 1))
                self.counts[name] = self.counts.get(name, 0) + batch.count(rows)
                consumer(name, h, t)

            backward(model, layers, batch, seed, note)

        with mock.patch.object(measure, "backward", noting):
            return gather_moments(*arguments)

    def centered_moments(self, *arguments: Any) -> Any:
        moments, reasons = self.moments(*arguments)
        for name, each in moments.items():
            each.moment_in -= np.outer(self[name], self[name])
        return moments, reasons

    def centered_effects(self, *arguments: Any) -> Any:
        def shifted(model: Any, layers: Any, batch: Any, seed: int, consumer: Any) -> None:
            means = {name: torch.from_numpy(self[name]).float() for name in layers}
            backward(model, layers, batch, seed, lambda name, h, t: consumer(name, h - means[name], t))

        with mock.patch.object(measure, "backward", shifted):
            return gather_effects(*arguments)


def row_moments(model: Any, layers: Mapping[str, Any], batches: Any, seed: int, on_batch: Any) -> Any:
    """Every row the same: h and t of a token by one over the root of the row's tokens."""

    def weighed(model: Any, layers: Any, batch: Any, seed: int, consumer: Any) -> None:
        (mask,) = batch.masks
        weights = mask.sum(dim=1).float().rsqrt()[:, None, None]

        def weigh(name: str, h: torch.Tensor, t: torch.Tensor) -> None:
            consumer(name, *(batch.by_row(each.float()) * weights for each in (h, t)))

        backward(model, layers, batch, seed, weigh)

    with mock.patch.object(measure, "backward", weighed):
        return gather_moments(model, layers, batches, seed, on_batch)


def sum_moments(model: Any, layers: Mapping[str, Any], batches: Any, seed: int, on_batch: Any) -> Any:
    """E[Jᵀ(BᵀB)⁺J] and E[J(AAᵀ)⁺Jᵀ] over rows: the two sides of the gradient of ΔW, in r-space."""
    metrics, sums = {}, {}
    for name, layer in layers.items():
        A, B = (getattr(layer, f"lora_{side}")[model.active_adapter].weight.double() for side in "AB")
        metrics[name] = torch.linalg.pinv(A @ A.T), torch.linalg.pinv(B.T @ B)
        sums[name] = measure.Moments(*np.zeros((2, len(A), len(A))))
    for batch in batches:

        def add(name: str, h: torch.Tensor, t: torch.Tensor, batch: Any = batch) -> None:
            J = torch.einsum("npr,nps->nrs", batch.by_row(t.float()), batch.by_row(h.float())).double()
            of_inputs, of_outputs = metrics[name]
            sums[name].moment_in += torch.einsum("nrs,rq,nqu->su", J, of_outputs, J).numpy()
            sums[name].moment_out += torch.einsum("nrs,su,nqu->rq", J, of_inputs, J).numpy()

        backward(model, layers, batch, seed, add)
        on_batch()
    return sums, {}


@dataclass
class Original:
    """One adapter, its calibrations by choice, and the smaller ones of it."""

    name: str
    folder: Path
    work: Path
    options: argparse.Namespace

    def calibrated(self, choice: str, prompts: Path) -> tuple[Calibration, Means]:
        means, steps = Means(), {"rows": row_moments, "sums": sum_moments}
        gather = {"centered": means.centered_moments}.get(choice, steps.get(choice, means.moments))
        effects = means.centered_effects if choice == "centered" else gather_effects
        at = "gradience.calibrate.measure.gather_"
        with mock.patch(f"{at}moments", gather), mock.patch(f"{at}effects", effects):
            calibration = calibrate_adapter(
                self.folder, self.work / f"{choice}.safetensors", prompts=prompts, base_model=self.options.base,
                batch_size=self.options.batch_size, max_length=self.options.max_length, dtype=self.options.dtype,
                completion_tokens=self.options.completion_tokens, device="cpu",
            )  # fmt: skip
        return calibration, means

    def biases(self, calibration: Calibration, means: Means, ranks: Mapping[str, int]) -> dict[str, Any]:
        """Of each calibrated module the mean of what is left out of its output."""
        scales = {row.name: row.scale for row in calibration.report.modules}
        with open_adapter(self.folder) as opened:
            loaded = {pair.module: pair.load() for pair in opened.pairs if pair.module in scales}
            factors = {name: np.concatenate(list(each.blocks_B()())) for name, each in loaded.items()}
        biases = {}
        for name, B in factors.items():
            each, kept = calibration.modules[name], slice(ranks[name])
            left = means[name] - each.p[:, kept] @ (each.q[:, kept].T @ means[name])
            biases[name] = torch.from_numpy(scales[name] * B @ left).float()
        return biases


@contextmanager
def added(engine: TransformersEngine, biases: Mapping[str, Mapping[str, Any]]) -> Iterator[None]:
    """While this lasts, adapters in `biases` have a bias in each of these modules."""
    keys = {engine._keys[name]: of for name, of in biases.items()}

    def hook(module: str) -> Callable[..., Any]:
        def add(_layer: Any, _arguments: Any, output: torch.Tensor) -> torch.Tensor:
            bias = keys.get(engine._peft.active_adapter, {}).get(module)
            return output if bias is None else output + bias.to(output.dtype)

        return add

    with ExitStack() as stack:
        for module in {module for of in biases.values() for module in of}:
            handle = engine.base.get_submodule(module).register_forward_hook(hook(module))
            stack.callback(handle.remove)
        yield


def divergences(
    engine: TransformersEngine, names: Sequence[str], examples: Any, options: Any
) -> dict[str, Any]:
    """Of each name KL of every example, scored tokens, and (only the original, only the other) correct."""
    how, length = {"batch_size": options.batch_size, "allow_inert": True}, options.max_length
    scores, labels = Scores(reference=PROBE, max_length=length), Classification(max_length=length)
    procedure = labels if engine.classifies else scores
    rows = {name: evaluate_rows(engine, procedure, name, examples, **how).records for name in [PROBE, *names]}
    if engine.classifies:
        logits = {name: np.array([row.logits for row in each]) for name, each in rows.items()}
        kl = {name: kl_divergence(logits[PROBE], logits[name]) for name in names}
        correct = {name: np.array([row.correct for row in each]) for name, each in rows.items()}
        tokens = len(examples)
    else:
        kl = {name: np.array([row.kl for row in rows[name]]) for name in names}
        correct = {name: np.array([row.exact for row in each]) for name, each in rows.items()}
        tokens = sum(row.n_tokens for row in rows[PROBE])
    before = correct[PROBE]
    return {
        name: (kl[name], tokens, int((before & ~after).sum()), int((after & ~before).sum()))
        for name, after in correct.items()
        if name != PROBE
    }


def ratio_of(kl: np.ndarray, other: np.ndarray) -> tuple[float, float, float]:
    """Σ kl / Σ other and the 95 % interval."""
    places = np.random.default_rng(0).integers(len(kl), size=(2000, len(kl)))
    drawn = kl[places].sum(axis=1) / other[places].sum(axis=1)
    return float(kl.sum() / other.sum()), *map(float, np.quantile(drawn, [0.025, 0.975]))


def tried(original: Original, prompts: Mapping[str, Path], examples: Any, task: Any) -> Iterator[dict]:
    options, report = original.options, audit_adapter(original.folder)
    labels = len(task.label_names) if isinstance(task, ClassificationTask) else None
    kind = "causal_lm" if labels is None else "seqcls"
    settings = ModelSettings(name=options.base, type=kind, dtype=options.dtype)
    engine = TransformersEngine.load(settings, labels=labels, device="cpu")
    engine.add(PROBE, original.folder)
    scored = {"gold": examples}
    if "written" in options.on:
        ask = Generation(
            rules=AnswerScoring(filters={"all": str}, same=str.__eq__),
            max_new_tokens=options.completion_tokens,
        )
        records = evaluate_rows(engine, ask, PROBE, examples, batch_size=options.batch_size).records
        scored["written"] = [
            replace(e, response=row.output) for e, row in zip(examples, records, strict=True)
        ]
    known = {
        choice: original.calibrated(choice, prompts["sampled" if choice == "sampled" else "given"])
        for choice in options.choices
    }
    for budget in options.budgets:
        limit = ToBudget(max_params=plan_compression(report, ToRank(budget)).new_params)
        plans, biases = {}, {}
        for choice, (calibration, means) in known.items():
            plans[choice] = plan_compression(report, limit, calibration=calibration)
            ranks = {row.name: row.new_rank for row in plans[choice].modules}
            target = original.work / f"{choice}_{budget}"
            opened = open_adapter(original.folder)
            write_compressed(
                opened, plans[choice], target, WritingSettings(force=True), calibration=calibration
            )
            for name in [choice] * (choice != "centered") + [f"{choice}+mean"] * (choice in options.mean):
                engine.add(name, target)
                if name != choice:
                    biases[name] = original.biases(calibration, means, ranks)
        names = [name for name in engine.adapters if name != PROBE]
        for on in options.on:
            with added(engine, biases):
                measured = divergences(engine, names, scored[on], options)
            for name in names:
                kl, tokens, only_probe, only_variant = measured[name]
                plan = plans[name.removesuffix("+mean")]
                yield {
                    "task": options.task, "adapter": original.name, "on": on, "choice": name, "budget": budget,
                    "params": plan.new_params, "predicted_kl": plan.prediction.kl_per_token,
                    "kl": float(kl.sum() / tokens),
                    "ratio": ratio_of(kl, measured["tokens"][0]), "calibration_rows": plan.prediction.rows * 2,
                    "n": len(kl), "tokens": tokens, "only_probe_correct": only_probe,
                    "only_variant_correct": only_variant,
                }  # fmt: skip
        for name in names:
            engine.remove(name)


def main() -> None:
    options = parsed()
    task = tasks.load(options.task, json.loads(options.options))
    training, testing = (list(task.examples.of(role)) for role in ("train", "confirm"))
    options.output.mkdir(parents=True, exist_ok=True)
    prompts = {kind: options.output / f"{kind}.jsonl" for kind in ("given", "sampled")}
    for kind, path in prompts.items():
        rows = [row_of(example, given=kind == "given") for example in training[: options.rows]]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for given in options.adapter:
        name, _, folder = given.partition("=")
        work = options.output / name
        work.mkdir(exist_ok=True)
        for row in tried(
            Original(name, Path(folder), work, options), prompts, testing[: options.examples], task
        ):
            with (options.output / "choices.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)


def row_of(example: Any, *, given: bool) -> dict[str, str]:
    if hasattr(example, "text"):
        return {"text": example.text}
    return {"prompt": example.prompt, **({"completion": example.response} if given else {})}


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add: Callable[..., Any] = parser.add_argument
    add("--output", type=Path, required=True)
    add("--base", required=True)
    add("--task", required=True)
    add("--options", default="{}", help="of the task, as JSON")
    add("--adapter", action="append", required=True, metavar="NAME=FOLDER")
    add("--choices", nargs="+", default=CHOICES[:4], choices=CHOICES, help="tokens is one of them")
    add("--mean", nargs="*", default=["tokens", "centered"], help="choices whose mean is put back")
    add("--budgets", type=int, nargs="+", default=[4, 1])
    add("--rows", type=int, default=256, help="training examples to calibrate on")
    add("--examples", type=int, default=None, help="test examples at most")
    add("--on", nargs="+", choices=["gold", "written"], default=["gold"])
    add("--completion-tokens", type=int, default=16)
    add("--batch-size", type=int, default=16)
    add("--max-length", type=int, default=None)
    add("--dtype", default="auto")
    return parser.parse_args()


if __name__ == "__main__":
    main()
