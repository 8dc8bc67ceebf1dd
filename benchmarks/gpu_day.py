"""Run everything that needs a GPU, on the first machine that has one: `make gpu`.

    python benchmarks/gpu_day.py [--only train,vllm] [--skip nf4] [--output runs/gpu] [--minutes 40]
        [--gsm8k FOLDER]

Random weights in the shapes of Mistral-7B-v0.1 with a tokenizer that is trained here: times, memory and agreement, no
accuracies. Each part runs in a process of its own and writes OUTPUT/parts/NAME.json. A finished part is not run again,
one that cannot be run says why, and one that fails leaves its error, and the others run. At the end the results go to
docs/results/gpu as DATE-CARD.json with a page. Without a GPU (or with --small) everything is scaled down to a tiny
Mistral on the processor and stays in OUTPUT: that shows only that the script works.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import gradience
from gradience.bench.config import load_config
from gradience.bench.settings import find_config
from gradience.evaluate.engines.base import TRIED_TOKENS, Decoding
from gradience.evaluate.engines.transformers.engine import TransformersEngine
from gradience.evaluate.engines.vllm.engine import PYTHON, versions_in
from gradience.files.records import read_records
from gradience.models.locate import KNOWN
from gradience.models.settings import ModelSettings
from gradience.training.trainer import train
from gradience.words import counted

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results" / "gpu"
CONFIG = "mistral_gsm8k_certifiable_seed42"
Figures = dict[str, Any]


class NotPossible(Exception):
    """Why a part cannot be run on this machine."""


@dataclass(frozen=True)
class Place:
    """Where it runs, and at which size."""

    folder: Path
    small: bool
    rows: Path
    """A folder with train.jsonl and test.jsonl in the layout of GSM8K."""

    @property
    def base(self) -> Path:
        return self.folder / "base"

    @property
    def adapter(self) -> Path:
        return self.folder / "train" / "adapter"

    @property
    def smaller(self) -> Path:
        return self.folder / "smaller"

    @property
    def device(self) -> str:
        return "cpu" if self.small else "cuda"

    def size(self, full: int, small: int) -> int:
        """Return how many of something are used here."""
        return small if self.small else full

    def config(self, *more: str) -> Any:
        """Return the flagship's config, with this base and these rows."""
        return load_config(find_config(CONFIG), self.overrides(*more))

    def overrides(self, *more: str) -> list[str]:
        files = {name: str(self.rows / f"{role}.jsonl") for name, role in FILES.items()}
        return [
            f"model.name={self.base}",
            f"task.options={json.dumps(files)}",
            f"runtime.device={self.device}",
            *(SMALL if self.small else ()),
            *more,
        ]


FILES = {"train_file": "train", "test_file": "test"}
SMALL = (
    "lora.probe_r=8",
    "lora.alpha=16",
    "compression.allowed_ranks=[1,2,4,8]",
    "train.per_device_train_batch_size=2",
    "train.gradient_accumulation_steps=1",
    "task.generation.max_new_tokens=8",
)


# ---------------------------------------------------------------- inputs


