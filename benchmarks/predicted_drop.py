"""The predicted accuracy drop: its fit on kept cells, new cells to test it on, and the judgement.

    python benchmarks/predicted_drop.py fit
    python benchmarks/predicted_drop.py measure OUT [--tasks larger reverse …] [--seeds 1 2 3] [--device cuda]
                                                    [--base FOLDER --base-name gemma3]
    python benchmarks/predicted_drop.py judge OUT

The share of the reference's correct answers that are lost is 1 − exp(−a·x^b), x the predicted KL per answer. What is
measured and what decides was fixed before: docs/decisions/031-predicted-drop.md. `measure` trains each probe, chooses
the difficulty of a task by seed 1's dev rows, calibrates, truncates, and evaluates; what is there is not made again.
With --base, written tasks are measured on that base model; its cells have the name of the base before that of the task.
OUT gets cells.jsonl, one line for each task, seed, size and kind, and the folders of all evaluations with their
records.
"""

import argparse
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.stats import binom, norm
from scipy.stats import t as student

KEPT = ("reviews", "arithmetic", "sorting")
KINDS = {"svd_uniform": "truncated", "calibrated": "calibrated"}
SIZES, SEEDS, RANK = (16, 8, 4, 2, 1), (1, 2, 3), 32
TRAIN, DEV, TEST, CALIBRATION = 4000, 300, 1200, 512
CELLS = ("n11", "n10", "n01", "n00")
ADVICE = ("uniform_median", "uniform_p90", "per_layer")
"""The audit's suggestions, judged by the same rule."""
GATE = (0.40, 0.97)
STEPS, LABELED_STEPS = 150, 300
MARGIN = 0.025
LIMIT = 0.01
"""KL per answer of the rule that the model is compared with."""
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(41)
WEIGHTS = WEIGHTS / WEIGHTS.sum()
Row = dict[str, Any]


# ---------------------------------------------------------------- the model


class Model:
    """Lost share of the correct answers against the predicted KL per answer."""

    def __init__(self, a: float, b: float, scatter: float, between: float, tasks: int) -> None:
        """scatter: of log a between cells of a task; between: of log a between `tasks` tasks, each left out in turn."""
        self.a, self.b, self.scatter, self.between, self.tasks = a, b, scatter, between, tasks

    @property
    def spread(self) -> float:
        """Standard deviation of log a for a cell of a new task."""
        return float(np.sqrt(self.scatter**2 + self.between**2 * (1 + 1 / self.tasks)))

    @property
    def factor(self) -> float:
        """Factor of a·x^b at the 90 % upper end: Student's quantile, with one degree of freedom fewer than tasks."""
        return float(np.exp(student.ppf(0.9, self.tasks - 1) * self.spread))

    def share(self, x: Any, times: float = 1.0) -> Any:
        return 1 - np.exp(-self.a * np.power(x, self.b) * times)

    def most_lost(self, x: float, correct: int) -> int:
        """Return the 90 % quantile of the number of lost answers, the choice of rows included."""
        width = float(np.log(self.factor) / norm.ppf(0.9))
        shares = self.share(x, np.exp(width * NODES))
        chances = binom.cdf(np.arange(correct + 1)[:, None], correct, shares[None, :]) @ WEIGHTS
        return int(np.searchsorted(chances, 0.9))


def fitted(rows: Sequence[Row]) -> Model:
    """Maximum likelihood: counts are binomial, and log a of a cell is normal."""
    x, lost, correct = columns(rows)
    a, b, scatter = maximum(x, lost, correct)
    tasks = sorted({row["task"] for row in rows})
    shifts = []
    for task in tasks:
        inside = np.array([row["task"] == task for row in rows])
        others = maximum(x[~inside], lost[~inside], correct[~inside])
        shifts.append(shift(others, x[inside], lost[inside], correct[inside]))
    return Model(a, b, scatter, float(np.std(shifts, ddof=1)), len(tasks))


