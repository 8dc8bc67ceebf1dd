"""`gradience report`: what was found, as one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from gradience.cli.console import show_written
from gradience.cli.output import JsonOutput, check_page, print_facts, write_page
from gradience.settings import SETTINGS, Flag, StrPath, paths_of


@dataclass(frozen=True, config=SETTINGS)
class PageSettings(JsonOutput):
    """Page."""

    files: Annotated[Sequence[StrPath], Flag("FILE_OR_DIR")]
    """audit.json and what other verbs write, run.jsonl, a calibration; or the folder of a run."""
    _: KW_ONLY
    output: Annotated[
        StrPath, AfterValidator(check_page), Field(validate_default=True), Flag("FILE", "-o")
    ] = "report.html"
    """The page; an earlier page is replaced."""
    no_texts: bool = False
    """Leave out examples and answers: for private data."""
    quiet: Annotated[bool, Flag(short="-q")] = False
    """Do not print what was written."""


def report(settings: PageSettings) -> None:
    """Several reports become sections of one page. A folder stands for the reports in it and directly below it;
    checkpoints without an audit.json are audited.

    Examples:

      gradience report audit.json

      gradience report runs/mine -o mine.html

      gradience report checkpoint-*/audit.json run.jsonl -o training.html
    """
    from gradience.digests import sha256_bytes
    from gradience.reports.base.numbers import size
    from gradience.sources import read_sources

    output, sources = Path(settings.output), read_sources(paths_of(settings.files))
    page = write_page(output, sources, texts=not settings.no_texts)
    if settings.json:
        made_from = [
            {"file": source.name, "schema": source.report.schema_id, "sha256": source.sha256 or None}
            for source in sources
        ]
        sha256 = sha256_bytes(page).hex()
        print_facts({"page": str(output), "bytes": len(page), "sha256": sha256, "from": made_from})
    elif not settings.quiet:
        show_written(f"{output} ({size(len(page))})")
