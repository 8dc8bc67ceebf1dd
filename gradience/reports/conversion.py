"""The report of a format conversion."""

from typing import ClassVar, Literal

from gradience.reports.audit import TensorNote
from gradience.reports.base.blocks import Document, Heading, Note, Notes, Paragraph, Span, View
from gradience.reports.base.numbers import plural, size
from gradience.reports.base.report import HubSource, Report, RunInfo, commit_of
from gradience.words import listed


class ConversionReport(Report):
    """An adapter written in a different format, with weights and scales unchanged.

    >>> report = convert_adapter("my_adapter", "as_peft")
    >>> report.to, report.modules, report.renamed
    ('peft', 16, 0)
    """

    row_field: ClassVar[str] = "left_out"
    repair: ClassVar[str] = "convert the adapter again: gradience convert ./my_adapter converted --json"

    schema_: Literal["gradience.conversion/1"] = "gradience.conversion/1"
    source_path: str
    source_format: str
    """Name of the source format, such as `PEFT LoRA`."""
    source_sha256: str
    source: HubSource | None = None
    """Hub repository and revision; null for an adapter on disk."""
    pickle: bool
    """True if the weights were read from a pickle, in a separate process."""
    output_path: str
    output_sha256: str
    to: str
    """Name of the output format."""
    modules: int
    lora_params: int
    bytes: int
    """Size of the written weights, in bytes."""
    tensors: int
    renamed: int
    """Number of renamed tensors."""
    left_out: tuple[TensorNote, ...]
    """Tensors that were not written: copies, and tensors of other adapters in the same file."""
    carried_files: tuple[str, ...]
    left_out_files: tuple[str, ...]
    """Files and folders beside the weights that were not copied: pickles, reports, hidden files."""
    run: RunInfo

    def screen(self, view: View) -> Document:
        """Return the result, and the omitted tensors and files; on a screen also the next step."""
        transposed = (self.to == "mlx") != self.source_format.startswith("MLX")
        also = " and transposed" if transposed else ""
        renamed = f" {plural(self.renamed, 'tensor')} renamed{also}." if self.renamed else ""
        modules = f"{plural(self.modules, 'module')}, {size(self.bytes)}"
        notes = []
        if self.left_out:
            names = listed([note.tensor for note in self.left_out])
            notes.append(Note("warning", f"{plural(len(self.left_out), 'tensor')} left out: {names}"))
        if self.left_out_files:
            notes.append(Note("info", f"Files left out: {listed(self.left_out_files, 8)}"))
        if self.pickle:
            notes.append(Note("info", "Read from a pickle in a sandboxed process"))
        commit = (f", {text}" for text in commit_of(self.source))
        return [
            Heading(("Converted to ", Span(self.output_path, "name")), level=1),
            Paragraph(f"{self.source_format} → {self.to}: {modules}. Values and scales unchanged.{renamed}"),
            Paragraph(("From ", Span(self.source_path, "name"), *commit)),
            Notes(notes),
            *view.next_steps(f"gradience audit {view.path(0, self.output_path)}"),
        ]
