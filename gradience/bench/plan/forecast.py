"""The config -> the stages of a run, its memory, and if its inputs are there. Nothing is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gradience.bench.config.load import BenchConfig
from gradience.bench.plan.cost import cost_of, shapes_of
from gradience.bench.plan.graph import stage_graph
from gradience.bench.plan.power import plausible_for, scenario
from gradience.bench.plan.preview import CHARACTERS, Preview, look
from gradience.bench.plan.variants import PlannedVariant, asked_for
from gradience.files.shared_names import path_text, sentence_text
from gradience.models.load import quiet
from gradience.reports.base.exact import exact_text
from gradience.reports.forecast import BenchForecast, Check, CostEstimate
from gradience.reports.power import Scenario
from gradience.tasks.base import ClassificationTask, GenerationTask

EXAMPLES: Mapping[str, int] = {"gsm8k": 1_319, "reviews": 2_186}
"""Examples that decide (role confirm), of tasks whose data do not change; GLUE's stand with its subsets."""

NEW_TOKENS = 256
"""Of an answer at most, where neither the config nor the task says it."""


def forecast(config: BenchConfig) -> BenchForecast:
    """Return the stages of a run of `config` and its memory; raises what `preview.look` raises for missing inputs."""
    wanted = asked_for(config.compression)
    trainings = 1 + sum(variant.is_trained for variant in wanted)
    seen = look(config)
    examples = _examples(config, seen)
    has_base = config.model.type == "causal_lm" and config.task.probe_gate.above_base is not None
    evaluations = 1 + has_base + len(wanted)
    calibrates = config.compression.calibration is not None
    cost = _cost(config, seen, examples)
    return BenchForecast(
        config_digest=config.digest(),
        protocol_digest=config.protocol_digest(),
        smoke=config.smoke,
        model=path_text(config.model.name),
        task=path_text(config.task.profile),
        seeds=config.due,
        checks=tuple(map(_shared, seen.checks)),
        example=seen.example,
        scored=seen.scored,
        scored_by=seen.task.scored_by if seen.task is not None else "",
        stages=tuple(node.name for node in stage_graph(wanted, has_base=has_base, calibrates=calibrates)),
        trainings=trainings,
        evaluations=evaluations,
        examples=examples,
        gate=exact_text(config.gate()),
        policy=config.policy,
        cost=cost,
        scenarios=_scenarios(config, examples, wanted),
        assumptions=tuple(_assumptions(config, seen, examples, cost)),
        notes=tuple(map(sentence_text, config.notes)),
    )


def _scenarios(
    config: BenchConfig, examples: int | None, wanted: Sequence[PlannedVariant]
) -> tuple[Scenario, ...]:
    if examples is None or config.smoke:
        return ()
    policy, seeds = config.policy, len(config.seeds)
    margin = float(policy.tolerance)
    return tuple(scenario(each, examples, seeds, policy, margin) for each in plausible_for(wanted).of)


def _shared(check: Check) -> Check:
    return check.model_copy(update={"name": path_text(check.name), "note": sentence_text(check.note)})


def _assumptions(
    config: BenchConfig, seen: Preview, examples: int | None, cost: CostEstimate | None
) -> list[str]:
    if seen.shape is None:
        return [
            f"No memory estimate: the shape of {path_text(config.model.name)} is not known here; give a folder with"
            " config.json."
        ]
    if cost is None:
        return ["No memory estimate: the number of steps is known only once the data are read."]
    said = []
    if seen.lengths is None:
        said.append(
            "Lengths are not known here: examples are counted at `max_length`, answers at `max_new_tokens`."
        )
    elif not seen.lengths.counted:
        said.append(f"The tokenizer is not here: {CHARACTERS} characters are counted as one token.")
    if seen.lengths is not None and seen.lengths.responses:
        said.append(
            "Answers are assumed as long as the gold ones; a model that does not stop writes up to `max_new_tokens`."
        )
    if not examples:
        said.append("The number of test examples is known only once the data are read.")
    return said


def _examples(config: BenchConfig, seen: Preview) -> int | None:
    asked = config.task.eval_samples
    if seen.task is not None:
        return len(seen.task.examples.of(config.task.eval_role, asked))
    subset = config.task.glue_subset
    known = subset.confirms if subset else EXAMPLES.get(config.task.profile)
    whole = known if config.task.eval_role == "confirm" else None
    return min(whole, asked) if whole and asked else whole or asked


def _cost(config: BenchConfig, seen: Preview, examples: int | None) -> CostEstimate | None:
    task = seen.task
    new_tokens = config.task.generation.max_new_tokens
    if new_tokens is None:
        new_tokens = task.max_new_tokens if isinstance(task, GenerationTask) else NEW_TOKENS
    shapes = shapes_of(config, seen.lengths, examples or 0, new_tokens)
    if seen.shape is None or shapes is None:
        return None
    labels = None
    if config.model.type == "seqcls":
        labels = len(task.label_names) if isinstance(task, ClassificationTask) else 2
    with quiet():
        return cost_of(config, seen.shape, shapes, labels=labels)
