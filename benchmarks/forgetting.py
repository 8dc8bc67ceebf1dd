"""Does an adapter forget less without its "intruder" directions, or shrunk as a whole? The registered experiment.

    python benchmarks/forgetting.py train TASK SEED --output ADAPTERS [--rows SORTING.jsonl]
    python benchmarks/forgetting.py measure ADAPTERS… --rows ROWS.jsonl --output RECORDS.jsonl
    python benchmarks/forgetting.py count ADAPTERS…
    python benchmarks/forgetting.py report benchmarks/results/forgetting

`train` writes ADAPTERS/TASK_seedSEED and the test rows ADAPTERS/rows_TASK.jsonl; `sorting` reads the rows of
benchmarks/number_sorting.py. `measure` evaluates seven versions of each adapter of SmolLM2-135M
(docs/decisions/028-forgetting.md) on 100 test rows and 16 paragraphs of general text, and appends one line for each.
Every version is made on the adapter's factors: the base is never changed. `count` counts intruder directions by the
published definition. `report` prints every figure of docs/results/forgetting.md from the lines of `measure`; it needs
only NumPy and SciPy.
"""

import argparse
import json
import math
import re
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROWS, PARAGRAPHS = 100, 16
BOOK, LONG = "data/in_the_year_2889.txt", 300
"""General text: *In the Year 2889* (1889), in the files of reasoning-gym, and its shortest paragraph in characters."""
SIZE = 0.7
"""Size of the smaller versions, relative to the full update."""
SCALED = (0.85, 0.7, 0.5)
FORGETS = 0.02
"""Nats per token of forgetting below which an adapter says nothing."""
LEADING, THRESHOLDS = 16, (0.5, 0.6, 0.7, 0.8, 0.9)
"""Left singular vectors of W + ΔW, and the largest cosines with those of W, for `count`."""
RECIPES: Mapping[str, tuple[str, dict[str, Any], int, int]] = {
    "arithmetic": ("arithmetic", {}, 64, 60),
    "sorting": ("jsonl", {"scorer": "exact", "stop": ["\n"], "max_new_tokens": 48}, 96, 40),
}
"""Task -> its profile and options, tokens of an example, and training steps."""
OTHERS = ("scaled 0.7", "random components removed", "spikes capped")
Factors = dict[str, tuple[np.ndarray, np.ndarray]]
"""Module -> (s·B, A) in float64, shapes (m, r) and (r, n)."""


# ---------------------------------------------------------------- versions of an update


def size(factors: Factors) -> float:
    """√Σ‖ΔW‖² over all modules."""
    return math.sqrt(sum(float(((b.T @ b) * (a @ a.T)).sum()) for b, a in factors.values()))


def scaled(factors: Factors, by: float) -> Factors:
    """All of the update, times `by`."""
    return {name: (by * b, a) for name, (b, a) in factors.items()}


