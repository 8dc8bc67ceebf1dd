"""Reports: one file for each, with its versioned model, its screen and document, its plots, and its page's title.

registry.py   every report and other artifact by the name of its schema: one line each
base/         what reports share: their base class, blocks and the renderers of blocks, parts of several models
plots/        plots as pure data, and what draws them
page/         reports with their plots as one HTML file

A report is a subclass of `Report` in a file here, and a line in `registry.py`. Its `blocks` are the document:

    class PowerReport(Report):
        row_field: ClassVar[str] = "scenarios"
        schema_: Literal["gradience.power/3"] = Field(default="gradience.power/3", alias="schema")
        scenarios: tuple[Scenario, ...]

        def blocks(self) -> Document:
            names = table_of(self.scenarios, (Column("variant"), lambda row: Span(row.name, "name")))
            return [Heading("Power", level=1), names]

`print`, a terminal, Markdown, a notebook and a page all come from these blocks. Where a screen shows less, the report
has a `screen`; options of a verb are keywords of its `to_text`. A plot is a line in `plots`: a function of `plots/`,
and how the title of its section begins.

Blocks hold text, never markup: a stranger's name is `Span(name, "name")`, sentences that contain names are plain
strings, and each renderer escapes all text once. A kind of block is one dataclass in `base/blocks.py` and one `case` in
each renderer. A section looks the same on every screen from 60 columns up: sentences wrap, columns with `drop` are left
out, names are shortened as far as they stay apart.
"""
