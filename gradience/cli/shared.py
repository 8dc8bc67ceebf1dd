"""Options that several verbs share, and how results are printed: as JSON, as a page or as a screen."""

from __future__ import annotations

import json
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import AfterValidator

from gradience.cli.console import beneath, show_note, show_written, wants_color
from gradience.errors import InputError, UsageError
from gradience.files.rows import is_on_hub
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
            hint = "leave --no-texts out, or add --html page.html"
            raise UsageError("--no-texts has no effect without --html", code="no-page", hint=hint)

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


# ---------------------------------------------------------------- options that several verbs share


S = TypeVar("S")


@settings_model(kw_only=True)
class CodeSettings:
    """Options."""

    allow_code: bool = False
    """Allow a custom task to run its code (also: GRADIENCE_ALLOW_CODE=1)."""
    engine_python: Annotated[StrPath | None, Flag("PATH")] = None
    """Python in which vLLM is installed (also: GRADIENCE_ENGINE_PYTHON)."""

    def allowing(self) -> AbstractContextManager[None]:
        """Let the user's own code run inside, and name the Python of another engine to all processes."""
        from gradience.tasks.user_code import allowing

        if self.engine_python is not None:
            from gradience.evaluate.engines.vllm.engine import PYTHON

            python = Path(self.engine_python)  # a name without a folder is looked up in PATH
            os.environ[PYTHON] = os.path.abspath(python) if len(python.parts) > 1 else str(python)
        return allowing(self.allow_code)


@settings_model(kw_only=True)
class PushSettings:
    """Hugging Face hub."""

    push: Annotated[str | None, Flag("ORG/NAME")] = None
    """Show which files of the folder would go to this repository (needs the extra hub)."""
    yes: bool = False
    """With --push: upload them, with the token of `hf auth login`. A new repository is private."""

    def check(self, *, dry_run: bool = False) -> None:
        """Raise, before any work is done, what a push would fail with."""
        from gradience.files.hub import check_push

        if self.push is None and self.yes:
            raise UsageError("--yes belongs to --push", code="no-push", hint="add --push org/name")
        if self.push is not None and dry_run:
            hint = "leave --dry-run out: without --yes nothing is sent"
            raise UsageError("--push cannot be combined with --dry-run", code="no-push", hint=hint)
        if self.push is not None:
            check_push(self.push, upload=self.yes)

    def run(self, folder: Path) -> None:
        """Say what would be uploaded, or upload it."""
        if self.push is None:
            return
        from gradience import __version__
        from gradience.compress.carry import files_to_publish
        from gradience.files.hub import check_push, push_files
        from gradience.reports.base.numbers import size

        address, names = check_push(self.push, upload=self.yes), files_to_publish(folder)
        total = size(sum((folder / name).stat().st_size for name in names))
        files = f"{', '.join(names)} ({total})"
        if self.yes:
            commit = push_files(folder, names, address, f"Upload with gradience {__version__}")
            show_note(f"uploaded to {address} at commit {commit[:12]}: {files}")
        else:
            show_note(f"nothing was sent. --yes uploads to {address}: {files}")


def with_base(settings: S) -> S:
    """Return the settings with the folder of an embedded base model (`embedded:minilm`) in place of its name."""
    name = str(getattr(settings, "base_model", None))
    if not name.startswith("embedded:"):
        return settings
    from gradience.models.locate import locate
    from gradience.models.settings import ModelSettings

    return replace(settings, base_model=locate(ModelSettings(name=name)).folder)  # type: ignore[type-var]


def require_files(*paths: str | os.PathLike[str] | None) -> None:
    """Check that files are there, before anything slow is imported. Raises InputError (`task-file`)."""
    for path in paths:
        if path is not None and not is_on_hub(Path(path)) and not os.path.exists(path):
            raise InputError(f"{path}: no such file", code="task-file", hint="check the path")
