"""What engines.py and evaluate_speed.py measure: the same prompts and choices, answered by several programs in turn."""

import argparse
import logging
import os
import random
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, set_seed

from gradience.evaluate.engines.base import Decoding, Reading
from gradience.evaluate.engines.transformers.engine import TransformersEngine
from gradience.models.embedded import smollm2
from gradience.models.settings import ModelSettings

NEW_TOKENS, STOP = 48, "\n\n"
LETTERS = " A", " B", " C", " D"


def questions(count: int) -> list[str]:
    """Prompts of unequal lengths."""
    draw = random.Random(0)

    def boxes() -> str:
        return f"{draw.randint(2, 90)} boxes of {draw.randint(2, 40)} pens"

    shops = (" and ".join(boxes() for _ in range(draw.randint(2, 9))) for _ in range(count))
    ask = "How many pens are there? Think step by step, then give the number."
    return [f"Question: A shop has {shop}. {ask}\nAnswer:" for shop in shops]


def endings(count: int) -> list[tuple[str, ...]]:
    """Four sentences that could follow."""
    draw = random.Random(1)
    what = (
        "counts them all again",
        "sells every second box",
        "asks her brother for help",
        "closes the shop early",
    )
    return [
        tuple(f" The owner {each} and writes {draw.randint(10, 999)} on the board." for each in what)
        for _ in range(count)
    ]


