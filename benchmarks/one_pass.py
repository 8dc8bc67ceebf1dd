"""One pass behind the reference's answers against generation and a scoring pass, and against a plain loop of PEFT.

    python benchmarks/one_pass.py ROWS.jsonl REFERENCE CANDIDATE… [--base embedded:smollm2] [--dtype float32]
        [--limit 200] [--new 32] [--stop STRING] [--batch-tokens 4096] [--no-peft] [--equal]

For each candidate: changed answers, outputs that differ from plain generation, processor seconds (one thread) and
sequential decoding steps of both ways, and their ratios. What is done once for all candidates (the noise of the two
largest logits, the reference's states) is timed by itself: the reference follows its own answers first. KL is compared
with the scoring pass.

--equal only counts outputs that differ from plain generation and, in bfloat16, outputs of plain generation that differ
between batches of --batch-tokens and of a quarter of it.
"""

import argparse
import json
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from gradience.evaluate.engines.base import SCORED_SHARE, Decoding, Draft, Reading, budget_batches
from gradience.evaluate.engines.transformers.engine import TransformersEngine, forward
from gradience.evaluate.rows import TOGETHER
from gradience.models.locate import locate
from gradience.models.settings import ModelSettings

STEPS = [0]


def count_steps() -> None:
    """Count forward passes of generation that continue a cache."""
    whole = forward.next_logits

    def counting(model: Any, ids: Any, mask: Any, cache: Any = None, *more: Any) -> Any:
        STEPS[0] += cache is not None
        return whole(model, ids, mask, cache, *more)

    forward.next_logits = counting


def timed(work: Callable[[], Any]) -> tuple[Any, float, int]:
    STEPS[0], start = 0, time.process_time()
    result = work()
    return result, time.process_time() - start, STEPS[0]


