"""`fleet_compression.json`: a batch of adapters truncated to one rank."""

from typing import ClassVar, Literal

from gradience.files.artifact import Float12, artifact_row
from gradience.reports.base import blocks as doc
from gradience.reports.base.numbers import count, percent, plural, size
from gradience.reports.base.report import Report
from gradience.reports.base.run import RunInfo

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
