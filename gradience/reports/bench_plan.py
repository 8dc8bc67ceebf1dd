"""`plan.json`: the comparisons of a Bench run, their data, and the rules of decision. Written before training."""

import math
from fractions import Fraction
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from gradience.files.artifact import Artifact, Part, absent_at
from gradience.files.shared_names import PlainName
from gradience.reports.base.exact import Exact
from gradience.words import points

Role = Literal["train", "dev", "confirm"]
Compares = Literal["correct", "nll", "agreement"]
LadderBound = Literal["these-runs", "mean-over-trainings"]
Share = Annotated[Exact, Field(ge=0, le=1)]


class Policy(Part):
    """Safety policy for smaller adapters, counted in examples; every bound is inclusive."""

    model_config = ConfigDict(
        use_attribute_docstrings=True
    )  # a section of a config as well, documented from there

    tolerance: Share = Fraction("0.025")
    """A seed passes if at most this share of the examples is lost, net: the number that only the probe
    answers correctly minus the number that only the variant answers correctly is at most ⌊tolerance · n⌋."""
    floor: Share = Fraction("0.025")
    """Maximum net loss of any single seed, whatever the other seeds show: worst Δ ≥ −floor."""
    pass_rate: Share = Fraction("0.67")
    """Share of the planned seeds that must pass. With three seeds, 0.67 means all three: two are 66.7 %."""


def allowed_losses(n: int, tolerance: Fraction) -> int:
    """Return the number of `n` examples that may be lost, net: 5 of 200, 32 of 1,319 at 0.025."""
    return math.floor(tolerance * n)


def margin_text(margin: Fraction | float, compares: Compares) -> str:
    """Return the size of a drop with its unit: `2.5 points`, `0.01 nats per token`, or a share of changed answers."""
    if compares == "correct":
        return f"{points(margin).removeprefix('+')} points"
    return f"{float(margin):.2g} nats per token" if compares == "nll" else f"{float(100 * margin):.2g} %"


class DataSplit(Part):
    """The examples of one split."""

    role: Role
    n: int
    sha256: str
    """sha256 over identities, texts and answers, in their order."""


class TaskCode(Part):
    """The code of a user-defined task."""

    name: str
    """The file as named in the config, an absolute path by its last part."""
    sha256: str
    """sha256 of the file; of a definition for lm-eval also of the YAML files and modules beside it."""


class PlannedLadder(Part):
    """Truncations tested in sequence, from the largest down, until one is not shown within the margin."""

    steps: tuple[int, ...]
    """Ranks."""
    names: tuple[str, ...]
    """Names of the results, in the order of `steps`."""
    bound: LadderBound
    """The claim tested for each step: about the mean over trainings, or only about the adapters of this run."""
    looks: tuple[int, ...] = absent_at(())
    """Numbers of examples at which a step is tested on all seeds, with the error spent by Lan and DeMets' function of
    Pocock's type; the last is all of them. Absent if all are evaluated at once."""


PLANNED = ("task", "role", "examples", "examples_sha256", "looks", "groups", "compares", "margin")
"""Fields of a plan that describe the examples of a data set."""


class PlannedSet(Part):
    """One data set in a plan."""

    name: PlainName
    """Name of the data set, and of the folder of its records."""
    guard: bool
    """True if it shows what else changed; false for the task."""
    task: str
    role: Role | None
    """Split of the task; null for all rows of a file."""
    examples: int
    examples_sha256: str
    looks: tuple[int, ...] = ()
    """Numbers of examples at the planned looks; empty if all examples are answered at once."""
    groups: tuple[int, ...] | None = absent_at(None)
    """Group of each example, numbered in their order; absent if each example is its own."""
    compares: Compares
    """`correct`: accuracy. `nll`: the likelihood of given responses or texts. `agreement`: share of changed answers."""
    margin: Share
    """Largest acceptable drop: a share of the examples, or nats per token for `nll`."""

    @property
    def margin_words(self) -> str:
        """Margin with its unit."""
        return margin_text(self.margin, self.compares)


class PlannedCalibration(Part):
    """The prompts on which the probe of each seed is calibrated: training examples without their labels."""

    rows: int
    prompts_sha256: str
    """sha256 over the rows as `gradience calibrate --prompts` takes them."""


class BenchPlan(Artifact):
    """Decisions made before training. Every later artifact contains the digest of this file."""

    schema_: Literal["gradience.bench_plan/3"] = "gradience.bench_plan/3"
    code: str | None = None
    """Commit of Gradience, or the sha256 of its installed files; null in older plans."""
    config_digest: str
    """sha256 of the config as canonical JSON, excluding the machine (`runtime`)."""
    protocol_digest: str
    """sha256 of the config excluding seeds and machine: equal for runs that may be combined."""
    smoke: bool
    """True for a shortened run, which checks that everything works: no evidence."""
    model: str
    task: str
    task_code: TaskCode | None = None
    """The user's own code that defines the task and its scoring; null for a task of Gradience."""
    seeds: tuple[int, ...]
    splits: tuple[DataSplit, ...]
    """The training split, and the split that is evaluated (`eval_role`)."""
    eval_role: Literal["dev", "confirm"]
    tests: tuple[str, ...]
    """The variants compared with the probe, in the order of testing."""
    controls: tuple[str, ...]
    """Controls, also compared with the probe to check the measurement; not candidates."""
    ladder: PlannedLadder | None = None
    """Ladder, also compared with the probe, in a separate sequence."""
    calibration: PlannedCalibration | None = None
    """The calibration that selects the `calibrated` variants; null without such variants."""
    above_base: Share | None = None
    """Share by which the probe's accuracy must exceed that of the base; null if there is no such requirement."""
    stop_early: bool | None = None
    """True if a variant is no longer retrained once it cannot pass; null in older plans, which always stopped early."""
    policy: Policy
    margin: Share
    """Largest acceptable drop in accuracy: the margin of the non-inferiority tests."""
    alpha: Share
    """One-sided error rate of all claims of one grade together."""
    claims: tuple[tuple[str, ...], ...] | None = None
    """Allocation of `alpha`: one list for each candidate, and one for the ladder. It is shared by the lists (Holm);
    within a list, claims are tested in order until one is not shown. Null in older plans."""
    group: str | None = absent_at(None)
    """Column of the task's files that groups the examples. Absent without one."""
    groups: tuple[int, ...] | None = absent_at(None)
    """Group of each evaluated example, in the order of the records. Absent if each is its own, and in older plans."""
    guards: tuple[PlannedSet, ...] = absent_at(())
    """Further data sets on which every variant must stay within the margin, on every seed. Absent without any."""