def plain_peft(
    base: Path, adapter: Path, rows: list[dict[str, str]], dtype: str, new: int, tokenizer: Any
) -> Callable[[], Any]:
    """A loop over batches of 16 prompts in the order of the file."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype))
    model = PeftModel.from_pretrained(model, adapter).eval()
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token

    def loop() -> None:
        for start in range(0, len(rows), 16):
            few = tokenizer(
                [row["prompt"] for row in rows[start : start + 16]], return_tensors="pt", padding=True
            )
            with torch.no_grad():
                model.generate(
                    **few,
                    max_new_tokens=new,
                    do_sample=False,
                    pad_token_id=tokenizer.eos_token_id,
                )

    return loop


def compare(
    engine: TransformersEngine,
    reference: str,
    names: list[str],
    rows: list[dict[str, str]],
    tokens: int,
    write: Decoding,
    equal: bool,
) -> list[dict[str, Any]]:
    """Both ways for every candidate."""
    prompts = [row["prompt"] for row in rows]
    lengths = [count + write.max_new_tokens for count in engine.count_tokens([(text,) for text in prompts])]
    batches = budget_batches(prompts, lengths, tokens, [1] * len(rows))
    whole = [row["prompt"] + row["completion"] for row in rows]
    scored_lengths = [count + 1 for count in engine.count_tokens([(text,) for text in whole])]
    scored = budget_batches(whole, scored_lengths, tokens // SCORED_SHARE, [1] * len(rows))

    def generate(name: str, batches: list[list[int]] = batches) -> dict[int, Any]:
        return {
            place: output
            for batch in batches
            for place, output in zip(
                batch, engine.generate(name, [prompts[place] for place in batch], write), strict=True
            )
        }

    def score(name: str) -> dict[int, Any]:
        return {
            place: one
            for batch in scored
            for place, one in zip(
                batch,
                engine.score(
                    name,
                    [(prompts[place], rows[place]["completion"]) for place in batch],
                    Reading(write.max_length),
                    reference,
                ),
                strict=True,
            )
        }

    drafts, _, reference_steps = timed(lambda: generate(reference))

    def follow(name: str, noise: float, kl: bool) -> dict[int, Any]:
        answered: dict[int, Any] = {}
        for start in range(0, len(batches), TOGETHER):
            unit = batches[start : start + TOGETHER]
            given = [
                [
                    Draft(prompts[place], drafts[place], rows[place]["completion"] if kl else None)
                    for place in batch
                ]
                for batch in unit
            ]
            pairs = engine.follow(name, given, write, reference=reference, near_tie=noise)
            answered |= dict(zip(chain(*unit), chain(*pairs), strict=True))
        return answered

    mean = sum(draft.n_tokens for draft in drafts.values()) / len(rows)
    step = max(1, int(len(rows) * mean / 1000))
    sample = [Draft(prompts[place], drafts[place]) for place in range(0, len(rows), step)]
    noise, noise_seconds, _ = timed(lambda: engine.near_tie(reference, sample, write))
    if equal:
        smaller = budget_batches(prompts, lengths, tokens // 4, [1] * len(rows))
        for name in names:
            answered, _, steps = timed(lambda name=name: follow(name, noise, False))
            expected, _, plain_steps = timed(lambda name=name: generate(name))
            counts = {
                "candidate": name,
                "answers": len(rows),
                "changed": sum(expected[place].text != drafts[place].text for place in drafts),
                "differ from generation": sum(answered[place][0] != expected[place] for place in drafts),
                "steps": [plain_steps, steps],
            }
            if "bfloat16" in engine.facts["dtype"]:
                other = generate(name, smaller)
                counts["differ between batch sizes"] = sum(
                    other[place] != expected[place] for place in drafts
                )
            print(json.dumps(counts), flush=True)
        return []
    _, once_seconds, _ = timed(lambda: follow(reference, noise, True))
    results: list[dict[str, Any]] = [
        {
            "reference": reference,
            "answers": len(rows),
            "mean tokens": round(mean, 1),
            "steps": reference_steps,
            "noise": noise,
            "noise seconds": round(noise_seconds, 2),
            "once seconds": round(once_seconds, 2),
        }
    ]
    for name in names:
        expected, generate_seconds, plain_steps = timed(lambda name=name: generate(name))
        scores, score_seconds, _ = timed(lambda name=name: score(name))
        answered, seconds, steps = timed(lambda name=name: follow(name, noise, True))
        bare, bare_seconds, _ = timed(lambda name=name: follow(name, noise, False))
        places = range(len(rows))
        results.append(
            {
                "candidate": name,
                "changed": sum(expected[place].text != drafts[place].text for place in places) / len(rows),
                "differ from generation": sum(
                    answered[place][0] != expected[place] or bare[place][0] != expected[place]
                    for place in places
                ),
                "largest change of a KL": max(
                    abs(answered[place][1].kl - scores[place].kl) for place in places
                ),
                "mean KL": sum(scores[place].kl for place in places) / len(rows),
                "seconds": {
                    "generate": round(generate_seconds, 2),
                    "score": round(score_seconds, 2),
                    "one pass": round(seconds, 2),
                    "one pass, no KL": round(bare_seconds, 2),
                },
                "steps": [plain_steps, steps],
                "ratio of time": round(seconds / (generate_seconds + score_seconds), 3),
                "ratio of time, no KL": round(bare_seconds / generate_seconds, 3),
                "ratio of steps": round(steps / max(1, plain_steps), 3),
                "per example": round(seconds / len(rows), 4),
            }
        )
        print(json.dumps(results[-1]), flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", type=Path)
    parser.add_argument("adapters", type=Path, nargs="+")
    parser.add_argument("--base", default="embedded:smollm2")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument("--new", type=int, default=32)
    parser.add_argument("--stop", action="append", default=[])
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--no-peft", action="store_true")
    parser.add_argument("--equal", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    count_steps()
    rows = [json.loads(line) for line in options.rows.read_text().splitlines()]
    rows = rows[options.skip : options.skip + options.limit]
    write = Decoding(options.new, tuple(text.replace("\\n", "\n") for text in options.stop), 2048)
    settings = ModelSettings(name=options.base, type="causal_lm", dtype=options.dtype)
    engine = TransformersEngine.load(settings, device="cpu")
    for adapter in options.adapters:
        engine.add(adapter.name, adapter)
    reference, *names = [adapter.name for adapter in options.adapters]
    results = compare(engine, reference, names, rows, options.batch_tokens, write, options.equal)
    loop = None
    if not (options.no_peft or options.equal):
        tokenizer = engine.tokenizer
        engine.close()
        base = locate(settings).folder
        peft = plain_peft(base, options.adapters[1], rows, options.dtype, options.new, tokenizer)
        loop = round(timed(peft)[1] / len(rows), 4)
    facts = {"rows": options.rows.name, "base": options.base, "dtype": options.dtype, **write._asdict()}
    print(json.dumps({**facts, "results": results, "PEFT loop, per example": loop}, indent=2))


if __name__ == "__main__":
    main()
