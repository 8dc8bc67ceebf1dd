"""`gradience check`: is anything wrong with this configuration, before it costs a training?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gradience.cli.exit_codes import ExitCode
from gradience.cli.options import ReportAsJson, one_of
from gradience.cli.output import print_result
from gradience.cli.page import Html


def _tasks() -> tuple[str, ...]:
    from gradience.check.settings import TASKS

    return TASKS


def check(
    configs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="CONFIG",
            help="Adapter folder, training folder or configuration file; several are read as one configuration.",
            show_default=False,
        ),
    ] = None,
    peft_dir: Annotated[
        Path | None,
        typer.Option("--peft-dir", metavar="DIR", help="Folder with an adapter_config.json, or org/name."),
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
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            "--dataset",
            metavar="NAME",
            help="Kind of task: classification, generation, reasoning, rl, or a name such as sst2 or gsm8k.",
            autocompletion=one_of(_tasks),
        ),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option("--lr", metavar="X", help="Check this learning rate instead of the file's."),
    ] = None,
    r: Annotated[
        int | None, typer.Option("--r", metavar="N", help="Check this rank instead of the file's.")
    ] = None,
    alpha: Annotated[
        float | None, typer.Option("--alpha", metavar="X", help="Check this α instead of the file's.")
    ] = None,
    base_config: Annotated[
        Path | None,
        typer.Option("--base-config", metavar="PATH", help="config.json of the base model, or its folder."),
    ] = None,
    completion_tokens: Annotated[
        int | None,
        typer.Option(
            "--completion-tokens", metavar="N", min=1, help="Tokens in all training completions of one epoch."
        ),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Also show sources, and the rules that found nothing.")
    ] = False,
    json: ReportAsJson = False,
    html: Html = None,
) -> int:
    """Reports what is wrong, unusual or not supported. One file may contain both the adapter's and the training's
    settings. A pickled training_args.bin is never opened. Exit code 1: an error was found.

    Examples:

      gradience check ./my_adapter

      gradience check axolotl.yaml --task generation --lr 1e-4

      gradience check --peft adapter_config.json --training-dir ./run --json
    """
    from gradience.check import check_config
    from gradience.report.check import check_text

    report = check_config(
        *(configs or []),
        peft=peft,
        training=training,
        peft_dir=peft_dir,
        training_dir=training_dir,
        task=task,
        lr=lr,
        r=r,
        alpha=alpha,
        base_config=base_config,
        completion_tokens=completion_tokens,
    )
    print_result(check_text, report, as_json=json, html=html, verbose=verbose)
    errors = any(finding.severity == "error" for finding in report.findings)
    return ExitCode.GATE_FAILED if errors else ExitCode.DONE
