"""`gradience compress`: write the smaller adapter, and say exactly what was lost."""

from __future__ import annotations

from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Annotated, Literal

from gradience.cli.exit_codes import ExitCode
from gradience.cli.options import PushSettings, with_base
from gradience.cli.output import LayersOutput
from gradience.compress.settings import CompressSettings
from gradience.errors import UsageError
from gradience.settings import Flag, StrPath, settings_model, shared


@settings_model(kw_only=True)
class Fleet:
    """Many adapters."""

    root: Annotated[StrPath, Flag("DIR")] = "."
    """With a fleet.jsonl: folder that its paths are relative to."""
    unchanged: Annotated[Literal["leave", "link"], Flag("HOW")] = "leave"
    """With a fleet.jsonl: leave out the adapters that need no truncation, or link them into the output."""


def compress(settings: CompressSettings, fleet: Fleet, hub: PushSettings, out: LayersOutput) -> int:
    """Every module is replaced by its best approximation at the new rank, and the exact error is reported. Nothing is
    trained, and no base model is read. Targets for parameters, error or KL choose a rank for each module. With a
    fleet.jsonl (written by gradience fleet) instead of an adapter, every adapter in it is truncated to --rank.

    Examples:

      gradience compress ./my_adapter --rank 16 --output ./smaller

      gradience compress ./my_adapter --reduction 0.5 --dry-run

      gradience compress ./my_adapter --calibration calibration.safetensors --max-params 100000 -o ./smaller

      gradience compress fleet.jsonl --rank 16 -o ./smaller
    """
    path, settings = Path(settings.path), with_base(settings)
    if path.suffix == ".jsonl":
        return _fleet(settings, fleet, out)
    from gradience.card import card_of
    from gradience.compress.adapter import compress_adapter

    hub.check(dry_run=settings.dry_run)
    report = out.run(compress_adapter, replace(settings, card=card_of), f"compressing {path}")
    out.show(report, paths=tuple(str(given) for given in (path, settings.output) if given is not None))
    if settings.output is not None:
        hub.run(Path(settings.output))
    return ExitCode.DONE


def _fleet(settings: CompressSettings, fleet: Fleet, out: LayersOutput) -> int:
    """Compress every adapter of a fleet.jsonl above a rank. Raises UsageError (`fleet-options`)."""
    from gradience.fleet.batch import compress_fleet
    from gradience.fleet.settings import FleetCompressSettings

    values = shared(settings, FleetCompressSettings)
    given = {
        field.name
        for field in fields(CompressSettings)
        if field.default is not MISSING and getattr(settings, field.name) != field.default
    }
    if given - values.keys() or not {"rank", "output"} <= given:
        raise UsageError(
            "a fleet.jsonl needs --rank and --output",
            code="fleet-options",
            hint="give these, and optionally --root, --unchanged, --encoding, --dtype, --base-model, --allow-pickle or"
            " --force; other options need a single adapter",
        )
    batch = FleetCompressSettings(**values, **shared(fleet, Fleet), fleet=settings.path)
    report = out.run(compress_fleet, batch, "compressing adapters")
    out.show(report)
    return ExitCode.INCOMPLETE if report.failed else ExitCode.DONE
