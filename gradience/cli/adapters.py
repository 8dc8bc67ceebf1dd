"""Verbs on adapter files: compare, fleet, compress, convert, card."""

from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Annotated, Literal

import gradience
from gradience.cli.console import show_note, show_written
from gradience.cli.exit_codes import ExitCode
from gradience.cli.shared import (
    JsonOutput,
    LayersOutput,
    PushSettings,
    ReportOutput,
    print_facts,
    print_text,
    with_base,
)
from gradience.compare.settings import CompareSettings
from gradience.compress.settings import CompressSettings
from gradience.convert.settings import ConvertSettings
from gradience.errors import UsageError
from gradience.files.card import CardSettings
from gradience.fleet.settings import FleetSettings
from gradience.settings import Flag, StrPath, call, settings_model, shared


def compare(settings: CompareSettings, out: LayersOutput) -> None:
    """Reports the distance between the updates and the overlap of their directions.

    Examples:

      gradience compare ./my_adapter ./smaller

      gradience compare ./seed42 ./seed123 --layers
    """
    report = out.run(gradience.compare_adapters, settings, f"comparing {settings.a}")
    out.show(report, paths=(str(settings.a), str(settings.b)))


def fleet(settings: FleetSettings, out: ReportOutput) -> int:
    """With --output it resumes: unchanged adapters are not measured again. An adapter that
    cannot be measured is a row with the code of its error (exit code 4).

    Examples:

      gradience fleet adapters/ -o fleet.jsonl

      gradience fleet adapters/ --recursive -o fleet.jsonl

      gradience compress fleet.jsonl --rank 16 -o smaller/
    """
    from gradience.fleet.verb import root_of

    report = out.run(gradience.audit_fleet, settings, "measuring adapters")
    out.show(report, paths=(str(root_of(settings)),))
    return ExitCode.INCOMPLETE if report.failed or report.incomplete else ExitCode.DONE


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
        return _compress_fleet(settings, fleet, out)
    from gradience.card import card_of

    hub.check(dry_run=settings.dry_run)
    report = out.run(gradience.compress_adapter, replace(settings, card=card_of), f"compressing {path}")
    out.show(report, paths=tuple(str(given) for given in (path, settings.output) if given is not None))
    if settings.output is not None:
        hub.run(Path(settings.output))
    return ExitCode.DONE


def _compress_fleet(settings: CompressSettings, fleet: Fleet, out: LayersOutput) -> int:
    """Compress every adapter of a fleet.jsonl above a rank. Raises UsageError (`fleet-options`)."""
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
    report = out.run(gradience.compress_fleet, batch, "compressing adapters")
    out.show(report)
    return ExitCode.INCOMPLETE if report.failed else ExitCode.DONE


def convert(settings: ConvertSettings, out: ReportOutput) -> None:
    """Weights and scales do not change. A pickle becomes safetensors, shards become one file, and tensors get the
    names by which PEFT finds them.

    Examples:

      gradience convert ./my_adapter ./as_peft

      gradience convert ./old_adapter ./as_peft --allow-pickle

      gradience convert ./my_adapter ./for_mlx --to mlx
    """
    report = out.run(gradience.convert_adapter, with_base(settings), f"converting {settings.path}")
    out.show(report, paths=(str(settings.output),))


def card(settings: CardSettings, hub: PushSettings, out: JsonOutput) -> None:
    """Writes a block into ADAPTER/README.md: ranks, energy, the evaluation with its interval and grade, digests, and
    how to load the adapter with its library, and with vLLM if it is known to work. The YAML above it gets the base
    model, the library, and the results (needs the extra hub). An earlier block is replaced; your own text is kept.

    Examples:

      gradience card ./smaller

      gradience card ./smaller --evaluation evaluated/evaluation.json --dry-run

      gradience card ./smaller --push org/name --yes
    """
    hub.check(dry_run=settings.dry_run)
    card = call(gradience.update_card, settings, note=show_note)
    if out.json:
        print_facts({"card": str(card.path), "changed": card.changed, "block": card.block})
    elif settings.dry_run:
        print_text(f"{card.block.rstrip()}\n")
    else:
        show_written(card.path, label="written" if card.changed else "unchanged")
    hub.run(card.path.parent)
