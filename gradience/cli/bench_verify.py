"""`gradience bench verify`: does the folder of a run agree with itself, and with what was published?"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from gradience.cli.exit_codes import ExitCode
from gradience.cli.output import command_line, print_result
from gradience.cli.page import Html, NoTexts, shows_texts


def verify(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder of a finished run, or of one of its seeds.")
    ],
    root: Annotated[
        str | None,
        typer.Option(
            "--root",
            metavar="SHA256",
            help="What the sha256 of its digests.json must be, from where the result was published.",
        ),
    ] = None,
    allow_code: Annotated[
        bool,
        typer.Option(
            "--allow-code", help="Let the run's own task mark its answers (also: GRADIENCE_ALLOW_CODE=1)."
        ),
    ] = False,
    regenerate: Annotated[
        int | None,
        typer.Option(
            "--regenerate",
            metavar="K",
            min=1,
            help="Also let every adapter whose weights are there answer K examples again, or a few more: whole batches."
            " Needs the model, the data and PyTorch.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the verification as JSON.")] = False,
    html: Html = None,
    no_texts: NoTexts = False,
) -> int:
    """Check a finished run, without a model and without PyTorch.

    Digests, scores of the stored answers, counts, verdicts, aggregate and pages are made again and compared; what
    cannot be verified so is listed. Only --regenerate needs the model. Exit codes: 0 nothing disagrees, 1 something
    does.

    Examples:

      gradience bench verify runs/mine

      gradience bench verify runs/mine --root 5e2dad3437c42908dacc05164a5c6fa313983eef2258ffe9ef34b4997834ae43

      gradience bench verify runs/mine --regenerate 16
    """
    from gradience.bench.verify.verify import verify_run
    from gradience.report.faces import to_markdown
    from gradience.report.verification import verification_text
    from gradience.tasks.user_code import allowing

    texts = shows_texts(html, no_texts=no_texts)
    again = None
    if regenerate is not None:
        from gradience.bench.verify.regenerate import regenerated

        again = partial(regenerated, least=regenerate)
    with allowing(allow_code):
        report = verify_run(folder, root=root, page_of=to_markdown, regenerate=again, command=command_line())
    print_result(verification_text, report, as_json=json, html=html, texts=texts)
    return ExitCode.DONE if report.verified else ExitCode.GATE_FAILED
