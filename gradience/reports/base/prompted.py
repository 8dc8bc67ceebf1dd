"""Shared by calibrations and distillations: one adapter on its base, rows of prompts, and how they were read."""

from collections.abc import Mapping, Sequence
from typing import Literal

from gradience.files.artifact import absent_at
from gradience.reports.base.blocks import Document, Facts, Heading, Inline, Note, Span
from gradience.reports.base.numbers import count, memory_parts, plural
from gradience.reports.base.report import Readable, Report, RunInfo

Kind = Literal["causal_lm", "sequence_classification"]


class PromptReport(Report):
    """A report of a run over prompts."""

    schema_: str
    adapter_path: str
    adapter_sha256: str
    """sha256 of the adapter's weights as given."""
    base: str
    base_sha256: str
    """sha256 over name, shape, type and some values of each parameter."""
    quantization: str | None
    dtype: str
    device: str
    kind: Kind
    prompts: str
    prompts_sha256: str
    rows: int
    duplicates: int
    """Duplicate rows of the file, which were left out."""
    given_completions: int
    sampled_completions: int
    """Rows without a completion, for which the model wrote one. Like `given_completions`, 0 for a classifier."""
    completion_tokens: int | None
    truncated: int
    """Rows that were too long and lost the beginning of their prompt."""
    scored_tokens: int
    """Scored tokens of the rows that predict or are held out; one per row for a classifier."""
    seed: int
    batch_size: int
    max_length: int | None
    notes: tuple[str, ...] = absent_at(())
    """Notes to read before the figures; absent if there are none."""
    run: RunInfo

    @property
    def unit(self) -> str:
        """Unit of the KL: the example for a classifier, whose label counts as one token, else the token."""
        return "example" if self.kind == "sequence_classification" else "token"

    def completions(self, source: str = "") -> list[tuple[str, str]]:
        """Return the numbers of completions as a fact; none for a classifier. source: of the sampled ones."""
        if self.kind == "sequence_classification":
            return []
        given, sampled = self.given_completions, self.sampled_completions
        words = [f"{count(given)} given"] if given or not sampled else []
        words += [f"{count(sampled)} sampled{source}"] if sampled else []
        return [("completions", ", ".join(words))]

    def row_notes(self) -> list[Note]:
        """Return the numbers of rows that were cut or left out."""
        lost = "the beginning of the prompt" if self.kind == "causal_lm" else "the end of the text"
        texts = {
            f"{plural(self.truncated, 'example')} too long: {lost} was cut": self.truncated,
            f"{plural(self.duplicates, 'duplicate example')} skipped": self.duplicates,
        }
        return [Note("info", text) for text, number in texts.items() if number]


class PromptForecast(Readable):
    """Dry run over prompts: the base is not loaded."""

    schema_: str
    adapter_path: str
    base: str
    kind: Kind
    rows: int
    duplicates: int
    sampled_completions: int
    """Rows without a completion, for which the model would write one."""
    longest: int
    """Length of the longest row, in tokens."""
    batch_size: int
    process_bytes: int
    """Memory of Python and the libraries; 0 for a GPU."""
    weights_bytes: int
    """Memory of the base's weights."""
    held_bytes: int
    """Memory held from the first batch to the last, in addition to the base."""

    def document(
        self,
        title: str,
        split: str,
        passes: str,
        memory: Mapping[str, int],
        excluded: str,
        facts: Sequence[tuple[str, Inline]] = (),
    ) -> Document:
        """Return the screen of a dry run. memory: parts beside the base. excluded: what the memory does not include."""
        parts = {"base": self.weights_bytes, **memory, "Python and libraries": self.process_bytes}
        number = self.sampled_completions
        sampled = f", {count(number)} completions sampled first" if number else ""
        shown: list[tuple[str, Inline]] = [
            ("base", Span(self.base, "name")),
            ("examples", f"{count(self.rows)}: {split}{sampled}"),
            ("longest", f"{plural(self.longest, 'token')}, {count(self.batch_size)} examples in a batch"),
            ("passes", passes),
            ("memory", f"{memory_parts(parts, 'at least')}, plus {excluded}"),
        ]
        named = (f"{title} of ", Span(self.adapter_path, "name"))
        heading = Heading(named, level=1, aside="dry run: no model was loaded")
        return [heading, Facts([*shown, *facts])]
