"""`gradience card`: write measurements of an adapter into its README.md, and upload the folder."""

from __future__ import annotations

from dataclasses import KW_ONLY
from pathlib import Path
from typing import Annotated

from pydantic.dataclasses import dataclass

from gradience.cli.console import show_note, show_written
from gradience.cli.options import PushSettings
from gradience.cli.output import JsonOutput, print_facts, print_text
from gradience.errors import InputError, require
from gradience.settings import SETTINGS, Flag, StrPath


@dataclass(frozen=True, config=SETTINGS)
class CardSettings:
    """Card."""

    adapter: Annotated[StrPath, Flag("ADAPTER")]
    """Folder of a LoRA adapter."""
    _: KW_ONLY
    evaluation: Annotated[StrPath | None, Flag("FILE")] = None
    """An evaluation.json or shrink.json (default: this adapter's, in its folder or above)."""
    dry_run: bool = False
    """Print the block and write nothing."""


def card(settings: CardSettings, hub: PushSettings, out: JsonOutput) -> None:
    """Writes a block into ADAPTER/README.md: ranks, energy, the evaluation with its interval and grade, digests, and
    how PEFT and vLLM load the adapter. The YAML above it gets the base model, the library, and the results (needs the
    extra hub). An earlier block is replaced; the text does not change.

    Examples:

      gradience card ./smaller

      gradience card ./smaller --evaluation evaluated/evaluation.json --dry-run

      gradience card ./smaller --push org/name --yes
    """
    from gradience.card import BESIDE, EVALUATED, card_of, read_evaluation
    from gradience.files.card import CARD, block_in, read_card, write_card

    adapter = Path(settings.adapter)
    if not adapter.is_dir():
        raise InputError(
            f"{adapter}: not a folder",
            code="no-folder",
            hint="name the folder of an adapter: its card is the README.md in it",
        )
    hub.check(dry_run=settings.dry_run)
    if not settings.dry_run:
        require("huggingface_hub", extra="hub")
    evaluation = settings.evaluation
    content = card_of(adapter, None if evaluation is None else read_evaluation(Path(evaluation)))
    if EVALUATED in block_in(read_card(adapter)) and EVALUATED not in content.block:
        lost = f"the card has an evaluation, but there is no {' or '.join(BESIDE)} for these weights here:"
        show_note(f"{lost} it is left out. Give --evaluation FILE to keep it.")
    changed = False if settings.dry_run else write_card(adapter, content, strict=True)
    if out.json:
        print_facts({"card": str(adapter / CARD), "changed": changed, "block": content.block})
    elif settings.dry_run:
        print_text(f"{content.block.rstrip()}\n")
    else:
        show_written(adapter / CARD, "written" if changed else "unchanged")
    hub.run(adapter)
