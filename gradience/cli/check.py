"""`gradience check`: is anything wrong with this configuration, before it costs a training?"""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from gradience.cli.console import wants_colour
from gradience.cli.exit_codes import ExitCode
from gradience.cli.output import print_text, terminal_width


class Task(StrEnum):
    """What the adapter is for."""

    CLASSIFICATION = "classification"
    GENERATION = "generation"
    REASONING = "reasoning"
    RL = "rl"


def check(
    peft_dir: Annotated[
        Path | None, typer.Option("--peft-dir", metavar="DIR", help="Folder with an adapter_config.json.")
    ] = None,
    peft: Annotated[
        Path | None, typer.Option("--peft", metavar="FILE", help="An adapter configuration.")
    ] = None,
    training_dir: Annotated[
        Path | None,
        typer.Option("--training-dir", metavar="DIR", help="Folder with a training configuration."),
    ] = None,
    training: Annotated[
        Path | None,
        typer.Option(
            "--training",
            metavar="FILE",
            help="Trainer arguments (JSON, YAML) or YAML of TRL, Axolotl, LLaMA-Factory or Unsloth.",
        ),
    ] = None,
    task: Annotated[Task | None, typer.Option("--task", help="What the adapter is for.")] = None,
    base_config: Annotated[
        Path | None,
        typer.Option("--base-config", metavar="PATH", help="config.json of the base model, or its folder."),
    ] = None,
    completion_tokens: Annotated[
        int | None,
        typer.Option(
            "--completion-tokens", metavar="N", min=1, help="Tokens that are trained on, all epochs once."
        ),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show sources, and the rules that found nothing.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> int:
    """Look for what is wrong, unusual or refused in a LoRA configuration before it is trained.

    One file may hold both sides. A pickled training_args.bin is never opened. Exit code 1: an error was found.

    Examples:

      gradience check --peft-dir ./my_adapter

      gradience check --training axolotl.yaml --task generation

      gradience check --peft adapter_config.json --training-dir ./run --json
    """
    from gradience.check import check_configs
    from gradience.report.check import check_text

    report = check_configs(
        peft=peft,
        training=training,
        peft_dir=peft_dir,
        training_dir=training_dir,
        task=task.value if task else None,
        base_config=base_config,
        completion_tokens=completion_tokens,
    )
    if json:
        sys.stdout.write(report.to_json(None) + "\n")
    else:
        print_text(
            check_text(report, width=terminal_width(), color=wants_colour(sys.stdout), verbose=verbose)
        )
    errors = any(finding.severity == "error" for finding in report.findings)
    return ExitCode.GATE_FAILED if errors else ExitCode.DONE
