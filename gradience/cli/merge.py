"""`gradience merge`: several adapters of one base merged into one, and tested on each parent's examples."""

from __future__ import annotations

from gradience.cli.exit_codes import code_of_grades
from gradience.cli.options import CodeSettings
from gradience.cli.output import ReportOutput
from gradience.merge.settings import MergeSettings
from gradience.settings import required_output


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
    from gradience.merge.verb import merge_adapters
    from gradience.reports.merge import DOCUMENT, REPORT

    with code.allowing():
        report = (
            out.watch(merge_adapters, settings)
            if settings.data
            else out.run(merge_adapters, settings, f"merging into {output.name}")
        )
    write_card(output, card_of(output))
    out.show(report)
    out.written(output / REPORT, output / DOCUMENT)
    tests = report.certificate.parents if report.certificate else ()
    return code_of_grades(row.merged.grade for row in tests)
