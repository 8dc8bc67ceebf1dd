"""`gradience bench run --dry-run --json`: the stages of a run and the memory that it takes."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from gradience.files.artifact import Part
from gradience.reports.base.report import Report
from gradience.reports.bench_plan import Policy
from gradience.reports.power import Scenario


class Check(Part):
    """One input of the run, looked at."""

    what: Literal["model", "tokenizer", "data", "code"]
    name: str
    state: Literal["found", "not checked"]
    note: str


class RenderedExample(Part):
    """The first example that is trained on, as the model sees it."""

    id: str
    prompt: str
    """With the tokenizer's special tokens where it is on this machine; for texts to label the text."""
    response: str
    """What the loss is on, the end token included; for texts to label the label's name."""
    tokens: int | None
    """Of both; null where the tokenizer is not on this machine."""


class ScoredExample(Part):
    """One of the examples that decide, as the model sees it, and what its answer is compared with."""

    id: str
    prompt: str
    """As of `RenderedExample`."""
    response: str | None = None
    """The gold response as the model sees it, the end token included (of choices the correct one); null for labels."""
    scored: str
    """The gold answer, the name of the label, or the choices, the correct one marked with `*`."""
    extracted: str | None = None
    """What the scorer finds in the gold response; null where nothing is looked for, or nothing found."""
    correct: bool | None = None
    """Whether that counts as the gold answer; null where nothing is looked for."""


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
    """What one batch keeps for its gradients."""
    evaluation_bytes: int = 0
    """What an evaluation keeps beside the base: keys and values of a batch with its largest tensor, or its logits."""
    tokens_per_training: int
    """Padding included."""
    process_bytes: int = 0
    """Python, PyTorch and their libraries, as measured in the process that made the forecast; 0 on a GPU."""


class BenchForecast(Report):
    """A plan before anything is loaded."""

    row_field: ClassVar[str] = "checks"

    schema_: Literal["gradience.bench_forecast/3"] = Field(
        default="gradience.bench_forecast/3", alias="schema"
    )
    config_digest: str
    protocol_digest: str
    smoke: bool
    model: str
    task: str
    seeds: tuple[int, ...]
    checks: tuple[Check, ...]
    """What was looked at before the run. What does not exist is an error, not a check."""
    example: RenderedExample | None
    """Null where the data are not on this machine, or the task is code of the user's own."""
    scored: tuple[ScoredExample, ...] = ()
    """The first three of the examples that decide; empty where `example` is null."""
    scored_by: str = ""
    """Which of the task's ways of scoring the config chooses; empty where the task has one."""
    stages: tuple[str, ...]
    """Of each seed, in order."""
    trainings: int
    """For a seed, the probe's among them, if no two variants come to the same."""
    evaluations: int
    examples: int | None
    """Examples that decide; null where only the data can tell."""
    gate: str
    """Share of correct answers that the probe must reach."""
    policy: Policy
    cost: CostEstimate | None
    """Null where the shape of the model or the number of steps is not known here."""
    scenarios: tuple[Scenario, ...] = ()
    """What its examples and seeds can show of plausible variants; empty where only the data can tell how many examples
    decide, and of a smoke run. `gradience bench power --config` says more."""
    assumptions: tuple[str, ...]
    notes: tuple[str, ...]
    """Keys of the config that were read under another name or have no effect."""
