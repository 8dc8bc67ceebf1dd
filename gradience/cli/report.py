"""`gradience report`: what was found, as one HTML file."""

from typing import Annotated

from gradience.cli.console import show_written
from gradience.cli.output import JsonOutput, print_facts
from gradience.settings import Flag, call, settings_model
from gradience.sharing import PageSettings, report_page


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

    page = call(report_page, settings)
    if out.json:
        made_from = [
            {"file": source.name, "schema": source.report.schema_id, "sha256": source.sha256 or None}
            for source in page.sources
        ]
        facts = {"page": str(settings.output), "bytes": len(page.content)}
        print_facts(facts | {"sha256": sha256_bytes(page.content).hex(), "from": made_from})
    elif not out.quiet:
        show_written(f"{settings.output} ({size(len(page.content))})")
