"""`gradience compress`: write the smaller adapter, and say exactly what was lost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from gradience.cli.compress_fleet import compress_batch
from gradience.cli.options import (
    AdapterName,
    AllowPickle,
    InitialAdapter,
    Layers,
    MaxMemory,
    Quiet,
    allowed_ranks_of,
    bytes_of,
    one_of,
)
from gradience.cli.output import command_line, print_result
from gradience.cli.page import Html
from gradience.cli.progress import ProgressBar
from gradience.errors import UsageError
from gradience.reports.base.encodings import ENCODING_NAMES

if TYPE_CHECKING:
    from gradience.reports.compression import CompressionPlan, CompressionReport


def _suggestions() -> tuple[str, ...]:
    from gradience.plan.criteria import Suggested

    return get_args(Suggested)


def _dtypes() -> list[str]:
    """Return the storage types that factors can have."""
    from gradience.adapters.tensors import DTYPES

    return [name for name, dtype in DTYPES.items() if dtype.numpy_name is not None]


def _formats() -> tuple[str, ...]:
    from gradience.compress.forms import WRITABLE

    return WRITABLE


def compress(
    context: typer.Context,
    adapter: Annotated[
        Path | None,
        typer.Argument(
            metavar="ADAPTER",
            help="Folder of save_pretrained(), a .safetensors file in one, or org/name.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Where the smaller adapter is written."),
    ] = None,
    rank: Annotated[
        int | None, typer.Option("--rank", metavar="K", help="Truncate every module to rank K.")
    ] = None,
    energy: Annotated[
        float | None,
        typer.Option(
            "--energy",
            metavar="T",
            help="Truncate every module to the smallest rank that keeps the share T of its energy.",
        ),
    ] = None,
    suggested: Annotated[
        str | None,
        typer.Option(
            "--suggested",
            metavar="WHICH",
            help="Ranks that the audit suggests: uniform_median, uniform_p90 or per_layer.",
            autocompletion=one_of(_suggestions),
        ),
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option("--plan", metavar="FILE", help="Ranks of a plan printed by --dry-run --json."),
    ] = None,
    reduction: Annotated[
        float | None,
        typer.Option(
            "--reduction",
            metavar="F",
            help="Remove the share F of the LoRA parameters, where it costs least.",
        ),
    ] = None,
    max_params: Annotated[
        int | None,
        typer.Option("--max-params", metavar="N", help="Keep at most N LoRA parameters."),
    ] = None,
    max_bytes: Annotated[
        int | None,
        typer.Option("--max-bytes", metavar="N", help="Keep at most N bytes of LoRA factors."),
    ] = None,
    max_error: Annotated[
        float | None,
        typer.Option(
            "--max-error", metavar="E", help="Keep the relative error of the whole adapter at or below E."
        ),
    ] = None,
    max_kl: Annotated[
        float | None,
        typer.Option(
            "--max-kl",
            metavar="X",
            help="Keep the predicted KL per scored token below X nats, by the upper end of its interval (needs"
            " --calibration).",
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            "--calibration",
            metavar="FILE",
            help="Choose directions and ranks by what `gradience calibrate` measured.",
        ),
    ] = None,
    allow_routed: Annotated[
        bool,
        typer.Option(
            "--allow-routed",
            help="Predict the KL, and accept --max-kl, also if the base routes tokens to experts.",
        ),
    ] = False,
    allowed_ranks: Annotated[
        str | None,
        typer.Option(
            "--allowed-ranks", metavar="R,R...", help="Ranks that modules may have, such as 4,8,16."
        ),
    ] = None,
    multiple_of: Annotated[
        int | None,
        typer.Option("--multiple-of", metavar="N", help="Ranks that modules may have: multiples of N."),
    ] = None,
    encoding: Annotated[
        str | None,
        typer.Option(
            "--encoding",
            metavar="HOW",
            help=f"One of {', '.join(ENCODING_NAMES)} (default: uniform if ranks and scales agree, else patterns).",
            autocompletion=one_of(lambda: ENCODING_NAMES),
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            "--dtype",
            metavar="TYPE",
            help="Storage type: BF16, F16, F32 … (default: unchanged).",
            autocompletion=one_of(_dtypes),
        ),
    ] = None,
    strip: Annotated[
        list[str] | None,
        typer.Option(
            "--strip", metavar="PART", help="Drop non-LoRA tensors with PART in their name; may be repeated."
        ),
    ] = None,
    base_model: Annotated[
        Path | None,
        typer.Option(
            "--base-model",
            metavar="NAME",
            help="Base model, a folder or a name on the hub: names the architecture; DoRA also needs its weights.",
        ),
    ] = None,
    fleet: Annotated[
        Path | None,
        typer.Option(
            "--fleet", metavar="FILE", help="Compress every adapter of this fleet.jsonl above --to-rank."
        ),
    ] = None,
    to_rank: Annotated[
        int | None,
        typer.Option("--to-rank", metavar="K", help="With --fleet: the largest rank that is left."),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option("--root", metavar="DIR", help="With --fleet: what its paths are relative to."),
    ] = None,
    name: AdapterName = None,
    allow_untrained: Annotated[
        bool, typer.Option("--allow-untrained", help="Accept an adapter whose every B·A is 0.")
    ] = False,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="FORMAT",
            help="Format to write: peft, mlx or diffusers (default: the adapter's own of these, else peft).",
            autocompletion=one_of(_formats),
        ),
    ] = None,
    verify_peft: Annotated[
        bool,
        typer.Option(
            "--verify-peft", help="Load the result with PEFT before it is put in place (needs PEFT)."
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and write nothing.")] = False,
    layers: Layers = False,
    json: Annotated[bool, typer.Option("--json", help="Print the report (or the plan) as JSON.")] = False,
    allow_pickle: AllowPickle = False,
    initial_adapter: InitialAdapter = None,
    html: Html = None,
    max_memory: MaxMemory = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing adapter folder.")] = False,
    quiet: Quiet = False,
) -> int | None:
    """The error is stated exactly. Nothing is trained and no base model is read: every module gets the best
    approximation of its new rank. Give one of --rank, --energy, --suggested, --plan; or one of --reduction,
    --max-params, --max-bytes, --max-error, --max-kl, which choose a rank for each module.

    Examples:

      gradience compress ./my_adapter --rank 16 --output ./smaller

      gradience compress ./my_adapter --reduction 0.5 --dry-run

      gradience compress ./my_adapter --calibration calibration.safetensors --max-kl 0.01 -o ./smaller

      gradience compress --fleet fleet.jsonl --to-rank 16 -o ./smaller
    """
    from gradience.plan.compression import SIZES, criterion_of

    if fleet is not None:
        return compress_batch(context)
    adapter = _one_adapter(adapter, to_rank=to_rank, root=root)
    sizes: dict[str, Any] = {name: context.params[name] for name in SIZES}
    criterion_of(sizes, flag_of)
    grid, limit = allowed_ranks_of(allowed_ranks), bytes_of(max_memory)
    _check_usage(encoding, to, adapter, output, dry_run=dry_run, force=force, verify_peft=verify_peft)
    from gradience.compress.adapter import compress_adapter
    from gradience.files.card import CARD
    from gradience.report.card import card_of
    from gradience.report.faces import to_markdown

    with ProgressBar(f"compressing {adapter}", quiet=quiet) as progress:
        result = compress_adapter(
            adapter,
            output,
            **sizes,
            calibration=calibration,
            allow_routed=allow_routed,
            allowed_ranks=grid,
            multiple_of=multiple_of,
            allow_untrained=allow_untrained,
            encoding=encoding,
            dtype=dtype,
            strip=strip or (),
            base_model=base_model,
            adapter=name,
            allow_pickle=allow_pickle,
            initial_adapter=initial_adapter,
            to=to,
            verify_peft=verify_peft,
            dry_run=dry_run,
            force=force,
            max_memory=limit,
            progress=progress,
            documents=lambda written, report: {
                "compression_report.md": to_markdown(report),
                CARD: card_of(written.location.path, opened=written),
            },
            command=command_line(),
        )
    _show(result, layers=layers, json=json, html=html, quiet=quiet)
    return None


# ---------------------------------------------------------------- the command line


def _one_adapter(adapter: Path | None, *, to_rank: int | None, root: Path | None) -> Path:
    """The adapter. Raises UsageError where there is none, or where what belongs to --fleet is given."""
    if to_rank is not None or root is not None:
        raise UsageError(
            "--to-rank and --root belong to --fleet", code="no-fleet", hint="for one adapter, give --rank K"
        )
    if adapter is None:
        raise UsageError(
            "no adapter given",
            code="no-adapter",
            hint="give its folder, or --fleet fleet.jsonl for many: gradience compress ./my_adapter --rank 4 -o DIR",
        )
    return adapter


def flag_of(keyword: str) -> str:
    """Return the flag of a keyword: `--max-params`."""
    return f"--{keyword.replace('_', '-')}"


def _check_usage(
    encoding: str | None,
    to: str | None,
    adapter: Path,
    output: Path | None,
    *,
    dry_run: bool,
    force: bool,
    verify_peft: bool,
) -> None:
    """Refuse, before any work is done, what cannot be written. Raises UsageError, and MissingExtra without PEFT."""
    from gradience.compress.encodings import rule_of
    from gradience.compress.forms import PEFT, form_of

    form_of(to, PEFT)
    if encoding is not None:
        rule_of(encoding)
    if output is None and not dry_run:
        raise UsageError(
            "no --output given", code="no-output", hint="give --output DIR, or --dry-run to see the plan"
        )
    if output is not None and not dry_run:
        from gradience.files.whole import check_output

        check_output(output, adapter, force=force)
    if verify_peft:
        from gradience.compress.check import require_peft

        require_peft()


# ---------------------------------------------------------------- printing


def _show(
    artifact: CompressionPlan | CompressionReport, *, layers: bool, json: bool, html: Path | None, quiet: bool
) -> None:
    """The artifact as JSON, or the screen that is made from it."""
    from gradience.report.compression import compression_text

    print_result(compression_text, artifact, as_json=json, quiet=quiet, html=html, layers=layers)
