"""`gradience bench`: is the smaller adapter as good? One file for its verbs; `run` stands first."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gradience.cli.bench_codes import RequireGrade, ended
from gradience.cli.bench_configs import configs
from gradience.cli.bench_export import export
from gradience.cli.bench_power import power
from gradience.cli.bench_run import run, say_root
from gradience.cli.bench_status import status
from gradience.cli.bench_verify import verify
from gradience.cli.help import Group, Verb
from gradience.cli.output import command_line, print_result, print_screen
from gradience.cli.page import Html, NoTexts, shows_texts

bench = typer.Typer(
    name="bench",
    help="A fixed protocol, with verdicts from counts of examples.",
    cls=Group,
    rich_markup_mode=None,
)


bench.command(cls=Verb)(run)
bench.command(cls=Verb)(status)
bench.command(cls=Verb)(power)
bench.command(cls=Verb)(verify)
bench.command(cls=Verb)(export)
bench.command(cls=Verb)(configs)

Folders = Annotated[
    list[Path],
    typer.Argument(
        metavar="DIR", help="Folders of finished runs: with a bench.json, or with seed_N/bench.json."
    ),
]


@bench.command(cls=Verb)
def aggregate(
    folders: Folders,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Write bench_aggregate.json and bench_aggregate.md to DIR."
        ),
    ] = None,
    require_grade: RequireGrade = None,
    json: Annotated[bool, typer.Option("--json", help="Print the aggregate as JSON.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing aggregate.")] = False,
    html: Html = None,
    no_texts: NoTexts = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No report.")] = False,
) -> int:
    """Combine the seeds of one protocol and apply the safety policy.

    Not combined: different models, data or settings, a seed twice, smoke runs, runs that are not independent. A
    planned seed without a result counts as failed. Exit codes: 0 PASS, 1 FAIL, 8 INCONCLUSIVE, 4 a seed ended in
    an error.

    Examples:

      gradience bench aggregate runs/seed42 runs/seed123 runs/seed456 --output runs/all
    """
    from gradience.errors import require
    from gradience.files.whole import already_exists, write_whole

    require("scipy", extra="stats")
    from gradience.bench.verdict.folders import AGGREGATE, DOCUMENT, PLAN
    from gradience.bench.verify.verify import aggregate_checked
    from gradience.files.digests import write_digests
    from gradience.report.bench import aggregate_text
    from gradience.report.faces import to_markdown

    texts = shows_texts(html, no_texts=no_texts)
    if output is not None and (output / AGGREGATE).exists() and not force:
        raise already_exists(output / AGGREGATE)
    report = aggregate_checked(folders, command=command_line())
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        report.save(output / AGGREGATE)
        write_whole(output / DOCUMENT, [to_markdown(report).encode()])
        # a folder of its own holds nothing else that is ours; that of a run is listed as a whole
        say_root(output, write_digests(output, None if (output / PLAN).is_file() else (AGGREGATE, DOCUMENT)))
    print_result(aggregate_text, report, as_json=json, quiet=quiet, html=html, folder=output, texts=texts)
    return ended(report, require_grade)


@bench.command(cls=Verb)
def summary(folders: Folders) -> None:
    """Print one table of several runs: model, task, savings, status.

    Examples:

      gradience bench summary runs/minilm runs/smollm2 runs/mistral
    """
    from gradience.errors import require

    require("scipy", extra="stats")
    from gradience.bench.verdict.folders import read_results
    from gradience.report.bench import summary_text

    print_screen(summary_text, read_results(folders))
