"""`gradience merge`: several adapters of one base merged into one, and tested on each parent's examples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gradience.cli.exit_codes import ExitCode, code_of_grades
from gradience.cli.options import CodeSettings
from gradience.cli.output import ReportOutput
from gradience.merge.settings import MergeSettings
from gradience.settings import required_output

if TYPE_CHECKING:
    from gradience.reports.merge import MergeReport


def merge(settings: MergeSettings, code: CodeSettings, out: ReportOutput) -> int:
    """The weighted sum is exact and its truncation error is stated; without --data no model is loaded.

    Exit codes with --data: 0 the drop from every parent is shown to be below the margin, 8 for some parents it is not
    shown, 1 the merged adapter is worse than a parent, 4 a comparison could not be made.

    Examples:

      gradience merge ./arithmetic ./sorting -o merged

      gradience merge ./arithmetic ./sorting --method svd --rank 16 --weights 0.7,0.7 -o merged

      gradience merge ./arithmetic ./sorting --method ties --data A=sums.jsonl --data B=lists.jsonl -o merged
    """
    output = required_output(settings.output, "DIR", dry_run=False)
    from gradience.card import card_of
    from gradience.files.card import write_card
    from gradience.merge.verb import DOCUMENT, merge_adapters
    from gradience.reports.merge import REPORT

    with code.allowing():
        call = (
            out.watch(merge_adapters, settings)
            if settings.data
            else out.run(merge_adapters, settings, f"merging into {Path(output).name}")
        )
    write_card(output, card_of(output))
    out.show(call)
    out.written(output / REPORT, output / DOCUMENT)
    return code_of(call)


def code_of(report: MergeReport) -> ExitCode:
    """Return 4 if a comparison failed, 1 for a parent that the merge is worse than, 8 for one not shown, else 0."""
    return code_of_grades(
        row.merged.grade for row in (report.certificate.parents if report.certificate else ())
    )
