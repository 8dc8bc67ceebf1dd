"""`gradience shrink`: the smallest tested adapter whose drop is shown to be below the margin."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gradience.cli.console import show_root
from gradience.cli.exit_codes import ExitCode, code_of_grades
from gradience.cli.options import CodeSettings, require_files
from gradience.cli.output import TextsOutput
from gradience.shrink.settings import ShrinkSettings

if TYPE_CHECKING:
    from gradience.reports.shrink import ShrinkReport


def shrink(settings: ShrinkSettings, code: CodeSettings, out: TextsOutput) -> int:
    """Candidates are smaller copies of the adapter, tested from the largest down. The search stops at the first that
    is not shown to stay within the margin.

    Exit codes: 0 if a candidate is shown, 8 if none is shown or the plan was changed after the first answers, 1 if
    the first candidate is worse, 4 if a candidate could not be evaluated.

    Examples:

      gradience shrink ./my_adapter --base-model embedded:minilm --task reviews -o shrunk

      gradience shrink ./my_adapter -b ./base --data rows.jsonl --ranks 16,8,4 --margin 5 -o shrunk

      gradience shrink ./my_adapter -b ./base --data rows.jsonl --guard text --over strength -o weaker
    """
    require_files(settings.data_file, settings.prompts)
    out.refuse_page(dry_run=settings.dry_run)
    from gradience.card import card_of
    from gradience.evaluate.verb import JOINT
    from gradience.reports.evaluation_sets import EvaluationSetsReport
    from gradience.reports.shrink import ShrinkReport
    from gradience.shrink.strength import DEV, TEST
    from gradience.shrink.verb import ADAPTER, DOCUMENT, SHRUNK, shrink_adapter

    with code.allowing():
        result = out.watch(shrink_adapter, replace(settings, card=card_of))
    output = settings.folder
    if isinstance(result, EvaluationSetsReport):
        reports = [output / part / JOINT for part in (DEV, TEST)]
        out.save_page(*map(EvaluationSetsReport.read, reports))
        out.print(result)
        out.written(*reports, *filter(Path.is_dir, [output / ADAPTER]))
        return code_of_grades([row.grade for row in result.candidates] or ["C"])
    if not isinstance(result, ShrinkReport):
        out.show_aloud(result)
        return ExitCode.DONE
    out.show(result, folder=output, data=settings.data_file)
    adapter = [] if result.smallest is None else [ADAPTER]
    out.written(*(output / name for name in (SHRUNK, DOCUMENT, *adapter)))
    if not out.quiet:
        show_root(output)
    return code_of(result)


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
