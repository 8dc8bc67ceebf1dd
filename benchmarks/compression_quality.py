"""What truncation costs on real adapters: accuracy, paired counts, KL and flips at every rank, on held-out sentences.

    python benchmarks/compression_quality.py ADAPTER [ADAPTER ...] --output DIR [--plot FILE.svg]

Each adapter (of MiniLM-L6 on the movie reviews: the bundled one, and the r = 32 one that
scripts/train_example_adapter.py makes) is compressed with `gradience compress` at uniform ranks, and everything answers
the same sentences in the same batches on one loaded base. Two controls: the adapter written again at full rank (the A/A
floor: what rewriting alone changes), and random directions in place of the leading ones. Records of every example go
to DIR; answers that are there already are not evaluated again.
"""

import argparse
import json
import os
import sys
from collections.abc import Container, Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from safetensors.numpy import load_file, save_file

from gradience.adapters.formats import open_adapter
from gradience.audit.adapter import audit_adapter
from gradience.compress.adapter import write_compressed
from gradience.compress.settings import WritingSettings
from gradience.evaluate import Classification, diverge, evaluate_rows
from gradience.evaluate.engines.transformers.engine import TransformersEngine
from gradience.files.records import ClassificationRecord, Evaluation, count
from gradience.models.settings import ModelSettings
from gradience.plan.compression import plan_compression
from gradience.plan.criteria import ToBudget, ToRank
from gradience.tasks import reviews
from gradience.tasks.examples import LabeledExample

RANKS = (16, 8, 4, 2, 1)


class Variant(NamedTuple):
    """One way of making the adapter smaller, and where it was written."""

    label: str
    rank: int
    folder: Path
    kept: float
    error: float


class Outcome(NamedTuple):
    """A variant against its original on the same sentences."""

    variant: Variant
    right: int
    total: int
    lost: int
    won: int
    flips: int
    kl: float
    kl_error: float


def variants(adapter: Path, output: Path, controls: Container[int]) -> Iterator[Variant]:
    """The A/A floor and truncations at each rank; at the ranks of `controls` also a budget and random directions."""
    opened, report = open_adapter(adapter), audit_adapter(adapter)
    largest = max(layer.r for layer in report.layers)
    folder = output / "full-rank, folded"
    whole = plan_compression(report, ToRank(largest))
    settings = WritingSettings(encoding="folded", dtype="F32", force=True)
    smaller = write_compressed(opened, whole, folder, settings)
    yield Variant("rewritten", largest, folder, 1.0, smaller.measured_error)
    for rank in [rank for rank in RANKS if rank < largest]:
        plan = plan_compression(report, ToRank(rank))
        folder = output / f"svd-{rank}"
        smaller = write_compressed(opened, plan, folder, WritingSettings(force=True))
        yield Variant("svd", rank, folder, smaller.kept_energy, smaller.measured_error)
        if rank not in controls:
            continue
        plan = plan_compression(report, ToBudget(max_params=plan.new_params))
        folder = output / f"budget-{rank}"
        smaller = write_compressed(opened, plan, folder, WritingSettings(force=True))
        yield Variant(
            "svd, same parameters allocated by σ²", rank, folder, smaller.kept_energy, smaller.measured_error
        )
        yield random_directions(adapter, output / f"svd-{rank}", output / f"random-{rank}", rank)


def random_directions(adapter: Path, pattern: Path, folder: Path, rank: int) -> Variant:
    """The update projected on `rank` random directions between the factors: a control that must do badly."""
    folder.mkdir(exist_ok=True)
    config = json.loads((pattern / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config))
    from safetensors.torch import load_file as load_torch

    tensors = {
        name: tensor.float().numpy()
        for name, tensor in load_torch(adapter / "adapter_model.safetensors").items()
    }
    generator = np.random.default_rng(0)
    kept = total = 0.0
    for name in [name for name in tensors if ".lora_A." in name]:
        a, b = tensors[name], tensors[name.replace(".lora_A.", ".lora_B.")]
        basis = np.linalg.qr(generator.standard_normal((a.shape[0], rank)))[0]
        # B·A ≈ (B·Q)(Qᵀ·A) with Q random and orthonormal in the r dimensions between the factors.
        new_b, new_a = b @ basis, basis.T @ a
        total += float(np.square(b @ a).sum())
        kept += float(np.square(b @ a).sum() - np.square(b @ a - new_b @ new_a).sum())
        tensors[name] = np.ascontiguousarray(new_a, dtype=np.float32)
        tensors[name.replace(".lora_A.", ".lora_B.")] = np.ascontiguousarray(new_b, dtype=np.float32)
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    assert load_file(folder / "adapter_model.safetensors")
    return Variant("random directions", rank, folder, kept / total, (max(0.0, 1 - kept / total)) ** 0.5)


