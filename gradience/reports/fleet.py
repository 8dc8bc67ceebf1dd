"""Reports on many adapters: one row per adapter (`fleet.jsonl`), and a summary of all rows.

The summary is computed from the rows; the adapters are not needed again. A row has the sizes, the use of rank,
and the energy lost at smaller ranks.
"""

import math
import shlex
from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from gradience.files.artifact import ROW_CONFIG, Artifact, Float12
from gradience.ranks import max_lora_rank_step
from gradience.reports.base.blocks import (
    Block,
    Code,
    Column,
    Document,
    Heading,
    Note,
    Notes,
    Paragraph,
    Span,
    dim,
    table_of,
)
from gradience.reports.base.numbers import MISSING, count, max_lora_rank, percent, plural, size
from gradience.reports.base.report import Report
from gradience.reports.base.run import RunInfo
from gradience.reports.base.view import DOCUMENT, View, more

RowStatus = Literal["ok", "incomplete", "untrained", "failed"]


class FleetRow(Artifact):
    """One adapter of a fleet: a line of `fleet.jsonl`."""

    repair: ClassVar[str] = "measure the fleet again: gradience fleet DIR -o fleet.jsonl"

    schema_: Literal["gradience.fleet_row/2"] = Field(default="gradience.fleet_row/2", alias="schema")
    path: str
    """Relative to the root, with `/` between its parts."""
    status: RowStatus
    """`incomplete`: a module or a tensor could not be measured. `failed`: nothing was measured, see `error`."""
    error: str | None = None
    """Code of the error."""
    message: str | None = None
    stamp: dict[str, tuple[int, int]] = Field(default_factory=dict)
    """Size in bytes and modification time in nanoseconds of each file that was read. An adapter whose files all have
    the same stamps is not measured again."""
    sha256: str | None = None
    """Digest of the weights, as in `gradience.audit`."""
    bytes: int | None = None
    format: str | None = None
    base_model: str | None = None
    dtypes: tuple[str, ...] = ()
    init: str | None = None
    use_rslora: bool = False
    use_dora: bool = False
    rank: int | None = None
    """The largest rank of its tensors, which a server must allocate."""
    declared_r: int | None = None
    not_served: str = ""
    """Reason for which the engine of the summary cannot load it; empty if it can, or if that was not run."""
    modules: int = 0
    """LoRA modules; each expert counts."""
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
    """‖ΔW‖_F over all modules; null if the scale is unknown."""
    lost_energy_at: dict[int, Float12] = Field(default_factory=dict)
    """Rank → share of ‖ΔW‖² lost when larger modules are truncated to this rank, for the steps of vLLM below `rank`."""


@dataclass(frozen=True, slots=True, config=ROW_CONFIG, kw_only=True)
class Step:
    """Memory and truncation needed to serve the adapters of one base at one `max_lora_rank`."""

    max_lora_rank: int
    slot_bytes: int
    """Bytes of one slot for the modules of the widest adapter, in 16 bits."""
    truncated: int
    """Number of adapters with a larger rank."""
    lost_energy_median: Float12 | None = None
    """Share of ‖ΔW‖² lost by truncation to this rank, over the truncated adapters."""
    lost_energy_max: Float12 | None = None


@dataclass(frozen=True, slots=True, config=ROW_CONFIG, kw_only=True)
class Forcing:
    """An adapter above the target rank."""

    path: str
    rank: int
    lost_energy: Float12 | None = None
    """Share of ‖ΔW‖² lost at the target rank; null if the scale is unknown or nothing was trained."""


@dataclass(frozen=True, slots=True, config=ROW_CONFIG, kw_only=True)
class BaseGroup:
    """The adapters of one base model: one server."""

    base_model: str | None
    adapters: int
    bytes: int
    largest_rank: int
    max_lora_rank: int | None
    """The smallest value of vLLM that fits all adapters; null if the largest value is too small."""
    slot_bytes: int | None
    steps: tuple[Step, ...]
    """The lower values of max_lora_rank, in descending order."""
    target: int | None
    """Rank for all adapters: the host's maximum, else the lowest step within the error limit, else the next lower step.
    Null if no adapter is above a lower one."""
    recommended: bool
    """True if `target` is within the error limit, or is a host's maximum."""
    above: int
    """Number of adapters above `target`."""
    forcing: tuple[Forcing, ...]
    """Adapters above `target`, the largest loss first."""


@dataclass(frozen=True, slots=True, config=ROW_CONFIG, kw_only=True)
class NotServed:
    """Adapters that the engine cannot load, for the same reason; they are in no base group."""

    reason: str
    adapters: int
    first: str
    """Path of the first of them."""


@dataclass(frozen=True, slots=True, config=ROW_CONFIG, kw_only=True)
class Failure:
    """Adapters that could not be measured for the same reason."""

    code: str
    adapters: int
    first: str
    """Path of the first of them."""
    message: str
    """Error message of the first."""


