"""`gradience shrink`: the smallest adapter that is shown to be as good on your own examples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gradience.cli.exit_codes import ExitCode
from gradience.cli.options import CodeSettings, DryRun, need_libraries, require_files, say_notes
from gradience.cli.output import TextsOutput, command_line
from gradience.shrink.settings import ShrinkSettings

if TYPE_CHECKING:
    from gradience.reports.shrink import ShrinkReport


def shrink(settings: ShrinkSettings, plan: DryRun, code: CodeSettings, out: TextsOutput) -> int:
    """Candidates are smaller copies, tested from the largest down until one is not shown to stay within the margin.

    Exit codes: 0 a candidate is shown, 8 none is shown or the plan was changed after the first answers, 1 the first
    candidate is worse, 4 a candidate could not be evaluated.

    Examples:

      gradience shrink ./my_adapter --base-model embedded:minilm --task reviews -o shrunk

      gradience shrink ./my_adapter -b ./base --data rows.jsonl --ranks 16,8,4 --margin 5 -o shrunk
    """
    with code.allowing():
        need_libraries()
        require_files(settings.data_file, settings.distill_prompts)
        from gradience.shrink import verb
        from gradience.shrink.plan import prepare

        if plan.dry_run:
            from gradience.shrink.plan import forecast_shrink

            out.show_aloud(forecast_shrink(prepare(settings)))
            return ExitCode.DONE
        from gradience.card import card_of
        from gradience.cli.console import show_root, show_written
        from gradience.cli.progress import StageProgress
        from gradience.reports.base.report import Report

        output = settings.folder
        verb.refuse_output(Path(settings.adapter), output)
        prepared = prepare(settings)
        say_notes(prepared.inputs, candidates=1, quiet=out.quiet)
        pages = verb.Pages(Report.to_markdown, card_of)
        with StageProgress(quiet=out.quiet) as watcher:
            report = verb.shrink(prepared, output, watcher, pages=pages, command=command_line())
        out.show(report, folder=output)
        if not out.quiet:
            adapter = "" if report.smallest is None else f", {verb.ADAPTER}/"
            show_written(f"{output / verb.SHRUNK}, {verb.DOCUMENT}{adapter}")
            show_root(output)
        return code_of(report)


def code_of(report: ShrinkReport) -> ExitCode:
    """Return 4 if a candidate could not be evaluated, 0 if one is shown, 1 if the first is worse, else 8.

    If the plan was changed after the first answers, what is shown is exploratory: 8.
    """
    statuses = {candidate.status for candidate in report.candidates}
    if "not evaluated" in statuses:
        return ExitCode.INCOMPLETE
    if report.smallest is not None:
        return ExitCode.INCONCLUSIVE if report.plan.changes else ExitCode.DONE
    return ExitCode.GATE_FAILED if "worse" in statuses else ExitCode.INCONCLUSIVE
