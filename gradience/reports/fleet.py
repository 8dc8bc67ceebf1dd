"""Reports on many adapters: one row per adapter (`fleet.jsonl`), and a summary of all rows.

The summary is computed from the rows; the adapters are not needed again. A row has the sizes, the use of rank,
and the energy lost at smaller ranks.
"""

import math
import shlex
from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from gradience.files.artifact import Artifact, Float12, artifact_row
from gradience.ranks import max_lora_rank_step
from gradience.reports.base import blocks as doc
from gradience.reports.base.numbers import MISSING, count, max_lora_rank, number_range, percent, plural, size
from gradience.reports.base.report import Report, RunInfo

RowStatus = Literal["ok", "incomplete", "untrained", "failed"]


class FleetRow(Artifact):
    """One adapter of a fleet: a line of `fleet.jsonl`."""

    repair: ClassVar[str] = "measure the fleet again: gradience fleet DIR -o fleet.jsonl"

    schema_: Literal["gradience.fleet_row/2"] = "gradience.fleet_row/2"
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


@artifact_row
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


@artifact_row
class Oversized:
    """An adapter above the target rank."""

    path: str
    rank: int
    lost_energy: Float12 | None = None
    """Share of ‖ΔW‖² lost at the target rank; null if the scale is unknown or nothing was trained."""


@artifact_row
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
    forcing: tuple[Oversized, ...]
    """Adapters above `target`, the largest loss first."""


@artifact_row
class NotServed:
    """Adapters that the engine cannot load, for the same reason; they are in no base group."""

    reason: str
    adapters: int
    first: str
    """Path of the first of them."""


@artifact_row
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

    schema_: Literal["gradience.fleet/2"] = "gradience.fleet/2"
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

    def screen(self, view: doc.View) -> doc.Document:
        """Return the whole document, or the shorter lists of a screen."""
        return [
            *_title(self),
            *_serving(self, SHOWN_BASES if view.brief else None),
            *_above(self, SHOWN_FORCING if view.brief else LISTED),
            *_commands(self, self.bases[: SHOWN_BASES if view.brief else LISTED], view.path(0, self.root)),
            *_not_served(self),
            *_failures(self),
        ]


SHOWN_BASES, SHOWN_FORCING = 5, 3
"""On the screen; Markdown and JSON list more."""
LISTED = 100
"""Maximum number of adapters per base in a document."""


def _title(report: FleetReport) -> list[doc.Block]:
    """Return the answer, the host's limit, and adapters that were measured only in part."""
    fleet = f"Fleet of {plural(report.adapters, 'adapter')}"
    if report.failed:
        fleet = f"Fleet: {count(report.adapters - report.failed)} of {plural(report.adapters, 'adapter')} measured"
    most = report.limit_adapters
    crowded = most is not None and any(base.adapters > most for base in report.bases)
    warnings = {
        f"{plural(report.incomplete, 'adapter')} measured only in part (status incomplete)": report.incomplete,
        f"The host takes {plural(most or 0, 'adapter')} per base model": crowded,
        f"{plural(report.untrained, 'adapter')} untrained (every B·A is 0)": report.untrained,
    }
    return [
        doc.Heading(fleet, level=1),
        doc.Paragraph(doc.Span(answer(report), "strong")),
        *([] if report.limit is None else [doc.Paragraph(f"Host limit: {report.limit}")]),
        doc.warned(text for text, holds in warnings.items() if holds),
    ]


def answer(report: FleetReport) -> str:
    """Return the max_lora_rank that the adapters need, and whether a lower one would do."""
    bases = report.bases
    if not bases:
        return f"No adapter was measured that {report.engine} can serve."
    adapters, known = sum(base.adapters for base in bases), [base.max_lora_rank for base in bases]
    ranks = max_lora_rank(None) if None in known else number_range(filter(None, known))
    several = f" of {count(len(bases))} base models" if len(bases) > 1 else ""
    verb = "needs" if adapters == 1 else "need"
    who, measured = plural(adapters, "adapter"), report.adapters - report.failed
    if adapters < measured:
        who = f"{count(adapters)} of {plural(measured, 'measured adapter')}"
        several += " can be served and"
    needed = f"{who}{several} {verb} max_lora_rank {ranks} in {report.engine}."
    lower = [base for base in bases if base.recommended]
    limit = percent(report.max_error)
    if report.limit is not None:
        above = sum(base.above for base in bases)
        return f"{needed} The host's maximum rank is too low for {count(above) if above else 'none'} of them."
    if not lower:
        return f"{needed} No lower max_lora_rank stays within {limit} weight error (--max-error)."
    if len(bases) > 1:
        of_all = f"{count(len(lower))} of {count(len(bases))} base models"
        return f"{needed} A lower one stays within {limit} weight error for {of_all}."
    step = next(step for step in lower[0].steps if step.max_lora_rank == lower[0].target)
    which = "its weights by" if step.truncated == 1 else "their weights by up to"
    change = f"{which} {percent(weight_error(step.lost_energy_max))}"
    return f"{needed} Truncating {plural(step.truncated, 'adapter')} to rank {step.max_lora_rank} changes {change}."


