"""Dry run of `gradience bench run`: inputs, stages, memory and smallest margin."""

import json
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import Literal

from gradience.files.artifact import Float12, Part
from gradience.reports.base import blocks as doc
from gradience.reports.base.numbers import chance, in_points, memory_parts, percent, plural
from gradience.reports.base.report import Readable
from gradience.reports.bench_plan import Policy

TYPICAL_DISCORDANCES = {"truncated": (0.005, 0.05), "retrained": (0.05, 0.15)}
"""Range of the discordances in the kept runs of docs/results/bench.md, without the smallest ranks."""


Input = Literal["model", "tokenizer", "data", "guard", "code"]


class Check(Part):
    """Check of one input of the run."""

    what: Input
    name: str
    state: Literal["found", "not checked"]
    note: str


class Requirement(Part):
    """Something that the run needs, and whether this machine has it."""

    what: Literal["base files", "memory", "disk", "settings"]
    needed: str
    here: str
    """Value on this machine; empty for settings."""


class ScoredExample(Part):
    """A test example, as the model sees it, and the answer that outputs are compared with."""

    id: str
    prompt: str
    """The prompt, with the tokenizer's special tokens if it is on this machine; for classification the text."""
    response: str | None = None
    """The gold response as the model sees it, including the end token (for choices, the correct one); null
    for labels."""
    scored: str
    """The gold answer, the name of the label, or the choices, with the correct one marked by `*`."""
    extracted: str | None = None
    """Answer that the scorer extracts from the gold response; null if it extracts nothing."""
    correct: bool | None = None
    """True if the extracted answer counts as correct; null if the scorer does not extract."""


class CostEstimate(Part):
    """Memory of one stage; counted from the shape of the model and the lengths of the examples."""

    base_params: int
    """Parameters of the base."""
    probe_params: int
    """Parameters that the probe trains: LoRA factors, and a classifier's head."""
    weights_bytes: int
    """The frozen base in its precision."""
    trained_bytes: int
    """The trained parameters with gradients and Adam's moments, in float32."""
    activation_bytes: int
    """Activations kept for the gradients of one batch."""
    evaluation_bytes: int = 0
    """Memory of an evaluation in addition to the base: KV cache of a batch with its largest tensor, or its logits."""
    process_bytes: int = 0
    """Python, PyTorch and their libraries, measured in the process that made the forecast; 0 on a GPU."""

    @property
    def parts(self) -> dict[str, int]:
        """The parts of the memory of the stage that needs the most, in bytes."""
        training = self.trained_bytes + self.activation_bytes
        stages = {"training": training, "evaluation": self.evaluation_bytes}
        largest = max(stages, key=lambda stage: stages[stage])
        return {
            "base": self.weights_bytes,
            largest: stages[largest],
            "Python and libraries": self.process_bytes,
        }

    @property
    def largest_stage_bytes(self) -> int:
        """Memory of the stage that needs the most."""
        return sum(self.parts.values())


class Scenario(Part):
    """Assumed noise of a variant, and what the planned examples and seeds show if it is as good as the probe."""

    name: str
    discordance: Float12
    """Share of the examples on which exactly one of probe and variant is correct."""
    spread: Float12
    """Standard deviation of a run's own true difference, over seeds."""
    margin_these_runs: Float12
    """Smallest margin that can be shown for these runs with 80 % power."""
    margin_over_trainings: Float12 | None
    """Smallest margin that can be shown for the mean over trainings with 80 % power; null for one seed."""
    pass_if_equal: Float12
    """Chance that the policy passes the variant."""


class BenchForecast(Readable):
    """Dry run of a Bench run. No model is loaded."""

    schema_: Literal["gradience.bench_forecast/5"] = "gradience.bench_forecast/5"
    config_digest: str
    protocol_digest: str
    smoke: bool
    model: str
    task: str
    seeds: tuple[int, ...]
    checks: tuple[Check, ...]
    """Checks of the inputs before the run. A missing input is an error, not a check."""
    requirements: tuple[Requirement, ...] = ()
    """Files of the base, memory, disk space and settings."""
    scored: tuple[ScoredExample, ...] = ()
    """The first three of the examples that decide; empty if the data are not on this machine, or the task is
    user-defined code."""
    scored_by: str = ""
    """Scorer that the config chooses; empty if the task has only one."""
    stages: tuple[str, ...]
    """Stages of each seed, in order."""
    trainings: int
    """Training runs per seed, including the probe's, if no two variants coincide."""
    evaluations: int
    examples: int | None
    """Number of examples that decide; null if it is known only after loading the data."""
    gate: str
    """Accuracy that the probe must reach."""
    policy: Policy
    cost: CostEstimate | None
    """Null if the shape of the model is unknown."""
    scenarios: tuple[Scenario, ...] = ()
    """Plausible variants; empty if the number of deciding examples is known only after loading the data, and for a
    smoke run."""
    assumptions: tuple[str, ...]

    def blocks(self) -> doc.Document:
        """Return the work and its requirements, the smallest margins, the first test example, and the assumptions."""
        title = ("Bench plan: ", doc.Span(self.model, "name"), " on ", doc.Span(self.task, "name"))
        blocks: list[doc.Block] = [doc.Heading(title, level=1, aside="dry run: no model was loaded")]
        if self.smoke:
            blocks.append(doc.Paragraph(doc.Span("SMOKE RUN: no evidence.", "warn")))
        examples = plural(self.examples, "example") if self.examples else "an unknown number of examples"
        trained = f"trains at most {plural(self.trainings, 'adapter')}"
        work = f"{trained}, evaluates at most {self.evaluations} on {examples}"
        seeds = f"{plural(len(self.seeds), 'seed')}{', each' if len(self.seeds) > 1 else ''}"
        blocks += [doc.Paragraph(f"{seeds}: {work}."), doc.Facts(_plan(self))]
        if self.scenarios:
            blocks += _chances(self.scenarios)
        if self.scored:
            blocks += [
                doc.Heading("First test example"),
                doc.Facts(scored_facts(self.scored[:1], self.scored_by)),
            ]
        return [*blocks, doc.Heading("Assumptions"), doc.items(self.assumptions)]