class FleetReport(Report):
    """Summary of many adapters.

    >>> report = audit_fleet(["adapters"])
    >>> report.adapters, report.failed, report.not_served[0].adapters  # BERT, which vLLM refuses
    (3, 0, 3)
    """

    row_field: ClassVar[str] = "bases"
    repair: ClassVar[str] = "measure the fleet again: gradience fleet DIR --json"

    schema_: Literal["gradience.fleet/2"] = Field(default="gradience.fleet/2", alias="schema")
    adapters: int
    measured: int
    """Adapters measured in this run, including `incomplete` and `untrained`. `measured`, `reused` and `failed` add up
    to `adapters`."""
    reused: int
    """Adapters with unchanged files, whose row is from an earlier run."""
    failed: int
    """Adapters that could not be measured; each run tries them again."""
    incomplete: int
    untrained: int
    bytes: int
    params: int
    elsewhere: int
    """Folders without an adapter."""
    engine: str
    """Engine and version that steps and slot sizes refer to."""
    rows_file: str | None = None
    """File with the rows, as `gradience compress fleet.jsonl` takes it; null if none was written."""
    root: str = "."
    """Folder that the paths of the rows are relative to."""
    slots: int
    """Slots (`max_loras`) for which memory is shown."""
    max_error: Float12
    """Largest error ‖ΔW − ΔW′‖/‖ΔW‖ of an adapter at which a step is recommended."""
    limit: str | None
    """Documented limit of the host, in words; null without one."""
    limit_adapters: int | None
    """Adapters per base that the host documents."""
    bases: tuple[BaseGroup, ...]
    not_served: tuple[NotServed, ...]
    failures: tuple[Failure, ...]
    run: RunInfo

    def blocks(self) -> Document:
        """Return the document, with long lists."""
        return fleet_blocks(self, DOCUMENT)

    def screen(self, view: View) -> Document:
        """Return the document, with shorter lists."""
        return fleet_blocks(self, view)


SHOWN_BASES, SHOWN_FORCING = 5, 5
"""On the screen; Markdown and JSON list more."""
LISTED = 100
"""Maximum number of adapters per base in a document."""


