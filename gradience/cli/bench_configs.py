"""`gradience bench configs`: the configs that come with Gradience, and the completion of their names in a shell."""

from __future__ import annotations

from gradience.cli.output import print_screen


def configs() -> None:
    """List the configs that come with Gradience.

    To run one: gradience bench run --config NAME --output DIR; with --dry-run to see what it would cost.
    """
    from gradience.bench.config.shipped import config_titles
    from gradience.reports.base import terminal
    from gradience.reports.base.blocks import Document, Facts, Span

    rows: Document = [Facts([(name, Span(title)) for name, title in config_titles().items()])]
    print_screen(terminal.render, rows)


def complete_config(incomplete: str) -> list[tuple[str, str]]:
    """Return name and title of each shipped config that begins like `incomplete`; files are left to the shell."""
    from gradience.bench.config.shipped import config_titles

    return [(name, title) for name, title in config_titles().items() if name.startswith(incomplete)]