def _base(base: BaseGroup) -> doc.Span:
    return doc.Span(base.base_model, "name") if base.base_model else doc.Span("(no base model named)", "dim")


def _serving(report: FleetReport, most: int | None) -> list[doc.Block]:
    """Return the memory of each base at the max_lora_rank that it needs, and memory and error at each lower one."""
    if not report.bases:
        return []

    def memory(slot: int | None) -> str:
        return MISSING if slot is None else size(report.slots * slot)

    rows: list[list[doc.Inline]] = []
    for base in report.bases[:most]:
        needed = doc.Span(max_lora_rank(base.max_lora_rank), "strong")
        rows.append([_base(base), needed, memory(base.slot_bytes), f"0 of {count(base.adapters)}"])
        for step in base.steps:
            errors = [percent(weight_error(lost)) for lost in (step.lost_energy_median, step.lost_energy_max)]
            truncated = f"{count(step.truncated)} of {count(base.adapters)}"
            rows.append(["", str(step.max_lora_rank), memory(step.slot_bytes), truncated, *errors])
    columns = [
        doc.Column("base model"),
        doc.Column("max_lora_rank", ">"),
        doc.Column(f"memory, {plural(report.slots, 'slot')}", ">"),
        doc.Column("truncated", ">"),
        doc.Column("median error", ">", drop=1),
        doc.Column("max error", ">"),
    ]
    legend = (
        "error: ‖ΔW − ΔW′‖/‖ΔW‖ of the truncated adapters, a crude guide to accuracy; median error: √(median energy"
        " lost); memory: for modules with adapters. Without lora_target_modules, vLLM also allocates the others."
    )
    return [
        doc.Heading("Server memory", aside=report.engine),
        doc.Table(columns, rows),
        *doc.more(len(report.bases[most:]) if most else 0, "more base"),
        doc.dim(legend),
    ]


def _above(report: FleetReport, most: int) -> list[doc.Block]:
    """Return the adapters above the target rank of their base, the largest loss first."""
    forcing = [(base, adapter) for base in report.bases for adapter in base.forcing]
    forcing.sort(key=lambda pair: -(pair[1].lost_energy or 0.0))
    if not forcing or sum(base.adapters for base in report.bases) == 1:  # the table above has its error
        return []
    table = doc.table_of(
        forcing[:most],
        (doc.Column("adapter"), lambda pair: doc.Span(pair[1].path, "name")),
        (doc.Column("rank", ">"), lambda pair: count(pair[1].rank)),
        (doc.Column("truncated to", ">"), lambda pair: str(pair[0].target)),
        (doc.Column("error", ">"), lambda pair: percent(weight_error(pair[1].lost_energy))),
    )
    hidden = sum(base.above for base in report.bases) - len(table.rows)
    return [doc.Heading("Largest errors"), table, *doc.more(hidden, "more adapter")]


def _not_served(report: FleetReport) -> list[doc.Block]:
    notes = []
    for row in report.not_served:
        count_of = f"{plural(row.adapters, 'adapter')}, for example "
        notes.append(doc.Note("info", (count_of, doc.Span(row.first, "name"), f": {row.reason}")))
    aside = f"not known to load in {report.engine}"
    return [doc.Heading("Not included in server memory", aside=aside), doc.Notes(notes)]


def weight_error(lost_energy: float | None) -> float | None:
    """Return the error ‖ΔW − ΔW′‖/‖ΔW‖ for a share of energy lost."""
    return None if lost_energy is None else math.sqrt(lost_energy)


def _commands(report: FleetReport, shown: Sequence[BaseGroup], root: str) -> list[doc.Block]:
    """Return the command that truncates larger adapters to the highest recommended rank of any base, and each base's
    server command afterwards."""
    ranks = [base.target if base.recommended and base.target else base.largest_rank for base in report.bases]
    rank = max(ranks, default=0)
    blocks, title = list[doc.Block](), "Server flags"
    if any(base.largest_rank > rank for base in report.bases):
        rest = f"--rank {rank} --unchanged link -o smaller"
        advice = f"add -o fleet.jsonl, then gradience compress fleet.jsonl {rest}"
        if report.rows_file is not None:
            place = "" if root == "." else f" --root {root}"
            advice = f"gradience compress {shlex.quote(report.rows_file)}{place} {rest}"
            advice += "  (for all bases)" if len(report.bases) > 1 else ""
        blocks, title = [doc.dim(f"Next: {advice}")], f"Server flags after truncation to rank {rank}"
    lines = [
        f"vllm serve {shlex.quote(base.base_model or 'BASE_MODEL')} --enable-lora --max-loras {report.slots}"
        f" --max-lora-rank {step}"
        for base in shown
        if (step := max_lora_rank_step(min(rank, base.largest_rank)))
    ]
    return [*blocks, doc.Heading(title), doc.Code(lines, "bash")]