def components(factors: Factors) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The SVD of each ΔW: U (m, r), the singular values, and V (n, r)."""
    parts = {}
    for name, (b, a) in factors.items():
        q_b, r_b = np.linalg.qr(b)
        q_a, r_a = np.linalg.qr(a.T)
        u, values, v = np.linalg.svd(r_b @ r_a.T)
        parts[name] = q_b @ u, values, q_a @ v.T
    return parts


def ratios(weights: Mapping[str, np.ndarray], factors: Factors) -> dict[str, np.ndarray]:
    """σ/‖Wᵀu‖ for each component σuvᵀ of each ΔW."""
    parts = components(factors)
    return {
        name: values / np.linalg.norm(weights[name].T @ u, axis=0) for name, (u, values, _) in parts.items()
    }


def without_first(factors: Factors, order: Mapping[str, np.ndarray]) -> Factors:
    """Leave out the components with the largest numbers in `order` until the size is SIZE, with a factor near 1."""
    parts, wanted = components(factors), SIZE * size(factors)
    energies = np.concatenate([np.square(values) for _, values, _ in parts.values()])
    ranking = np.argsort(-np.concatenate([order[name] for name in parts]), kind="stable")
    left = energies.sum() - np.cumsum(energies[ranking])
    keep = np.ones(len(energies), bool)
    keep[ranking[: int((left >= wanted**2).sum())]] = False
    kept, start = {}, 0
    for name, (u, values, v) in parts.items():
        kept[name] = u * (values * keep[start : start + len(values)]), v.T
        start += len(values)
    return scaled(kept, wanted / size(kept))


def capped(factors: Factors) -> Factors:
    """Set singular values of every ΔW above one cap to it; the cap gives SIZE."""
    parts, wanted = components(factors), SIZE * size(factors)
    low, high = 0.0, max(float(values[0]) for _, values, _ in parts.values())
    for _ in range(60):
        cap = (low + high) / 2
        total = math.sqrt(
            sum(float(np.square(values.clip(max=cap)).sum()) for _, values, _ in parts.values())
        )
        low, high = (cap, high) if total < wanted else (low, cap)
    return {name: (u * values.clip(max=cap), v.T) for name, (u, values, v) in parts.items()}


def versions(
    weights: Mapping[str, np.ndarray], full: Factors, seed: int
) -> Iterator[tuple[str, float | None, Factors]]:
    """Name, α (None if it is not a scaling) and factors of every version."""
    rng = np.random.default_rng(seed)
    drawn = {name: rng.random(a.shape[0]) for name, (_, a) in full.items()}
    yield "full", 1.0, full
    for by in SCALED:
        yield f"scaled {by}", by, scaled(full, by)
    yield "intruders removed", None, without_first(full, ratios(weights, full))
    yield "random components removed", None, without_first(full, drawn)
    yield "spikes capped", None, capped(full)


# ---------------------------------------------------------------- training


def train(args: argparse.Namespace) -> None:
    """Train one adapter of the experiment, and write the rows on which it is tested."""
    import torch

    from gradience import tasks
    from gradience.models.settings import ModelSettings
    from gradience.training.settings import TrainSettings
    from gradience.training.trainer import train as train_adapter

    torch.set_num_threads(1)
    profile, options, length, steps = RECIPES[args.task]
    if args.rows is not None:
        options = {**options, "file": str(args.rows)}
    task, name = tasks.load(profile, options), f"{args.task}_seed{args.seed}"
    args.output.mkdir(parents=True, exist_ok=True)
    with (args.output / f"rows_{args.task}.jsonl").open("w") as file:
        for example in task.examples.of("confirm", 1000):
            row = {"prompt": example.prompt, "completion": example.response, "answer": example.answer}
            file.write(json.dumps(row) + "\n")
    with tempfile.TemporaryDirectory() as folder:
        train_adapter(
            task,
            model=ModelSettings(name="embedded:smollm2", type="causal_lm", dtype="bfloat16"),
            lora={"r": 16, "lora_alpha": 32, "target_modules": "all-linear"},
            recipe=TrainSettings(
                max_steps=steps,
                lr=2e-3,
                warmup_steps=10,
                per_device_train_batch_size=8,
                max_length=length,
                train_samples=2000,
            ),
            seed=args.seed,
            output=Path(folder) / "run",
        )
        shutil.copytree(Path(folder) / "run" / "adapter", args.output / name)


# ---------------------------------------------------------------- measuring


class Measured:
    """SmolLM2-135M with the modules of one adapter, whose factors are replaced for each version."""

    def __init__(self, adapter: Path) -> None:
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from gradience.models.embedded import smollm2

        self.torch, folder = torch, smollm2()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
        self.model = PeftModel.from_pretrained(base, adapter).eval()
        modules = self.model.named_modules()
        self.layers = {name: layer for name, layer in modules if getattr(layer, "lora_A", None)}
        self.weights = {name: layer.base_layer.weight.double().numpy() for name, layer in self.layers.items()}

    def factors(self, adapter: Path) -> Factors:
        """Return the factors in the file, with the scale in B."""
        from safetensors.numpy import load_file

        config = json.loads((adapter / "adapter_config.json").read_text())
        stored, scale = load_file(adapter / "adapter_model.safetensors"), config["lora_alpha"] / config["r"]
        pairs = {}
        for name in self.layers:
            a, b = (stored[f"{name}.lora_{side}.weight"].astype(np.float64) for side in "AB")
            pairs[name] = scale * b, a
        return pairs

    def put(self, factors: Factors) -> None:
        """Apply these factors, in float32, at a scale of 1."""
        for name, layer in self.layers.items():
            layer.scaling["default"] = 1.0
            for module, value in ((layer.lora_B, factors[name][0]), (layer.lora_A, factors[name][1])):
                module["default"].weight.data = self.torch.tensor(value, dtype=self.torch.float32)

    def likelihoods(self, pairs: Sequence[tuple[str, str]]) -> Iterator[tuple[float, int, bool]]:
        """For each prompt and response: NLL in nats, tokens, and if every token of the response is the likeliest."""
        torch, end = self.torch, self.tokenizer.eos_token_id
        for start in range(0, len(pairs), 8):
            rows = []
            for prompt, response in pairs[start : start + 8]:
                before = self.tokenizer(prompt).input_ids if prompt else [end]
                after = self.tokenizer(response).input_ids
                rows.append((before, [*after, end] if prompt else after))
            longest = max(len(before) + len(after) for before, after in rows)
            ids = torch.full((len(rows), longest), end)
            for place, (before, after) in enumerate(rows):
                ids[place, : len(before) + len(after)] = torch.tensor([*before, *after])
            with torch.inference_mode():
                logits = self.model(input_ids=ids).logits
            for place, (before, after) in enumerate(rows):
                part = logits[place, len(before) - 1 : len(before) + len(after) - 1].float()
                gold = torch.tensor(after)
                loss = torch.nn.functional.cross_entropy(part, gold, reduction="sum")
                yield float(loss), len(after), bool((part.argmax(-1) == gold).all())

    def measure(self, rows: Sequence[tuple[str, str]], texts: Sequence[str]) -> dict[str, Any]:
        """NLL per token and accuracy of the task, NLL per token of the guard, and the latter for each paragraph."""
        task, guard = [*self.likelihoods(rows)], [*self.likelihoods([("", text) for text in texts])]
        return {
            "task_nll": round(sum(row[0] for row in task) / sum(row[1] for row in task), 6),
            "accuracy": sum(row[2] for row in task) / len(task),
            "guard_nll": round(sum(row[0] for row in guard) / sum(row[1] for row in guard), 6),
            "guard": [[round(row[0], 3), row[1]] for row in guard],
        }


def book() -> list[str]:
    """The long paragraphs of the book, without its license, in the order of their digests."""
    import reasoning_gym

    from gradience.tasks.examples import PromptExample, content_id, prepare

    text = (Path(reasoning_gym.__file__).parent / BOOK).read_text(encoding="utf-8-sig")
    text = text.partition("*** START OF")[2].partition("\n")[2].partition("*** END OF")[0]
    words = [" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text)]
    long = [each for each in words if len(each) >= LONG]
    examples = (PromptExample(content_id(each, exact=True), "", each, "", "confirm") for each in long)
    return [example.response for example in prepare(examples).all]


def measure(args: argparse.Namespace) -> None:
    """Measure the versions of each adapter, and the base once; what is in the records already stays."""
    lines = args.output.read_text().splitlines() if args.output.exists() else []
    known = {(row["adapter"], row["version"]) for row in map(json.loads, lines)}
    given = [json.loads(line) for line in args.rows.read_text().splitlines()][:ROWS]
    rows = [(row["prompt"], row["completion"]) for row in given]
    texts = book()[:PARAGRAPHS]
    measured = Measured(args.adapters[0])
    for adapter in args.adapters:
        full = measured.factors(adapter)
        seed = int(adapter.name[-1])
        todo = [("base", "base", 0.0, scaled(full, 0.0))]
        todo += [(adapter.name, *version) for version in versions(measured.weights, full, seed)]
        for name, version, alpha, factors in todo:
            if (name, version) in known or (args.primary and version in OTHERS[1:]):
                continue
            known.add((name, version))
            measured.put(factors)
            row = {"adapter": name, "version": version, "alpha": alpha, "size": round(size(factors), 6)}
            row |= measured.measure(rows, texts)
            with args.output.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(name, version, row["task_nll"], row["accuracy"], row["guard_nll"], flush=True)


def leading_vectors(weight: np.ndarray, count: int | None = None) -> np.ndarray:
    """Left singular vectors of `weight` (m, n) as columns, the leading `count`, by its smaller Gram matrix."""
    m, n = weight.shape
    if m <= n:
        return np.linalg.eigh(weight @ weight.T)[1][:, ::-1][:, :count]
    energies, right = np.linalg.eigh(weight.T @ weight)
    right, energies = right[:, ::-1][:, :count], energies[::-1][:count]
    return (weight @ right) / np.sqrt(energies.clip(min=1e-30))


def count(args: argparse.Namespace) -> None:
    """Print how many leading vectors of W + ΔW are far from all those of W; no model is evaluated."""
    measured = Measured(args.adapters[0])
    base_vectors = {name: leading_vectors(weight) for name, weight in measured.weights.items()}
    for adapter in args.adapters:
        cosines, norms = [], []
        for name, (b, a) in measured.factors(adapter).items():
            after = leading_vectors(measured.weights[name] + b @ a, LEADING)
            cosines.append(np.abs(base_vectors[name].T @ after).max(axis=0))
            norms.append(np.linalg.norm(b @ a) / np.linalg.norm(measured.weights[name]))
        below = {limit: sum(int((cosine < limit).sum()) for cosine in cosines) for limit in THRESHOLDS}
        print(
            f"{adapter.name}: {len(cosines)} modules, median ‖ΔW‖/‖W‖ {np.median(norms):.4f}, below {below}"
        )


# ---------------------------------------------------------------- report


def excess(rows: Mapping[str, Mapping[str, Any]], base: Mapping[str, Any], *, smooth: bool = False) -> float:
    """D: guard NLL with the intruders removed − the lowest of scaling at a task NLL that is at least as good.

    smooth: a monotone cubic curve between the strengths (not registered): a straight line lies above a convex one.
    """
    from scipy.interpolate import PchipInterpolator

    scalings = [row for row in (base, *rows.values()) if row["alpha"] is not None]
    points = sorted((row["alpha"], row["task_nll"], row["guard_nll"]) for row in scalings)
    alphas, tasks, guards = np.array(points).T
    grid = np.linspace(0, 1, 10_001)
    task, guard = np.interp(grid, alphas, tasks), np.interp(grid, alphas, guards)
    if smooth:
        task, guard = (PchipInterpolator(alphas, values)(grid) for values in (tasks, guards))
    removed = rows["intruders removed"]
    good = task <= removed["task_nll"]
    return float(removed["guard_nll"] - (guard[good].min() if good.any() else guard[task.argmin()]))


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95 % t interval."""
    from scipy import stats

    mean, n = float(np.mean(values)), len(values)
    half = float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / math.sqrt(n)) if n > 1 else math.inf
    return mean, mean - half, mean + half


