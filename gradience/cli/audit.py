"""`gradience audit`: measure the use of rank of an adapter."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import KW_ONLY
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from gradience.audit.options import AuditSettings
from gradience.cli.console import show_error
from gradience.cli.output import LayersOutput, print_json, print_screen, print_text
from gradience.errors import GradienceError, IncompleteError, InputError, UsageError
from gradience.settings import SETTINGS, Flag, Integer, StrPath, settings_of

if TYPE_CHECKING:
    from gradience.reports.audit import AuditReport


@dataclass(frozen=True, config=SETTINGS)
class AuditedSettings:
    """Base model."""

    adapters: Annotated[Sequence[str], Flag("ADAPTER")] = ()
    """Folder of save_pretrained(), Trainer checkpoint, .safetensors file or org/name on the hub; several give one
    table."""
    _: KW_ONLY
    peft_dir: Annotated[str | None, Flag("DIR")] = None
    """Same as ADAPTER."""
    base_model: Annotated[str | None, Flag("NAME", "-b")] = None
    """Base model, a folder or a name: adds the size of each update relative to its weight."""
    no_cache: bool = False
    """Compute the norms of the base again, without the cache."""


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class AuditOutput(LayersOutput):
    """Output."""

    layers: bool = False
    """Show every module and every finding."""
    top_wasteful: Annotated[Integer | None, Field(ge=0), Flag("N")] = None
    """List the N modules with the most unused rank (default 3)."""
    suggest_per_layer: bool = False
    """Print only the suggested ranks, as a LoraConfig to copy."""
    output: Annotated[StrPath | None, Flag("FILE", "-o")] = None
    """Write audit.json to FILE."""
    append: Annotated[StrPath | None, Flag("RUN")] = None
    """Append a summary to the run.jsonl of its training."""
    force: bool = False
    """Allow --output to replace a file."""


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
    _check_usage(paths, out)

    def measure(path: str, label: str) -> AuditReport:
        from gradience.audit.adapter import audit_adapter

        report = out.run(audit_adapter, settings_of(AuditSettings, {"path": path, **given}), label)
        return report if inputs.base_model is None else _beside_base(report, path, inputs, given, out)

    if len(paths) > 1:
        return _several(paths, measure, out)
    report = measure(paths[0], paths[0])
    if out.output:
        report.save(out.output)
    if out.append:
        _append(report, Path(out.append))
    out.save_page(report)
    incomplete = _incomplete(report, paths[0], layers=out.layers)
    if out.json:
        print_json(report)
    elif out.suggest_per_layer:
        _print_config(report, paths[0])
    elif not out.quiet:
        shown = {"layers": out.layers, "top_wasteful": out.top_wasteful, "path": shlex.quote(paths[0])}
        print_screen(type(report).to_text, report, **shown)
    if incomplete:
        raise incomplete
    return 0


def _beside_base(
    report: AuditReport, path: str, inputs: AuditedSettings, given: dict[str, Any], out: AuditOutput
) -> AuditReport:
    """Return the report with the weights of the base model beside the updates."""
    from gradience.adapters.formats import open_adapter
    from gradience.audit.dominance import with_base
    from gradience.cli.progress import ProgressBar
    from gradience.models.locate import locate
    from gradience.models.settings import ModelSettings

    name = str(inputs.base_model)
    folder = locate(ModelSettings(name=name), ("*.safetensors", "*.json")).folder
    with ExitStack() as stack:
        progress = stack.enter_context(ProgressBar(f"reading {name}", quiet=out.quiet))
        opened = None
        if report.adapter.use_dora:
            which = {"adapter": given.get("adapter"), "allow_pickle": given.get("allow_pickle", False)}
            opened = stack.enter_context(open_adapter(Path(path), **which))
        return with_base(
            report, folder, name=name, adapter=opened, cache=not inputs.no_cache, progress=progress
        )


def _several(paths: Sequence[str], measure: Callable[[str, str], AuditReport], out: AuditOutput) -> int:
    """Audit each path in the order given, past those that fail, and return the highest exit code.

    With --json each report is printed as soon as it is there, and kept for a page only.
    """
    from gradience.files.shared_names import given_text
    from gradience.reports.audit_series import RefusedAdapter, trend_text

    entries: list[AuditReport | RefusedAdapter] = []
    troubles: list[GradienceError] = []
    for_page: list[AuditReport] = []
    for number, path in enumerate(paths, start=1):
        try:
            report = measure(path, f"{path} ({number} of {len(paths)})")
        except GradienceError as error:
            show_error(str(error), error.hint)
            troubles.append(error)
            entries.append(RefusedAdapter(given_text(path), error.code))
            continue
        incomplete = _incomplete(report, path, layers=out.layers)
        troubles += [incomplete] if incomplete else []
        for_page += [report] if out.html is not None else []
        if out.json:
            print_json(report)
            if incomplete:
                show_error(str(incomplete), incomplete.hint)
        else:  # on the screen the paths tell the adapters apart
            shown = report.adapter.model_copy(update={"path": given_text(path)})
            entries.append(report.model_copy(update={"adapter": shown}))
    if for_page:
        out.save_page(*for_page)
    if not out.quiet and any(not isinstance(entry, RefusedAdapter) for entry in entries):
        print_screen(trend_text, entries, layers=out.layers)
    if not out.json:
        for trouble in troubles:
            if isinstance(trouble, IncompleteError):
                show_error(str(trouble), trouble.hint)
    return max((trouble.exit_code for trouble in troubles), default=0)


def _check_usage(paths: Sequence[str], out: AuditOutput) -> None:
    """Refuse what makes no sense together, before any work is done. Raises UsageError."""
    if not paths:
        raise UsageError(
            "no adapter given", code="no-adapter", hint="give its folder: gradience audit ./my_adapter"
        )
    one_only = {
        "--output": out.output is not None,
        "--append": out.append is not None,
        "--suggest-per-layer": out.suggest_per_layer and not out.json,
        "--top-wasteful": out.top_wasteful is not None and not out.json,
    }
    for option, given in one_only.items():
        if given and len(paths) > 1:
            raise UsageError(
                f"{option} takes one adapter, but {len(paths)} are given",
                code="one-adapter",
                hint="give one of them; --json prints one line per adapter",
            )
    if out.suggest_per_layer and not out.json and (out.layers or out.top_wasteful is not None):
        raise UsageError(
            "--suggest-per-layer prints only a LoraConfig",
            code="config-only",
            hint="leave out --layers and --top-wasteful",
        )
    if out.output is not None and not out.force and os.path.lexists(out.output):
        from gradience.files.whole import already_exists

        raise already_exists(Path(out.output))
    if out.append is not None:
        _check_run(Path(out.append))


def _check_run(run: Path) -> None:
    """Refuse to append to a file that is not a run: a mistyped name, or a link to another kind of file."""
    from gradience.telemetry import last_position

    if not run.is_file():
        raise UsageError(
            f"{run}: no such file to append to",
            code="no-run",
            hint="give the run.jsonl that GradienceCallback wrote",
        )
    if run.stat().st_size and last_position(run) is None:
        raise InputError(
            f"{run}: contains no telemetry records, so nothing is appended",
            code="run-empty",
            hint="give the run.jsonl that GradienceCallback or TelemetryWriter wrote",
        )


def _append(report: AuditReport, run: Path) -> None:
    """Append a `metrics` record of kind `lora_audit` under the id and the last step of the run."""
    from gradience.telemetry import TelemetryWriter, last_position

    run_id, step = last_position(run) or (None, None)
    single = {name: value for name, value in report if isinstance(value, (int, float)) or value is None}
    types = {name: summary.model_dump() for name, summary in report.by_type.items()}
    writer = TelemetryWriter(run, run_id=run_id)
    try:
        writer.metrics(
            "lora_audit", step, {**single, "by_type": types, "adapter_sha256": report.adapter.sha256}
        )
    finally:
        writer.close()


def _print_config(report: AuditReport, path: str) -> None:
    """Print the LoraConfig. Raises IncompleteError if no rank is suggested."""
    from gradience.files.shared_names import given_text
    from gradience.reports.lora_config import lora_config_source

    source = lora_config_source(report)
    if source is None:
        raise _incomplete(report, path) or IncompleteError(
            f"{given_text(path)}: no rank is suggested from this adapter",
            code="no-suggestion",
            hint="leave out --suggest-per-layer: the report gives the reason",
        )
    print_text(source)


def _incomplete(report: AuditReport, path: str, *, layers: bool = False) -> IncompleteError | None:
    """Return what the exit code 4 is for, or None."""
    from gradience.files.shared_names import given_text
    from gradience.reports.audit import incompleteness

    reason = incompleteness(report)
    if reason is None:
        return None
    return IncompleteError(
        f"{given_text(path)}: incomplete: {reason}",
        code="incomplete-audit",
        hint=f"{'the table above lists' if layers else '--layers and --json list'} each module with its status",
    )
