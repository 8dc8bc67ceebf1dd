"""`plan.json`: what a Bench run is going to compare, on what, and what will decide. Written before training."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from gradience.files.artifact import Artifact, Float12, Part
from gradience.reports.base.exact import Exact

Role = Literal["train", "dev", "confirm"]
LadderKind = Literal["uniform", "per_layer"]
LadderBound = Literal["these-runs", "mean-over-trainings", "next-training"]
Share = Annotated[Exact, Field(ge=0, le=1)]


class Policy(Part):
    """When is a smaller adapter safe? Counted in examples; every bound is inclusive."""

    model_config = ConfigDict(
        use_attribute_docstrings=True
    )  # a section of a config as well, documented from there

    tolerance: Share = Fraction("0.025")
    """A seed passes when at most this share of the examples is lost, net: those that only the probe has correct minus
    those that only the variant has correct are at most ⌊tolerance · n⌋."""
    floor: Share = Fraction("0.025")
    """No seed may lose more than this share, net, whatever the others do: worst Δ ≥ −floor."""
    pass_rate: Share = Fraction("0.67")
    """Share of the planned seeds that must pass. With three seeds, 0.67 means all three: two are 66.7 %."""


def allowed_losses(n: int, tolerance: Fraction) -> int:
    """Return how many of `n` examples may be lost, net: 5 of 200, 32 of 1,319 at 0.025."""
    return math.floor(tolerance * n)


class DataSplit(Part):
    """The examples of one role."""

    role: Role
    n: int
    sha256: str
    """Over identities, texts and answers, in their order."""


class TaskCode(Part):
    """The code of a task of one's own."""

    source: Literal["file", "entry point"]
    name: str
    """The file as it was named (an absolute path by its last part), or `name = module:function`."""
    sha256: str | None
    """Of the file, or of the module that the entry point names; null where that is no file."""
    package: str | None = None
    """Name and version of the package that brings the entry point."""


class PlannedLadder(Part):
    """Truncations that are tested one after the other, from the largest down, until one is not shown to be safe."""

    kind: LadderKind
    """`uniform`: a step is a rank. `per_layer`: a share of every module's energy."""
    steps: tuple[int | float, ...]
    names: tuple[str, ...]
    """Of the results, in the same order."""
    bound: LadderBound
    """What each is shown for: the next training as well, or the adapters of this run."""


class PlannedCalibration(Part):
    """The prompts on which the probe of each seed is calibrated: training examples without their labels."""

    rows: int
    prompts_sha256: str
    """Over the rows as `gradience calibrate --prompts` takes them."""
    max_kl: Float12 | None = None
    """Of the variant `calibrated_kl`: its limit, in nats per scored token."""


class BenchPlan(Artifact):
    """What was decided before anything was trained. Every later artifact carries its digest."""

    schema_: Literal["gradience.bench_plan/3"] = Field(default="gradience.bench_plan/3", alias="schema")
    config_digest: str
    """sha256 of the config without the machine (`runtime`), as canonical JSON."""
    protocol_digest: str
    """The same without seeds and machine: equal for runs that may be counted together."""
    smoke: bool
    """Shortened, to see that everything works: no evidence."""
    model: str
    task: str
    task_code: TaskCode | None = None
    """The user's own code that makes the task and decides what is correct; null for a task of Gradience."""
    seeds: tuple[int, ...]
    splits: tuple[DataSplit, ...]
    """Train, and the role that is evaluated (`eval_role`)."""
    eval_role: Literal["dev", "confirm"]
    tests: tuple[str, ...]
    """The variants that are compared with the probe, in the order of testing."""
    controls: tuple[str, ...]
    """Compared as well, as a measure of the measurement; not candidates."""
    ladder: PlannedLadder | None = None
    """Compared as well, in a sequence of its own."""
    calibration: PlannedCalibration | None = None
    """By which the variants that are called `calibrated` are chosen; null where there are none."""
    above_base: Share | None = None
    """The probe must have more correct than its base, by more than this share; null: that is not asked."""
    stop_early: bool | None = None
    """Whether a variant is not retrained any more once it cannot pass; null in older plans: it always was."""
    policy: Policy
    margin: Share
    """Largest loss that still counts as none: the margin of the non-inferiority tests."""
    alpha: Share
    """One-sided error of each of those tests."""