def shown(values: Sequence[float]) -> str:
    """Return `+0.012 (−0.003 … +0.027)`."""
    mean, low, high = interval(values)
    return f"{mean:+.3f} ({low:+.3f} … {high:+.3f})".replace("-", "−")


def report_task(path: Path) -> tuple[float, float]:
    """Print the tables of one task, and return the interval of D."""
    adapters: dict[str, dict[str, Any]] = defaultdict(dict)
    for line in path.read_text().splitlines():
        row = json.loads(line)
        adapters[row["adapter"]][row["version"]] = row
    base = adapters.pop("base")["base"]
    whole = {name: rows for name, rows in adapters.items() if "intruders removed" in rows}
    versions = list(dict.fromkeys(version for rows in whole.values() for version in rows))
    known = f"task NLL {base['task_nll']:.3f}, accuracy {100 * base['accuracy']:.0f} %"
    print(f"\n### {path.stem} (base: {known}, guard NLL {base['guard_nll']:.3f})\n")
    print("Forgetting in nats per token / task NLL / accuracy\n")
    print("| version |", " | ".join(whole), "|")
    print("|---" * (len(whole) + 1) + "|")
    for version in versions:
        cells = [
            f"{row['guard_nll'] - base['guard_nll']:+.3f} / {row['task_nll']:.3f} / {100 * row['accuracy']:.0f} %"
            if row
            else "–"
            for row in (rows.get(version) for rows in whole.values())
        ]
        print(f"| {version} |", " | ".join(cells).replace("-", "−"), "|")
    forgetting = {name: rows["full"]["guard_nll"] - base["guard_nll"] for name, rows in whole.items()}
    decide = [rows for name, rows in whole.items() if forgetting[name] >= FORGETS]
    print(f"\n{len(decide)} of {len(whole)} adapters forget at least {FORGETS} nats per token and decide.\n")
    print("| difference, mean and 95 % t interval over seeds | nats per token |")
    print("|---|---|")
    print("| D |", shown([excess(rows, base) for rows in decide]), "|")
    print(
        "| D, smooth curve (not registered) |",
        shown([excess(rows, base, smooth=True) for rows in decide]),
        "|",
    )
    for other in OTHERS:
        for label, key in (("guard NLL", "guard_nll"), ("task NLL", "task_nll")):
            measured = [rows for rows in decide if other in rows]
            values = [rows["intruders removed"][key] - rows[other][key] for rows in measured]
            if values:
                print(f"| {label}, intruders removed − {other} (n = {len(values)}) | {shown(values)} |")
    return interval([excess(rows, base) for rows in decide])[1:]


def report(args: argparse.Namespace) -> None:
    """Print every figure, and the decision."""
    outcomes = [report_task(path) for path in sorted(args.folder.glob("*.jsonl"))]
    answer = "not settled at this scale"
    if all(high < 0 for _, high in outcomes):
        answer = "removing intruders forgets less"
    elif all(low > 0 for low, _ in outcomes):
        answer = "shrinking everything forgets less"
    print(f"\nDecision by the rule: {answer}")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(required=True)
    training, measuring, counting, reporting = (
        verbs.add_parser(name) for name in ("train", "measure", "count", "report")
    )
    training.add_argument("task", choices=RECIPES)
    training.add_argument("seed", type=int)
    training.add_argument("--rows", type=Path)
    training.add_argument("--output", required=True, type=Path)
    for one in (measuring, counting):
        one.add_argument("adapters", nargs="+", type=Path)
    measuring.add_argument("--rows", required=True, type=Path)
    measuring.add_argument("--output", required=True, type=Path)
    measuring.add_argument("--primary", action="store_true", help="only the versions that D needs")
    reporting.add_argument("folder", type=Path)
    training.set_defaults(run=train)
    measuring.set_defaults(run=measure)
    counting.set_defaults(run=count)
    reporting.set_defaults(run=report)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
