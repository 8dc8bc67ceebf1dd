"""`gradience shrink`: the smallest adapter that is shown to be as good on your own examples."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gradience.cli.engine import name_engine_python
from gradience.cli.exit_codes import ExitCode
from gradience.cli.flags import with_flags
from gradience.cli.options import AllowCode, EnginePython, Quiet, ReportAsJson
from gradience.cli.output import command_line, print_result
from gradience.cli.page import Html, NoTexts, shows_texts
from gradience.settings import settings_of
from gradience.shrink.settings import ShrinkSettings

if TYPE_CHECKING:
    from gradience.reports.shrink import ShrinkReport
    from gradience.shrink.plan import Prepared


@with_flags(ShrinkSettings)
def shrink(
    given: dict[str, Any],
    engine_python: EnginePython = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Check the inputs; print candidates, memory and the margin that can be shown."
        ),
    ] = False,
    allow_code: AllowCode = False,
    json: ReportAsJson = False,
    html: Html = None,
    no_texts: NoTexts = False,
    quiet: Quiet = False,
) -> int:
    """Candidates are smaller copies, tested from the largest down on the same examples until one is not shown to hold.

    Exit codes: 0 a smaller one is shown to hold, 8 none is shown, 1 the first one tested is inferior, 4 one could not
    be evaluated.

    Examples:

      gradience shrink ./my_adapter --base-model embedded:minilm --task reviews -o shrunk

      gradience shrink ./my_adapter -b ./base --data rows.jsonl --ranks 16,8,4 --margin 5 -o shrunk
    """
    from gradience.cli.bench_run import need_libraries
    from gradience.shrink.plan import prepare
    from gradience.shrink.verb import refuse_output
    from gradience.tasks.user_code import allowing

    texts = shows_texts(html, no_texts=no_texts)
    name_engine_python(engine_python)
    with allowing(allow_code):
        settings = settings_of(ShrinkSettings, given)
        need_libraries()
        if dry_run:
            return _forecast(prepare(settings), as_json=json, html=html)
        refuse_output(Path(settings.adapter), settings.folder)
        return _shrink(prepare(settings), settings.folder, as_json=json, html=html, texts=texts, quiet=quiet)


def code_of(report: ShrinkReport) -> ExitCode:
    """Return 4 if a candidate could not be evaluated, 0 if one is shown to hold, 1 if the first is worse, else 8."""
    statuses = {candidate.status for candidate in report.candidates}
    if "not evaluated" in statuses:
        return ExitCode.INCOMPLETE
    if report.smallest is not None:
        return ExitCode.DONE
    return ExitCode.GATE_FAILED if "worse" in statuses else ExitCode.INCONCLUSIVE


def _forecast(prepared: Prepared, *, as_json: bool, html: Path | None) -> int:
    from gradience.report.shrink import shrink_forecast_text
    from gradience.shrink.forecast import forecast_shrink

    print_result(shrink_forecast_text, forecast_shrink(prepared), as_json=as_json, html=html)
    return ExitCode.DONE


def _shrink(
    prepared: Prepared, output: Path, *, as_json: bool, html: Path | None, texts: bool, quiet: bool
) -> int:
    from gradience.cli.console import beneath, show_note, show_written
    from gradience.cli.progress import StageProgress
    from gradience.evaluate.forecast import margins_of
    from gradience.report.card import card_of
    from gradience.report.evaluation import showable
    from gradience.report.faces import to_markdown
    from gradience.report.shrink import shrink_text
    from gradience.shrink.verb import ADAPTER, DOCUMENT, SHRUNK, Pages
    from gradience.shrink.verb import shrink as run

    for note in prepared.inputs.notes:
        show_note(note)
    if not quiet and not prepared.inputs.compares_nll:
        examples = len(prepared.inputs.examples)
        print(showable(examples, margins_of(examples, 1)), file=beneath(sys.stderr), flush=True)
    with StageProgress(quiet=quiet) as watcher:
        report = run(prepared, output, watcher, pages=Pages(to_markdown, card_of), command=command_line())
    print_result(shrink_text, report, as_json=as_json, quiet=quiet, html=html, folder=output, texts=texts)
    if not quiet:
        adapter = "" if report.smallest is None else f", {ADAPTER}/"
        show_written(f"{output / SHRUNK}, {DOCUMENT}{adapter}")
    return code_of(report)
