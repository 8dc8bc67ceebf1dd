"""Help pages: whole summaries, names that a person can type, as wide as the terminal up to 160 columns."""

import sys
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from gradience.cli.exit_codes import ExitCode

SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 160}
"""Settings of the root's context; the contexts of the verbs inherit them."""


def records(command: Any, context: Any) -> list[tuple[str, str, str]]:
    """Return its section, its name as it is typed, and its help, for each parameter of a command; arguments first."""
    rows = []
    for param in command.get_params(context):
        record = param.get_help_record(context)
        argument = param.param_type_name == "argument"
        if record:  # typer writes `ADAPTER <list[str]>` for an argument
            section = "Arguments" if argument else param.rich_help_panel or "Options"
            rows.append((section, record[0].partition(" <")[0] if argument else record[0], record[1]))
    return sorted(rows, key=lambda row: row[0] != "Arguments")


class _Page:
    """Common base of the help pages of verbs and of groups of verbs."""

    def collect_usage_pieces(self: Any, ctx: Any) -> list[str]:
        """`A B [KEY=VALUE]...`, of typer's `{A} {B} [[KEY=VALUE]]...`."""
        pieces = super().collect_usage_pieces(ctx)  # type: ignore[misc]
        return [piece.replace("{", "").replace("}", "") for piece in pieces]

    def format_options(self: Any, ctx: Any, formatter: Any) -> None:
        rows = records(self, ctx)
        for title in dict.fromkeys(title for title, _, _ in rows):
            with formatter.section(title):
                formatter.write_dl([(name, text) for section, name, text in rows if section == title])


class Verb(_Page, TyperCommand):
    """A command."""


class Group(_Page, TyperGroup):
    """Commands under one name. Without one of them the help is shown on stderr, as for any usage error."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            print(ctx.get_help(), file=sys.stderr)
            raise typer.Exit(ExitCode.USAGE)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        super().format_options(ctx, formatter)
        self.format_commands(ctx, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the names of the commands and the first paragraph of each one's help."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary(command)) for name, command in self.commands.items()])


def summary(command: Any) -> str:
    """Return the first paragraph of a command's help."""
    first: str = command.help.partition("\n\n")[0]
    return " ".join(first.split())