def measure(
    engine: TransformersEngine, adapter: Path, output: Path, role: str, controls: Container[int]
) -> tuple[Outcome, list[Outcome]]:
    """The original and all variants of one adapter."""
    examples = reviews.load().examples.of(role)  # type: ignore[arg-type]
    name = adapter.resolve().name
    output.mkdir(parents=True, exist_ok=True)
    original = Variant("original", max(layer.r for layer in audit_adapter(adapter).layers), adapter, 1.0, 0.0)
    base = evaluate(engine, name, original, examples, output)
    outcomes = []
    for number, variant in enumerate(variants(adapter, output, controls)):
        answers = evaluate(engine, f"{name}-{number}", variant, examples, output)
        outcomes.append(outcome(variant, base, answers))
        print(f"{name}: {variant.label} r={variant.rank}: {outcomes[-1].right}", file=sys.stderr)
    return outcome(original, base, base), outcomes


def evaluate(
    engine: TransformersEngine,
    name: str,
    variant: Variant,
    examples: tuple[LabeledExample, ...],
    output: Path,
) -> Evaluation[ClassificationRecord]:
    slug = f"{variant.label.split(',')[0].replace(' ', '-')}-{variant.rank}"
    if variant.label.startswith("svd,"):
        slug = f"budget-{variant.rank}"
    engine.add(name, variant.folder)
    path = output / f"{slug}.records.jsonl"
    evaluation = evaluate_rows(engine, Classification(), name, examples, batch_size=64, path=path)
    engine.remove(name)
    return evaluation


def outcome(
    variant: Variant,
    base: Evaluation[ClassificationRecord],
    answers: Evaluation[ClassificationRecord],
) -> Outcome:
    score, change = count(answers.records), diverge(base, answers)
    assert change.flips is not None
    assert change.kl_per_example is not None
    assert change.kl_per_example_standard_error is not None
    return Outcome(
        variant,
        score.correct,
        score.n,
        change.table.n10,
        change.table.n01,
        change.flips,
        change.kl_per_example,
        change.kl_per_example_standard_error,
    )


def table(name: str, original: Outcome, outcomes: list[Outcome]) -> str:
    """Markdown. Points are variant minus original; ± is the standard error of the paired difference."""
    lines = [
        f"**{name}**: original r = {original.variant.rank}, {original.right} of {original.total} correct "
        f"({original.right / original.total:.1%})\n",
        "| | r | energy kept | error | correct | points | only original / only variant | flips | KL × 1000 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for item in outcomes:
        points = 100 * (item.right - original.right) / item.total
        spread = 100 * ((item.lost + item.won) - (item.won - item.lost) ** 2 / item.total) ** 0.5 / item.total
        lines.append(
            f"| {item.variant.label} | {item.variant.rank} | {item.variant.kept:.1%} | {item.variant.error:.3f} "
            f"| {item.right} | {points:+.2f} ± {spread:.2f} | {item.lost} / {item.won} | {item.flips} "
            f"| {1000 * item.kl:.3g} ± {1000 * item.kl_error:.2g} |"
        )
    return "\n".join(lines)


def draw(path: Path, results: dict[str, tuple[Outcome, list[Outcome]]]) -> None:
    """Points lost and KL against rank, one line a way of choosing directions."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "gradience"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        len(results), 2, figsize=(9, 3.2 * len(results)), constrained_layout=True, squeeze=False
    )
    for (name, (original, outcomes)), (left, right) in zip(results.items(), axes, strict=True):
        for label in dict.fromkeys(
            item.variant.label for item in outcomes if item.variant.label != "rewritten"
        ):
            chosen = [item for item in outcomes if item.variant.label == label]
            ranks = [item.variant.rank for item in chosen]
            points = [100 * (item.right - original.right) / item.total for item in chosen]
            spreads = [100 * (item.lost + item.won) ** 0.5 / item.total for item in chosen]
            left.errorbar(ranks, points, yerr=spreads, marker="o", capsize=3, label=label)
            right.plot(ranks, [item.kl for item in chosen], marker="o", label=label)
        left.axhline(0, color="gray", linewidth=0.8)
        left.set(xscale="log", xlabel="rank", ylabel="accuracy, points against the original", title=name)
        right.set(xscale="log", yscale="log", xlabel="rank", ylabel="KL to the original", title=name)
        for axis in (left, right):
            axis.set_xticks(RANKS, [str(rank) for rank in RANKS])
            axis.minorticks_off()
        right.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("adapters", nargs="+", type=Path, metavar="ADAPTER")
    parser.add_argument("--output", type=Path, required=True, help="folder for adapters and records")
    parser.add_argument("--role", choices=["dev", "confirm"], default="confirm")
    parser.add_argument(
        "--controls", default=",".join(map(str, RANKS)), help="ranks at which the controls run too"
    )
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    engine = TransformersEngine.load(ModelSettings(name="embedded:minilm", dtype="float32"), labels=2)
    results = {
        adapter.resolve().name: measure(
            engine,
            adapter,
            options.output / adapter.resolve().name,
            options.role,
            [int(rank) for rank in options.controls.split(",")],
        )
        for adapter in options.adapters
    }
    print("\n\n".join(table(name, *result) for name, result in results.items()))
    if options.plot:
        draw(options.plot, results)


if __name__ == "__main__":
    main()
