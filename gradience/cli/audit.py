"""`gradience audit`: measure the use of rank of an adapter."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY
from typing import Annotated, Any

from pydantic import Field

import gradience
from gradience.audit.options import AuditSettings
from gradience.cli.console import show_error
from gradience.cli.shared import LayersOutput, print_json, print_screen, print_text
from gradience.errors import GradienceError, IncompleteError, UsageError
from gradience.files.shared_names import given_text
from gradience.settings import Flag, Integer, settings_model, settings_of


@settings_model()
class AuditedSettings:
    """Inputs."""

    adapters: Annotated[Sequence[str], Flag("ADAPTER")] = ()
    """Adapter folder, Trainer checkpoint, .safetensors file or org/name on the hub. Several adapters are compared in
    one table."""
    _: KW_ONLY
    peft_dir: Annotated[str | None, Flag("DIR")] = None
    """Same as ADAPTER."""
    base_model: Annotated[str | None, Flag("NAME", "-b")] = None
    """Base model (folder or name): also reports each update's size relative to its base weight."""


@settings_model(kw_only=True)
class AuditOutput(LayersOutput):
    """Output."""

    layers: bool = False
    """Show every module and every finding."""
    top_wasteful: Annotated[Integer | None, Field(ge=0), Flag("N")] = None
    """List the N modules with the most unused rank."""
    suggest_per_layer: bool = False
    """Print only the suggested ranks, as a LoraConfig to copy."""


def audit(inputs: AuditedSettings, given: Annotated[dict[str, Any], AuditSettings], out: AuditOutput) -> int:
    """Reads only the adapter: no base model, no GPU, no PyTorch. Exit code 4: a part could not be measured, or
    nothing was trained.

    Examples:

      gradience audit ./my_adapter

      gradience audit --peft-dir ./my_adapter --layers

      gradience audit run/checkpoint-*

      gradience audit org/name@revision:folder
    """
    paths = [*inputs.adapters, *([inputs.peft_dir] if inputs.peft_dir else [])]
    _check_usage(paths, given, out)
    # Set before numpy is imported: its BLAS would start one thread for each core, and they busy-wait at first.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    base = {} if inputs.base_model is None else _base(inputs.base_model)
    reports: list[tuple[str, gradience.AuditReport]] = []
    troubles: list[GradienceError] = []
    for number, path in enumerate(paths, start=1):
        label = path if len(paths) == 1 else f"{path} ({number} of {len(paths)})"
        try:
            report = out.run(
                gradience.audit_adapter, settings_of(AuditSettings, {"path": path, **base, **given}), label
            )
        except GradienceError as error:
            if len(paths) == 1:
                raise
            show_error(str(error), error.hint)
            troubles.append(error)
            continue
        reports.append((path, report))
        if out.json:
            print_json(report)
    if reports:
        out.save_page(*(report for _, report in reports))
    if reports and not (out.json or out.quiet):
        _print_screen(reports, out, table=len(paths) > 1)
    for path, report in reports:
        if incomplete := _incomplete(report, path, layers=out.layers):
            show_error(str(incomplete), incomplete.hint)
            troubles.append(incomplete)
    return max((trouble.exit_code for trouble in troubles), default=0)


def _print_screen(
    reports: Sequence[tuple[str, gradience.AuditReport]], out: AuditOutput, *, table: bool
) -> None:
    """Print the audit of one adapter or its LoraConfig, or a table of several with one path per row."""
    from gradience.reports.audit import audits_blocks
    from gradience.reports.base import terminal

    path, report = reports[0]
    if table:
        named = [(one, one.adapter.model_copy(update={"path": given_text(path)})) for path, one in reports]
        rows = [one.model_copy(update={"adapter": adapter}) for one, adapter in named]
        print_screen(terminal.render, audits_blocks(rows))
    elif out.suggest_per_layer:
        _print_config(report, path)
    else:
        out.print(report, [path], out.top_wasteful)


def _base(name: str) -> dict[str, Any]:
    """Return the settings that name a base model, whose weights are fetched if they are on the hub."""
    from gradience.models.locate import locate
    from gradience.models.settings import ModelSettings

    folder = locate(ModelSettings(name=name), ("*.safetensors", "*.json")).folder
    return {"base_model": folder, "base_name": name}


def _check_usage(paths: Sequence[str], given: Mapping[str, Any], out: AuditOutput) -> None:
    """Refuse contradictory options before any work is done. Raises UsageError."""
    if not paths:
        raise UsageError(
            "no adapter given", code="no-adapter", hint="give its folder: gradience audit ./my_adapter"
        )
    one_only = {
        "--output": "output" in given,
        "--append": "append" in given,
        "--layers": out.layers and not out.json,
        "--suggest-per-layer": out.suggest_per_layer and not out.json,
        "--top-wasteful": out.top_wasteful is not None and not out.json,
    }
    for option, is_given in one_only.items():
        if is_given and len(paths) > 1:
            raise UsageError(
                f"{option} takes one adapter, but {len(paths)} are given",
                code="one-adapter",
                hint="name one adapter; --json prints one line for each of several",
            )
    if out.suggest_per_layer and not out.json and (out.layers or out.top_wasteful is not None):
        raise UsageError(
            "--suggest-per-layer prints only a LoraConfig",
            code="config-only",
            hint="leave out --layers and --top-wasteful",
        )


def _print_config(report: gradience.AuditReport, path: str) -> None:
    """Print the LoraConfig. Raises IncompleteError if no rank is suggested."""
    from gradience.reports.audit import lora_config_source

    source = lora_config_source(report)
    if source is None:
        raise _incomplete(report, path) or IncompleteError(
            f"{given_text(path)}: no rank is suggested from this adapter",
            code="no-suggestion",
            hint="leave out --suggest-per-layer: the report gives the reason",
        )
    print_text(source)


def _incomplete(report: gradience.AuditReport, path: str, *, layers: bool = False) -> IncompleteError | None:
    """Return the reason for exit code 4, or None."""
    from gradience.reports.audit import incompleteness

    reason = incompleteness(report)
    if reason is None:
        return None
    hint = f"{'the table above lists' if layers else '--layers and --json list'} each module with its status"
    return IncompleteError(f"{given_text(path)}: incomplete: {reason}", code="incomplete-audit", hint=hint)
