"""One seed of Bench, the public original's against ours: the same model, data, steps, and three variants.

python benchmarks/against_original.py --original DIR [--task generation] [--task classification] [--json FILE]

DIR is a checkout of https://github.com/johntnanney/gradience. Both get the same config file and run as processes of
their own, in turn, with the same libraries and one thread (original_launcher.py says what makes the original start).

generation       200 questions in the form of GSM8K, answers of 128 tokens (the original's default; random weights
                 do not stop before), a Llama of 4 layers x 128
classification   500 sentences in the form of SST-2, a DistilBERT of 4 layers x 128; the original looks at its
                 validation loss every 100 steps (its default)

The variants are uniform_median, uniform_p90 and per_layer, retrained. The original trains per_layer_shuffled as well,
whatever it is told; the second ratio leaves that out of its time. What a saving is worth depends on the share of
training in the whole, so the seconds of every part are printed.
"""

import argparse
import json
import os
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

import yaml
from processes import Cost, machine, run_once
from small_tasks import write_classification, write_generation
from transformers.utils import logging

WIDTH = 128
"""So small that starting an operation costs more than the operation, as on a GPU when one answer is generated."""

LORA = {"probe_r": 16, "alpha": 16, "dropout": 0.0}
VARIANTS = ("uniform_median", "uniform_p90", "per_layer")
TRAINING, EVALUATION, IN_TRAINING, CLOSENESS, LOADING, REST = (
    "training",
    "evaluation",
    "evaluation while training",
    "closeness to the probe",
    "base, tokenizer and data",
    "start, audit and reports",
)
ALL_PARTS = (TRAINING, EVALUATION, IN_TRAINING, CLOSENESS, LOADING, REST)
PARTS = {
    "training": TRAINING,
    "evaluation": EVALUATION,
    IN_TRAINING: IN_TRAINING,
    "base": LOADING,
    "data": LOADING,
}
"""The launcher's parts -> ours; what is not named is REST."""

Seconds = Mapping[str, float]


class Side(NamedTuple):
    """One run of one of the two."""

    cost: Cost
    parts: dict[str, Seconds]
    """Run (probe, variant, `all` for what belongs to none) -> part -> seconds."""
    ranks: dict[str, Any]
    """Variant -> what was trained: a rank, or the rank of modules."""
    tokens: tuple[float, float]
    """Of an answer: the mean, and the share of answers that ended before the limit."""

    def sum(self, part: str, runs: Iterable[str] | None = None) -> float:
        chosen = self.parts if runs is None else [run for run in runs if run in self.parts]
        return sum(self.parts[run].get(part, 0.0) for run in chosen)

    def whole(self, run: str) -> float:
        return sum(self.parts.get(run, {}).values())


