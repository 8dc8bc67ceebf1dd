"""`gradience compress --fleet`: every adapter of a fleet.jsonl brought to one rank."""

from __future__ import annotations

from typing import Any

import typer

from gradience.cli.exit_codes import ExitCode
from gradience.cli.options import bytes_of
from gradience.cli.output import command_line, print_result
from gradience.cli.progress import ProgressBar
from gradience.errors import UsageError

TAKEN = ("encoding", "to", "dtype", "strip", "base_model", "allow_pickle", "force")
"""Options of `gradience compress` that hold for every adapter of a fleet."""
DOCUMENT = "fleet_compression.md"
BESIDE = ("fleet", "output", "to_rank", "root", "json", "html", "quiet", "max_memory")


def compress_batch(context: typer.Context) -> int:
    """Run the batch that the options of `gradience compress` describe, print its report, return the exit code."""
    given: dict[str, Any] = context.params
    _check_usage(given)
    from gradience.files.whole import write_whole
    from gradience.fleet.batch import compress_fleet
    from gradience.report.faces import to_markdown
    from gradience.report.fleet_compression import fleet_compression_text

    limit = bytes_of(given["max_memory"])
    options = {name: given[name] for name in TAKEN if given[name]}
    with ProgressBar("compressing adapters", quiet=given["quiet"]) as progress:
        report = compress_fleet(
            given["fleet"],
            given["output"],
            rank=given["to_rank"],
            root=given["root"] or ".",
            **options,
            max_memory=limit,
            progress=progress,
            command=command_line(),
        )
    write_whole(given["output"] / DOCUMENT, [to_markdown(report).encode()])
    print_result(
        fleet_compression_text, report, as_json=given["json"], quiet=given["quiet"], html=given["html"]
    )
    return ExitCode.INCOMPLETE if report.failed else ExitCode.DONE


def _check_usage(given: dict[str, Any]) -> None:
    """Raise UsageError for what is missing, and for what one adapter alone can have."""
    if given["to_rank"] is None:
        raise UsageError("--fleet needs --to-rank", code="no-to-rank", hint="such as --to-rank 16")
    if given["output"] is None:
        raise UsageError("--fleet needs --output", code="no-output", hint="give --output DIR")
    other = [name for name, value in given.items() if value and name not in (*TAKEN, *BESIDE)]
    if other:
        shown = "ADAPTER" if "adapter" in other else f"--{other[0].replace('_', '-')}"
        raise UsageError(
            f"{shown} and --fleet do not go together",
            code="fleet-alone",
            hint="a fleet takes --to-rank, --root, --encoding, --to, --dtype, --strip, --base-model,"
            " --allow-pickle and --force",
        )
