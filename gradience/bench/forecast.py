"""The config -> the stages of a run, its memory, its inputs, what its budget can show.

Nothing is trained: memory follows from shapes that are counted and lengths that were read. Nothing is fetched but the
config.json of a model on the hub, and code of a user's own is not run.
"""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from shutil import disk_usage
from typing import Any, Literal, NamedTuple

from gradience import tasks
from gradience.bench.config import BenchConfig
from gradience.bench.plan import ALPHA, PlannedVariant, asked_for, read_guards, stage_names
from gradience.errors import MissingExtra, NetworkError
from gradience.evaluate import checks
from gradience.evaluate.checks import lengths, memory_of
from gradience.evaluate.evaluator import SCORED_AT_ONCE
from gradience.evaluate.forecast import SHOWN, scored_example
from gradience.evaluate.verb import planned_set
from gradience.files.hub import fetch_folder, is_cached
from gradience.files.shared_names import path_text, sentence_text
from gradience.models.load import choose_device, device_name, dtype_of, from_folder, load_tokenizer, quiet
from gradience.models.local_only import NotHereError, local_only
from gradience.models.locate import EMBEDDED, KNOWN, hub_address, locate, require_weights
from gradience.models.settings import ModelSettings
from gradience.models.tokenizers import encode_pair
from gradience.reports import forecast as reports
from gradience.reports.base.exact import exact_text
from gradience.reports.base.numbers import size
from gradience.reports.bench_plan import Role, allowed_losses
from gradience.statistics.power import Assumptions, pass_probability
from gradience.tasks import user_code
from gradience.tasks.base import ChatTask, ClassificationTask, GenerationTask, Task
from gradience.training.encode import encode, labels_of
from gradience.words import counted

EXAMPLES: Mapping[str, int] = {"gsm8k": 1_319, "reviews": 2_186}
"""Test examples (role confirm) of tasks with fixed data; GLUE's are listed with its subsets."""
NEW_TOKENS = 256
"""Default limit of generated tokens, if neither the config nor the task sets one."""
CHECKPOINT_BYTES, CHECKPOINTS = 12, 3
"""For each trained parameter: a float32 weight and two moments. Two checkpoints are kept while a third is written."""
ADAM_BYTES = 16
"""For each trained parameter: float32 weight, gradient and two moments."""


# ---------------------------------------------------------------- the inputs, as far as they are here


class Lengths(NamedTuple):
    """Tokens of the examples, as training and evaluation encode them."""

    train: tuple[int, ...]
    """Tokens of each train example that fits, including its response and the end token."""
    prompts: tuple[int, ...]
    """Tokens of each deciding prompt; of the whole text for label tasks."""
    responses: tuple[int, ...] = ()
    """Tokens of the gold responses with the end token; empty for label tasks."""


@dataclass(slots=True)
class LocalInputs:
    """The inputs of a run as far as they are on this machine, and a check for each."""

    checks: list[reports.Check] = field(default_factory=list)
    shape: Any = None
    """transformers' config of the base; None if it is not available locally."""
    task: Task | None = None
    """None if its data are not available locally, it is the user's own code, or it is a chat whose template
    is missing.
    """
    lengths: Lengths | None = None
    """None if the task or its tokenizer is not available locally."""
    scored: tuple[reports.ScoredExample, ...] = ()
    """The first of the examples that decide."""

    def check(self, what: reports.Input, name: str, note: str, *, checked: bool = True) -> None:
        """Report whether an input is available."""
        state: Literal["found", "not checked"] = "found" if checked else "not checked"
        self.checks.append(
            reports.Check(what=what, name=path_text(name), state=state, note=sentence_text(note))
        )


