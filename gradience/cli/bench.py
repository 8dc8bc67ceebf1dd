"""`gradience bench`: does a smaller adapter stay within the margin? One file for its verbs, starting with `run`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

import gradience
from gradience.bench.settings import AggregateSettings, BenchSettings, ExportSettings, StatusSettings
from gradience.cli.console import show_root, show_written
from gradience.cli.exit_codes import ExitCode
from gradience.cli.flags import with_flags
from gradience.cli.help import Group, Verb
from gradience.cli.shared import CodeSettings, JsonOutput, TextsOutput, command_line, print_screen
from gradience.settings import Flag, call, required_output, settings_model

bench = typer.Typer(
    name="bench",
    help="A fixed protocol, with verdicts from counts of examples.",
    cls=Group,
    rich_markup_mode=None,
)


@settings_model(kw_only=True)
class BenchOutput(TextsOutput):
    """Output."""

    require_grade: Annotated[Literal["A", "B"] | None, Flag("GRADE")] = None
    """Exit with 0 only if a passing variant has at least this grade. Otherwise a PASS exits with 8, or with 1 if all
    passing variants are D or X."""


def run(settings: BenchSettings, code: CodeSettings, out: BenchOutput) -> int:
    """Train, audit, make smaller adapters, evaluate them and decide.

    Exit codes: 0 if a smaller adapter passes, 1 if none does, 8 if nothing can be concluded, 4 if a stage failed or
    planned seeds are missing.

    Examples:

      gradience bench run --config minilm_reviews_demo --output out

      gradience bench run -c my.yaml -o out train.lr=1e-4 'seeds=[1, 2, 3]'
    """
    out.refuse_page(dry_run=settings.dry_run)
    with code.allowing():
        result = out.watch(gradience.run_bench, settings)
    if not isinstance(result, gradience.Bench | gradience.BenchAggregate):
        out.show_aloud(result)
        return ExitCode.DONE
    output = required_output(settings.output, "DIR")
    show_root(output)
    out.show_aloud(result, folder=output)
    if not out.json:
        name = "bench_aggregate" if isinstance(result, gradience.BenchAggregate) else "bench"
        show_written(*(output / f"{name}.{suffix}" for suffix in ("json", "md")))
    return ended(result, out.require_grade)


def code_of(status: str) -> ExitCode:
    """Return 0 for PASS (and SKIPPED: nothing to compress), 1 FAIL, 8 no evidence, 4 something ended in an error."""
    codes = {"FAIL": ExitCode.GATE_FAILED, "ERROR": ExitCode.INCOMPLETE}
    codes |= dict.fromkeys(("PASS", "SKIPPED"), ExitCode.DONE)
    return codes.get(status, ExitCode.INCONCLUSIVE)


def ended(result: gradience.Bench | gradience.BenchAggregate, required: str | None) -> ExitCode:
    """Return the exit code of a result, and say on stderr if a required grade is missed.

    A result that does not pass the policy keeps its own code. A pass without a grade misses any required grade: 8.
    """
    code = code_of(result.status)
    if required is None or code is not ExitCode.DONE:
        return code
    grades = {
        variant.name: variant.evidence.grade
        for variant in result.candidates
        if variant.status == "PASS" and variant.evidence is not None and variant.evidence.grade is not None
    }
    best = min(grades.values(), default=None)  # A comes first
    if best is not None and best <= required:
        return code
    if best is None:
        print(f"required: grade {required}; nothing that passes has a grade", file=sys.stderr)
        return ExitCode.INCONCLUSIVE
    names = ", ".join(name for name, grade in grades.items() if grade == best)
    print(f"required: grade {required}; the best of what passes is {best}: {names}", file=sys.stderr)
    return ExitCode.GATE_FAILED if best in ("D", "X") else ExitCode.INCONCLUSIVE


def status(settings: StatusSettings, out: JsonOutput) -> None:
    """Show how far a run is: finished, running and failed stages.

    Reads the folder of the run and changes nothing. Needs no PyTorch.

    Examples:

      gradience bench status runs/mine

      watch -n 5 gradience bench status runs/mine
    """
    from gradience.bench.verb import status as run

    out.print(call(run, settings))


def export(settings: ExportSettings) -> None:
    """Export results to Every Eval Ever or the Hugging Face hub.

    Examples:

      gradience bench export runs/mine --to eee -o every_eval_ever

      gradience bench export runs/gsm8k --to hub -o eval_results
    """
    from gradience.bench.verb import export as run

    show_written(f"{len(call(run, settings))} files in {settings.output}")


def configs() -> None:
    """List the configs that come with Gradience.

    To run one: gradience bench run --config NAME --output DIR; with --dry-run to see what it would cost.
    """
    from gradience.bench.settings import config_titles
    from gradience.reports.base import terminal
    from gradience.reports.base.blocks import Document, Facts, Span

    rows: Document = [Facts([(name, Span(title)) for name, title in config_titles().items()])]
    print_screen(terminal.render, rows)


def aggregate(settings: AggregateSettings, out: BenchOutput) -> int:
    """Combine the seeds of one protocol and apply the policy.

    Not combined: different models, data or settings, a seed twice, smoke runs, runs that are not independent.
    Exit codes: 0 PASS or SKIPPED, 1 FAIL, 8 INCONCLUSIVE or UNDERTRAINED, 4 a planned seed ended in an error
    or has no result.

    Examples:

      gradience bench aggregate runs/seed42 runs/seed123 runs/seed456 --output runs/all
    """
    from gradience.bench.verb import aggregate as run

    report = call(run, settings, command=command_line())
    output = None if settings.output is None else Path(settings.output)
    if output is not None:
        show_root(output)
    out.show(report, folder=output)
    return ended(report, out.require_grade)


for command in (run, status, export, configs, aggregate):
    bench.command(cls=Verb)(with_flags(command))
