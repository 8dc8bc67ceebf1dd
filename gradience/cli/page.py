"""`--html FILE`: a report as one HTML file, and what may not be replaced by it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gradience.errors import UsageError, require

if TYPE_CHECKING:
    from gradience.report.inputs import Source
    from gradience.reports.base.report import Report


def check_page(output: Path | None) -> Path | None:
    """Refuse, before any work is done, a page that cannot be written.

    An earlier page is replaced, and no other file. Raises UsageError (`not-ours`), MissingExtra without jinja2.
    """
    if output is None:
        return None
    from gradience.report.page.render import is_page

    require("jinja2", extra="report")
    if os.path.lexists(output) and not is_page(output):
        raise UsageError(
            f"{output}: there already, and no page that Gradience wrote, so it is not replaced",
            code="not-ours",
            hint="choose another file",
        )
    return output


Html = Annotated[
    Path | None,
    typer.Option(
        "--html",
        metavar="FILE",
        callback=check_page,
        help="Also write the report as one HTML file (needs the extra report).",
    ),
]


NoTexts = Annotated[
    bool,
    typer.Option(
        "--no-texts", help="Leave examples and answers out of the page of --html: for private data."
    ),
]


def shows_texts(output: Path | None, *, no_texts: bool) -> bool:
    """Return whether the page quotes examples and answers. Raises UsageError (`no-page`) where no page is asked for."""
    if no_texts and output is None:
        raise UsageError(
            "--no-texts is about the page of --html, and none is asked for",
            code="no-page",
            hint="leave --no-texts out, or add --html FILE",
        )
    return not no_texts


def page_of_a_report(output: Path | None, *, dry_run: bool) -> None:
    """Refuse a page of a plan that is a few facts and no report. Raises UsageError (`no-page`)."""
    if output is not None and dry_run:
        raise UsageError(
            "--html and --dry-run do not go together here: a plan of needs is no report",
            code="no-page",
            hint="leave one of them out",
        )


def save_page(output: Path, sources: Sequence[Source], *, texts: bool = True) -> bytes:
    """Write the page and return it. texts: whether examples are quoted. Raises OutputError (write-failed)."""
    from gradience.files.whole import write_whole
    from gradience.report.page.render import to_page

    page = to_page(sources, texts=texts).encode()
    write_whole(output, [page])
    return page


def save_report(
    output: Path | None, *reports: Report, folder: Path | None = None, texts: bool = True
) -> None:
    """Write the page of `--html`; nothing where it was not asked for.

    folder: where the records of the reports lie. texts: whether examples are quoted.
    """
    if output is None:
        return
    from gradience.report.inputs import Source, verification_of

    save_page(
        output,
        [
            Source("", report, verify=verification_of(report, folder) if folder else "", folder=folder)
            for report in reports
        ],
        texts=texts,
    )