def generation_config(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    base = write_generation(folder / "data", 800, options.examples or 200, layers=4, width=WIDTH)
    return {
        "model": {"name": str(base), "type": "causal_lm", "torch_dtype": "float32"},
        "task": {
            "dataset": "gsm8k",
            "subset": "main",
            "profile": "gsm8k_causal_lm",
            "options": {**files(folder, "train_file", "test_file", ending="jsonl"), "dev": 0},
            "generation": {"max_new_tokens": options.new_tokens, "do_sample": False},
            "probe_gate": {"min_value": 0.0},
        },
        "train": {
            "max_steps": options.steps or 40,
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": 16,
            "learning_rate": 0.001,
            "warmup_ratio": 0.03,
            "seed": 42,
        },
        "lora": {
            **LORA,
            "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        },
    }


def classification_config(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    base = write_classification(folder / "data", 2000, options.examples or 500, layers=4, width=WIDTH)
    return {
        "model": {"name": str(base), "torch_dtype": "float32"},
        "task": {
            "dataset": "glue",
            "subset": "sst2",
            "options": {**files(folder, "train_file", "validation_file", ending="csv"), "dev": 0},
            "probe_gate": {"min_value": 0.0},
        },
        "train": {
            "max_steps": options.steps or 500,
            "per_device_train_batch_size": 8,
            "per_device_eval_batch_size": 32,
            "lr": 0.001,
            "weight_decay": 0.01,
            "warmup_ratio": 0.1,
            "eval_steps": 100,
            "seed": 42,
        },
        "lora": {
            **LORA,
            "target_modules": ["q_lin", "k_lin", "v_lin", "out_lin"],
            "modules_to_save": [
                "pre_classifier",
                "classifier",
            ],  # what PEFT trains by itself, in ours said aloud
        },
    }


CONFIGS = {"generation": generation_config, "classification": classification_config}


def files(folder: Path, *names: str, ending: str) -> dict[str, str]:
    return {name: str(folder / "data" / f"{name.removesuffix('_file')}.{ending}") for name in names}


def write_config(path: Path, config: dict[str, Any], micro: int = 0) -> Path:
    """The config with what is the same for both tasks; micro: other micro-batches for the same batch."""
    common = {
        "compression": {
            "allowed_ranks": [1, 2, 4, 8, 16],
            "acc_tolerance": 1.0,  # a verdict of FAIL would be an exit code
            "variants": list(VARIANTS),
            "arms": ["retrain"],
            "controls": [],
        },
        "policy": {"floor": 1.0},
        "runtime": {"device": "cpu"},
    }
    train = dict(config["train"])
    if micro:
        batch = train["per_device_train_batch_size"] * train.get("gradient_accumulation_steps", 1)
        train |= {"per_device_train_batch_size": micro, "gradient_accumulation_steps": batch // micro}
    path.write_text(yaml.safe_dump({**config, "train": train, **common}, sort_keys=False))
    return path


def run_original(folder: Path, data: Path, config: Path, original: Path) -> Side:
    output, times = folder / "original", folder / "times.json"
    launcher = Path(__file__).with_name("original_launcher.py")
    command = ["env", f"PYTHONPATH={original.resolve()}", f"HF_DATASETS_CACHE={folder / 'cache'}"]
    command += [sys.executable, "-P", str(launcher), "--original", str(original), "--config", str(config)]
    command += ["--output", str(output), "--data", str(data), "--times", str(times)]
    cost = run_once(command)
    recorded = json.loads(times.read_text())
    parts = {run: regrouped(seconds) for run, seconds in recorded["seconds"].items()}
    counts = recorded["generated"]
    answers = counts["answers"] or 1
    early = counts["ended"] / answers
    return Side(cost, parts, recorded["ranks"], (counts["tokens"] / answers, early))


def regrouped(seconds: Seconds) -> Seconds:
    parts = dict.fromkeys(ALL_PARTS, 0.0)
    for part, spent in seconds.items():
        parts[PARTS.get(part, REST)] += spent
    return parts


def run_ours(folder: Path, config: Path) -> Side:
    output = folder / "ours"
    cost = run_once(
        [sys.executable, "-m", "gradience.bench.run_bench", "--config", str(config), "--output", str(output)]
    )
    return our_side(output, cost)


def our_side(output: Path, cost: Cost) -> Side:
    """Read from what every run leaves: the manifests of its stages, training.json and the records."""
    parts: dict[str, dict[str, float]] = {}
    ranks, lengths = {}, []
    for manifest in sorted(output.rglob("manifest.json")):
        stage, seconds = manifest.parent, json.loads(manifest.read_text())["seconds"]
        if stage.name not in ("train", "eval"):
            continue  # the audit, a part of the rest
        run = parts.setdefault(stage.parent.name, dict.fromkeys(ALL_PARTS, 0.0))
        if stage.name == "train":
            report = json.loads((stage / "training.json").read_text())
            run[TRAINING] += report["seconds"]
            run[LOADING] += seconds - report["seconds"]
            ranks[stage.parent.name] = report["lora"].get("rank_pattern") or report["lora"]["r"]
        else:
            scoring = scoring_seconds(stage)
            run[EVALUATION] += seconds - scoring
            run[CLOSENESS] += scoring
            lengths += generated(stage / "answers.records.jsonl")
    parts["all"] = {REST: cost.wall - sum(sum(run.values()) for run in parts.values())}
    early = sum(reason != "length" for _, reason in lengths) / (len(lengths) or 1)
    return Side(cost, parts, ranks, (sum(n for n, _ in lengths) / (len(lengths) or 1), early))


def scoring_seconds(stage: Path) -> float:
    """From the last answer to the last score: how close a variant is to the probe, which the original does not ask."""
    answers, scores = stage / "answers.records.jsonl", stage / "scores.records.jsonl"
    return scores.stat().st_mtime - answers.stat().st_mtime if scores.exists() else 0.0


def generated(records: Path) -> list[tuple[int, str]]:
    """Tokens of every answer and why it ended; nothing for labels."""
    rows = [json.loads(line) for line in records.read_text().splitlines()]
    return [(row["n_tokens"], row["stopped_by"]) for row in rows if "n_tokens" in row]


def savings(original: Side, ours: Side) -> dict[str, float]:
    """Where the difference of the two times comes from; the values add up to it."""
    compared = ["probe", *VARIANTS]
    both = [run for run in compared if run in original.parts and run in ours.parts]
    once = [run for run in original.parts if run in compared and run not in ours.parts]
    unasked = [run for run in original.parts if run not in (*compared, "all")]
    parts = {
        "nothing that was not asked for (per_layer_shuffled)": sum(map(original.whole, unasked)),
        "no duplicate training (equal ranks are trained and evaluated once)": sum(map(original.whole, once)),
        "no evaluation while training": original.sum(IN_TRAINING, both),
        "batched evaluation": original.sum(EVALUATION, both) - ours.sum(EVALUATION),
        "training itself": original.sum(TRAINING, both) - ours.sum(TRAINING),
        "loading base, tokenizer and data": original.sum(LOADING, both) - ours.sum(LOADING),
        "closeness to the probe, which only ours measures": -ours.sum(CLOSENESS),
    }
    return parts | {"start, audit and reports": original.cost.wall - ours.cost.wall - sum(parts.values())}


def compare(task: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run both in turn, print the tables, and return the figures."""
    folder.mkdir(parents=True)
    config = CONFIGS[task](folder, options)
    same = write_config(folder / "config.yaml", config)
    other = write_config(folder / "ours.yaml", config, options.micro_batch) if task == "generation" else same
    rounds = []
    for number in range(options.runs):
        turn = folder / str(number)
        turn.mkdir()
        rounds.append((run_original(turn, folder / "data", same, options.original), run_ours(turn, other)))
    original, ours = min((pair[0] for pair in rounds), key=wall), min((pair[1] for pair in rounds), key=wall)
    return show(task, config, original, ours, [(wall(a), wall(b)) for a, b in rounds])


def wall(side: Side) -> float:
    return side.cost.wall


def show(
    task: str, config: dict[str, Any], original: Side, ours: Side, rounds: Sequence[tuple[float, float]]
) -> dict[str, Any]:
    """The tables of one task. Of several runs the fastest of each side is taken: a busy machine only adds."""
    compared = ("probe", *VARIANTS)
    unasked = sum(original.whole(run) for run in original.parts if run not in (*compared, "all"))
    twice = sum(original.whole(run) for run in compared if run not in ours.parts)
    print(f"\n{task}: {config['train']['max_steps']} steps, {len(rounds)} run(s)\n")
    print("| | original s | ours s | ratio |\n|---|---|---|---|")
    row("whole process", wall(original), wall(ours))
    row("without per_layer_shuffled", wall(original) - unasked, wall(ours))
    row("without what ours trains once as well", wall(original) - unasked - twice, wall(ours))
    row("processor seconds", original.cost.cpu, ours.cost.cpu)
    for part in ALL_PARTS:
        row(part, original.sum(part), ours.sum(part))
    print(f"\npeak MB: {original.cost.peak_mb:.0f}, {ours.cost.peak_mb:.0f}")
    for name, side in (("original", original), ("ours", ours)):
        trained = ", ".join(f"{run} {short(ranks)}" for run, ranks in side.ranks.items())
        print(
            f"{name}: {len([run for run in side.parts if side.sum(TRAINING, [run])])} trainings ({trained})"
        )
        if side.tokens[0]:
            print(
                f"{name}: {side.tokens[0]:.1f} tokens an answer, {side.tokens[1]:.1%} ended before the limit"
            )
    print("\n| saved by | s | share |\n|---|---|---|")
    saved = savings(original, ours)
    for name, seconds in saved.items():
        print(f"| {name} | {seconds:.1f} | {seconds / (wall(original) - wall(ours)):.0%} |")
    print("\n| with other numbers of steps (training scaled, the rest as measured) | ratio |\n|---|---|")
    scaled = by_steps(config["train"]["max_steps"], original, ours)
    for steps, value in scaled.items():
        print(f"| {steps} | {value:.2f} |")
    return {
        "ratio": wall(original) / wall(ours),
        "ratio_without_unasked": (wall(original) - unasked) / wall(ours),
        "ratio_without_unasked_and_equal": (wall(original) - unasked - twice) / wall(ours),
        "ratio_by_steps": scaled,
        "ratio_cpu": original.cost.cpu / ours.cost.cpu,
        "runs": [{"original": a, "ours": b} for a, b in rounds],
        "original": record(original),
        "ours": record(ours),
        "savings_s": saved,
        "config": {key: config[key] for key in ("train", "lora")},
    }


def by_steps(measured: int, original: Side, ours: Side) -> dict[int, float]:
    """The ratio of the whole processes if the trainings were shorter or longer."""
    times = []
    for side in (original, ours):
        growing = side.sum(TRAINING) + side.sum(IN_TRAINING)
        times.append((wall(side) - growing, growing / measured))
    (fixed, each), (our_fixed, our_each) = times
    return {
        steps: (fixed + steps * each) / (our_fixed + steps * our_each)
        for steps in (measured // 4, measured, 4 * measured, 16 * measured)
    }


def row(name: str, original: float, ours: float) -> None:
    print(f"| {name} | {original:.1f} | {ours:.1f} | {f'{original / ours:.2f}' if ours > 0.05 else '–'} |")


def short(ranks: Any) -> str:
    return f"r = {ranks}" if isinstance(ranks, int) else f"r = {min(ranks.values())} to {max(ranks.values())}"


def record(side: Side) -> dict[str, Any]:
    return {
        **side.cost._asdict(),
        "seconds": side.parts,
        "ranks": {run: short(ranks) for run, ranks in side.ranks.items()},
        "tokens_per_answer": side.tokens[0],
        "ended_before_limit": side.tokens[1],
    }


def version_of(original: Path) -> str:
    with open(original / "pyproject.toml", "rb") as file:
        return str(tomllib.load(file)["project"]["version"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--original", type=Path, required=True, help="a checkout of the original")
    parser.add_argument("--task", action="append", choices=list(CONFIGS), help="by default both")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--steps", type=int, help="of every training (40; 500 in classification)")
    parser.add_argument("--examples", type=int, help="that are evaluated (200; 500)")
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument(
        "--micro-batch",
        type=int,
        default=0,
        help="questions at once in ours, of the 16 of a step (by default 1 in both; the original cannot take more,"
        " its collator does not pad labels)",
    )
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    parser.add_argument("--keep", type=Path, help="work in this new folder and leave everything there")
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    logging.disable_progress_bar()
    facts = {"machine": machine(), "original": version_of(options.original)}
    facts |= {name: metadata.version(name) for name in ("torch", "transformers", "peft")}
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    with tempfile.TemporaryDirectory() as scratch:
        folder = (options.keep or Path(scratch)).resolve()
        results = {task: compare(task, folder / task, options) for task in options.task or list(CONFIGS)}
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(facts | {"tasks": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
