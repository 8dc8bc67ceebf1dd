"""Result of a distillation: KL to the reference before and after, and the step that was kept."""

from typing import ClassVar, Literal

from gradience.files.artifact import Float12, Part, artifact_row
from gradience.reports.base import blocks as doc
from gradience.reports.base.numbers import count, percent, plural, probability, sig, signed
from gradience.reports.base.prompted import PromptForecast, PromptReport


@artifact_row
class DistillCheck:
    """One check on the rows that decide when to stop."""

    step: int
    """Training steps before the check; 0 is the adapter as given."""
    kl_per_token: Float12
    """KL(teacher ‖ adapter) per scored token, in nats."""


@artifact_row
class HeldOutRow:
    """One held-out example: KL(teacher ‖ adapter) over all its scored tokens, in nats."""

    id: str
    """Digest of the row's content."""
    tokens: int
    kl_per_example_before: Float12
    kl_per_example_after: Float12


class MeanKl(Part):
    """KL per scored token in nats, over rows not used for training or stopping, with a 95 % interval."""

    kl_per_token: Float12
    low: Float12
    high: Float12


class DistillReport(PromptReport):
    """Distance of a smaller adapter from its original, before and after distillation.

    >>> report = DistillReport.read("distill_report.json")
    >>> report.improved, report.best_step <= report.steps
    (True, True)
    """

    row_field: ClassVar[str] = "by_row"
    repair: ClassVar[str] = "distill again with `gradience distill`"

    schema_: Literal["gradience.distill/1"] = "gradience.distill/1"
    teacher_path: str
    teacher_sha256: str
    output_path: str
    output_sha256: str
    """sha256 of the written weights; equal to `adapter_sha256` if nothing improved."""
    training_rows: int
    stopping_rows: int
    """Rows that decide which step is kept; never trained on."""
    held_out_rows: int
    """Rows on which before and after are measured; used neither for training nor to choose a step."""
    lr: float
    planned_steps: int
    steps: int
    """Training steps taken; fewer than planned if several checks in a row found no improvement."""
    best_step: int
    """Step whose factors were written; 0 if nothing improved."""
    improved: bool
    """True if KL improved on the stopping rows; if false, the adapter was written as given."""
    teacher_params: int
    trained_params: int
    """Trained parameters: the LoRA factors of the smaller adapter. Heads, biases and magnitudes are unchanged."""
    before: MeanKl
    after: MeanKl
    """KL of the written adapter, in its own storage type."""
    change: MeanKl
    """After − before, paired over rows. Student's interval is wide if a few rows decide; `p_closer` is the test."""
    p_closer: Float12 | None = None
    """One-sided p-value of a paired permutation test: the share of random exchanges of before and after
    within rows that give a mean change at least as low. Above 0.975 the adapter is farther away. Null if
    nothing improved."""
    checks: tuple[DistillCheck, ...]
    by_row: tuple[HeldOutRow, ...]
    """KL of each held-out example, from which before, after and change are computed."""
    carried_files: tuple[str, ...]
    left_out_files: tuple[str, ...]

    def screen(self, view: doc.View) -> doc.Document:
        """Return the result, the data and settings of the training, and KL before and after; on a screen also the next
        command."""
        adapters = f"{view.path(0, 'REFERENCE')} {view.path(1, 'DISTILLED')}"
        rows = (
            ("before", self.before, sig),
            ("after", self.after, sig),
            ("after − before", self.change, signed),
        )
        distance = doc.table_of(
            rows,
            (doc.Column("held-out examples"), lambda row: row[0]),
            (doc.Column(f"KL/{self.unit}", ">"), lambda row: row[2](row[1].kl_per_token)),
            (doc.Column("95 % interval", ">"), lambda row: f"{row[2](row[1].low)} … {row[2](row[1].high)}"),
        )
        return [
            doc.Heading(("Distillation of ", doc.Span(self.adapter_path, "name")), level=1),
            doc.Notes([_answer(self)]),
            doc.Facts(_facts(self)),
            doc.Notes(_notes(self)),
            doc.Heading("Distance from the reference"),
            distance,
            doc.Paragraph(
                f"KL/{self.unit}: divergence from the reference adapter, in nats. A low KL does not prove accuracy:"
                " evaluate the result."
            ),
            *view.next_steps(f"gradience evaluate {adapters} --data rows.jsonl -o evaluated"),
        ]


class DistillForecast(PromptForecast):
    """Steps and requirements of a distillation; the base is not loaded."""

    schema_: Literal["gradience.distill_forecast/1"] = "gradience.distill_forecast/1"
    teacher_path: str
    training_rows: int
    stopping_rows: int
    held_out_rows: int
    steps: int
    forward_examples: int
    """Forward passes of single examples, if all steps are taken; passes of the reference and of the smaller
    adapter count separately."""
    backward_examples: int
    teacher_params: int
    trained_params: int

    def blocks(self) -> doc.Document:
        """Return the text of `gradience distill --dry-run`."""
        passes = (
            f"up to {count(self.forward_examples)} forward and {count(self.backward_examples)} backward passes of an"
            f" example, in {plural(self.steps, 'step')}"
        )
        return self.document(
            "Distillation",
            _split(self),
            passes,
            {"adapters and optimizer": self.held_bytes},
            "activations, gradients and two copies of a batch's logits",
            [("reference", doc.Span(self.teacher_path, "name"))],
        )


LEVEL = 0.025
"""One-sided level at which an adapter is reported as closer, or farther away."""
FEW = 30
"""Below this number of held-out examples, a warning is shown."""


def _answer(report: DistillReport) -> doc.Note:
    if report.p_closer is None:
        return doc.Note("unknown", "No step improved the adapter: it was written unchanged.")
    p, before = report.p_closer, report.before.kl_per_token
    if p > 1 - LEVEL:
        return doc.Note(
            "error",
            "The adapter is farther from the reference on the held-out examples: keep the one that you had before.",
        )
    recovered = 1 - report.after.kl_per_token / before if before else 0.0
    counted = sum(row.kl_per_example_after < row.kl_per_example_before for row in report.by_row)
    closer = (
        f"{count(counted)} of {plural(report.held_out_rows, 'held-out example')} are closer to the reference"
    )
    how = f"{closer} ({probability(p)}, null hypothesis: no change)"
    if p < LEVEL:
        return doc.Note(
            "good", f"Distillation reduced the KL per {report.unit} by {percent(recovered)}: {how}."
        )
    change = f"{'fell' if recovered >= 0 else 'rose'} by {percent(abs(recovered))}"
    more = "More prompts might show a change of this size"
    return doc.Note("unknown", f"Inconclusive: KL per {report.unit} {change}, and {how}. {more}.")


def _facts(report: DistillReport) -> list[doc.Fact]:
    return [
        ("reference", doc.Span(report.teacher_path, "name")),
        ("base", doc.Span(report.base, "name")),
        ("prompts", (doc.Span(report.prompts, "name"), f": {_split(report)}")),
        *report.completions(" from the reference"),
        ("steps", f"{count(report.steps)} of {count(report.planned_steps)}"),
    ]


def _split(report: DistillReport | DistillForecast) -> str:
    return (
        f"{count(report.training_rows)} for training, {count(report.stopping_rows)} for early stopping, "
        f"{count(report.held_out_rows)} held out"
    )


def _notes(report: DistillReport) -> list[doc.Note]:
    notes = [doc.Note("info", note) for note in report.notes]
    if report.held_out_rows < FEW:
        few = f"only {plural(report.held_out_rows, 'held-out example')}: use a few hundred"
        notes.append(doc.Note("warning", few))
    return notes + report.row_notes()
