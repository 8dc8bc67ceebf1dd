"""`gradience card`: write measurements of an adapter into its README.md."""

from __future__ import annotations

from dataclasses import KW_ONLY
from pathlib import Path
from typing import Annotated

from pydantic.dataclasses import dataclass

from gradience.cli.console import show_note, show_written
from gradience.cli.output import JsonOutput, print_facts, print_text
from gradience.errors import InputError
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


def card(settings: CardSettings, out: JsonOutput) -> None:
    """Writes a block into ADAPTER/README.md: ranks, energy, the evaluation with its interval and grade, digests, and
    how PEFT and vLLM load the adapter. An earlier block is replaced; the rest of the file does not change.

    Examples:

      gradience card ./smaller

      gradience card ./smaller --evaluation evaluated/evaluation.json --dry-run
    """
    from gradience.card import BESIDE, EVALUATED, card_of, read_evaluation
    from gradience.files.card import CARD, block_in, read_card, write_block

    adapter = Path(settings.adapter)
    if not adapter.is_dir():
        raise InputError(
            f"{adapter}: not a folder",
            code="no-folder",
            hint="name the folder of an adapter: its card is the README.md in it",
        )
    evaluation = settings.evaluation
    block = card_of(adapter, None if evaluation is None else read_evaluation(Path(evaluation)))
    if EVALUATED in block_in(read_card(adapter)) and EVALUATED not in block:
        lost = f"the card has an evaluation, but there is no {' or '.join(BESIDE)} for these weights here:"
        show_note(f"{lost} it is left out. Give --evaluation FILE to keep it.")
    changed = False if settings.dry_run else write_block(adapter, block)
    if out.json:
        print_facts({"card": str(adapter / CARD), "changed": changed, "block": block})
    elif settings.dry_run:
        print_text(f"{block.rstrip()}\n")
    else:
        show_written(adapter / CARD, "written" if changed else "unchanged")
