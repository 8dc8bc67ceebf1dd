"""Many adapters: a row for each (`fleet.jsonl`), and what holds over all of them.

A row is one line of the file. It holds what is needed to sum up without the adapter: sizes, how the rank is used, what
a smaller rank would cost, and a sketch of the update by which copies are recognised.
"""

from __future__ import annotations

import shlex
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from gradience.files.artifact import ROW_CONFIG, Artifact, Float12
from gradience.reports.base.blocks import (
    Block,
    Column,
    Document,
    Heading,
    Note,
    Notes,
    Paragraph,
    Span,
    table_of,
)
from gradience.reports.base.numbers import MISSING, count, max_lora_rank, percent, plural, sig, size
from gradience.reports.base.report import PlotOf, Plots, Report
from gradience.reports.base.run import RunInfo
from gradience.reports.base.view import first_names

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
    plots: ClassVar[Plots] = {
        "steps": PlotOf("sizes:steps_plot", ("What would a lower",)),
        "slots": PlotOf("sizes:slots_plot", ("What would a lower",)),
    }

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

    def blocks(self) -> Document:
        """Return the document, with long lists."""
        return fleet_blocks(self)

    def to_text(self, *, width: int | None = None, color: bool = False, root: str | None = None) -> str:
        """Return the screen, with shorter lists. root: that of the next command, if the report's is not its path."""
        return self.drawn(fleet_blocks(self, brief=True, root=root), width, color)

    def page_heading(self, heading: Heading) -> Heading:
        """Return the number of adapters."""
        return Heading(f"Fleet of {plural(self.adapters, 'adapter')}")


SHOWN_BASES, SHOWN_FORCING, SHOWN_GROUPS, SHOWN_COPIES = 5, 5, 8, 3
"""On the screen; Markdown and JSON list more."""
LISTED = 100
"""Forcing adapters of one base and groups of copies in a document."""


def fleet_blocks(report: FleetReport, *, brief: bool = False, root: str | None = None) -> Document:
    """Return the whole document, or with `brief` the shorter lists of a screen."""
    bases = report.bases[: SHOWN_BASES if brief else None]
    return [
        *_title(report),
        *_serving(report),
        *(block for base in bases if base.steps for block in _lower_steps(base, brief=brief)),
        *_next(report, report.root if root is None else root),
        *_copies(report, brief=brief),
        *_failures(report),
        Heading("What does this not show?"),
        Paragraph(
            f"Quality: lost energy is a crude guide to it. Slots are as {report.engine} held them when it was run, for"
            " the modules that the adapters have; unless told otherwise it makes room in all others, too."
        ),
    ]


def _title(report: FleetReport) -> list[Block]:
    parts = [
        f"{size(report.bytes)}, {count(report.params)} LoRA parameters",
        f"{count(report.measured)} measured now, {count(report.reused)} unchanged since an earlier run",
    ]
    if report.elsewhere:
        parts.append(f"{plural(report.elsewhere, 'folder')} without an adapter")
    notes = []
    if report.failed:
        notes.append(Note("error", f"{plural(report.failed, 'adapter')} could not be measured: see below"))
    if report.incomplete:
        incomplete = f"{plural(report.incomplete, 'adapter')} measured in part (status incomplete)"
        notes.append(Note("warning", incomplete))
    if report.untrained:
        notes.append(Note("warning", f"{plural(report.untrained, 'adapter')} untrained: every B·A is 0"))
    heading = Heading(plural(report.adapters, "adapter"), level=1)
    return [heading, Paragraph(" · ".join(parts)), *([Notes(notes)] if notes else [])]


def _base(base: BaseGroup) -> Span:
    return Span(base.base_model, "name") if base.base_model else Span("(no base model named)", "dim")