def fleet_blocks(report: FleetReport, view: View) -> Document:
    """Return the whole document, or the shorter lists of a screen."""
    return [
        *_title(report),
        *_serving(report),
        *_not_served(report),
        *_lower_ranks(report, brief=view.brief),
        *_commands(report, report.bases[: SHOWN_BASES if view.brief else LISTED], view.path(0, report.root)),
        *_failures(report),
        Heading("Limits"),
        Paragraph(
            "Weight error is a crude guide to accuracy. Error: ‖ΔW − ΔW′‖ / ‖ΔW‖."
            f" Slot sizes are computed from {report.engine}'s allocation for the modules that the adapters have."
            " Without lora_target_modules, vLLM also allocates the other modules."
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
        notes.append(Note("error", f"{plural(report.failed, 'adapter')} could not be measured (see below)"))
    if report.incomplete:
        incomplete = f"{plural(report.incomplete, 'adapter')} measured only in part (status incomplete)"
        notes.append(Note("warning", incomplete))
    if report.untrained:
        notes.append(Note("warning", f"{plural(report.untrained, 'adapter')} untrained (every B·A is 0)"))
    fleet = f"Fleet of {plural(report.adapters, 'adapter')}"
    if report.failed:
        fleet = f"Fleet: {count(report.adapters - report.failed)} of {plural(report.adapters, 'adapter')} measured"
    heading = Heading(fleet, level=1)
    return [heading, Paragraph(" · ".join(parts)), *([Notes(notes)] if notes else [])]


def _base(base: BaseGroup) -> Span:
    return Span(base.base_model, "name") if base.base_model else Span("(no base model named)", "dim")


def _serving(report: FleetReport) -> list[Block]:
    """Return each base with the max_lora_rank that its largest adapter needs."""
    if not report.bases:
        return []
    table = table_of(
        report.bases,
        (Column("base model"), _base),
        (Column("adapters", ">"), lambda base: count(base.adapters)),
        (Column("largest r", ">"), lambda base: count(base.largest_rank)),
        (Column("max_lora_rank", ">"), lambda base: Span(max_lora_rank(base.max_lora_rank), "strong")),
        (
            Column(f"for {plural(report.slots, 'slot')}", ">"),
            lambda base: MISSING if base.slot_bytes is None else size(report.slots * base.slot_bytes),
        ),
        (Column("on disk", ">", drop=1), lambda base: size(base.bytes)),
    )
    return [Heading("Minimum server memory", aside=report.engine), table]


def _not_served(report: FleetReport) -> list[Block]:
    if not report.not_served:
        return []
    notes = [
        Note(
            "info",
            (f"{plural(row.adapters, 'adapter')}, for example ", Span(row.first, "name"), f": {row.reason}"),
        )
        for row in report.not_served
    ]
    return [
        Heading("Not included in server memory", aside=f"{report.engine} cannot load these"),
        Notes(notes),
    ]


def weight_error(lost_energy: float | None) -> float | None:
    """Return the error ‖ΔW − ΔW′‖/‖ΔW‖ for a share of energy lost."""
    return None if lost_energy is None else math.sqrt(lost_energy)


def _lower_ranks(report: FleetReport, *, brief: bool) -> list[Block]:
    """Return memory and error at each lower step of each base, and the adapters above its target."""
    bases = [base for base in report.bases if base.target is not None]
    limit: list[Block] = [] if report.limit is None else [Heading("Host limit"), Paragraph(report.limit)]
    if not bases:
        return limit
    shown = bases[: SHOWN_BASES if brief else None]
    return [
        *limit,
        Heading("Lowering max_lora_rank"),
        *(block for base in shown for block in _lower_steps(report, base, brief=brief)),
        *more(len(bases) - len(shown), "more base"),
    ]


def _lower_steps(report: FleetReport, base: BaseGroup, *, brief: bool) -> list[Block]:
    forcing = base.forcing[: SHOWN_FORCING if brief else LISTED]
    steps = table_of(
        base.steps,
        (Column("max_lora_rank", ">"), lambda step: str(step.max_lora_rank)),
        (
            Column(f"min. memory, {plural(report.slots, 'slot')}", ">"),
            lambda step: size(report.slots * step.slot_bytes),
        ),
        (Column("truncated", ">"), lambda step: f"{count(step.truncated)} of {count(base.adapters)}"),
        (Column("median error", ">"), lambda step: percent(weight_error(step.lost_energy_median))),
        (Column("max error", ">"), lambda step: percent(weight_error(step.lost_energy_max))),
    )
    above = table_of(
        forcing,
        (Column(f"adapters above rank {base.target}"), lambda adapter: Span(adapter.path, "name")),
        (Column("r", ">"), lambda adapter: count(adapter.rank)),
        (Column("error", ">"), lambda adapter: percent(weight_error(adapter.lost_energy))),
    )
    return [
        Paragraph(_base(base)),
        *([steps] if base.steps else []),
        Paragraph(_advice(report, base)),
        above,
        *more(base.above - len(forcing), "more adapter"),
    ]


def _advice(report: FleetReport, base: BaseGroup) -> str:
    """Return the recommendation for a base, with its reason."""
    if report.limit is not None:
        above = f"{count(base.above)} of {plural(base.adapters, 'adapter')} above the host's maximum rank"
        many = report.limit_adapters is not None and base.adapters > report.limit_adapters
        return f"{above} {base.target}" + (
            f"; the host takes {report.limit_adapters} per base" if many else ""
        )
    limit = f"{percent(report.max_error)} error"
    if base.recommended:
        return f"Recommended: {base.target}, the lowest max_lora_rank that stays within {limit}"
    return f"No lower max_lora_rank stays within {limit}"


def _commands(report: FleetReport, shown: Sequence[BaseGroup], root: str) -> list[Block]:
    """Return the command that truncates larger adapters to the highest recommended rank of any base, and each base's
    server command afterwards."""
    ranks = [base.target if base.recommended and base.target else base.largest_rank for base in report.bases]
    rank = max(ranks, default=0)
    blocks, title = list[Block](), "Server flags"
    if any(base.largest_rank > rank for base in report.bases):
        rest = f"--rank {rank} --unchanged link -o smaller"
        advice = f"add -o fleet.jsonl, then gradience compress fleet.jsonl {rest}"
        if report.rows_file is not None:
            place = "" if root == "." else f" --root {root}"
            advice = f"gradience compress {shlex.quote(report.rows_file)}{place} {rest}"
            advice += "  (for all bases)" if len(report.bases) > 1 else ""
        blocks, title = [dim(f"Next: {advice}")], f"Server flags after truncation to rank {rank}"
    lines = [
        f"vllm serve {shlex.quote(base.base_model or 'BASE_MODEL')} --enable-lora --max-loras {report.slots}"
        f" --max-lora-rank {step}"
        for base in shown
        if (step := max_lora_rank_step(min(rank, base.largest_rank)))
    ]
    return [*blocks, Heading(title), Code(lines, "bash")] if lines else blocks


def _failures(report: FleetReport) -> list[Block]:
    notes = []
    for failure in report.failures:
        several = f": {plural(failure.adapters, 'adapter')}, for example " if failure.adapters > 1 else ": "
        details = [failure.message]
        if failure.code == "pickle":
            details.append("Add --allow-pickle to read it in a sandboxed process.")
        text = (Span(failure.code, "bad"), several, Span(failure.first, "name"))
        notes.append(Note("error", text, details))
    return [Heading("Not measured"), Notes(notes)] if notes else []
