"""`gradience report`: reports as one HTML file."""

from collections.abc import Sequence
from dataclasses import KW_ONLY
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from gradience.cli.console import show_written
from gradience.cli.output import JsonOutput, page_path, print_facts
from gradience.settings import Flag, StrPath, paths_of, settings_model


@settings_model()
class PageSettings:
    """Page."""

    files: Annotated[Sequence[StrPath], Flag("FILE_OR_DIR")]
    """Report of any command, run.jsonl, or calibration; or the folder of a run."""
    _: KW_ONLY
    output: Annotated[
        StrPath, AfterValidator(page_path), Field(validate_default=True), Flag("FILE", "-o")
    ] = "report.html"
    """The page; an earlier page is replaced."""
    no_texts: bool = False
    """Leave out examples and answers: for private data."""


@settings_model(kw_only=True)
class WrittenOutput(JsonOutput):
    """Output."""

    quiet: Annotated[bool, Flag(short="-q")] = False
    """Do not print what was written."""


def report(settings: PageSettings, out: WrittenOutput) -> None:
    """Several reports become sections of one page. For a folder, its reports and those directly below it are read;
    checkpoints without an audit.json are audited.

    Examples:

      gradience report audit.json

      gradience report runs/mine -o mine.html

      gradience report checkpoint-*/audit.json run.jsonl -o training.html
    """
    from gradience.digests import sha256_bytes
    from gradience.reports.base.numbers import size
    from gradience.reports.page.render import write_page
    from gradience.sources import read_sources

    sources = read_sources(paths_of(settings.files))
    page = write_page(Path(settings.output), sources, texts=not settings.no_texts)
    if out.json:
        read = [
            {"file": source.name, "schema": source.report.schema_id, "sha256": source.sha256 or None}
            for source in sources
        ]
        facts = {"page": str(settings.output), "bytes": len(page), "sha256": sha256_bytes(page).hex()}
        print_facts({**facts, "from": read})
    elif not out.quiet:
        show_written(f"{settings.output} ({size(len(page))})")
