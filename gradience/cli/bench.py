"""`gradience bench`: is the smaller adapter as good? One file for its verbs; `run` stands first."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gradience.cli.bench_run import code_of, run
from gradience.cli.output import command_line, print_json, print_screen
from gradience.errors import UsageError

bench = typer.Typer(
    name="bench",
    help="Is the smaller adapter as good? A fixed protocol, several seeds, verdicts in counts.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


bench.command()(run)

Folders = Annotated[
    list[Path],
    typer.Argument(
        metavar="DIR", help="Folders of finished runs: with a bench.json, or with seed_<n>/bench.json."
    ),
]


@bench.command()
def aggregate(
    folders: Folders,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Write bench_aggregate.json and bench_aggregate.md there."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the aggregate as JSON.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an aggregate that is there.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No report.")] = False,
) -> int:
    """Put the seeds of one protocol together and apply the safety policy.

    Refused: another model, data or recipe, a seed twice, smoke runs, runs that are not independent. A planned seed
    without a result is a failed seed. Exit code: 0 PASS, 1 FAIL, 8 INCONCLUSIVE, 4 a seed ended in an error.

    Examples:

      gradience bench aggregate runs/seed42 runs/seed123 runs/seed456 --output runs/all
    """
    from gradience.bench.verdict.folders import AGGREGATE, DOCUMENT, aggregate_folders
    from gradience.report.bench import aggregate_text
    from gradience.report.faces import to_markdown

    if output is not None and (output / AGGREGATE).exists() and not force:
        raise UsageError(
            f"{output / AGGREGATE} exists already", code="output-exists", hint="--force replaces it"
        )
    report = aggregate_folders(folders, command=command_line())
    if output is not None:
        from gradience.artifacts.whole import write_whole

        output.mkdir(parents=True, exist_ok=True)
        report.save(output / AGGREGATE)
        write_whole(output / DOCUMENT, [to_markdown(report).encode()])
    if json:
        print_json(report)
    elif not quiet:
        print_screen(aggregate_text, report)
    return code_of(report.status)


@bench.command()
def summary(folders: Folders) -> None:
    """Print one table over runs of all sizes: model, parameters, task, compression, status.

    Examples:

      gradience bench summary runs/minilm runs/smollm2 runs/mistral
    """
    from gradience.bench.verdict.folders import read_results
    from gradience.report.bench import summary_text

    print_screen(summary_text, read_results(folders))
