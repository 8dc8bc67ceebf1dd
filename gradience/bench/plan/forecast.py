"""The config -> the stages of a run, its memory, its inputs, what its budget can show.

Nothing is trained: memory follows from shapes that are counted and lengths that were read.
"""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from shutil import disk_usage
from typing import Any

from gradience.bench.config.load import BenchConfig
from gradience.bench.plan.preregister import ALPHA
from gradience.bench.plan.preview import Lengths, LocalInputs, look
from gradience.bench.plan.variants import PlannedVariant, asked_for, stage_names
from gradience.evaluate.checks import memory_of
from gradience.evaluate.engines import engine
from gradience.evaluate.evaluator import SCORED_AT_ONCE
from gradience.evaluate.memory import (
    activation_bytes,
    answering_bytes,
    longest_of,
    network_on_meta,
    process_bytes,
    sorted_longest,
    weights_bytes_of,
)
from gradience.files.hub import is_cached
from gradience.files.shared_names import path_text
from gradience.models.devices import choose_device, device_name
from gradience.models.load import dtype_of, quiet
from gradience.models.locate import EMBEDDED, hub_address
from gradience.reports.base.exact import exact_text
from gradience.reports.base.numbers import size
from gradience.reports.bench_plan import allowed_losses
from gradience.reports.forecast import (
    TYPICAL_DISCORDANCES,
    BenchForecast,
    CostEstimate,
    Requirement,
    Scenario,
)
from gradience.statistics.power import pass_probability, smallest_margin
from gradience.tasks.base import ClassificationTask, GenerationTask
from gradience.words import counted

EXAMPLES: Mapping[str, int] = {"gsm8k": 1_319, "reviews": 2_186}
"""Test examples (role confirm) of tasks with fixed data; GLUE's are listed with its subsets."""
NEW_TOKENS = 256
"""Default limit of generated tokens, if neither the config nor the task sets one."""
CHECKPOINT_BYTES, CHECKPOINTS = 12, 3
"""For each trained parameter: a float32 weight and two moments. Two checkpoints are kept while a third is written."""
ADAM_BYTES = 16
"""For each trained parameter: float32 weight, gradient and two moments."""


def forecast(config: BenchConfig) -> BenchForecast:
    """Return the stages of a run of `config` and its memory; raises what `preview.look` raises for missing inputs."""
    wanted, preview = asked_for(config.compression), look(config)
    examples = _examples(config, preview)
    cost = _cost(config, preview, examples)
    return BenchForecast(
        config_digest=config.digest(),
        protocol_digest=config.protocol_digest(),
        smoke=config.smoke,
        model=path_text(config.model.name),
        task=path_text(config.task.profile),
        seeds=config.due,
        checks=tuple(preview.checks),
        requirements=tuple(_requirements(config, cost, adapters=1 + len(wanted))),
        scored=preview.scored,
        scored_by=preview.task.scored_by if preview.task is not None else "",
        stages=stage_names(wanted, config),
        trainings=1 + sum(variant.is_trained for variant in wanted),
        evaluations=1 + config.asks_base + len(wanted),
        examples=examples,
        gate=exact_text(config.gate()),
        policy=config.policy,
        cost=cost,
        scenarios=() if examples is None or config.smoke else tuple(_scenarios(config, wanted, examples)),
        assumptions=tuple(_assumptions(config, preview, examples, cost)),
    )


SPREADS = (0.0, 0.01)


def _scenarios(config: BenchConfig, wanted: Sequence[PlannedVariant], examples: int) -> Iterator[Scenario]:
    """Yield typical variants of the config's arms, with the margins that the budget can show for them."""
    policy, seeds = config.policy, len(config.seeds)
    arms = {"retrained" if variant.is_trained else "truncated" for variant in wanted if not variant.control}
    for name, shares in TYPICAL_DISCORDANCES.items():
        for discordance, spread in product(shares if name in arms else (), SPREADS):
            margin = partial(
                smallest_margin, examples, discordance, seeds=seeds, spread=spread, level=float(ALPHA)
            )
            yield Scenario(
                name=name,
                discordance=discordance,
                spread=spread,
                margin_these_runs=margin(),
                margin_over_trainings=margin(claim="mean-over-trainings") if seeds > 1 else None,
                pass_if_equal=pass_probability(
                    examples,
                    allowed_losses(examples, policy.tolerance),
                    discordance,
                    0.0,
                    spread,
                    seeds=seeds,
                    needed=math.ceil(policy.pass_rate * seeds),
                    floor_allowed=allowed_losses(examples, policy.floor),
                ),
            )


