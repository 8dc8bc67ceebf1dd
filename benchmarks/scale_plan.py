"""A run of Bench on 1, 8 and 64 GPUs: time, GPU hours, and what waits for what. An estimate: no GPU is used.

python benchmarks/scale_plan.py                 # the shipped config of Mistral-7B on GSM8K, three seeds
python benchmarks/scale_plan.py --gpus 1 2 4 --loading 60 --train 400

The stages and their order are those of the run (`stage_graph`), every planned variant is made, and each stage goes to
the first GPU that is free. How long one takes comes from two sets of constants, kept apart: what our forecast computes
for an H100 whose rates are assumed, and what others measured and published.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass

from transformers import MistralConfig

from gradience.bench.config.load import BenchConfig, load_config
from gradience.bench.config.shipped import find_config
from gradience.bench.plan.cost import Counts, Shapes, cost_of
from gradience.bench.plan.graph import Kind, StageNode, stage_graph
from gradience.bench.plan.schedule import Work, schedule, span
from gradience.bench.plan.variants import asked_for
from gradience.evaluate.machines import H100

EXAMPLES = 1_319
"""GSM8K's test."""
TOKENS, LONGEST_OF_4 = 200, 260
"""Of a training example in the mean, and of the longest of four: assumed."""
PROMPT, LONGEST_ANSWER = 130, 260
"""Tokens of a prompt, and of the longest answer of a batch of 32: assumed."""
TRAINING_RATE = 9_621.0
"""Tokens a second of a LoRA training of Llama-3.1-8B in bfloat16 on one H100, 4 × 1,024: published
(github.com/MakazhanAlpamys/Soup, issue 78)."""
PADDING = 1.33
"""Tokens with padding over those without, in batches of four of unequal lengths: assumed, by PEFT's report that batches
of like lengths save a quarter of the time."""
VLLM_RATE = 5_273.0
"""Tokens a second, read and written, of Llama-2-7B with LoRA on one A100 through vLLM V1: published
(github.com/vllm-project/vllm/pull/11613)."""
ANSWER = 130
"""Tokens of an answer in the mean: assumed."""
SCORING = 20.0
"""Seconds in which the gold answers are scored with transformers beside vLLM: assumed."""
VLLM_START = 60.0
"""Seconds in which vLLM loads a 7B base and captures its graphs: assumed."""
START = 10.0
"""Seconds in which a stage's process loads its libraries: 6.6 of processor time measured here."""
AUDIT, CUT = 0.62, 1.5
"""Seconds of an audit and of a truncation of a 7B adapter of rank 64: measured (docs/results/performance.md)."""


@dataclass(frozen=True)
class Constants:
    """Seconds of a stage's work, without the start of its process."""

    name: str
    seconds: Mapping[Kind, float]


def constants(loading: float, train: float | None) -> list[Constants]:
    """By our forecast, and by published rates. loading: seconds until 14.5 GB are on a GPU. train: replaces both."""
    config = load_config(find_config("mistral_gsm8k_certifiable"))
    shapes = Shapes(1_200, (4, LONGEST_OF_4), EXAMPLES, 32, PROMPT, LONGEST_ANSWER)
    cost = cost_of(config, MistralConfig(), shapes, [H100], labels=None, counts=Counts(1, 0, 1))
    (forecast,) = cost.times
    small: dict[Kind, float] = {"audit": AUDIT, "cut": CUT}
    published = 1_200 * 16 * TOKENS * PADDING / TRAINING_RATE
    answered = EXAMPLES * (PROMPT + ANSWER) / VLLM_RATE
    return [
        Constants(
            "transformers, by our forecast",
            {"training": train or forecast.training, "evaluation": loading + forecast.evaluation, **small},
        ),
        Constants(
            "vLLM for answers, published rates",
            {
                "training": loading + (train or published),
                "evaluation": loading + VLLM_START + answered + SCORING,
                **small,
            },
        ),
    ]


def graph_of(config: BenchConfig) -> tuple[StageNode, ...]:
    """The stages of one of its seeds."""
    has_base = config.model.type == "causal_lm" and config.task.probe_gate.above_base is not None
    calibrates = config.compression.calibration is not None
    return stage_graph(asked_for(config.compression), has_base=has_base, calibrates=calibrates)


def works(config: BenchConfig, constant: Constants) -> list[Work]:
    """Every stage of every seed; audits and cuts take no GPU."""
    return [
        Work(
            f"{seed}/{node.name}",
            START + constant.seconds[node.kind],
            tuple(f"{seed}/{name}" for name in node.after),
            takes=0 if node.kind in ("audit", "cut") else 1,
        )
        for seed in config.seeds
        for node in graph_of(config)
    ]


def row(pieces: list[Work], gpus: int) -> str:
    """A row of the table."""
    times = schedule(pieces, gpus)
    on_gpus = [piece for piece in pieces if piece.takes]
    used, whole = sum(piece.seconds for piece in on_gpus), span(times)
    most = max(
        sum(times[each.name][0] <= times[piece.name][0] < times[each.name][1] for each in on_gpus)
        for piece in on_gpus
    )
    return (
        f"| {gpus} | {whole / 60:,.0f} min | {used / 3600:.1f} | {gpus * whole / 3600:.1f} |"
        f" {100 * used / (gpus * whole):.0f} % | {most} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="mistral_gsm8k_certifiable")
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--loading", type=float, default=15.0, help="seconds until the base is on a GPU")
    parser.add_argument("--train", type=float, help="seconds of a training, in place of both estimates")
    options = parser.parse_args()
    config = load_config(find_config(options.config))
    nodes = graph_of(config)
    print(f"{options.config}: {len(config.seeds)} seeds × {len(nodes)} stages\n")
    for constant in constants(options.loading, options.train):
        minutes = {kind: constant.seconds[kind] / 60 for kind in ("training", "evaluation")}
        print(f"{constant.name}: " + ", ".join(f"{kind} {value:.1f} min" for kind, value in minutes.items()))
        print("\n| GPUs | time | GPU hours used | held | of that used | stages at once |")
        print("|---|---|---|---|---|---|")
        for gpus in options.gpus:
            print(row(works(config, constant), gpus))
        print()


if __name__ == "__main__":
    main()