def base_of(name: str, folder: Path) -> Path:
    """The folder of the base; a tiny one is written to `folder`, with the vocabulary of SmolLM2."""
    if name != "tiny":
        return smollm2() if name == "embedded:smollm2" else Path(name)
    tokenizer = AutoTokenizer.from_pretrained(smollm2())
    set_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=2048, **shape)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def adapters_of(base: Path, root: Path, count: int) -> list[Path]:
    """Adapters of rank 8 on queries and values, with factors as training leaves them."""
    folders = []
    for seed in range(count):
        set_seed(seed)
        config = LoraConfig(r=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    weight.normal_(std=0.01)
        model.save_pretrained(root / f"adapter{seed}")
        folders.append(root / f"adapter{seed}")
    return folders


class Ours:
    """The engine of gradience."""

    child: int | None = None

    def __init__(self, base: Path, adapters: Sequence[Path], dtype: str) -> None:
        settings = ModelSettings(name=str(base), type="causal_lm", dtype=dtype)
        self.engine = TransformersEngine.load(settings, device="cpu")
        for adapter in adapters:
            self.engine.add(adapter.name, adapter)
        self.name = adapters[0].name

    def write(self, prompts: Sequence[str], batch: int) -> list[str]:
        order = sorted(range(len(prompts)), key=lambda place: -len(prompts[place]))
        texts = {}
        for start in range(0, len(order), batch):
            few = order[start : start + batch]
            outputs = self.engine.generate(
                self.name,
                [prompts[place] for place in few],
                Decoding(NEW_TOKENS, [STOP], 2048),
            )
            texts.update(zip(few, (output.text for output in outputs), strict=True))
        return [texts[place] for place in range(len(prompts))]

    def choose(self, prompts: Sequence[str], choices: Sequence[Sequence[str]], batch: int) -> list[float]:
        order = sorted(range(len(prompts)), key=lambda place: -len(prompts[place]))
        sums: dict[int, list[float]] = {}
        together = max(1, batch // len(choices[0]))
        for start in range(0, len(order), together):
            few = order[start : start + together]
            pairs = [(prompts[place], choice) for place in few for choice in choices[place]]
            scores = iter(self.engine.score(self.name, pairs, Reading(2048, end=False)))
            sums.update({place: [next(scores).loglikelihood for _ in choices[place]] for place in few})
        return [value for place in range(len(prompts)) for value in sums[place]]


class Theirs:
    """lm-eval's `hf` backend."""

    child = None

    def __init__(self, base: Path, adapter: Path, dtype: str, batch: int) -> None:
        self.model = HFLM(
            pretrained=str(base),
            peft=str(adapter),
            dtype=dtype,
            batch_size=batch,
            device="cpu",
            max_length=2048,
        )

    def write(self, prompts: Sequence[str], batch: int) -> list[str]:
        options = {"until": [STOP], "max_gen_toks": NEW_TOKENS, "do_sample": False}
        return self.model.generate_until(
            [Instance("generate_until", {}, (prompt, options), n) for n, prompt in enumerate(prompts)],
            disable_tqdm=True,
        )

    def choose(self, prompts: Sequence[str], choices: Sequence[Sequence[str]], batch: int) -> list[float]:
        pairs = [(prompt, choice) for prompt, few in zip(prompts, choices, strict=True) for choice in few]
        requests = [Instance("loglikelihood", {}, pair, n) for n, pair in enumerate(pairs)]
        return [likelihood for likelihood, _ in self.model.loglikelihood(requests, disable_tqdm=True)]


TICKS = os.sysconf("SC_CLK_TCK")


def timed(work: Callable[[], Any], child: int | None = None) -> tuple[float, Any]:
    """Processor seconds of `work`, and its result. child: another process that works for it."""
    started = processor_seconds(child)
    result = work()
    return processor_seconds(child) - started, result


def processor_seconds(child: int | None) -> float:
    """Of this process, and of that one."""
    if child is None:
        return time.process_time()
    fields = Path(f"/proc/{child}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return time.process_time() + (int(fields[11]) + int(fields[12])) / TICKS


def measure(models: Mapping[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Generated texts and choices of all models, part by part."""
    n, batch = options.examples, options.batch_size
    prompts, longer = questions(n * options.rounds), endings(n * options.rounds)
    parts = [slice(start, start + n) for start in range(0, len(prompts), n)]
    for model in models.values():  # kernels chosen, memory touched
        model.write(prompts[:2], batch)
        model.choose(prompts[:2], longer[:2], batch)
    result = {"generation": compare(models, "write", [(prompts[few], batch) for few in parts], n)}
    for name, choices in {
        "one letter of four": [LETTERS] * len(prompts),
        "one sentence of four": longer,
    }.items():
        rows = [(prompts[few], choices[few], batch) for few in parts]
        result[name] = compare(models, "choose", rows, n)
    return result


def compare(models: Mapping[str, Any], what: str, parts: Sequence[Any], rows: int) -> dict[str, Any]:
    """Median processor seconds per example of each; the others' ratios to the first, part by part; and how many results
    of the first two are equal."""
    first, second, *_ = models
    seconds: dict[str, list[float]] = {name: [] for name in models}
    equal, largest, results = 0, 0.0, 0
    for number, part in enumerate(parts):
        turn = number % len(models)
        answers = {}
        for name in [*models][turn:] + [*models][:turn]:
            work = getattr(models[name], what)
            spent, answers[name] = timed(lambda work=work, part=part: work(*part), models[name].child)
            seconds[name].append(spent / rows)
        for one, other in zip(answers[first], answers[second], strict=True):
            results += 1
            equal += one == other
            if isinstance(one, float):
                largest = max(largest, abs(one - other))
    result: dict[str, Any] = {name: round(median(values), 4) for name, values in seconds.items()}
    for name in [*models][1:]:
        ratios = [other / ours for ours, other in zip(seconds[first], seconds[name], strict=True)]
        result[f"{name} / {first}"] = round(median(ratios), 2)
        result[f"{name} / {first}, parts"] = [round(ratio, 2) for ratio in ratios]
    result[f"{first} and {second} equal"] = f"{equal} of {results}"
    return result | ({"largest difference": round(largest, 4)} if largest else {})


def options_of(
    description: str | None, *, examples: int, rounds: int, batch_size: int
) -> argparse.ArgumentParser:
    """The options that both have."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", default="embedded:smollm2")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--examples", type=int, default=examples, help="in a part")
    parser.add_argument("--rounds", type=int, default=rounds, help="parts")
    parser.add_argument("--batch-size", type=int, default=batch_size)
    return parser


def one_thread_and_quiet() -> None:
    """Say nothing, and compute with one thread."""
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")


def facts(options: argparse.Namespace) -> dict[str, Any]:
    """What was asked of what, and where."""
    asked = {"base": options.base, "dtype": options.dtype, "batch_size": options.batch_size}
    asked |= {"examples in a part": options.examples, "new tokens at most": NEW_TOKENS, "stop": STOP}
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return {**asked, "load": round(os.getloadavg()[0], 1), **versions}