def _requirements(config: BenchConfig, cost: CostEstimate | None, *, adapters: int) -> Iterator[Requirement]:
    """Yield the run's requirements other than data. adapters: number of adapters per seed, none larger than the
    probe."""
    recipe, name = config.train, config.model.name
    address = None if name in EMBEDDED else hub_address(config.model)
    if address is not None:
        weights = "" if cost is None else f" ({size(cost.weights_bytes)})"
        cached = any(
            is_cached(address, file) for file in ("model.safetensors", "model.safetensors.index.json")
        )
        yield Requirement(
            what="base files",
            needed=f"{path_text(name)} from the hub: config, tokenizer, weights{weights}",
            here="in the hub's cache" if cached else "not in the hub's cache",
        )
    if cost is not None:
        device = config.runtime.device
        _, memory = memory_of(device)
        yield Requirement(
            what="memory",
            needed=f"{size(cost.largest_stage_bytes)}, without a GPU's driver and allocator",
            here=f"{device_name(choose_device(device))}: {size(memory)}",
        )
        checkpoints = CHECKPOINT_BYTES * CHECKPOINTS * bool(recipe.save_steps) * cost.probe_params
        most = 4 * cost.probe_params * adapters * len(config.due) + checkpoints
        yield Requirement(
            what="disk",
            needed=f"at most {size(most)} in the output folder: {counted(adapters, 'adapter')} per seed, checkpoints",
            here=f"{size(disk_usage('.').free)} free in the current folder",
        )
    extras = ["bench" if config.model.type == "seqcls" else "hf"]
    extras += ["qlora"] * (config.model.quantization is not None)
    extras += ["ray"] * (config.runtime.executor == "ray")
    versions = engine(config.runtime.engine).numerics(config.runtime.device)["versions"]
    yield Requirement(
        what="packages",
        needed=f'pip install ".[{",".join(extras)}]" in the clone',
        here=", ".join(f"{package} {version}" for package, version in versions.items()),
    )
    length = f"{recipe.max_steps:,} steps" if recipe.max_steps else f"{recipe.epochs:g} epochs"
    yield Requirement(
        what="settings",
        needed=(
            f"r = {config.lora.probe_r}, {length} of {recipe.per_device_train_batch_size} ×"
            f" {recipe.gradient_accumulation_steps} sequences, lr {recipe.lr:g}, max_length {recipe.max_length},"
            f" dtype {config.model.dtype}; evaluation in batches of {recipe.per_device_eval_batch_size}"
        ),
        here="",
    )


def _assumptions(
    config: BenchConfig, preview: LocalInputs, examples: int | None, cost: CostEstimate | None
) -> list[str]:
    if preview.shape is None:
        return [
            f"No memory estimate: the shape of {path_text(config.model.name)} is not known here; give a folder with"
            " config.json."
        ]
    if cost is None:
        return ["No memory estimate: the number of steps is known only once the data are read."]
    sentences = []
    if preview.lengths is None:
        sentences.append(
            "Lengths are not known here: examples are counted at `max_length`, answers at `max_new_tokens`."
        )
    elif preview.lengths.responses:
        sentences.append(
            "Answers are assumed to be as long as the reference answers; a model that does not stop writes up to"
            " `max_new_tokens`."
        )
    if not examples:
        sentences.append("The number of test examples is known only once the data are read.")
    return sentences


def _examples(config: BenchConfig, preview: LocalInputs) -> int | None:
    limit = config.task.eval_samples
    if preview.task is not None:
        return len(preview.task.examples.of(config.task.eval_role, limit))
    subset = config.task.glue_subset
    known = subset.confirms if subset else EXAMPLES.get(config.task.profile)
    whole = known if config.task.eval_role == "confirm" else None
    return min(whole, limit) if whole and limit else whole or limit


