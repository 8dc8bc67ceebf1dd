"""`gradience bench run`: a config to a verdict."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gradience.cli.bench_codes import Required, RequireGrade, ended
from gradience.cli.bench_configs import complete_config
from gradience.cli.console import show_note, show_written
from gradience.cli.engine import name_engine_python
from gradience.cli.exit_codes import ExitCode
from gradience.cli.options import EnginePython
from gradience.cli.output import command_line, print_result
from gradience.cli.page import Html, NoTexts, shows_texts
from gradience.words import noun

if TYPE_CHECKING:
    from gradience.bench.config.load import BenchConfig


def run(
    config: Annotated[
        str,
        typer.Option(
            "--config",
            "-c",
            metavar="CONFIG",
            autocompletion=complete_config,
            help="A YAML file, or a name that gradience bench configs lists.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Folder of the run; with the same folder an interrupted run resumes.",
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Settings that replace those of the config."),
    ] = None,
    only_seed: Annotated[
        int | None,
        typer.Option("--only-seed", metavar="N", help="Run only this one of the planned seeds."),
    ] = None,
    smoke: Annotated[
        bool,
        typer.Option(
            "--smoke", help="A shortened run to see that everything works; its results are no evidence."
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Check the inputs and print what would be done and what it would cost."
        ),
    ] = False,
    allow_code: Annotated[
        bool,
        typer.Option(
            "--allow-code", help="Let the config's own task run its code (also: GRADIENCE_ALLOW_CODE=1)."
        ),
    ] = False,
    engine_python: EnginePython = None,
    require_grade: RequireGrade = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    html: Html = None,
    no_texts: NoTexts = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress messages.")] = False,
) -> int:
    """Train, audit, make smaller adapters, evaluate them and decide.

    Exit codes: 0 a smaller adapter passes, 1 none does, 8 nothing can be concluded, 4 a stage ended in an error or
    planned seeds are missing.

    Examples:

      gradience bench run --config minilm_reviews_demo --output out

      gradience bench run -c my.yaml -o out train.lr=1e-4 'seeds=[1, 2, 3]'
    """
    from gradience.bench.config.load import load_config
    from gradience.bench.config.shipped import find_config
    from gradience.errors import UsageError
    from gradience.tasks.user_code import allowing

    texts = shows_texts(html, no_texts=no_texts)
    name_engine_python(engine_python)
    given = [*(overrides or []), *(["run_type=smoke"] if smoke else [])]
    given += [] if only_seed is None else [f"only_seed={only_seed}"]
    loaded = load_config(find_config(config), given)
    for note in loaded.notes:
        show_note(note)
    with allowing(allow_code):
        if dry_run:
            return _show_plan(loaded, as_json=json_output, html=html, texts=texts)
        if output is None:
            raise UsageError(
                "no --output given",
                code="no-output",
                hint="give --output DIR, or --dry-run to see what would be done",
            )
        return _run(loaded, output, require_grade, as_json=json_output, html=html, texts=texts, quiet=quiet)


def _show_plan(config: BenchConfig, *, as_json: bool, html: Path | None, texts: bool) -> int:
    from gradience.report.forecast import forecast_text

    need_libraries()
    from gradience.bench.plan.forecast import forecast

    print_result(forecast_text, forecast(config), as_json=as_json, html=html, texts=texts)
    return ExitCode.DONE


def _run(
    config: BenchConfig,
    output: Path,
    require_grade: Required | None,
    *,
    as_json: bool,
    html: Path | None,
    texts: bool,
    quiet: bool,
) -> int:
    from gradience.cli.progress import StageProgress
    from gradience.report.bench import aggregate_text, bench_text
    from gradience.report.faces import to_markdown

    need_libraries()
    from gradience.bench.run.bench import run_bench
    from gradience.files.digests import root_of

    with StageProgress(quiet=quiet) as watcher:
        benches, together = run_bench(config, output, watcher, page_of=to_markdown, command=command_line())
    root = root_of(output)
    if root is not None:
        say_root(output, root)
    missing = [row.seed for row in together.seeds if row.source is None] if together else []
    result = benches[-1] if missing or together is None else together
    draw = bench_text if result is benches[-1] else aggregate_text
    whole = result is together or len(config.seeds) == 1
    folder = output if whole else output / f"seed_{benches[-1].seed}"
    print_result(draw, result, as_json=as_json, html=html, folder=folder, texts=texts)
    if not as_json:
        name = "bench_aggregate" if together else "bench"
        show_written(f"{output / name}.json, {name}.md")
    if not missing:
        return ended(result, require_grade)
    seeds = ", ".join(map(str, missing))
    print(
        f"missing: {noun(len(missing), 'seed')} {seeds}, of {len(config.seeds)} that are planned: a seed that"
        " is not run counts as failed (--only-seed N runs one; without it, all)",
        file=sys.stderr,
    )
    return ExitCode.INCOMPLETE


def say_root(output: Path, root: str) -> None:
    """Tell the digest that stands for the whole folder, for whoever publishes it."""
    print(f"root: {root} (sha256 of {output / 'digests.json'})", file=sys.stderr)


def need_libraries() -> None:
    """Check that the libraries of a run and its forecast are there. Raises MissingExtra."""
    import warnings

    from gradience.errors import require

    for module in ("torch", "transformers", "peft", "accelerate", "datasets"):
        require(module, extra="hf")
    # Warnings of the libraries about each other; ours go through the log.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft|torch)\b")