def prepare(place: Place) -> None:
    """Write rows, tokenizer and base, once."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast, set_seed

    if (place.base / "done").exists():
        return
    if not (place.rows / "train.jsonl").exists():
        place.rows.mkdir(parents=True, exist_ok=True)
        for role, count in (("train", place.size(2_000, 40)), ("test", place.size(1_319, 12))):
            lines = (json.dumps(problem(number, role)) + "\n" for number in range(count))
            (place.rows / f"{role}.jsonl").write_text("".join(lines), encoding="utf-8")
    texts = [
        " ".join(json.loads(line).values()) for line in (place.rows / "train.jsonl").open(encoding="utf-8")
    ]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    learn = trainers.BpeTrainer(
        vocab_size=place.size(32_000, 400),
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, learn)
    shape: Figures = KNOWN[load_config(find_config(CONFIG)).model.name]
    if place.small:
        shape = {
            **shape, "vocab_size": 400, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024,
        }  # fmt: skip
    set_seed(0)
    with torch.device(place.device):
        config = AutoConfig.for_model(**{**shape, "bos_token_id": 0, "eos_token_id": 1})
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(place.base)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(
        place.base
    )
    (place.base / "done").touch()


def problem(number: int, role: str) -> dict[str, str]:
    """Return a made-up word problem of about the length of one of GSM8K."""
    first, second, third = number % 89 + 3, number * 7 % 41 + 2, number * 3 % 17 + 1
    question = (
        f"In {role} shop {number} there are {first} boxes with {second} pens each. The owner sells {third} boxes before"
        f" lunch, gives {third} pens to her brother and then counts what is left. How many pens does she count?"
    )
    left = (first - third) * second - third
    answer = (
        f"She has {first} - {third} = {first - third} boxes left.\nThey hold {first - third} * {second} ="
        f" {(first - third) * second} pens.\nAfter the gift there are {left} pens.\n#### {left}"
    )
    return {"question": question, "answer": answer}


def prompts(place: Place, count: int) -> list[str]:
    lines = (place.rows / "train.jsonl").read_text(encoding="utf-8").splitlines()
    return [f"Question: {json.loads(line)['question']}\nAnswer:" for line in lines[:count]]


def prompt_file(place: Place, count: int) -> Path:
    path = place.folder / f"prompts{count}.jsonl"
    path.write_text(
        "".join(json.dumps({"prompt": text}) + "\n" for text in prompts(place, count)), encoding="utf-8"
    )
    return path


def evaluated(place: Place, name: str, limit: int, **more: Any) -> Any:
    files = {key: str(place.rows / f"{role}.jsonl") for key, role in FILES.items()}
    given = {"base_model": place.base, "device": place.device, "max_new_tokens": place.size(320, 8), **more}
    return gradience.evaluate_adapters(
        [place.adapter, place.smaller], task="gsm8k", options=files, limit=limit, all_rows=True, no_ledger=True,
        output=place.folder / name, **given,
    )  # fmt: skip


def texts_of(place: Place, name: str, report: Any) -> list[list[str]]:
    records = (read_records(place.folder / name / row.records[0].path).records for row in report.adapters)
    return [[record.output for record in each] for each in records]


def equal(some: list[list[str]], others: list[list[str]]) -> list[int]:
    return [sum(map(str.__eq__, *pair)) for pair in zip(some, others, strict=True)]


def peak_bytes() -> int | None:
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None


# ---------------------------------------------------------------- parts


def train_part(place: Place) -> Figures:
    """Train with the flagship recipe for a few steps, and truncate the adapter."""
    from gradience.bench.forecast import forecast

    steps = place.size(20, 2)
    config = place.config(f"train.max_steps={steps}", "train.save_steps=null")
    lora = config.lora.peft_arguments()
    report = train(
        config.task.load(), model=config.model, lora=lora, recipe=config.train, seed=42,
        output=place.folder / "train", device=place.device,
    )  # fmt: skip
    gradience.compress_adapter(place.adapter, place.smaller, rank=place.size(16, 2), force=True)
    cost = forecast(config).cost
    return {
        "steps": report.steps,
        "seconds per step": round(report.seconds / report.steps, 3),
        "tokens per example": round(report.examples.tokens / report.examples.n, 1),
        "peak memory bytes": report.peak_memory_bytes,
        "forecast memory bytes": None if cost is None else cost.largest_stage_bytes,
        "rank": lora["r"],
        "trained parameters": report.lora_params,
    }


def generate_part(place: Place) -> Figures:
    """Generate with transformers, in one batch."""
    engine = engine_of(place)
    engine.add("adapter", place.adapter)
    rows, new = place.size(32, 4), place.size(256, 8)
    engine.generate("adapter", prompts(place, 2), Decoding(4))
    started = time.perf_counter()
    outputs = engine.generate("adapter", prompts(place, rows), Decoding(new))
    seconds = time.perf_counter() - started
    tokens = sum(output.n_tokens for output in outputs)
    return {
        "rows": len(outputs),
        "new tokens": tokens,
        "tokens per second": round(tokens / seconds, 1),
        "peak memory bytes": peak_bytes(),
    }


def engine_of(place: Place, dtype: Any = "bfloat16") -> TransformersEngine:
    settings = ModelSettings(name=str(place.base), type="causal_lm", dtype=dtype)
    return TransformersEngine.load(settings, device=place.device)


def evaluate_part(place: Place) -> Figures:
    """Evaluate two adapters on 500 prompts, KL and flips included."""
    started = time.perf_counter()
    report = evaluated(place, "evaluate", place.size(500, 6), dtype="bfloat16")
    seconds = time.perf_counter() - started
    return {
        "examples": report.examples,
        "adapters": len(report.adapters),
        "seconds": round(seconds, 1),
        "seconds per example and adapter": round(seconds / report.examples / len(report.adapters), 4),
        "batch tokens": read_records(
            place.folder / "evaluate" / report.adapters[0].records[0].path
        ).run.batch_tokens,
        "peak memory bytes": peak_bytes(),
    }


def calibrate_part(place: Place) -> Figures:
    """Calibrate on prompts that the adapter completes."""
    rows, started = place.size(64, 4), time.perf_counter()
    gradience.calibrate_adapter(
        place.adapter, place.folder / "calibration.safetensors", prompts=prompt_file(place, rows), force=True,
        base_model=place.base, device=place.device, dtype="bfloat16", completion_tokens=place.size(64, 4),
    )  # fmt: skip
    return {
        "rows": rows,
        "seconds": round(time.perf_counter() - started, 1),
        "peak memory bytes": peak_bytes(),
    }


def distill_part(place: Place) -> Figures:
    """Distill the truncated adapter for a few steps."""
    steps, started = place.size(20, 2), time.perf_counter()
    report = gradience.distill_adapter(
        place.smaller, place.folder / "distilled", teacher=place.adapter, steps=steps, device=place.device,
        prompts=prompt_file(place, place.size(128, 20)), base_model=place.base, dtype="bfloat16",
        completion_tokens=place.size(64, 4), force=True,
    )  # fmt: skip
    seconds = time.perf_counter() - started
    return {"steps": report.steps, "seconds": round(seconds, 1), "peak memory bytes": peak_bytes()}


def nf4_part(place: Place) -> Figures:
    """Evaluate on a base in 4 bits."""
    try:
        import bitsandbytes
    except ImportError:
        raise NotPossible("bitsandbytes is not installed") from None
    started = time.perf_counter()
    report = evaluated(place, "nf4", place.size(64, 4), quantization="nf4")
    return {
        "examples": report.examples,
        "seconds": round(time.perf_counter() - started, 1),
        "peak memory bytes": peak_bytes(),
        "bitsandbytes": bitsandbytes.__version__,
    }


def vllm_part(place: Place) -> Figures:
    """Serve adapters of several ranks: throughput, time to the first token, size of the factors, and the gate."""
    if not os.environ.get(PYTHON):
        raise NotPossible(f"{PYTHON} names no Python with vLLM")
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from gradience.evaluate.engines.vllm.engine import VllmEngine

    modules = list(place.config().lora.peft_arguments()["target_modules"])
    ranks = (8, 16, 32, 64, 128, 256) if not place.small else (8, 16)
    by_rank: dict[str, Figures] = {}
    few, many = prompts(place, 8), prompts(place, place.size(64, 4))
    with torch.device(place.device):
        base = AutoModelForCausalLM.from_pretrained(place.base, dtype=torch.bfloat16)
    for rank in ranks:
        model = get_peft_model(base, LoraConfig(r=rank, target_modules=modules, task_type="CAUSAL_LM"))
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    weight.normal_(std=0.01)
        model.save_pretrained(place.folder / f"rank{rank}", save_embedding_layers=False)
        base = model.unload()
    del base, model
    torch.cuda.empty_cache()
    for rank in ranks:
        settings = ModelSettings(name=str(place.base), type="causal_lm", dtype="bfloat16")
        engine = VllmEngine.load(settings, device=place.device)
        try:
            engine.add("adapter", place.folder / f"rank{rank}")
            engine.check_adapter("adapter", few, None)
            started = time.perf_counter()
            engine.generate("adapter", few[:1], Decoding(1))
            first = time.perf_counter() - started
            started = time.perf_counter()
            outputs = engine.generate("adapter", many, Decoding(place.size(256, 8)))
            seconds = time.perf_counter() - started
        finally:
            engine.close()
        by_rank[str(rank)] = {
            "tokens per second": round(sum(output.n_tokens for output in outputs) / seconds, 1),
            "seconds to the first token": round(first, 4),
            "factor bytes": sum(
                path.stat().st_size for path in (place.folder / f"rank{rank}").glob("*.safetensors")
            ),
            "gate": "passed",
        }
    return {"vllm": versions_in(os.environ[PYTHON])["vllm"], "by rank": by_rank}


def precision_part(place: Place) -> Figures:
    """Compare answers and KL in bfloat16 with those in float32."""
    limit, texts, figures = place.size(64, 4), {}, {}
    for dtype in ("bfloat16", "float32"):
        report = evaluated(place, dtype, limit, dtype=dtype, max_new_tokens=place.size(64, 8))
        texts[dtype] = texts_of(place, dtype, report)
        figures[f"KL per token, {dtype}"] = report.adapters[1].change.kl_per_token
    return {"examples": limit, "equal answers of both adapters": equal(*texts.values()), **figures}


def oom_part(place: Place) -> Figures:
    """Leave too little memory for the first batch size, and compare the answers with those of enough memory."""
    if not torch.cuda.is_available():
        raise NotPossible("the memory of a processor cannot be limited here: needs a GPU")
    limit = 128
    whole = texts_of(place, "enough", evaluated(place, "enough", limit, dtype="bfloat16", max_new_tokens=64))
    torch.cuda.empty_cache()
    weights = sum(path.stat().st_size for path in place.base.glob("*.safetensors"))
    free, _ = torch.cuda.mem_get_info()
    ballast = torch.empty(max(1, free - weights - 4 * 2**30), dtype=torch.uint8, device="cuda")
    report = evaluated(place, "little", limit, dtype="bfloat16", max_new_tokens=64)
    tokens = read_records(place.folder / "little" / report.adapters[0].records[0].path).run.batch_tokens
    if tokens is not None and tokens >= TRIED_TOKENS:
        raise RuntimeError(f"the first batches of {tokens:,} tokens fitted: memory did not run out")
    equals = equal(whole, texts_of(place, "little", report))
    return {
        "examples": limit,
        "ballast bytes": ballast.numel(),
        "batch tokens": tokens,
        "equal answers": equals,
    }


def regenerate_part(place: Place) -> Figures:
    """Run one seed of Bench in bfloat16, and generate some of its answers again."""
    run, started = place.folder / "bench", time.perf_counter()
    gradience.run_bench(
        config=CONFIG, output=run, smoke=True, overrides=place.overrides(
            "train.max_steps=4", "train.warmup_ratio=0", "train.train_samples=32",
            f"task.eval_samples={place.size(32, 4)}",
            "compression.variants=[uniform_median]", "compression.controls=[rewrite_control]", "compression.retrain=[]",
            "task.probe_gate.min_value=0", "task.probe_gate.above_base=null", "train.save_steps=null",
        ),
    )  # fmt: skip
    run_seconds = time.perf_counter() - started
    verification = gradience.verify(run, regenerate=place.size(16, 2))
    return {
        "seconds of the run": round(run_seconds, 1),
        "seconds of verify": round(time.perf_counter() - started - run_seconds, 1),
        "verdict": verification.verdict,
    }


def forecast_part(place: Place) -> Figures:
    """Forecast one seed of the flagship from the figures above; that of a tiny model means nothing."""
    finished = {
        name: json.loads(path.read_text())
        for name in ("train", "evaluate")
        if (path := part_file(place, name)).exists()
    }
    if any(finished.get(name, {}).get("state") != "done" for name in ("train", "evaluate")):
        raise NotPossible("needs the parts train and evaluate")
    config = load_config(find_config(CONFIG))
    from gradience.bench.forecast import forecast

    plan = forecast(config)
    step = finished["train"]["figures"]["seconds per step"]
    each = finished["evaluate"]["figures"]["seconds per example and adapter"]
    training = plan.trainings * config.train.max_steps * step
    evaluating = plan.evaluations * (plan.examples or 0) * each
    return {
        "hours of training": round(training / 3600, 2),
        "hours of evaluation": round(evaluating / 3600, 2),
        "hours of a seed": round((training + evaluating) / 3600, 2),
    }


PARTS: dict[str, Callable[[Place], Figures]] = {
    "train": train_part,
    "generate": generate_part,
    "evaluate": evaluate_part,
    "calibrate": calibrate_part,
    "distill": distill_part,
    "nf4": nf4_part,
    "vllm": vllm_part,
    "precision": precision_part,
    "oom": oom_part,
    "regenerate": regenerate_part,
    "forecast": forecast_part,
}
"""In the order in which they need each other: all read the adapters of `train`."""


# ---------------------------------------------------------------- the day


def part_file(place: Place, name: str) -> Path:
    return place.folder / "parts" / f"{name}.json"


def run_part(place: Place, name: str) -> Figures:
    """Run one part here, and write what became of it."""
    started = time.perf_counter()
    try:
        prepare(place)
        result: Figures = {"state": "done", "figures": PARTS[name](place)}
    except NotPossible as reason:
        result = {"state": "not run", "reason": str(reason)}
    except Exception as error:  # noqa: BLE001  the error is the result, and the other parts run
        traceback.print_exc()
        result = {"state": "failed", "reason": f"{type(error).__name__}: {error}"[:500]}
    result["wall seconds"] = round(time.perf_counter() - started, 1)
    path = part_file(place, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def run_apart(place: Place, name: str, seconds: float) -> Figures:
    """Run one part in a process of its own: its memory is free afterwards, and it cannot take the others with it."""
    command = [
        sys.executable,
        __file__,
        "--part",
        name,
        "--output",
        str(place.folder),
        "--gsm8k",
        str(place.rows),
    ]
    command += ["--small"] * place.small
    path = part_file(place, name)
    path.unlink(missing_ok=True)
    try:
        code = subprocess.run(command, timeout=seconds, check=False).returncode
        reason = f"its process ended with {code}"
    except subprocess.TimeoutExpired:
        reason = f"stopped after {seconds:.0f} s"
    if path.exists():
        return json.loads(path.read_text())  # type: ignore[no-any-return]
    result = {"state": "failed", "reason": reason}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result) + "\n", encoding="utf-8")
    return result


def card() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"


def page(summary: Figures) -> str:
    """Return the results as Markdown: a table for each part."""
    lines = [f"# GPU day: {summary['card']}, {summary['date']}", ""]
    lines += [
        f"Made by `benchmarks/gpu_day.py` on random weights in the shapes of {summary['shapes']}. {summary['rows']}",
        "",
    ]
    lines += ["```json", json.dumps(summary["versions"], indent=2), "```", ""]
    for name, result in summary["parts"].items():
        lines += [f"## {name}", "", (PARTS[name].__doc__ or "").strip(), ""]
        if result["state"] == "done":
            lines += ["| figure | value |", "|---|---|"]
            flat = {}
            for key, value in result["figures"].items():
                inner = value if isinstance(value, dict) else {"": value}
                flat |= {f"{key} {more}".strip(): given for more, given in inner.items()}
            lines += [f"| {key} | {value} |" for key, value in flat.items()]
        else:
            lines.append(f"{result['state'].capitalize()}: {result['reason']}")
        lines.append("")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--gsm8k", type=Path, help="folder with GSM8K's train.jsonl and test.jsonl")
    parser.add_argument("--only", default="", help="parts to run, with commas")
    parser.add_argument("--skip", default="", help="parts to leave out, with commas")
    parser.add_argument("--minutes", type=float, default=40, help="no part starts after this time")
    parser.add_argument("--small", action="store_true", help="scaled down, on the processor")
    parser.add_argument("--here", action="store_true", help="all parts in this process")
    parser.add_argument("--part", choices=PARTS, help="run this part in this process, and nothing else")
    options = parser.parse_args(arguments)
    small = options.small or not torch.cuda.is_available()
    place = Place(options.output.absolute(), small, (options.gsm8k or options.output / "rows").absolute())
    if options.part:
        run_part(place, options.part)
        return 0
    only, skipped = (set(filter(None, text.split(","))) for text in (options.only, options.skip))
    if unknown := (only | skipped) - PARTS.keys():
        parser.error(f"no part is called {', '.join(sorted(unknown))}: {', '.join(PARTS)}")
    until, results = time.monotonic() + 60 * options.minutes, {}
    for name in PARTS:
        path = part_file(place, name)
        if path.exists() and json.loads(path.read_text())["state"] == "done":
            results[name] = json.loads(path.read_text())
        elif name in skipped or (only and name not in only):
            results[name] = {"state": "not run", "reason": "left out"}
        elif (left := until - time.monotonic()) <= 0:
            results[name] = {"state": "not run", "reason": f"{options.minutes:g} minutes were over"}
        else:
            results[name] = run_part(place, name) if options.here else run_apart(place, name, left)
        print(f"{name}: {results[name]['state']} {results[name].get('reason', '')}".rstrip(), flush=True)
    summary = {
        "date": datetime.now(UTC).date().isoformat(),
        "card": card(),
        "shapes": "a tiny Mistral (scaled down: no figure is a result)" if small else "Mistral-7B-v0.1",
        "rows": f"Rows: {'GSM8K' if options.gsm8k else 'made-up word problems of similar length'}.",
        "versions": {
            "python": platform.python_version(),
            "gradience": gradience.__version__,
            **TransformersEngine.numerics(place.device)["versions"],
        },
        "parts": results,
    }
    target = place.folder if small else RESULTS
    target.mkdir(parents=True, exist_ok=True)
    name = f"{summary['date']}-{re.sub(r'[^A-Za-z0-9]+', '-', card()).strip('-')}"
    (target / f"{name}.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    (target / f"{name}.md").write_text(page(summary), encoding="utf-8")
    print(f"written: {target / name}.json and .md")
    failed = sum(result["state"] == "failed" for result in results.values())
    print(f"{counted(len(results), 'part')}, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
