"""`gradience evidence`: two logs of an evaluation, example by example."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from gradience.cli.exit_codes import ExitCode
from gradience.cli.options import Quiet, ReportAsJson
from gradience.cli.output import command_line, print_result
from gradience.cli.page import Html, NoTexts, shows_texts


class Required(StrEnum):
    """Grades that two logs can reach and miss."""

    B = "B"
    C = "C"


def evidence(
    a: Annotated[
        Path, typer.Argument(metavar="A", help="The reference: a log of an evaluation, or a folder with one.")
    ],
    b: Annotated[Path, typer.Argument(metavar="B", help="The candidate: a log of the same examples.")],
    margin: Annotated[
        float | None,
        typer.Option(
            "--margin",
            metavar="M",
            help="How much worse B may be: in points for 0/1 scores (default: 2.5), else in the score's units.",
        ),
    ] = None,
    metric: Annotated[
        str | None, typer.Option("--metric", metavar="NAME", help="Which score, if the logs have several.")
    ] = None,
    filter: Annotated[
        str | None,
        typer.Option("--filter", metavar="NAME", help="lm-eval: which filter, if a task has several."),
    ] = None,
    lower_is_better: Annotated[
        bool, typer.Option("--lower-is-better", help="For losses and errors; needs --margin.")
    ] = False,
    flips: Annotated[
        int, typer.Option("--flips", metavar="N", min=0, help="Examples that B lost, and that it gained.")
    ] = 5,
    require_grade: Annotated[
        Required | None,
        typer.Option(
            "--require-grade",
            metavar="GRADE",
            help="B or C: exit with 8 for a C where B is required, with 1 for a D.",
        ),
    ] = None,
    json: ReportAsJson = False,
    html: Html = None,
    no_texts: NoTexts = False,
    quiet: Quiet = False,
) -> int | None:
    """Reports if B is as good as A, how sure that is, and the examples on which they differ.

    Reads samples of lm-eval (--log_samples), logs of Inspect (.eval), records of Every Eval Ever, and CSV, TSV or
    JSON lines with `id` and `score`.

    Examples:

      gradience evidence runs/base runs/lora --filter strict-match

      gradience evidence a.csv b.csv --require-grade B
    """
    from gradience.evidence.verb import compare_logs
    from gradience.report.evidence import evidence_text

    texts = shows_texts(html, no_texts=no_texts)
    report = compare_logs(
        a, b, margin=margin, metric=metric, filter=filter, lower_is_better=lower_is_better or None, flips=flips,
        command=command_line(),
    )  # fmt: skip
    print_result(evidence_text, report, as_json=json, quiet=quiet, html=html, texts=texts)
    if require_grade is None or report.grade <= require_grade:
        return ExitCode.DONE
    return ExitCode.INCONCLUSIVE if report.grade == "C" else ExitCode.GATE_FAILED
