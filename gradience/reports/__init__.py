"""Reports, one file each: the versioned model, the screen and document, the plots, and the title of the page.

registry.py   reports and other artifacts by schema name, one line each
base/         common parts: the base class, blocks and their renderers, fields of several models
plots/        plots as pure data, and their renderers
page/         reports with their plots as one HTML file

To add a report, write a subclass of `Report` in a file here, and a line in `registry.py`. Its `blocks` are the
document:

    class PowerReport(Report):
        row_field: ClassVar[str] = "scenarios"
        schema_: Literal["gradience.power/3"] = "gradience.power/3"
        scenarios: tuple[Scenario, ...]

        def blocks(self) -> Document:
            names = table_of(self.scenarios, (Column("variant"), lambda row: Span(row.name, "name")))
            return [Heading("Power", level=1), names]

`print`, a terminal, Markdown, a notebook and a page all come from these blocks. A report with a shorter screen has a
method `screen` instead, which takes the `View` (amount of detail). Each line in `plots` is a plot: its kind, and its
maker in `plots/`.

Blocks contain text, never markup: an untrusted name is `Span(name, "name")`, sentences that contain names are plain
strings, and each renderer escapes all text once. A kind of block is one dataclass in `base/blocks.py` and one `case` in
each renderer. Sections fit every screen from 60 columns up: sentences wrap, columns with `drop` are left out, and names
are shortened as long as they stay distinct.
"""
