"""`gradience compress`: write the smaller adapter, and say exactly what was lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic.dataclasses import dataclass

from gradience.cli.exit_codes import ExitCode
from gradience.cli.options import PushSettings
from gradience.cli.output import LayersOutput
from gradience.compress.settings import CompressSettings, WriteSettings
from gradience.errors import UsageError
from gradience.settings import SETTINGS, Flag, Integer, StrPath, fields_of, settings_of

if TYPE_CHECKING:
    from gradience.adapters.adapter import Adapter
    from gradience.files.card import Card
    from gradience.reports.compression import CompressionReport


@dataclass(frozen=True, config=SETTINGS)
class Sources:
    """Many adapters."""

    source: Annotated[StrPath | None, Flag("ADAPTER")] = None
    """Folder of save_pretrained(), a .safetensors file in one, or org/name."""
    _: KW_ONLY
    fleet: Annotated[StrPath | None, Flag("FILE")] = None
    """Compress every adapter of this fleet.jsonl above --to-rank."""
    to_rank: Annotated[Integer | None, Flag("K")] = None
    """With --fleet: truncate every larger adapter to this rank."""
    root: Annotated[StrPath | None, Flag("DIR")] = None
    """With --fleet: folder that the paths are relative to."""
    unchanged: Annotated[Literal["leave", "link", "copy"] | None, Flag("HOW")] = None
    """With --fleet: link or copy the adapters that need no truncation into the output (default: leave them out)."""


def compress(
    given: Annotated[dict[str, Any], CompressSettings],
    sources: Annotated[dict[str, Any], Sources],
    hub: PushSettings,
    out: LayersOutput,
) -> int:
    """The error is stated exactly. Nothing is trained and no base model is read: every module gets the best
    approximation of its new rank. Give one of --rank, --energy, --suggested, --plan; or one of --reduction,
    --max-params, --max-error, --max-kl-per-token, --max-drop, which choose a rank for each module.

    Examples:

      gradience compress ./my_adapter --rank 16 --output ./smaller

      gradience compress ./my_adapter --reduction 0.5 --dry-run

      gradience compress ./my_adapter --calibration calibration.safetensors --max-drop 2.5 -o ./smaller

      gradience compress --fleet fleet.jsonl --to-rank 16 -o ./smaller
    """
    if "fleet" in sources:
        return _fleet(given, sources, hub, out)
    if sources.keys() - {"source"}:
        raise UsageError(
            "--to-rank, --root and --unchanged belong to --fleet",
            code="no-fleet",
            hint="for one adapter, give its rank: --rank 4",
        )
    if "source" not in sources:
        raise UsageError(
            "no adapter given",
            code="no-adapter",
            hint="give its folder, or --fleet fleet.jsonl: gradience compress ./my_adapter --rank 4 -o smaller",
        )
    from gradience.compress.adapter import compress_adapter

    path = sources["source"]
    settings = settings_of(CompressSettings, {"path": path, "documents": _documents, **given})
    hub.check(dry_run=settings.dry_run)
    report = out.run(compress_adapter, settings, f"compressing {path}")
    names: dict[str, Any] = {}
    if not settings.dry_run:
        names = {"path": quote(str(path)), "output": quote(str(settings.output))}
    out.show(report, layers=out.layers, **names)
    if settings.output is not None:
        hub.run(Path(settings.output))
    return ExitCode.DONE


def _documents(written: Adapter, report: CompressionReport) -> Mapping[str, str | Card]:
    from gradience.card import card_of
    from gradience.files.card import CARD

    return {
        "compression_report.md": report.to_markdown(),
        CARD: card_of(written.location.path, opened=written),
    }


def _fleet(given: dict[str, Any], sources: dict[str, Any], hub: PushSettings, out: LayersOutput) -> int:
    """Compress every adapter of a fleet.jsonl, print what became of them, and return the exit code."""
    from gradience.files.whole import write_whole
    from gradience.fleet.batch import compress_fleet
    from gradience.fleet.settings import FleetCompressSettings

    if "to_rank" not in sources:
        raise UsageError("--fleet needs --to-rank", code="no-to-rank", hint="such as --to-rank 16")
    if "output" not in given:
        raise UsageError("--fleet needs --output", code="no-output", hint="add --output smaller")
    taken = {"output", "allow_pickle", "max_memory", *fields_of(WriteSettings)}
    other = ["ADAPTER"] if "source" in sources else []
    other += [f"--{name.replace('_', '-')}" for name in given if name not in taken]
    other += [*(["--layers"] if out.layers else []), *(["--push"] if hub.push or hub.yes else [])]
    if other:
        raise UsageError(
            f"{other[0]} cannot be combined with --fleet",
            code="fleet-alone",
            hint="a fleet takes --to-rank, --root, --unchanged, --encoding, --to, --dtype, --strip, --base-model,"
            " --allow-pickle and --force",
        )
    of_the_fleet = {"rank" if name == "to_rank" else name: value for name, value in sources.items()}
    settings = settings_of(FleetCompressSettings, {**given, **of_the_fleet})
    report = out.run(compress_fleet, settings, "compressing adapters")
    write_whole(Path(settings.output) / "fleet_compression.md", [report.to_markdown().encode()])
    out.show(report)
    return ExitCode.INCOMPLETE if report.failed else ExitCode.DONE
