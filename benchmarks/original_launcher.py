"""Run the public original's Bench with the libraries of this environment, and time its parts. Not imported.

against_original.py starts it in a process of its own, with the original's checkout first on PYTHONPATH:

python -P benchmarks/original_launcher.py --original DIR --config C.yaml --output DIR --data DIR --times FILE

Changed is only what keeps it from running here: `warmup_ratio`, which transformers 5 has no longer, becomes
`warmup_steps` (a number below 1 is a share of all steps, so that the schedule is the same), and data sets of the hub
are read from local files: gsm8k from train.jsonl and test.jsonl, GLUE from train.csv and validation.csv.

FILE gets seconds by run (probe, variants) and part. They are measured from outside its functions and add up to
the whole, from the start of this file to the end.
"""

import argparse
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

NO_RUN = "all"
"""What belongs to no single training: imports, checks, reports."""


class Clock:
    """Seconds by run and part. The parts may call each other: each counts what it spends itself."""

    def __init__(self) -> None:
        self.seconds: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        self.run = NO_RUN
        self.parts = ["imports"]
        self.since = time.perf_counter()

    def turn(self) -> None:
        """Book the time since the last turn on the part that is running."""
        now = time.perf_counter()
        self.seconds[self.run][self.parts[-1]] += now - self.since
        self.since = now

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` with its time booked on `part`."""

        @wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            self.turn()
            self.parts.append(part)
            try:
                return function(*args, **kwargs)
            finally:
                self.turn()
                self.parts.pop()

        return wrapper

    def in_run(self, name: Callable[..., str], function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` with all its time booked on the run that `name` makes of its arguments."""

        @wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            self.turn()
            self.run = name(*args, **kwargs)
            try:
                return function(*args, **kwargs)
            finally:
                self.turn()
                self.run = NO_RUN

        return wrapper


def import_original(folder: Path) -> None:
    """Make sure that `gradience` is the original's."""
    import gradience

    home = Path(gradience.__file__).resolve()
    if not home.is_relative_to(folder.resolve()):
        sys.exit(f"gradience is {home}, not in {folder}: put that folder first on PYTHONPATH")


def accept_warmup_ratio(profile: Any) -> None:
    """Translate the argument that transformers 5 has dropped."""
    real = profile.TrainingArguments

    def arguments(*, warmup_ratio: float = 0.0, **others: Any) -> Any:
        return real(warmup_steps=warmup_ratio, use_cpu=True, **others)

    profile.TrainingArguments = arguments


def read_locally(profile: Any, data: Path) -> None:
    """Data sets come from files, through the same library with its cache."""
    from datasets import load_dataset

    def local(name: str, subset: str | None = None) -> Any:
        kind, names, ending = (
            ("json", ("train", "test"), "jsonl")
            if name == "gsm8k"
            else ("csv", ("train", "validation"), "csv")
        )
        return load_dataset(kind, data_files={split: str(data / f"{split}.{ending}") for split in names})

    profile.load_dataset = local


def count_tokens(counts: dict[str, int]) -> None:
    """Count the answers, their tokens, and the answers that ended before the limit."""
    from peft import PeftModelForCausalLM

    real = PeftModelForCausalLM.generate

    def generate(self: Any, *args: Any, **kwargs: Any) -> Any:
        generated = real(self, *args, **kwargs)
        new = generated.shape[1] - kwargs["input_ids"].shape[1]  # one question at a time
        counts["answers"] += 1
        counts["tokens"] += new
        counts["ended"] += new < kwargs["max_new_tokens"]
        return generated

    PeftModelForCausalLM.generate = generate


def time_parts(clock: Clock) -> None:
    """Put stopwatches around the original's functions."""
    from gradience.bench.task_profiles import gsm8k_causal_lm, seqcls_glue
    from transformers import Trainer

    from gradience.bench import protocol

    for name, part in {
        "setup_dataset": "data",
        "setup_model_and_tokenizer": "base",
        "setup_compressed_model_and_tokenizer": "base",
        "run_probe_audit": "audit",
    }.items():
        setattr(protocol, name, clock.timed(part, getattr(protocol, name)))
    for profile in (
        gsm8k_causal_lm.GSM8KCausalLMProfile,
        seqcls_glue.GLUESequenceClassificationProfile,
    ):
        profile.tokenize = clock.timed("data", profile.tokenize)
        profile.evaluate = clock.timed("evaluation", profile.evaluate)
    Trainer.train = clock.timed("training", Trainer.train)
    Trainer.evaluate = clock.timed("evaluation while training", Trainer.evaluate)
    protocol.run_probe_training = clock.in_run(lambda *_, **__: "probe", protocol.run_probe_training)
    protocol.run_compressed_variant_training = clock.in_run(
        lambda *_, variant_name, **__: variant_name, protocol.run_compressed_variant_training
    )


def ranks(output: Path) -> dict[str, Any]:
    """The ranks of the variants that it trained: a number, or the rank of every module."""
    variants = json.loads((output / "compression_configs.json").read_text(encoding="utf-8"))
    return {
        name: variant["rank_pattern"] or variant["actual_r"]
        for name, variant in variants.items()
        if variant["status"] == "ready"
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("original", "config", "output", "data", "times"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    options = parser.parse_args()
    config, output, data, times = (
        path.resolve() for path in (options.config, options.output, options.data, options.times)
    )
    import_original(options.original)
    output.mkdir(parents=True, exist_ok=True)
    os.chdir(output)  # its Trainer leaves folders where it is started

    clock = Clock()
    from gradience.bench.task_profiles import gsm8k_causal_lm, seqcls_glue

    from gradience.bench import run_bench

    counts = {"answers": 0, "tokens": 0, "ended": 0}
    for profile in (gsm8k_causal_lm, seqcls_glue):
        accept_warmup_ratio(profile)
        read_locally(profile, data)
    count_tokens(counts)
    time_parts(clock)
    clock.turn()
    clock.parts.append("rest")
    sys.argv = ["run_bench", "--config", str(config), "--output", str(output), "--verbose"]
    status = run_bench.main()
    clock.turn()
    if status not in (
        0,
        2,
    ):  # 2: the probe is undertrained; everything was trained and evaluated all the same
        sys.exit(status)
    report = {"seconds": clock.seconds, "generated": counts, "ranks": ranks(output)}
    times.write_text(json.dumps(report, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