def columns(rows: Sequence[Row]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    return (
        np.array([row["predicted_kl"] * row["tokens"] / row["n"] for row in rows]),
        np.array([row["only_probe_correct"] for row in rows]),
        np.array([row["probe_correct"] for row in rows]),
    )


def loss(log_a: float, b: float, scatter: float, x: Any, lost: Any, correct: Any) -> float:
    shares = 1 - np.exp(-np.exp(log_a + b * np.log(x)[:, None] + scatter * NODES))
    chances = binom.pmf(lost[:, None], correct[:, None], np.clip(shares, 1e-12, 1 - 1e-12)) @ WEIGHTS
    return float(-np.log(chances + 1e-300).sum())


def maximum(x: Any, lost: Any, correct: Any) -> tuple[float, float, float]:
    best = minimize(
        lambda p: loss(p[0], p[1], np.exp(p[2]), x, lost, correct),
        [-0.5, 0.6, -1.0],
        method="Nelder-Mead",
        options={"maxiter": 4000, "xatol": 1e-6, "fatol": 1e-8},
    ).x
    return float(np.exp(best[0])), float(best[1]), float(np.exp(best[2]))


def shift(model: tuple[float, float, float], x: Any, lost: Any, correct: Any) -> float:
    """Return by how much log a of a task differs from that of a model."""
    a, b, scatter = model
    best = minimize(
        lambda p: loss(np.log(a) + p[0], b, scatter, x, lost, correct), [0.0], method="Nelder-Mead"
    )
    return float(best.x[0])


# ---------------------------------------------------------------- cells


def kept_rows() -> list[Row]:
    """Return the cells of the proof of calibration, truncated and calibrated."""
    rows = []
    for task in KEPT:
        path = Path(__file__).parent / "results" / f"calibrate_{task}" / "results.jsonl"
        rows += [json.loads(line) for line in path.read_text().splitlines()]
    return [{**row, "kind": KINDS[row["method"]]} for row in rows if row["method"] in KINDS]


def kept_advice() -> list[Row]:
    """Return the audit's suggestions and the ladder's ranks, truncated, in Bench's kept runs with a ladder."""
    rows = []
    for run in ("minilm_reviews", "smollm2_arithmetic"):
        for file in sorted((Path(__file__).parent / "results" / run).glob("seed_*/bench.json")):
            bench = json.loads(file.read_text())
            variants = {row["name"]: row for row in bench["variants"]}
            kinds = {f"{name}.truncate": name for name in ADVICE}
            kinds |= {name: "truncated" for name in variants if name.startswith("ladder.")}
            for name in kinds.keys() & variants.keys():
                row = variants[name]
                pairs = (row if row["pairs"] else variants.get(row["same_as"], row))["pairs"] or {}
                facts = {"task": run, "seed": bench["seed"], "budget": RANK * (1 - row["reduction"])}
                counts = {"only_probe_correct": pairs.get("n10"), "only_variant_correct": pairs.get("n01")}
                rows.append(
                    {**facts, **counts, "kind": kinds[name], "n": sum(pairs.get(cell, 0) for cell in CELLS)}
                )
    return rows


def new_rows(folder: Path) -> list[Row]:
    return [json.loads(line) for line in (folder / "cells.jsonl").read_text().splitlines()]


def inside_gate(row: Row) -> bool:
    """Return True if the probe is accurate enough to lose something, and not perfect."""
    return GATE[0] <= row["probe_correct"] / row["n"] <= GATE[1]


def holds(row: Row) -> bool:
    """Return True if the one-sided 95 % bound of the measured drop is within 2.5 points."""
    from gradience.statistics.pooled import pool

    differences = np.zeros(row["n"], dtype=int)
    lost, gained = row["only_probe_correct"], row["only_variant_correct"]
    differences[:lost], differences[lost : lost + gained] = -1, 1
    return pool([differences]).interval().low > -MARGIN


def recommended(model: Model, rows: Sequence[Row]) -> Row | None:
    """Return the smallest size whose predicted drop is within the margin at its 90 % upper end."""
    chosen = None
    for row in sorted(rows, key=lambda row: -row["budget"]):
        x = row["predicted_kl"] * row["tokens"] / row["n"]
        if model.share(x, model.factor) * row["probe_correct"] / row["n"] <= MARGIN:
            chosen = row
    return chosen


def judged(model: Model, rows: Sequence[Row]) -> None:
    """Print what the criteria come to."""
    key = lambda row: row["task"]  # noqa: E731
    for task, group in groupby(sorted(rows, key=key), key=key):
        cells = list(group)
        x, lost, correct = columns(cells)
        off = shift((model.a, model.b, model.scatter), x, lost, correct)
        within = [
            row["only_probe_correct"] <= model.most_lost(v, row["probe_correct"])
            for row, v in zip(cells, x, strict=True)
        ]
        more = "more" if off > 0 else "fewer"
        print(f"{task}: error a factor of {np.exp(abs(off)):.2f} ({more} lost than predicted)")
        print(f"  {100 * np.mean(within):.0f} % of {len(cells)} cells are within the upper bound")
        limited = [row for row, v in zip(cells, x, strict=True) if v <= LIMIT]
        print(f"  KL per answer ≤ {LIMIT}: {sum(map(holds, limited))} of {len(limited)} hold")
    case = lambda row: (row["task"], row["seed"], row["kind"])  # noqa: E731
    held, octaves = [], []
    for name, group in groupby(sorted(rows, key=case), key=case):
        cells = list(group)
        pick, safe = recommended(model, cells), [row["budget"] for row in cells if holds(row)]
        smallest = min(safe, default=RANK)
        held.append(pick is None or holds(pick))  # without a recommendation the adapter itself stays
        octaves.append(float(np.log2((RANK if pick is None else pick["budget"]) / smallest)))
        outcome = "holds" if held[-1] else "does not hold"
        size = None if pick is None else pick["budget"]
        print(f"{' '.join(map(str, name))}: recommended {size}, smallest safe {smallest}, {outcome}")
    print(f"{sum(held)} of {len(held)} recommended adapters hold")
    print(f"median {np.median(octaves):.1f} octaves above the smallest safe size")


def octaves_above(row: Row, rows: Sequence[Row]) -> float:
    """Return by how many octaves a suggestion is larger than the smallest truncation of its adapter that holds."""
    case = [each for each in rows if (each["task"], each["seed"]) == (row["task"], row["seed"])]
    safe = [each["budget"] for each in case if each["kind"] == "truncated" and holds(each)]
    return float(np.log2(row["budget"] / min(safe, default=RANK)))


def advised(rows: Sequence[Row]) -> None:
    """Print what each suggestion of the audit is worth: truncations, against the smallest that holds."""
    for name in ADVICE:
        held, octaves = [], []
        unchanged = sum(row["kind"] == name and row["budget"] == RANK for row in rows)
        if unchanged:
            print(f"{name}: saves nothing in {unchanged}")
        for row in rows:
            if row["kind"] == name and row["budget"] < RANK:
                held.append(holds(row))
                octaves.append(octaves_above(row, rows))
        if held:
            print(f"{name}: {sum(held)} of {len(held)} hold, median {np.median(octaves):+.1f} octaves")


# ---------------------------------------------------------------- new tasks


def larger(draw: random.Random, d: int) -> tuple[str, str]:
    """One token: two sums of numbers that differ by little; difficulty: digits."""
    a, b, c = (draw.randint(10**d, 10 ** (d + 1) - 1) for _ in range(3))
    e = max(1, a + b - c + draw.choice([-1, 1]) * draw.randint(1, max(2, 10**d)))
    return f"Which sum is larger, A: {a} + {b} or B: {c} + {e}? Answer:", " A" if a + b > c + e else " B"


def reverse(draw: random.Random, d: int) -> tuple[str, str]:
    """About 10 tokens: digits in reverse order; difficulty: their number."""
    digits = [str(draw.randint(0, 9)) for _ in range(4 + d)]
    return f"Write these digits in reverse order: {' '.join(digits)} ->", f" {' '.join(digits[::-1])}"


def shifted(draw: random.Random, d: int) -> tuple[str, str]:
    """About 30 tokens: a number added to each of eight; difficulty: its size."""
    addend, numbers = draw.randint(1, 3**d), [draw.randint(10, 90) for _ in range(8)]
    text = ", ".join(map(str, numbers))
    return f"Add {addend} to each number: {text} ->", f" {', '.join(str(n + addend) for n in numbers)}"


def added(draw: random.Random, d: int, numbers: int) -> tuple[str, str]:
    """Like `shifted`, with other lengths and finer steps of difficulty."""
    addend, given = draw.randint(1, 6 * d), [draw.randint(10, 90) for _ in range(numbers)]
    text = ", ".join(map(str, given))
    return f"Add {addend} to each number: {text} ->", f" {', '.join(str(n + addend) for n in given)}"


def added_few(draw: random.Random, d: int) -> tuple[str, str]:
    """About 12 tokens; instead of `reverse`, whose probe is too good."""
    return added(draw, d, 3)


def added_many(draw: random.Random, d: int) -> tuple[str, str]:
    """About 60 tokens; instead of `woven`, whose probe is too good."""
    return added(draw, d, 15)


def woven(draw: random.Random, d: int) -> tuple[str, str]:
    """About 60 tokens: the numbers of two lists in turn; difficulty: how many come from the other end."""
    first, second = ([draw.randint(10, 99) for _ in range(10)] for _ in range(2))
    other = second[: 10 - (d - 1)] + second[10 - (d - 1) :][::-1]
    answer = " ".join(f"{a} {b}" for a, b in zip(first, other, strict=True))
    asked = f"List A: {' '.join(map(str, first))}. List B: {' '.join(map(str, second))}."
    return f"{asked} Take one number from A, then one from B, in turn:", f" {answer}"


WRITTEN: dict[str, Callable[[random.Random, int], tuple[str, str]]] = {
    "larger": larger,
    "reverse": reverse,
    "shifted": shifted,
    "woven": woven,
    "added_few": added_few,
    "added_many": added_many,
}
LABELED = ("amazon", "sources")
SNIPPETS = {
    "amazon": ("amazonReviewSnippets", "11a9807a0974a2506a2d3b4851eaf69b3d6d20688ce4923adda2312a4f6dd6c2"),
    "nyt": ("nytEditorialSnippets", "7d8fbcce7dde5d716da53e78f4ef4be6b706e9ef1e1d51887e6d0ad4b69cc27e"),
    "tweets": ("tweets", "dfbe7102e2f92579ed8b19df9a3822491880697c67adf712fb66e520cc05102f"),
}
"""Files of the archive that `reviews` is read from."""


def snippets(name: str) -> Iterator[tuple[float, str]]:
    from gradience.models.embedded import REVIEWS, unpacked

    file, digest = SNIPPETS[name]
    member = f"hutto_ICWSM_2014/{file}_GroundTruth.txt"
    asset = replace(REVIEWS, key=f"snippets-{name}", members={member: digest})
    for line in (unpacked(asset) / next(iter(asset.files))).read_text(errors="replace").splitlines():
        parts = line.split("\t")
        if len(parts) == 3:
            yield float(parts[1]), parts[2].strip()


def rows_of(task: str, d: int) -> list[Row]:
    """Return all rows of a task in a fixed random order, each prompt once."""
    draw = random.Random(f"{task} {d}")
    if task == "amazon":  # difficulty: texts are cut to fewer words
        rated = [(text, int(rating > 0)) for rating, text in snippets("amazon") if abs(rating) > 0.5]
        rows = [{"text": " ".join(text.split()[: 40 // d]), "label": label} for text, label in rated]
    elif task == "sources":
        rows = [
            {"text": " ".join(text.split()[: max(2, 8 // d)]), "label": label}
            for label, name in enumerate(SNIPPETS)
            for _, text in snippets(name)
        ]
    else:
        written = (WRITTEN[task](draw, d) for _ in range(3 * (TRAIN + DEV + TEST)))
        rows = [
            {"prompt": prompt, "completion": answer, "answer": answer.strip()} for prompt, answer in written
        ]
    unique = list({row.get("prompt") or row["text"]: row for row in rows}.values())
    draw.shuffle(unique)
    return unique


def written(path: Path, rows: Sequence[Row]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def base_of(task: str, options: argparse.Namespace) -> dict[str, str]:
    """Return base_model and dtype."""
    if task in LABELED:
        return {"base_model": "embedded:minilm", "dtype": "float32"}
    return {"base_model": options.base, "dtype": "bfloat16"}


def probe(task: str, d: int, seed: int, out: Path, options: argparse.Namespace) -> Path:
    """Train a probe of rank 32 and return its folder."""
    from gradience import tasks
    from gradience.models.settings import ModelSettings
    from gradience.training.settings import TrainSettings
    from gradience.training.trainer import train

    labeled = task in LABELED
    files = {"train_file": str(out / "train.jsonl"), "confirm_file": str(out / "test.jsonl")}
    loaded = tasks.load("classification" if labeled else "jsonl", files)
    base = base_of(task, options)
    model = ModelSettings(
        name=base["base_model"], type="seqcls" if labeled else "causal_lm", dtype=base["dtype"]
    )
    recipe = TrainSettings(
        max_steps=LABELED_STEPS if labeled else STEPS,
        lr=1e-3,
        warmup_steps=10,
        per_device_train_batch_size=16,
        max_length=64 if labeled else 192,
    )
    lora = {
        "r": RANK,
        "lora_alpha": 2 * RANK,
        "target_modules": ["query", "key", "value", "dense"] if labeled else "all-linear",
    }
    train(
        loaded,
        model=model,
        lora=lora,
        recipe=recipe,
        seed=seed,
        output=out / f"probe{seed}",
        device=options.device,
    )
    return out / f"probe{seed}" / "adapter"


def evaluated(
    task: str, adapters: Sequence[Path], data: Path, output: Path, options: argparse.Namespace
) -> Any:
    from gradience import evaluate_adapters

    written = {"options": {"stop": ["\n"], "max_new_tokens": 96}}
    return evaluate_adapters(
        list(adapters),
        **base_of(task, options),
        data=data,
        output=output,
        all_rows=True,
        device=options.device,
        no_ledger=True,
        **({"max_length": 64} if task in LABELED else written),
    )


def prepared(task: str, out: Path, options: argparse.Namespace) -> int:
    """Choose the difficulty by seed 1's accuracy on dev rows, at most two steps from 2, and write the rows."""
    d = 2
    for attempt in range(3):
        folder = out / options.base_name / task / f"difficulty{d}"
        rows = rows_of(task, d)
        test = min(TEST, len(rows) - DEV - 1500)
        written(folder / "dev.jsonl", rows[:DEV])
        written(folder / "test.jsonl", rows[DEV : DEV + test])
        written(folder / "train.jsonl", rows[DEV + test : DEV + test + TRAIN])
        adapter = probe(task, d, 1, folder, options)
        report = evaluated(task, [adapter], folder / "dev.jsonl", folder / "dev1", options)
        accuracy = report.adapters[0].correct / report.adapters[0].n
        print(
            f"{task}, difficulty {d}: {100 * accuracy:.1f} % of {report.adapters[0].n} dev rows", flush=True
        )
        if GATE[0] <= accuracy <= GATE[1] or attempt == 2:
            return d
        d += 1 if accuracy > GATE[1] else -1
        if d < 1:
            return 1
    return d


def measure(options: argparse.Namespace) -> None:
    """Append the cells that are not there yet to cells.jsonl."""
    from gradience import ToRank, ToSuggestion, audit_adapter, calibrate_adapter, plan_compression
    from gradience.adapters.formats import open_adapter
    from gradience.compress.adapter import write_compressed
    from gradience.compress.settings import WritingSettings
    from gradience.files.records import read_records
    from gradience.plan.compression import ToSizeOfRank, left_out, with_calibration
    from gradience.plan.modules import modules_of
    from gradience.reports.calibration import Calibration

    out: Path = options.output
    cells = out / "cells.jsonl"
    there = [json.loads(line) for line in cells.read_text().splitlines()] if cells.exists() else []
    for task in options.tasks:
        d = prepared(task, out, options)
        folder, labeled = out / options.base_name / task / f"difficulty{d}", task in LABELED
        name = f"{options.base_name} {task}".strip()
        training = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
        prompts = written(
            folder / "calibration.jsonl",
            [
                {k: v for k, v in row.items() if k not in ("label", "answer")}
                for row in training[:CALIBRATION]
            ],
        )
        for seed in options.seeds:
            if any((row["task"], row["seed"]) == (name, seed) for row in there):
                continue
            adapter, work = probe(task, d, seed, folder, options), folder / f"seed{seed}"
            work.mkdir(exist_ok=True)
            report, path = audit_adapter(adapter), work / "calibration.safetensors"
            if not path.exists():
                calibrate_adapter(
                    adapter,
                    path,
                    prompts=prompts,
                    **base_of(task, options),
                    device=options.device,
                    max_length=64 if labeled else None,
                )
            calibration = Calibration.read(path)
            sizes: dict[Path, Row] = {}
            wanted: list[tuple[str, int | None, Any]] = [
                *(("truncated", size, ToRank(size)) for size in SIZES),
                *(("calibrated", size, ToSizeOfRank(size)) for size in SIZES),
                *((name, None, ToSuggestion(name)) for name in ADVICE),
            ]
            for kind, size, criterion in wanted:
                given = calibration if kind == "calibrated" else None
                plan = plan_compression(report, criterion, path=adapter, calibration=given)
                if plan.new_params >= plan.old_params:  # advice to keep the rank
                    continue
                target = work / (kind if size is None else f"{kind}{size}")
                write_compressed(
                    open_adapter(adapter), plan, target, WritingSettings(force=True), calibration=given
                )
                if kind == "calibrated":
                    assert plan.prediction is not None
                    predicted = plan.prediction.kl_per_token
                else:
                    modules = with_calibration(report, modules_of(report), calibration)
                    change = left_out(modules, {row.name: row.new_rank for row in plan.modules}, svd=True)
                    (tokens,) = {module.effects.tokens for module in modules if module.effects is not None}
                    predicted = float(np.square(change).sum() / 2 / tokens)
                budget = RANK * plan.new_params / plan.old_params if size is None else size
                sizes[target] = {
                    "kind": kind,
                    "budget": budget,
                    "params": plan.new_params,
                    "predicted_kl": predicted,
                }
            result = evaluated(task, [adapter, *sizes], folder / "test.jsonl", work / "evaluation", options)
            reference, *rows = result.adapters
            before = read_records(work / "evaluation" / reference.records[0].path).records
            lines = []
            for (_, facts), row in zip(sizes.items(), rows, strict=True):
                after = read_records(work / "evaluation" / row.records[0].path).records
                answer = "predicted" if labeled else "output"
                pairs = zip(before, after, strict=True)
                change = row.change
                lines.append(
                    {
                        "task": name,
                        "difficulty": d,
                        "seed": seed,
                        **facts,
                        "n": row.n,
                        "tokens": row.n
                        if labeled
                        else round(row.n * change.kl_per_example / change.kl_per_token),
                        "kl": change.kl_per_token,
                        "changed": sum(getattr(a, answer) != getattr(b, answer) for a, b in pairs),
                        "probe_correct": reference.correct,
                        "only_probe_correct": row.pairs.n10,
                        "only_variant_correct": row.pairs.n01,
                    }
                )
            with cells.open("a") as file:
                file.write("".join(f"{json.dumps(line)}\n" for line in lines))
            print(f"{name}, seed {seed}: {reference.correct} of {reference.n} correct", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("fit")
    measuring, judging = verbs.add_parser("measure"), verbs.add_parser("judge")
    for each in (measuring, judging):
        each.add_argument("output", type=Path)
    measuring.add_argument("--tasks", nargs="+", default=[*WRITTEN, *LABELED], choices=[*WRITTEN, *LABELED])
    measuring.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    measuring.add_argument("--device", default="cpu")
    measuring.add_argument("--base", default="embedded:smollm2", help="base model of the written tasks")
    measuring.add_argument("--base-name", default="", help="its name in the cells, if it is another one")
    options = parser.parse_args()
    if options.verb == "measure":
        measure(options)
        return
    kept = kept_rows()
    model = fitted(kept)
    print(f"a = {model.a:.4f}, b = {model.b:.4f}, scatter of log a in a task {model.scatter:.3f}")
    print(f"between tasks {model.between:.3f}; the 90 % upper end multiplies a·x^b by {model.factor:.3f}")
    if options.verb == "fit":
        judged(model, kept)
        advised(kept_advice())
        return
    everything = new_rows(options.output)
    rows = [row for row in everything if inside_gate(row)]
    for task, seed in sorted({(row["task"], row["seed"]) for row in everything if row not in rows}):
        print(f"{task}, seed {seed}: left out, since its probe is outside 40 to 97 %")
    judged(model, [row for row in rows if row["kind"] not in ADVICE])
    advised(rows)


if __name__ == "__main__":
    main()
