"""Many adapters: a row for each (`fleet.jsonl`), and what holds over all of them.

A row is one line of the file. It holds what is needed to sum up without the adapter: sizes, how the rank is used, what
a smaller rank would cost, and a sketch of the update by which copies are recognised.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from gradience.files.artifact import ROW_CONFIG, Artifact, Float12
from gradience.reports.base.report import Report
from gradience.reports.base.run import RunInfo

RowStatus = Literal["ok", "incomplete", "untrained", "failed"]
CopyKind = Literal["same file", "same update", "near"]


SKETCH = 64
"""Numbers of a sketch."""


def _whole_sketch(sketch: tuple[float, ...]) -> tuple[float, ...]:
    if len(sketch) not in (0, SKETCH):
        raise ValueError(f"a sketch has {SKETCH} numbers, not {len(sketch)}")
    return sketch


class FleetRow(Artifact):
    """One adapter of a fleet: a line of `fleet.jsonl`."""

    repair: ClassVar[str] = "measure the fleet again: gradience fleet DIR -o fleet.jsonl"

    schema_: Literal["gradience.fleet_row/1"] = Field(default="gradience.fleet_row/1", alias="schema")
    path: str
    """Relative to the root, with `/` between its parts."""
    status: RowStatus
    """`incomplete`: a module or a tensor could not be measured. `failed`: nothing could, and `error` says why."""
    error: str | None = None
    """Code of the error."""
    message: str | None = None
    stamp: dict[str, tuple[int, int]] = Field(default_factory=dict)
    """Each file that was read: its size in bytes and when it was last changed, in nanoseconds. A row whose files all
    have the stamps of the row is taken over, not measured again; so is one whose digests are the same."""
    sha256: str | None = None
    """Digest of the weights, as in `gradience.audit`."""
    config_sha256: str | None = None
    """Digest of its adapter_config.json."""
    bytes: int | None = None
    format: str | None = None
    base_model: str | None = None
    dtypes: tuple[str, ...] = ()
    init: str | None = None
    use_rslora: bool = False
    use_dora: bool = False
    rank: int | None = None
    """The largest rank of its tensors: what a server must allocate."""
    declared_r: int | None = None
    modules: int = 0
    """LoRA modules, each expert counted."""
    trained: int = 0
    unmeasured: int = 0
    """Modules with NaN, infinity or too little precision, and tensors that could not be read."""
    params: int = 0
    """LoRA parameters."""
    width: Float12 | None = None
    """Σ(m + n) over the modules: parameters per unit of rank."""
    stable_rank_median: Float12 | None = None
    energy_rank_90_p50: Float12 | None = None
    energy_rank_90_p90: Float12 | None = None
    fro_norm: Float12 | None = None
    """‖ΔW‖_F over all modules; null without a scale."""
    lost_energy_at: dict[int, Float12] = Field(default_factory=dict)
    """Rank → share of ‖ΔW‖² that is lost when larger modules are truncated to it: the steps of vLLM below `rank`."""
    sketch: Annotated[tuple[float, ...], AfterValidator(_whole_sketch)] = ()
    """64 random projections of ΔW, the same for every adapter: equal updates have equal sketches, in whatever factors
    and ranks they are written."""


@dataclass(frozen=True, slots=True, config=ROW_CONFIG, kw_only=True)
class Step:
    """What it takes to serve the adapters of one base at one `max_lora_rank`."""

    max_lora_rank: int
    slot_bytes: int
    """Of one slot, for the modules of the widest adapter, 16 bit each."""
    truncated: int
    """Adapters whose rank is larger."""
    lost_energy_median: Float12 | None = None
    """Over these: share of ‖ΔW‖² that truncation to this rank loses."""
    lost_energy_max: Float12 | None = None


@dataclass(frozen=True, slots=True, config=ROW_CONFIG, kw_only=True)
class Forcing:
    """An adapter above the next lower step."""

    path: str
    rank: int
    lost_energy: Float12 | None = None
    """Share of ‖ΔW‖² that is lost at that step; null where the scale is unknown or nothing was trained."""
    predicted_kl: Float12 | None = None
    """Predicted KL per scored token at that step, in nats, where a calibration of this adapter was given."""


@dataclass(frozen=True, slots=True, config=ROW_CONFIG, kw_only=True)
class BaseGroup:
    """The adapters of one base model: one server."""

    base_model: str | None
    adapters: int
    bytes: int
    largest_rank: int
    max_lora_rank: int | None
    """The smallest that vLLM accepts and that holds all of them; null above the largest."""
    slot_bytes: int | None
    steps: tuple[Step, ...]
    """The lower ones, from the next one down."""
    forcing: tuple[Forcing, ...]
    """Adapters above the next lower step, the costliest to truncate first."""


@dataclass(frozen=True, slots=True, config=ROW_CONFIG, kw_only=True)
class Copies:
    """Adapters that are the same, or nearly."""

    kind: CopyKind
    """`same file`: the same bytes and scale. `same update`: ΔW differs by at most 0.5 %, as rounding to 16 bits does.
    `near`: by at most 10 %."""
    paths: tuple[str, ...]
    difference: Float12
    """The largest ‖ΔW − ΔW₁‖_F/‖ΔW₁‖_F to the first of them."""


@dataclass(frozen=True, slots=True, config=ROW_CONFIG, kw_only=True)
class Failure:
    """Adapters that could not be measured for one reason."""

    code: str
    adapters: int
    first: str
    """Path of the first of them."""
    message: str
    """What was said of it."""


class FleetReport(Report):
    """What holds over many adapters.

    >>> report = audit_fleet(["adapters"])
    >>> report.adapters, report.failed, report.bases[0].max_lora_rank
    (3, 0, 8)
    """

    row_field: ClassVar[str] = "bases"
    repair: ClassVar[str] = "measure the fleet again: gradience fleet DIR --json"

    schema_: Literal["gradience.fleet/2"] = Field(default="gradience.fleet/2", alias="schema")
    adapters: int
    measured: int
    """Adapters measured in this run, `incomplete` and `untrained` ones included. `measured`, `reused` and `failed` add
    up to `adapters`."""
    reused: int
    """Adapters whose row is from an earlier run because their files have not changed."""
    failed: int
    """Adapters that could not be measured; each run tries them again."""
    incomplete: int
    untrained: int
    bytes: int
    params: int
    elsewhere: int
    """Folders beside the adapters in which there is none."""
    engine: str
    """The engine and version whose steps and slots these are."""
    rows_file: str | None = None
    """Where the rows are, which `gradience compress --fleet` takes; null where none were written."""
    root: str = "."
    """What the paths of the rows are relative to."""
    bases: tuple[BaseGroup, ...]
    copies: tuple[Copies, ...]
    failures: tuple[Failure, ...]
    run: RunInfo
