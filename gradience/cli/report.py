"""`gradience report`: what was found, as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gradience.cli.console import show_written
from gradience.cli.options import Quiet
from gradience.cli.page import check_page, save_page


def report(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE_OR_DIR...",
            help="audit.json and what other verbs write, run.jsonl, a calibration; or the folder of a run.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            callback=check_page,
            help="The page; an earlier page is replaced.",
        ),
    ] = Path("report.html"),
    no_texts: Annotated[
        bool,
        typer.Option("--no-texts", help="Leave out examples and answers: for private data."),
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print what the page was made from, and its sha256, as JSON.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Several reports become sections of one page. A folder stands for the reports in it and in its direct subfolders;
    checkpoints without an audit.json are audited.

    Examples:

      gradience report audit.json

      gradience report runs/mine -o mine.html

      gradience report checkpoint-*/audit.json run.jsonl -o training.html
    """
    from gradience.report.inputs import read_sources

    sources = read_sources(files)
    page = save_page(output, sources, texts=not no_texts)
    if json:
        from json import dumps

        from gradience.digests import sha256_bytes
        from gradience.files.artifact import visible_json

        made_from = [
            {"file": source.name, "schema": source.report.schema_id, "sha256": source.sha256 or None}
            for source in sources
        ]
        facts = {
            "page": str(output),
            "bytes": len(page),
            "sha256": sha256_bytes(page).hex(),
            "from": made_from,
        }
        print(visible_json(dumps(facts, ensure_ascii=False)))
    elif not quiet:
        from gradience.reports.base.numbers import size

        show_written(f"{output} ({size(len(page))})")