def look(config: BenchConfig) -> LocalInputs:
    """Check which inputs of `config` are available locally.

    Raises what the run would raise for missing inputs: InputError for a task, a file, a folder or a model
    that does not exist or cannot be read, NetworkError for anything missing on the hub, UsageError if task
    and model do not fit together. An unreachable hub is not an error: the check says `not checked`.
    """
    inputs, tokenizer = LocalInputs(), None
    with local_only():
        inputs.shape = _model(config.model, inputs)
        task, notes = _task(config, inputs)
        if task is not None:
            try:
                tokenizer = load_tokenizer(config.model)
            except (NotHereError, NetworkError):
                inputs.check("tokenizer", config.model.name, "it is not here yet", checked=False)
        if isinstance(task, ChatTask):
            task = None if tokenizer is None else task.rendered(tokenizer)
        inputs.task = task
        if task is not None:
            labels_of(task, config.model)
            deciding = task.examples.of(config.task.eval_role, SHOWN)
            inputs.scored = tuple(scored_example(task, example, tokenizer) for example in deciding)
            if tokenizer is not None:
                inputs.lengths, too_long = _lengths(config, task, tokenizer, inputs.shape)
                notes += too_long
        if notes:
            inputs.check("data", config.task.profile, "; ".join(notes))
        for name, guard in config.guards.items():
            called = f"{name}: {guard.source}"
            try:
                planned = planned_set(read_guards(config.model_copy(update={"guards": {name: guard}}))[0])
            except (NotHereError, MissingExtra, NetworkError) as error:
                inputs.check("guard", called, str(error), checked=False)
            else:
                inputs.check("guard", called, f"{planned.examples:,} examples, margin {planned.margin_words}")
    return inputs


def _model(settings: ModelSettings, inputs: LocalInputs) -> Any:
    """Return the shape of the model; None if it is not available locally."""
    from transformers import AutoConfig

    name = settings.name
    is_here = name.startswith("embedded:") or settings.path.is_dir()
    address = None if is_here else hub_address(settings)
    if name in EMBEDDED:
        inputs.check("model", name, "a pinned package")
        return AutoConfig.for_model(**KNOWN[name])
    if address is None:
        folder = locate(settings).folder
        require_weights(folder)
        inputs.check("model", name, "a folder")
    else:
        try:
            folder, _ = fetch_folder(address, ("config.json",))
        except NetworkError as error:
            if error.code not in ("hub-offline", "hub-connection"):
                raise
            inputs.check("model", str(address), "the hub cannot be reached", checked=False)
            return AutoConfig.for_model(**KNOWN[name]) if name in KNOWN else None
        inputs.check("model", str(address), "on the hub, or in its cache here")
    return from_folder(AutoConfig, name, folder)


def _task(config: BenchConfig, inputs: LocalInputs) -> tuple[Task | ChatTask | None, list[str]]:
    """Return the task, if it is available locally and no user code, and notes on its data."""
    profile = config.task.profile
    code = tasks.code_of(profile, config.task.place)
    if code is not None:
        allowed = "allowed" if user_code.is_allowed() else "not allowed: it needs --allow-code"
        inputs.check("code", code.name, f"the run executes it ({allowed}); a dry run does not")
        return None, []
    try:
        task = config.task.load()
    except (NotHereError, MissingExtra) as error:
        note = f"{error}: {error.hint}" if isinstance(error, MissingExtra) else f"not here yet: {error}"
        inputs.check("data", profile, note, checked=False)
        return None, []
    roles: tuple[Role, ...] = ("train", "dev", "confirm")
    notes = [", ".join(f"{len(task.examples.of(role)):,} {role}" for role in roles)]
    for key, noun in (("duplicates", "repeated row"), ("conflicts", "row of contradicting ones")):
        if number := task.examples.counts.get(key, 0):
            notes.append(f"{counted(number, noun)} left out")
    return task, notes


def _lengths(config: BenchConfig, task: Task, tokenizer: Any, shape: Any) -> tuple[Lengths, list[str]]:
    """Return the tokens of the examples, and notes on examples that are too long."""
    limit = config.train.max_length
    trained = task.examples.of("train", config.train.train_samples)
    encoded = encode(tokenizer, task, trained, limit)
    train = tuple(len(row["input_ids"]) for row in encoded.features)
    too_long = [
        f"{number:,} of {len(trained):,} training examples exceed `train.max_length: {limit}` and are {fate}"
        for number, fate in ((encoded.left_out, "left out"), (encoded.truncated, "truncated"))
        if number
    ]
    deciding: Sequence[Any] = task.examples.of(config.task.eval_role, config.task.eval_samples)
    if shape is not None and deciding:
        new = config.task.generation.max_new_tokens
        too_long += lengths(task, deciding, tokenizer, shape=shape, max_length=limit, max_new_tokens=new)
    if isinstance(task, ClassificationTask):
        rows = encode(tokenizer, task, deciding, limit).features
        return Lengths(train, tuple(len(row["input_ids"]) for row in rows)), too_long
    pairs = [encode_pair(tokenizer, item.prompt, item.response) for item in deciding]
    return Lengths(train, tuple(len(p) for p, _ in pairs), tuple(len(r) for _, r in pairs)), too_long


# ---------------------------------------------------------------- the forecast