def _serving(report: FleetReport) -> list[Block]:
    """Each base with the step that its largest adapter needs."""
    if not report.bases:
        return []
    table = table_of(
        report.bases,
        (Column("base model"), _base),
        (Column("adapters", ">"), lambda base: count(base.adapters)),
        (Column("largest r", ">"), lambda base: count(base.largest_rank)),
        (Column("max_lora_rank", ">"), lambda base: Span(max_lora_rank(base.max_lora_rank), "strong")),
        (
            Column("per slot ≥", ">"),
            lambda base: MISSING if base.slot_bytes is None else size(base.slot_bytes),
        ),
        (Column("on disk", ">", drop=1), lambda base: size(base.bytes)),
    )
    return [Heading("What must a server hold?", aside=report.engine), table]


def _lower_steps(base: BaseGroup, *, brief: bool) -> list[Block]:
    """What each lower step takes, and the adapters above the next one."""
    calibrated = any(adapter.predicted_kl is not None for adapter in base.forcing)
    forcing = base.forcing[: SHOWN_FORCING if brief else LISTED]
    steps = table_of(
        base.steps,
        (Column("max_lora_rank", ">"), lambda step: str(step.max_lora_rank)),
        (Column("per slot ≥", ">"), lambda step: size(step.slot_bytes)),
        (Column("to truncate", ">"), lambda step: f"{count(step.truncated)} of {count(base.adapters)}"),
        (Column("energy lost, median", ">"), lambda step: percent(step.lost_energy_median)),
        (Column("most", ">"), lambda step: percent(step.lost_energy_max)),
    )
    above = table_of(
        forcing,
        (Column(f"above {base.steps[0].max_lora_rank}"), lambda adapter: Span(adapter.path, "name")),
        (Column("r", ">"), lambda adapter: count(adapter.rank)),
        (Column("energy lost", ">"), lambda adapter: percent(adapter.lost_energy)),
        (Column("predicted KL", ">", shown=calibrated), lambda adapter: sig(adapter.predicted_kl)),
    )
    hidden = base.steps[0].truncated - len(forcing)
    return [
        Heading(("What would a lower step take?  ", _base(base))),
        steps,
        above,
        *([Paragraph(Span(f"and {count(hidden)} more", "dim"))] if hidden > 0 else []),
    ]


def _next(report: FleetReport, root: str) -> list[Block]:
    """The command that brings all to the next step of the first base."""
    steps = [base.steps[0].max_lora_rank for base in report.bases if base.steps]
    if not steps:
        return []
    advice = "-o fleet.jsonl keeps the rows; gradience compress --fleet brings them to one rank"
    if report.rows_file is not None:
        place = "" if root == "." else f" --root {shlex.quote(root)}"
        rows = shlex.quote(report.rows_file)
        advice = f"gradience compress --fleet {rows}{place} --to-rank {steps[0]} -o smaller"
        advice += "  (every base)" if len(steps) > 1 else ""
    return [Paragraph(Span(f"Next: {advice}", "dim"))]


def _copies(report: FleetReport, *, brief: bool) -> list[Block]:
    if not report.copies:
        return []
    groups = report.copies[: SHOWN_GROUPS if brief else LISTED]
    most = SHOWN_COPIES if brief else None
    table = table_of(
        groups,
        (Column("copies"), lambda group: group.kind),
        (Column("adapters", ">"), lambda group: count(len(group.paths))),
        (
            Column("difference ≤", ">"),
            lambda group: "" if group.kind == "same file" else percent(group.difference),
        ),
        (Column("which", wrap=True), lambda group: first_names(group.paths, most or len(group.paths))),
    )
    hidden = len(report.copies) - len(groups)
    return [
        Heading("Which are the same?", aside="by ΔW, in whatever factors"),
        table,
        *([Paragraph(Span(f"and {count(hidden)} more groups", "dim"))] if hidden else []),
    ]


def _failures(report: FleetReport) -> list[Block]:
    notes = []
    for failure in report.failures:
        several = f": {plural(failure.adapters, 'adapter')}, such as " if failure.adapters > 1 else ": "
        details = [failure.message]
        if failure.code == "pickle":
            details.append("Add --allow-pickle to read it in a sandboxed process.")
        text = (Span(failure.code, "bad"), several, Span(failure.first, "name"))
        notes.append(Note("error", text, details))
    return [Heading("What could not be measured?"), Notes(notes)] if notes else []
