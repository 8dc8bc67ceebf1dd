"""`gradience card`: what is known of an adapter, in its README.md."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from gradience.cli.console import beneath, show_written
from gradience.cli.output import print_text
from gradience.errors import UsageError


def card(
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="Folder of a LoRA adapter.")],
    evaluation: Annotated[
        Path | None,
        typer.Option(
            "--evaluation",
            metavar="FILE",
            help="An evaluation.json or shrink.json (default: the one in or above the folder that is about it).",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the block and write nothing.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """A block between two markers of ADAPTER/README.md: ranks, energy, the evaluation with its interval and grade,
    digests, and how PEFT and vLLM load it. A block that is there is replaced; all else stays as it is.

    Examples:

      gradience card ./smaller

      gradience card ./smaller --evaluation evaluated/evaluation.json --dry-run
    """
    from gradience.files.card import CARD, block_in, read_card, write_block
    from gradience.report.card import BESIDE, EVALUATED, card_of, read_evaluation

    if not adapter.is_dir():
        raise UsageError(
            f"{adapter}: not a folder",
            code="no-folder",
            hint="name the folder of an adapter: its card is the README.md in it",
        )
    block = card_of(adapter, None if evaluation is None else read_evaluation(evaluation))
    if EVALUATED in block_in(read_card(adapter)) and EVALUATED not in block:
        lost = f"note: the card has an evaluation, and no {' or '.join(BESIDE)} about these weights is here:"
        print(f"{lost} it is left out. Give --evaluation FILE to keep it.", file=beneath(sys.stderr))
    changed = False if dry_run else write_block(adapter, block)
    if json:
        import json as json_module

        facts = {"card": str(Path(adapter, CARD)), "changed": changed, "block": block}
        print(json_module.dumps(facts, indent=2))
        return
    if dry_run:
        print_text(f"{block.rstrip()}\n")
        return
    show_written(adapter / CARD, "written" if changed else "unchanged")