def _failures(report: FleetReport) -> list[doc.Block]:
    notes = []
    for failure in report.failures:
        several = f": {plural(failure.adapters, 'adapter')}, for example " if failure.adapters > 1 else ": "
        details = [failure.message]
        if failure.code == "pickle":
            details.append("Add --allow-pickle to read it in a sandboxed process.")
        text = (doc.Span(failure.code, "bad"), several, doc.Span(failure.first, "name"))
        notes.append(doc.Note("error", text, details))
    return [doc.Heading("Not measured"), doc.Notes(notes)]


TruncationStatus = Literal["written", "reused", "small enough", "linked", "failed"]


@artifact_row
class Truncated:
    """Result for one adapter of the batch."""

    path: str
    status: TruncationStatus
    """`reused`: written by an earlier run of the same batch. `small enough`: left out, its rank is low enough.
    `linked`: its rank is low enough, and it is in the folder of the batch unchanged."""
    old_rank: int | None = None
    old_bytes: int | None = None
    new_bytes: int | None = None
    measured_error: Float12 | None = None
    """‖ΔW − ΔW′‖_F/‖ΔW‖_F."""
    error: str | None = None
    """Code of the error."""
    message: str | None = None


class FleetCompression(Report):
    """A batch of adapters truncated to one rank: `fleet_compression.json` in the folder of the batch.

    >>> batch = compress_fleet("fleet.jsonl", "batch", rank=4)
    >>> batch.written, batch.small_enough, batch.failed
    (2, 1, 0)
    """

    row_field: ClassVar[str] = "adapters"
    repair: ClassVar[str] = "run the batch again: finished adapters are kept"

    schema_: Literal["gradience.fleet_compression/1"] = "gradience.fleet_compression/1"
    rank: int
    written: int
    reused: int
    small_enough: int
    """Adapters whose rank is low enough: left out or linked."""
    failed: int
    old_bytes: int
    """Total size before truncation of the adapters that were written or reused."""
    new_bytes: int
    adapters: tuple[Truncated, ...]
    run: RunInfo

    def screen(self, view: doc.View) -> doc.Document:
        """Return totals, the truncated adapters by falling error, and the others; a screen has the first of each."""
        shown = SHOWN if view.is_screen else None
        written = [adapter for adapter in self.adapters if adapter.status in ("written", "reused")]
        written.sort(key=lambda adapter: -(adapter.measured_error or 0.0))
        small = [adapter for adapter in self.adapters if adapter.status in UNCHANGED]
        how = UNCHANGED[small[0].status] if small else "not copied"
        failed = [adapter for adapter in self.adapters if adapter.status == "failed"]
        failed.sort(key=lambda adapter: adapter.error != "row-outdated")
        of_all = f"{count(len(written))} of {plural(len(self.adapters), 'adapter')}"
        saved = f"weights of truncated adapters {size(self.old_bytes)} to {size(self.new_bytes)}"
        counts = {
            "written": self.written,
            "from an earlier run": self.reused,
            how: self.small_enough,
            "failed": self.failed,
        }
        totals = ", ".join(f"{count(number)} {word}" for word, number in counts.items() if number)
        blocks: list[doc.Block] = [
            doc.Heading(f"{of_all} truncated to rank {count(self.rank)}", level=1),
            doc.Paragraph(f"{totals}: {saved if written else 'no adapter written'}"),
        ]
        for title, adapters in (
            ("Truncated adapters, largest error first", written),
            (f"Already at or below rank {count(self.rank)} ({how})", small),
        ):
            table = doc.table_of(
                adapters[:shown],
                (doc.Column("adapter"), lambda row: doc.Span(row.path, "name")),
                (
                    doc.Column("old rank", ">"),
                    lambda row: "" if row.old_rank is None else count(row.old_rank),
                ),
                (
                    doc.Column("error", ">", shown=adapters is written),
                    lambda row: percent(row.measured_error),
                ),
            )
            blocks += [doc.Heading(title), table, *doc.more(len(adapters) - len(table.rows), "more adapter")]
        notes = []
        for adapter in failed[:shown]:
            text = (doc.Span(adapter.error or "", "bad"), ": ", doc.Span(adapter.path, "name"))
            notes.append(doc.Note("error", text, [adapter.message or ""]))
        advice = (
            "These are weight errors. Evaluate the adapters that matter: gradience evaluate, gradience shrink"
        )
        return [
            *blocks,
            doc.Heading("Not compressed"),
            doc.Notes(notes),
            *doc.more(len(failed) - len(notes), "more adapter"),
            doc.Notes([doc.Note("info", advice)] if written else []),
        ]


UNCHANGED = {"small enough": "not copied", "linked": "linked"}
"""Status of an adapter whose rank is low enough -> its description."""
SHOWN = 10
"""Adapters of each group on the screen."""
