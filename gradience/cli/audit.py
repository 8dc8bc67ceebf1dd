"""`gradience audit`: how much of its rank does an adapter use?"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gradience.cli.console import show_error
from gradience.cli.options import (
    AdapterName,
    AllowPickle,
    InitialAdapter,
    MaxMemory,
    PairNames,
    PairScale,
    allowed_ranks_of,
    bytes_of,
)
from gradience.cli.output import command_line, print_json, print_screen, print_text
from gradience.cli.page import Html, save_report
from gradience.cli.progress import ProgressBar
from gradience.errors import GradienceError, IncompleteError, InputError, UsageError

if TYPE_CHECKING:
    from gradience.reports.audit import AuditReport


def audit(
    adapters: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ADAPTER",
            help="Folder of save_pretrained(), Trainer checkpoint, .safetensors file or org/name on the hub; several"
            " give one table.",
            show_default=False,
        ),
    ] = None,
    peft_dir: Annotated[
        str | None, typer.Option("--peft-dir", metavar="DIR", help="Same as ADAPTER.")
    ] = None,
    adapter: AdapterName = None,
    layers: Annotated[bool, typer.Option("--layers", help="Show every module and every finding.")] = False,
    top_wasteful: Annotated[
        int | None,
        typer.Option(
            "--top-wasteful",
            metavar="N",
            min=0,
            help="List the N modules with the most unused rank (default 3).",
        ),
    ] = None,
    suggest_per_layer: Annotated[
        bool,
        typer.Option("--suggest-per-layer", help="Print only the suggested ranks, as a LoraConfig to copy."),
    ] = False,
    tau: Annotated[
        float,
        typer.Option(
            "--tau", metavar="T", help="Share of the energy that a suggested rank must keep, in (0, 1]."
        ),
    ] = 0.90,
    allowed_ranks: Annotated[
        str | None,
        typer.Option(
            "--allowed-ranks",
            metavar="R,R...",
            help="Ranks that may be suggested, such as 4,8,16 (default: powers of 2).",
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            "--calibration",
            metavar="FILE",
            help="Add what `gradience calibrate` measured: what matters to the output, and what sizes cost.",
        ),
    ] = None,
    pairs: PairNames = None,
    scale: PairScale = None,
    base_model: Annotated[
        str | None,
        typer.Option(
            "--base-model",
            "-b",
            metavar="NAME",
            help="Base model, a folder or a name: adds how large each update is beside its weight.",
        ),
    ] = None,
    no_cache: Annotated[
        bool,
        typer.Option("--no-cache", help="Find the norms of the base anew, and keep none of them."),
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print audit.json instead of the report, one line per adapter.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write audit.json to FILE.")
    ] = None,
    append: Annotated[
        Path | None,
        typer.Option("--append", metavar="RUN", help="Append a summary to the run.jsonl of its training."),
    ] = None,
    allow_pickle: AllowPickle = False,
    initial_adapter: InitialAdapter = None,
    html: Html = None,
    max_memory: MaxMemory = None,
    force: Annotated[bool, typer.Option("--force", help="Let --output replace a file.")] = False,
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet", "-q", help="No report and no progress bar: only errors, --json and --output."
        ),
    ] = False,
) -> int:
    """Reads only the adapter: no base model, no GPU, no PyTorch. Exit code 4: a part could not be measured, or
    nothing was trained.

    Examples:

      gradience audit ./my_adapter

      gradience audit --peft-dir ./my_adapter --layers

      gradience audit run/checkpoint-*

      gradience audit org/name@revision:folder
    """
    paths = [*(adapters or []), *([peft_dir] if peft_dir else [])]
    _check_usage(paths, layers, top_wasteful, suggest_per_layer, json, output, append, force=force)
    ranks, limit = allowed_ranks_of(allowed_ranks), bytes_of(max_memory)

    def measure(path: str, label: str) -> AuditReport:
        from gradience.audit.adapter import audit_adapter

        with ProgressBar(label, quiet=quiet) as progress:
            report = audit_adapter(
                path,
                adapter=adapter,
                tau=tau,
                allowed_ranks=ranks,
                calibration=calibration,
                allow_pickle=allow_pickle,
                pairs=pairs,
                scale=scale,
                initial_adapter=initial_adapter,
                max_memory=limit,
                progress=progress,
                command=command_line(),
            )
        if base_model is None:
            return report
        how: dict[str, Any] = {"adapter": adapter, "allow_pickle": allow_pickle}
        return _beside_base(report, base_model, path, how, cache=not no_cache, quiet=quiet)

    if len(paths) > 1:
        return _several(paths, measure, layers=layers, json=json, html=html, quiet=quiet)
    report = measure(paths[0], paths[0])
    if output:
        report.save(output)
    if append:
        _append(report, append)
    save_report(html, report)
    if json:
        print_json(report)
    elif suggest_per_layer:
        _print_config(report, paths[0])
    elif not quiet:
        from gradience.report.audit import SHOWN_WASTEFUL, audit_text

        most = SHOWN_WASTEFUL if top_wasteful is None else top_wasteful
        print_screen(audit_text, report, layers=layers, top_wasteful=most)
    incomplete = _incomplete(report, paths[0], layers=layers)
    if incomplete:
        raise incomplete
    return 0


def _beside_base(
    report: AuditReport, name: str, path: str, how: dict[str, Any], *, cache: bool, quiet: bool
) -> AuditReport:
    """The report with the weights of the base model beside the updates; `how` the adapter at `path` is opened."""
    from gradience.adapters.formats import open_adapter
    from gradience.audit.dominance import with_base
    from gradience.models.locate import locate
    from gradience.models.settings import ModelSettings

    folder = locate(ModelSettings(name=name), ("*.safetensors", "*.json")).folder
    with ExitStack() as stack:
        progress = stack.enter_context(ProgressBar(f"reading {name}", quiet=quiet))
        dora = report.adapter.use_dora
        opened = stack.enter_context(open_adapter(Path(path), **how)) if dora else None
        return with_base(report, folder, name=name, adapter=opened, cache=cache, progress=progress)


def _several(
    paths: Sequence[str],
    measure: Callable[[str, str], AuditReport],
    *,
    layers: bool,
    json: bool,
    html: Path | None,
    quiet: bool,
) -> int:
    """Audit each path in the order given, past those that fail, and return the highest exit code.

    With `json` each report is printed as soon as it is there, and kept for a page only.
    """
    from gradience.files.shared_names import given_text
    from gradience.report.audit.series import Refused
    from gradience.report.audit.trend import trend_text

    entries: list[AuditReport | Refused] = []
    troubles: list[GradienceError] = []
    for_page: list[AuditReport] = []
    for number, path in enumerate(paths, start=1):
        try:
            report = measure(path, f"{path} ({number} of {len(paths)})")
        except GradienceError as error:
            show_error(str(error), error.hint)
            troubles.append(error)
            entries.append(Refused(given_text(path), error.code))
            continue
        incomplete = _incomplete(report, path, layers=layers)
        troubles += [incomplete] if incomplete else []
        for_page += [report] if html is not None else []
        if json:
            print_json(report)
            if incomplete:
                show_error(str(incomplete), incomplete.hint)
        else:  # on the screen the paths tell the adapters apart
            shown = report.adapter.model_copy(update={"path": given_text(path)})
            entries.append(report.model_copy(update={"adapter": shown}))
    if for_page:
        save_report(html, *for_page)
    if not quiet and any(not isinstance(entry, Refused) for entry in entries):
        print_screen(trend_text, entries, layers=layers)
    if not json:
        for trouble in troubles:
            if isinstance(trouble, IncompleteError):
                show_error(str(trouble), trouble.hint)
    return max((trouble.exit_code for trouble in troubles), default=0)


# ---------------------------------------------------------------- the command line


def _check_usage(
    paths: Sequence[str],
    layers: bool,
    top_wasteful: int | None,
    suggest_per_layer: bool,
    json: bool,
    output: Path | None,
    append: Path | None,
    *,
    force: bool,
) -> None:
    """Refuse what makes no sense together, before any work is done. Raises UsageError."""
    if not paths:
        raise UsageError(
            "no adapter given", code="no-adapter", hint="give its folder: gradience audit ./my_adapter"
        )
    one_only = {
        "--output": output is not None,
        "--append": append is not None,
        "--suggest-per-layer": suggest_per_layer and not json,
        "--top-wasteful": top_wasteful is not None and not json,
    }
    for option, given in one_only.items():
        if given and len(paths) > 1:
            raise UsageError(
                f"{option} takes one adapter, and {len(paths)} are given",
                code="one-adapter",
                hint="give one of them; --json prints one line per adapter",
            )
    if suggest_per_layer and not json and (layers or top_wasteful is not None):
        raise UsageError(
            "--suggest-per-layer prints a LoraConfig and nothing else",
            code="config-only",
            hint="leave out --layers and --top-wasteful",
        )
    if output is not None and not force and os.path.lexists(output):
        from gradience.files.whole import already_exists

        raise already_exists(output)
    if append is not None:
        _check_run(append)


def _check_run(run: Path) -> None:
    """Refuse to append to what is no run: a name mistyped, or a link to a file of another kind."""
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
    """A `metrics` record of kind `lora_audit` under the id and the last step of the run."""
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


# ---------------------------------------------------------------- printing


def _print_config(report: AuditReport, path: str) -> None:
    """The LoraConfig. Raises IncompleteError where no rank is suggested."""
    from gradience.files.shared_names import given_text
    from gradience.report.audit.lora_config import lora_config_source

    source = lora_config_source(report)
    if source is None:
        raise _incomplete(report, path) or IncompleteError(
            f"{given_text(path)}: no rank is suggested from this adapter",
            code="no-suggestion",
            hint="leave out --suggest-per-layer: the report tells why",
        )
    print_text(source)


def _incomplete(report: AuditReport, path: str, *, layers: bool = False) -> IncompleteError | None:
    """What the exit code 4 is for, or None."""
    from gradience.files.shared_names import given_text
    from gradience.report.incomplete import incompleteness

    reason = incompleteness(report)
    if reason is None:
        return None
    return IncompleteError(
        f"{given_text(path)}: incomplete: {reason}",
        code="incomplete-audit",
        hint=f"{'the table above lists' if layers else '--layers and --json list'} each module with its status",
    )