def forecast(config: BenchConfig) -> reports.BenchForecast:
    """Return the stages of a run of `config` and its memory; raises what `look` raises for missing inputs."""
    wanted, inputs = asked_for(config.compression), look(config)
    examples = _examples(config, inputs)
    cost = _cost(config, inputs, examples)
    return reports.BenchForecast(
        config_digest=config.digest(),
        protocol_digest=config.protocol_digest(),
        smoke=config.smoke,
        model=path_text(config.model.name),
        task=path_text(config.task.profile),
        seeds=config.due,
        checks=tuple(inputs.checks),
        requirements=tuple(_requirements(config, cost, adapters=1 + len(wanted))),
        scored=inputs.scored,
        scored_by=inputs.task.scored_by if inputs.task is not None else "",
        stages=stage_names(wanted, config),
        trainings=1 + sum(variant.is_trained for variant in wanted),
        evaluations=1 + config.asks_base + len(wanted),
        examples=examples,
        gate=exact_text(config.gate()),
        policy=config.policy,
        cost=cost,
        scenarios=() if examples is None or config.smoke else tuple(_scenarios(config, wanted, examples)),
        assumptions=tuple(_assumptions(config, inputs, examples)),
    )


SPREADS = (0.0, 0.01)


def _scenarios(
    config: BenchConfig, wanted: Sequence[PlannedVariant], examples: int
) -> Iterator[reports.Scenario]:
    """Yield typical variants of the config's arms, with the margins that the budget can show for them."""
    policy, seeds = config.policy, len(config.seeds)
    arms = {"retrained" if variant.is_trained else "truncated" for variant in wanted if not variant.control}
    for name, shares in reports.TYPICAL_DISCORDANCES.items():
        for discordance, spread in product(shares if name in arms else (), SPREADS):
            assumed = Assumptions(discordance, seeds=seeds, spread=spread, level=float(ALPHA))
            over_trainings = replace(assumed, claim="mean-over-trainings")
            yield reports.Scenario(
                name=name,
                discordance=discordance,
                spread=spread,
                margin_these_runs=assumed.smallest_margin(examples),
                margin_over_trainings=over_trainings.smallest_margin(examples) if seeds > 1 else None,
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


def _requirements(
    config: BenchConfig, cost: reports.CostEstimate | None, *, adapters: int
) -> Iterator[reports.Requirement]:
    """Yield the run's requirements other than data. adapters: number of adapters per seed, none larger than the
    probe."""
    recipe, name = config.train, config.model.name
    address = None if name in EMBEDDED else hub_address(config.model)
    if address is not None:
        weights = "" if cost is None else f" ({size(cost.weights_bytes)})"
        cached = any(
            is_cached(address, file) for file in ("model.safetensors", "model.safetensors.index.json")
        )
        yield reports.Requirement(
            what="base files",
            needed=f"{path_text(name)} from the hub: config, tokenizer, weights{weights}",
            here="in the hub's cache" if cached else "not in the hub's cache",
        )
    if cost is not None:
        device = config.runtime.device
        _, present = memory_of(device)
        yield reports.Requirement(
            what="memory",
            needed=f"{size(cost.largest_stage_bytes)}, without a GPU's driver and allocator",
            here=f"{device_name(choose_device(device))}: {size(present)}",
        )
        checkpoints = CHECKPOINT_BYTES * CHECKPOINTS * bool(recipe.save_steps) * cost.probe_params
        most = 4 * cost.probe_params * adapters * len(config.due) + checkpoints
        yield reports.Requirement(
            what="disk",
            needed=f"at most {size(most)} in the output folder: {counted(adapters, 'adapter')} per seed, checkpoints",
            here=f"{size(disk_usage('.').free)} free in the current folder",
        )
    length = f"{recipe.max_steps:,} steps" if recipe.max_steps else f"{recipe.epochs:g} epochs"
    yield reports.Requirement(
        what="settings",
        needed=(
            f"r = {config.lora.probe_r}, {length} of {recipe.per_device_train_batch_size} ×"
            f" {recipe.gradient_accumulation_steps} sequences, lr {recipe.lr:g}, max_length {recipe.max_length},"
            f" dtype {config.model.dtype}; evaluation in batches of {recipe.per_device_eval_batch_size}"
        ),
        here="",
    )


def _assumptions(config: BenchConfig, inputs: LocalInputs, examples: int | None) -> Iterator[str]:
    if inputs.shape is None:
        yield (
            f"No memory estimate: the shape of {path_text(config.model.name)} is not known here; give a folder with"
            " config.json."
        )
        return
    if inputs.lengths is None:
        yield "Lengths are not known here: examples are counted at `max_length`, answers at `max_new_tokens`."
    elif inputs.lengths.responses:
        yield (
            "Answers are assumed to be as long as the reference answers; a model that does not stop writes up to"
            " `max_new_tokens`."
        )
    if not examples:
        yield "The number of test examples is known only once the data are read."


def _examples(config: BenchConfig, inputs: LocalInputs) -> int | None:
    limit = config.task.eval_samples
    if inputs.task is not None:
        return len(inputs.task.examples.of(config.task.eval_role, limit))
    subset = config.task.glue_subset
    known = subset.confirms if subset else EXAMPLES.get(config.task.profile)
    whole = known if config.task.eval_role == "confirm" else None
    return min(whole, limit) if whole and limit else whole or limit


def _cost(config: BenchConfig, inputs: LocalInputs, examples: int | None) -> reports.CostEstimate | None:
    if inputs.shape is None:
        return None
    task, labels = inputs.task, None
    own_limit = task.max_new_tokens if isinstance(task, GenerationTask) else NEW_TOKENS
    new_tokens = config.task.generation.max_new_tokens or own_limit
    shapes = shapes_of(config, inputs.lengths, examples or 0, new_tokens)
    if config.model.type == "seqcls":
        labels = len(task.label_names) if isinstance(task, ClassificationTask) else 2
    with quiet():
        return cost_of(config, inputs.shape, shapes, labels=labels)


# ---------------------------------------------------------------- memory


class Shapes(NamedTuple):
    """Rows and tokens of the batches of a run."""

    train: tuple[int, int]
    """Rows and tokens of a batch, padding included."""
    rows: int
    """Rows in an evaluation batch."""
    prompt: int
    new: int
    """Tokens that a batch generates until its last row ends; 0 for labels."""


def shapes_of(config: BenchConfig, lengths: Lengths | None, examples: int, new_tokens: int) -> Shapes:
    """Return the batch shapes of a run, with every example at its limit if the lengths are unknown."""
    recipe, causal = config.train, config.model.type == "causal_lm"
    known = lengths or Lengths((recipe.max_length,), (recipe.max_length,), (new_tokens,) if causal else ())
    batch, rows = recipe.per_device_train_batch_size, min(recipe.per_device_eval_batch_size, max(1, examples))
    return Shapes(
        (batch, round(checks.longest_of(known.train, batch))),
        rows,
        round(checks.sorted_longest(known.prompts, min(rows, len(known.prompts)))),
        min(new_tokens, round(checks.longest_of(known.responses, rows))) if causal else 0,
    )


def cost_of(config: BenchConfig, shape: Any, shapes: Shapes, *, labels: int | None) -> reports.CostEstimate:
    """Return the memory of `config`'s stages on a base of this shape (transformers' config)."""
    dtype = dtype_of(config.model, shape, config.runtime.device)
    lora = config.lora.peft_arguments()
    base, network = checks.network_on_meta(copy.deepcopy(shape), lora, dtype=dtype, labels=labels)
    parameters = sum(weight.numel() for weight in network.parameters() if weight.requires_grad)
    rows, length = shapes.train
    counted_on, kept = network, 0
    if config.model.gradient_checkpointing:  # keeps layer inputs, computes one layer again
        text, one_layer = shape.get_text_config(), copy.deepcopy(shape)
        one_layer.get_text_config().num_hidden_layers = 1
        _, counted_on = checks.network_on_meta(one_layer, lora, dtype=dtype, labels=labels)
        kept = rows * length * text.num_hidden_layers * text.hidden_size * dtype.itemsize
    return reports.CostEstimate(
        base_params=sum(weight.numel() for name, weight in base.named_parameters() if "lora_" not in name),
        probe_params=parameters,
        weights_bytes=checks.weights_bytes_of(base, packed=config.model.quantization is not None),
        trained_bytes=ADAM_BYTES * parameters,
        activation_bytes=kept + checks.activation_bytes(counted_on, rows, length, labels=labels is not None),
        evaluation_bytes=checks.answering_bytes(
            shape,
            network,
            rows=shapes.rows,
            prompt=shapes.prompt,
            new=shapes.new,
            scored=SCORED_AT_ONCE * shapes.new,
            itemsize=dtype.itemsize,
        ),
        process_bytes=checks.process_bytes(config.runtime.device),
    )
