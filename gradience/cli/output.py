"""Print a result: an artifact as JSON or as its screen, in the width, the colours and the signs that stdout takes."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradience.cli.console import beneath, wants_colour

if TYPE_CHECKING:
    from gradience.files.artifact import Artifact


def command_line() -> str:
    """Return the command for an artifact: as it could be typed again, of absolute paths the last part."""
    from gradience.files.shared_names import command_text

    return command_text(["gradience", *sys.argv[1:]])


def screen(draw: Callable[..., str], content: Any, **options: Any) -> str:
    """Return `draw(content, width=…, color=…, **options)` for what stdout is."""
    return draw(content, width=terminal_width(), color=wants_colour(sys.stdout), **options)


def print_screen(draw: Callable[..., str], content: Any, **options: Any) -> None:
    """Print `screen(draw, content, **options)`."""
    print_text(screen(draw, content, **options))


def print_result(
    draw: Callable[..., str],
    artifact: Artifact,
    *,
    as_json: bool,
    quiet: bool = False,
    html: Path | None = None,
    folder: Path | None = None,
    texts: bool = True,
    **options: Any,
) -> None:
    """Print an artifact as JSON, or as the screen that `draw` makes of it; quiet leaves out the screen.

    html: the page to write first, of `--html`. folder: where the records lie that the artifact names. texts: whether
    the page quotes examples.
    """
    if html is not None:
        from gradience.cli.page import save_report
        from gradience.reports.base.report import Report

        assert isinstance(artifact, Report)
        save_report(html, artifact, folder=folder, texts=texts)
    if as_json:
        print_json(artifact)
    elif not quiet:
        print_screen(draw, artifact, **options)


def print_text(text: str) -> None:
    """Print on stdout; in plain ASCII where its encoding cannot hold the signs we draw with."""
    beneath(sys.stdout).write(drawable(text))


def drawable(text: str) -> str:
    """Return `text`, in plain ASCII where the encoding of stdout cannot hold the signs we draw with."""
    from gradience.reports.base.ascii import ascii_look

    try:
        "█▁✓σ".encode(_encoding())
    except UnicodeEncodeError:
        return ascii_look(text)
    return text


def print_json(artifact: Artifact) -> None:
    """Print an artifact on one line, written as it is made: no second copy of 50,000 modules in memory.

    Where the encoding of stdout cannot hold a character, it is written as JSON escapes it.
    """
    from gradience.files.artifact import ascii_json

    out, encoding = beneath(sys.stdout), _encoding()
    for chunk in artifact.json_chunks():
        try:
            chunk.encode(encoding)
        except UnicodeEncodeError:
            chunk = ascii_json(chunk)
        out.write(chunk)
    out.write("\n")


def _encoding() -> str:
    """What stdout is written in; a stream in memory, such as `io.StringIO`, has none and holds every character."""
    return sys.stdout.encoding or "utf-8"


def terminal_width() -> int | None:
    """Return the columns of the terminal; None where the output goes to a file or a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None
