"""`gradience card`: write measurements of an adapter into its README.md, and upload the folder."""

from gradience.cli.console import show_note, show_written
from gradience.cli.options import PushSettings
from gradience.cli.output import JsonOutput, print_facts, print_text
from gradience.files.card import CardSettings
from gradience.settings import call


def card(settings: CardSettings, hub: PushSettings, out: JsonOutput) -> None:
    """Writes a block into ADAPTER/README.md: ranks, energy, the evaluation with its interval and grade, digests, and
    how to load the adapter with its library, and with vLLM if it is known to work. The YAML above it gets the base
    model, the library, and the results (needs the extra hub). An earlier block is replaced; your own text is kept.

    Examples:

      gradience card ./smaller

      gradience card ./smaller --evaluation evaluated/evaluation.json --dry-run

      gradience card ./smaller --push org/name --yes
    """
    from gradience.card import update_card

    hub.check(dry_run=settings.dry_run)
    card = call(update_card, settings, note=show_note)
    if out.json:
        print_facts({"card": str(card.path), "changed": card.changed, "block": card.block})
    elif settings.dry_run:
        print_text(f"{card.block.rstrip()}\n")
    else:
        show_written(card.path, label="written" if card.changed else "unchanged")
    hub.run(card.path.parent)