def _cost(config: BenchConfig, preview: LocalInputs, examples: int | None) -> CostEstimate | None:
    task = preview.task
    new_tokens = config.task.generation.max_new_tokens
    if new_tokens is None:
        new_tokens = task.max_new_tokens if isinstance(task, GenerationTask) else NEW_TOKENS
    shapes = shapes_of(config, preview.lengths, examples or 0, new_tokens)
    if preview.shape is None or shapes is None:
        return None
    labels = None
    if config.model.type == "seqcls":
        labels = len(task.label_names) if isinstance(task, ClassificationTask) else 2
    with quiet():
        return cost_of(config, preview.shape, shapes, labels=labels)


# ---------------------------------------------------------------- memory


@dataclass(frozen=True, slots=True)
class Shapes:
    """Rows and tokens of the batches of a run."""

    steps: int
    """Steps of one training."""
    train: tuple[int, int]
    """Rows and tokens of a batch, padding included."""
    rows: int
    """Rows in an evaluation batch."""
    prompt: int
    new: int
    """Tokens that a batch generates until its last row ends; 0 for labels."""


def shapes_of(config: BenchConfig, lengths: Lengths | None, examples: int, new_tokens: int) -> Shapes | None:
    """Return the batch shapes of a run, with every example at its limit if the lengths are unknown. None
    without steps.
    """
    recipe, causal = config.train, config.model.type == "causal_lm"
    known = lengths or Lengths((recipe.max_length,), (recipe.max_length,), (new_tokens,) if causal else ())
    steps = recipe.max_steps
    if steps is None and recipe.epochs is not None and lengths is not None:
        sequences = recipe.per_device_train_batch_size * recipe.gradient_accumulation_steps
        steps = round(recipe.epochs * -(-len(lengths.train) // sequences))
    if steps is None:
        return None
    batch, rows = recipe.per_device_train_batch_size, min(recipe.per_device_eval_batch_size, max(1, examples))
    return Shapes(
        steps,
        (batch, round(longest_of(known.train, batch))),
        rows,
        round(sorted_longest(known.prompts, min(rows, len(known.prompts)))),
        min(new_tokens, round(longest_of(known.responses, rows))) if causal else 0,
    )


def cost_of(config: BenchConfig, shape: Any, shapes: Shapes, *, labels: int | None) -> CostEstimate:
    """Return the memory of `config`'s stages on a base of this shape (transformers' config)."""
    dtype = dtype_of(config.model, shape, config.runtime.device)
    base, network = network_on_meta(
        copy.deepcopy(shape), config.lora.peft_arguments(), dtype=dtype, labels=labels
    )
    parameters = sum(weight.numel() for weight in network.parameters() if weight.requires_grad)
    rows, length = shapes.train
    counted_on, kept = network, 0
    if config.model.gradient_checkpointing:  # keeps layer inputs, computes one layer again
        text, one_layer = shape.get_text_config(), copy.deepcopy(shape)
        one_layer.get_text_config().num_hidden_layers = 1
        _, counted_on = network_on_meta(one_layer, config.lora.peft_arguments(), dtype=dtype, labels=labels)
        kept = rows * length * text.num_hidden_layers * text.hidden_size * dtype.itemsize
    return CostEstimate(
        base_params=sum(weight.numel() for name, weight in base.named_parameters() if "lora_" not in name),
        probe_params=parameters,
        weights_bytes=weights_bytes_of(base, packed=config.model.quantization is not None),
        trained_bytes=ADAM_BYTES * parameters,
        activation_bytes=kept + activation_bytes(counted_on, rows, length, labels=labels is not None),
        evaluation_bytes=answering_bytes(
            shape,
            network,
            rows=shapes.rows,
            prompt=shapes.prompt,
            new=shapes.new,
            scored=SCORED_AT_ONCE * shapes.new,
            itemsize=dtype.itemsize,
        ),
        process_bytes=process_bytes(config.runtime.device),
        tokens_per_training=shapes.steps * config.train.gradient_accumulation_steps * rows * length,
    )
