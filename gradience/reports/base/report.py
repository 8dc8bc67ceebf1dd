"""What every report shares: an artifact that people read as text, Markdown or HTML, or as a table of rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, cast, get_args

from gradience.errors import UsageError, require
from gradience.files.artifact import Artifact

if TYPE_CHECKING:
    from pandas import DataFrame


class Faces(NamedTuple):
    """What draws a report: short text for `print`, Markdown, HTML for a notebook, a figure of plotly or matplotlib."""

    text: Callable[[Report], str]
    markdown: Callable[[Report], str]
    html: Callable[[Report], str]
    figure: Callable[[Report, str | None, str], Any]


class Report(Artifact):
    """An artifact that shows itself: with `print`, in a notebook, as Markdown, as a plot, as a DataFrame."""

    row_field: ClassVar[str]
    """The field whose entries are the rows of `to_dataframe`."""
    faces: ClassVar[Faces | None] = None
    """Set by `gradience.report.faces`, which `import gradience` loads with the first public name."""

    def to_markdown(self) -> str:
        """Return the report as GitHub-flavoured Markdown, for a model card or a pull request."""
        return self._drawn_by().markdown(self)

    def plot(self, kind: str | None = None, *, backend: Literal["plotly", "matplotlib"] = "plotly") -> Any:
        """Return a plot of the report: plotly's figure for a notebook, or matplotlib's for a paper.

        >>> report.plot("energy", backend="matplotlib").savefig("energy.pdf")  # doctest: +SKIP

        kind: which one; the most telling by default. Of an audit `heatmap`, `energy`, `spectrum`, `use`,
            `stable-rank`; docs/plots.md lists those of every report, and the error for another one does.
        backend: both draw the same data.

        Raises UsageError (`no-plot`, `no-backend`), and MissingExtra without the extra `plots`.
        """
        return self._drawn_by().figure(self, kind, backend)

    def to_dataframe(self) -> DataFrame:
        """Return one row for each module, variant, run, finding or flip. Raises MissingExtra without pandas."""
        pandas = require("pandas", extra="pandas")
        rows = self.model_dump(include={self.row_field})[self.row_field]
        if not rows:
            (row, _) = get_args(type(self).model_fields[self.row_field].annotation)
            return cast("DataFrame", pandas.DataFrame(columns=list(row.__pydantic_fields__)))
        return cast("DataFrame", pandas.json_normalize(rows))

    def _repr_html_(self) -> str:
        return self._drawn_by().html(self)

    def __str__(self) -> str:
        """At most 30 lines."""
        return super().__repr__() if self.faces is None else self.faces.text(self)

    __repr__ = __str__  # what an interactive session shows: thousands of modules are no help there

    def _drawn_by(self) -> Faces:
        if self.faces is None:
            name = type(self).__name__
            raise UsageError(
                f"the module that prints a {name} is not imported",
                code="no-faces",
                hint=f"from gradience import {name}",
            )
        return self.faces
