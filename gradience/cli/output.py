"""Results: an artifact as JSON, as a page or as a screen for what stdout is."""

from __future__ import annotations

import json
import shutil
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import AfterValidator

from gradience.cli.console import beneath, show_note, show_written, wants_color
from gradience.errors import UsageError
from gradience.files.shared_names import command_text
from gradience.settings import Flag, StrPath, call, settings_model

if TYPE_CHECKING:
    from gradience.files.artifact import Artifact
    from gradience.reports.base.report import Readable, Report

R = TypeVar("R")


def page_path(path: Path | None) -> Path | None:
    """Return the path of a page. Raises UsageError (`not-ours`, …) for a file that may not be replaced."""
    from gradience.reports.page.render import check_page

    return path and check_page(path)


@settings_model(kw_only=True)
class JsonOutput:
    """Output."""

    json: bool = False
    """Print the report as JSON."""

    @property
    def silent(self) -> bool:
        """True if no screen is printed."""
        return False

    @property
    def full(self) -> bool:
        """True if the screen shows every detail."""
        return False

    def print(self, report: Readable, paths: Sequence[str] = (), most: int | None = None) -> None:
        """Print an artifact as JSON, or as its screen. paths, most: see `View`."""
        if self.json:
            print_json(report)
        elif not self.silent:
            from gradience.reports.base.blocks import View

            view = View(brief=not self.full, full=self.full, most=most, paths=tuple(paths))
            print_screen(type(report).to_text, report, view=view)


@settings_model(kw_only=True)
class PageOutput(JsonOutput):
    """Output."""

    html: Annotated[StrPath | None, AfterValidator(page_path), Flag("FILE")] = None
    """Also write the report as one HTML file (needs the extra report)."""

    @property
    def texts(self) -> bool:
        """True if the page quotes examples and answers."""
        return True

    def show(
        self,
        report: Readable,
        *,
        folder: Path | None = None,
        data: Path | None = None,
        paths: Sequence[str] = (),
    ) -> None:
        """Write the requested page, and print.

        folder, data: see `source_of`. paths: paths as typed, for the next command.
        """
        if self.html is not None:
            self.save_page(report, folder=folder, data=data)  # type: ignore[arg-type]
        self.print(report, paths)

    def save_page(self, *reports: Report, folder: Path | None = None, data: Path | None = None) -> None:
        """Write the page of `--html`, if requested."""
        if self.html is None:
            return
        from gradience.reports.page.render import write_page
        from gradience.sources import source_of

        sources = [source_of(report, folder, data=data) for report in reports]
        write_page(Path(self.html), sources, texts=self.texts)

    def refuse_page(self, *, dry_run: bool) -> None:
        """Refuse a page of a plan that is a few facts and no report. Raises UsageError (`no-page`)."""
        if dry_run and self.html is not None:
            raise UsageError(
                "--html cannot be combined with --dry-run or --preview: neither has a report",
                code="no-page",
                hint="leave one of them out",
            )


@settings_model(kw_only=True)
class VerboseOutput(PageOutput):
    """Output."""

    verbose: Annotated[bool, Flag(short="-v")] = False
    """Also show evidence and sources."""

    @property
    def full(self) -> bool:
        return self.verbose


@settings_model(kw_only=True)
class ReportOutput(PageOutput):
    """Output."""

    quiet: Annotated[bool, Flag(short="-q")] = False
    """No report and no progress bar."""

    @property
    def silent(self) -> bool:
        return self.quiet

    def written(self, *paths: object) -> None:
        """Print the paths that were written, with the page of `--html`, unless --quiet is given."""
        if not self.quiet:
            show_written(*paths, *([] if self.html is None else [self.html]))

    def show_aloud(self, report: Readable, *, folder: Path | None = None) -> None:
        """Show the plan of a dry run, or a result, that --quiet does not silence."""
        replace(self, quiet=False).show(report, folder=folder)

    def run(self, function: Callable[..., R], settings: Any, label: str, *, announce: bool = False) -> R:
        """Call a public function under a progress bar. announce: print the label at once, for work of minutes."""
        from gradience.cli.progress import ProgressBar

        with ProgressBar(label, quiet=self.quiet, announce=announce) as progress:
            more = {"progress": progress, "command": command_line(), "note": show_note}
            return call(function, settings, **{name: more[name] for name in more if hasattr(settings, name)})

    def watch(self, function: Callable[..., R], settings: Any) -> R:
        """Call a public function that runs models in stages, each with a line or a bar."""
        from gradience.cli.progress import StageProgress

        # Warnings of the libraries about each other; ours go through the log.
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft|torch)\b")
        with StageProgress(quiet=self.quiet) as watcher:
            more = {"note": show_note} if hasattr(settings, "note") else {}
            return call(function, settings, watcher=watcher, command=command_line(), **more)


@settings_model(kw_only=True)
class LayersOutput(ReportOutput):
    """Output."""

    layers: bool = False
    """Show every module."""

    @property
    def full(self) -> bool:
        return self.layers


@settings_model(kw_only=True)
class TextsOutput(ReportOutput):
    """Output."""

    no_texts: bool = False
    """Leave examples and answers out of the --html page, for private data."""

    def __post_init__(self) -> None:
        if self.no_texts and self.html is None:
            raise UsageError(
                "--no-texts has no effect without --html",
                code="no-page",
                hint="leave --no-texts out, or add --html page.html",
            )

    @property
    def texts(self) -> bool:
        return not self.no_texts


def print_facts(facts: Mapping[str, Any]) -> None:
    """Print one JSON object."""
    print(json.dumps(facts, indent=2))


def command_line() -> str:
    """Return the command for an artifact: as it could be typed again, of absolute paths the last part."""
    return command_text(["gradience", *sys.argv[1:]])


def print_screen(draw: Callable[..., str], content: Any, **options: Any) -> None:
    """Print `draw(content, width=…, color=…, **options)` for what stdout is."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None  # none for a file or a pipe
    print_text(draw(content, width=width, color=wants_color(sys.stdout), **options))


def print_text(text: str) -> None:
    """Print on stdout. Characters outside its encoding become question marks."""
    encoding = _encoding()
    beneath(sys.stdout).write(text.encode(encoding, "replace").decode(encoding))


def print_json(artifact: Artifact) -> None:
    """Print an artifact on one line. Characters that stdout cannot encode are written as JSON escapes them."""
    from gradience.files.artifact import ascii_json

    text = artifact.to_json(indent=None)
    try:
        text.encode(_encoding())
    except UnicodeEncodeError:
        text = ascii_json(text)
    beneath(sys.stdout).write(f"{text}\n")


def _encoding() -> str:
    """Return the encoding of stdout; a stream in memory such as `io.StringIO` has none and takes every character."""
    return sys.stdout.encoding or "utf-8"