SHOWN = 400
"""Characters of an example's prompt or response that are shown, from its beginning and its end."""


def _plan(forecast: BenchForecast) -> list[tuple[str, doc.Inline]]:
    """Return seeds, gate, evaluated adapters, requirements, and inputs other than a model that was found."""
    evaluated = [stage.removesuffix("/eval") for stage in forecast.stages if stage.endswith("/eval")]
    names = (part for name in evaluated for part in (", ", doc.Span(name, "name")))
    facts: list[tuple[str, doc.Inline]] = [
        ("seeds", ", ".join(map(str, forecast.seeds))),
        ("gate", f"the probe must reach {100 * float(Fraction(forecast.gate)):.3g} %"),
        ("evaluated", tuple(names)[1:]),
    ]
    cost = forecast.cost
    for requirement in forecast.requirements:
        needed, here = requirement.needed, requirement.here
        if requirement.what == "memory" and cost is not None:
            needed = memory_parts(cost.parts)
        facts.append((requirement.what, f"{needed}; this machine: {here}" if here else needed))
    return facts + [
        (check.what, (doc.Span(check.name, "name"), f": {check.state} ({check.note})"))
        for check in forecast.checks
        if (check.what, check.state) != ("model", "found")
    ]


def _chances(scenarios: Sequence[Scenario]) -> list[doc.Block]:
    """Return the smallest margin at each assumed discordance, and the chance that an equal variant passes."""
    alike: dict[float, list[Scenario]] = {}
    for scenario in scenarios:
        alike.setdefault(scenario.discordance, []).append(scenario)
    over_trainings = any(row.margin_over_trainings is not None for row in scenarios)
    table = doc.table_of(
        alike.values(),
        (doc.Column("answers that change", ">"), lambda rows: percent(rows[0].discordance)),
        (doc.Column("typical of"), lambda rows: " and ".join(dict.fromkeys(row.name for row in rows))),
        (doc.Column("margin, these runs", ">"), lambda rows: in_points(rows[0].margin_these_runs)),
        (
            doc.Column("mean over trainings", ">", shown=over_trainings),
            lambda rows: _range(in_points, (row.margin_over_trainings or 0.0 for row in rows)),
        ),
        (doc.Column("chance of PASS", ">"), lambda rows: _range(chance, (row.pass_if_equal for row in rows))),
    )
    spread = in_points(max(row.spread for row in scenarios))
    legend = (
        "For a variant exactly as good as the probe. Margin: the smallest drop, in points, that one test of all"
        " examples can rule out with 80 % power. Chance of PASS: without gate and controls. Ranges: from no variation"
        " between trainings to a"
        f" standard deviation of {spread} points. The answers that change between right and wrong are assumed:"
        f" {typical_discordances()}."
    )
    return [doc.Heading("Smallest margin"), table, doc.Paragraph(legend)]


def _range(show: Callable[[float], str], values: Iterable[float]) -> str:
    """Return `0.42 to 2.1`, or one figure if both ends look the same."""
    ends = sorted(values)
    return " to ".join(dict.fromkeys((show(ends[0]), show(ends[-1]))))


def typical_discordances() -> str:
    """Return `TYPICAL_DISCORDANCES` in words."""
    truncated, retrained = (
        f"{100 * low:g} to {100 * high:g} %" for low, high in TYPICAL_DISCORDANCES.values()
    )
    runs = "in our runs (MiniLM-L6, SmolLM2-135M)"
    return f"mostly {truncated} for truncated adapters and {retrained} for retrained ones {runs}"


def scored_facts(examples: Sequence[ScoredExample], scored_by: str) -> list[tuple[str, doc.Inline]]:
    """Return prompts, each with the answer that outputs are compared with."""
    facts: list[tuple[str, doc.Inline]] = [("scored by", scored_by)] if scored_by else []
    for example in examples:
        facts.append(("prompt", _quoted(example.prompt)))
        if example.response is not None:
            facts.append(("gold response", _quoted(example.response)))
        facts.append(("expected", _quoted(example.scored)))
        if example.correct is not None:
            text = "nothing" if example.extracted is None else _quoted(example.extracted)
            verdict = doc.Span(": correct", "good") if example.correct else doc.Span(": wrong", "bad")
            facts.append(("extracted", (text, verdict)))
    return facts


def _quoted(text: str) -> str:
    r"""Return the text on one line: line breaks as `\n`."""
    half = SHOWN // 2
    cut = text if len(text) <= SHOWN else f"{text[:half]}…{text[-half:]}"
    return json.dumps(cut, ensure_ascii=False)
