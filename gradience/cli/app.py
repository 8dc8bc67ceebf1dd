"""The `gradience` command: its verbs, and the one place where errors become exit codes."""

import gc
import os
import shlex
import signal
import sys
from collections import ChainMap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from gradience.cli.console import VisibleStream, show_error, show_note
from gradience.cli.exit_codes import ExitCode
from gradience.cli.help import SETTINGS, Group, Verb
from gradience.cli.original_options import INSTEAD
from gradience.errors import GradienceError
from gradience.words import plainly, printable

VERBS: Mapping[str, Mapping[str, str]] = {
    "Inspect": {
        "audit": "Measure how much of its rank an adapter uses, and suggest ranks.",
        "compare": "Compare two adapters, module by module.",
        "fleet": "Measure many adapters, and the memory that a server needs for them.",
        "check": "Look for mistakes in a LoRA configuration before training.",
        "monitor": "Summarize a training run: loss, evaluation, use of rank, alerts.",
    },
    "Shrink": {
        "shrink": "Test smaller ranks; keep the smallest shown within your margin.",
        "compress": "Write a smaller approximation of an adapter, with α/r unchanged.",
        "calibrate": "Measure how much each component matters on your prompts.",
        "distill": "Distill the reference adapter into a smaller one.",
        "merge": "Merge adapters that share a base model, and test the result.",
    },
    "Test and verify": {
        "evaluate": "Compare smaller adapters with a reference on the same examples.",
        "evidence": "Compare two logs of one evaluation, example by example.",
        "verify": "Verify a finished run, without a model and without PyTorch.",
        "bench": "Test over seeds whether smaller adapters stay within your margin.",
    },
    "Publish": {
        "convert": "Write the same adapter in another format.",
        "card": "Update an adapter's model card.",
        "report": "Write reports as one HTML file that opens without a network.",
        "plot": "Draw an adapter, a run or a report.",
    },
    "Set up": {
        "init": "Write a commented config for Bench.",
        "env": "Print versions, CPU and extras for a bug report.",
        "demo": "Audit the trained adapter that comes with the package.",
        "schema": "Print the JSON Schema of an artifact.",
    },
}
"""Sections of `gradience --help` -> verb -> the first sentence of its help.

A verb is a function (or a typer.Typer) of that name, in a file of that name or the one that FILES names. The file is
imported when the verb is used.
"""

FILES = {
    **dict.fromkeys(("compare", "fleet", "compress", "convert", "card"), "adapters"),
    **dict.fromkeys(("check", "monitor", "evidence", "verify"), "runs"),
    **dict.fromkeys(("evaluate", "shrink", "merge", "calibrate", "distill"), "models"),
    **dict.fromkeys(("report", "plot"), "pages"),
    **dict.fromkeys(("init", "env", "schema"), "setup"),
}
"""Verb -> its file, for verbs that share one."""

DISTRIBUTION = "gradience-lora"
"""The package's name for pip. `gradience` on the package index is another project with the same import name."""

INTRODUCTION = """\
Gradience measures how much of its rank a LoRA adapter uses, and tests whether a smaller one stays within your margin.

  gradience audit ./my_adapter
      ranks that the weights suggest, from the adapter's file alone
  gradience shrink ./my_adapter --data examples.jsonl -o smaller
      the smallest tested adapter whose accuracy drop is shown to be below 2.5 points
  gradience demo
      an audit of the adapter that comes with the package

All commands: gradience --help. One command: gradience help COMMAND. Terms: gradience help glossary."""


class PipeClosed(Exception):
    """The reader of our output stopped reading."""


@contextmanager
def _closed_pipe_apart() -> Iterator[None]:
    """Distinguish a closed pipe from other failures: typer by itself would turn it into exit code 1."""
    try:
        yield
    except BrokenPipeError as error:
        raise PipeClosed from error


class LazyVerbs(ChainMap[str, Any]):
    """Verb -> its command, whose module is imported when the command is looked up."""

    def __init__(self) -> None:
        # It iterates over its last part first.
        super().__init__(*reversed([dict(section) for section in VERBS.values()]))

    def __getitem__(self, name: str) -> Any:
        return _verb(name, super().__getitem__(name))


def glossary() -> list[tuple[str, str]]:
    """Return the rows of the glossary, each a term and its meaning."""
    from importlib.resources import files

    page = files("gradience.cli").joinpath("glossary.md").read_text(encoding="utf-8")
    rows = [line.strip("|").split("|") for line in page.splitlines() if line.startswith("| ")]
    return [(term.strip(), meaning.strip()) for term, meaning in rows[1:]]


@cache
def _verb(name: str, summary: str) -> Any:
    """Return the command of one verb."""
    from gradience.cli.flags import with_flags

    verb = getattr(import_module(f"gradience.cli.{FILES.get(name, name)}"), name)
    if not isinstance(verb, typer.Typer):
        function, verb = verb, typer.Typer(rich_markup_mode=None, add_completion=False)
        verb.command(name, cls=Verb)(with_flags(function))
    command = typer.main.get_command(verb)
    command.help = f"{summary}\n\n{command.help}" if command.help else summary
    return command


class Verbs(Group):
    """The root command. Options such as `--help` print while the context is made, verbs when invoked."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.commands = ChainMap(self.commands, LazyVerbs())

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names; typer's own imports every verb for them."""
        return [*self.commands]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read `help VERB` as `VERB --help`; without arguments print a short introduction as a usage error."""
        if not args and not ctx.resilient_parsing:
            print(INTRODUCTION, file=sys.stderr)
            raise typer.Exit(ExitCode.USAGE)
        if args == ["help", "glossary"]:
            formatter = ctx.make_formatter()
            formatter.write_dl(glossary())
            print(formatter.getvalue(), end="")
            raise typer.Exit
        return super().parse_args(ctx, [*args[1:], "--help"] if args[:1] == ["help"] else args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the verbs in their sections, without importing one."""
        for title, section in VERBS.items():
            with formatter.section(title):
                formatter.write_dl([*section.items()])

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _closed_pipe_apart():
            context = super().make_context(*args, **kwargs)
            sys.stdout.flush()
        return context

    def invoke(self, *args: Any) -> Any:
        with _closed_pipe_apart():
            result = super().invoke(*args)
            sys.stdout.flush()
        return result


def show_version(wanted: bool) -> None:
    if wanted:
        from gradience import __version__

        print(f"gradience {__version__}")
        raise typer.Exit


def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", "-V", callback=show_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Measure how much of its rank a LoRA adapter uses, and test whether a smaller one stays within your margin.

    `gradience help COMMAND` explains a command, `gradience help glossary` the terms. Results go to stdout,
    everything else to stderr.
    """


def application() -> typer.Typer:
    """Return the root command, which finds its verbs in VERBS."""
    root_app = typer.Typer(
        name="gradience",
        cls=Verbs,
        rich_markup_mode=None,  # plain help: readable everywhere, and rich is not imported for it
        pretty_exceptions_enable=False,  # a bug shows its ordinary traceback
        context_settings=SETTINGS,
    )
    root_app.callback()(root)
    return root_app


app = application()


@cache
def _command(of: typer.Typer) -> Any:
    """Return what `of` parses with. Made once in a process: it takes reading every option of every verb."""
    return typer.main.get_command(of)


RESUMES: dict[str, tuple[str, ...]] = {
    "shrink": ("",),
    "evaluate": ("",),
    "bench": ("run",),
    "fleet": ("-o", "--output"),
}
"""Verb -> beginnings of arguments; with one of them, the same command resumes an interrupted run."""


def say_how_to_resume(arguments: list[str] | None) -> None:
    """Write one line about a verb that was stopped and keeps what it finished; nothing for other verbs."""
    given = sys.argv[1:] if arguments is None else arguments
    resumes = any(word.startswith(RESUMES.get(given[0], ())) for word in given[1:]) if given else False
    if resumes and "--dry-run" not in given:
        command = printable(shlex.join(["gradience", *given]))
        sys.stderr.write(f"\nstopped; to resume, run the same command again: {command}\n")


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code; a bug raises.

    arguments: without the program's name; those of the process when None.
    A verb returns nothing, or its exit code.
    """
    try:
        code = _command(app)(args=arguments, prog_name="gradience", standalone_mode=False)
        sys.stdout.flush()
    except GradienceError as error:
        show_error(str(error), error.hint)
        _note_conflict()
        return error.exit_code
    except typer.TyperException as error:
        return _usage(error)
    except PipeClosed:
        return ExitCode.PIPE_CLOSED
    except OSError as error:
        where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        show_error(f"{where}{error.strerror or error}", "check the path, its permissions and the free space")
        return ExitCode.OUTPUT
    except MemoryError as error:
        show_error(f"not enough memory: {error}".removesuffix(": "), "free some, or use a machine with more")
        return ExitCode.OUTPUT
    except (KeyboardInterrupt, typer.Abort):
        say_how_to_resume(arguments)
        return ExitCode.INTERRUPTED
    except SystemExit as stopped:
        if stopped.code == ExitCode.TERMINATED:
            say_how_to_resume(arguments)
        raise
    if code == ExitCode.INTERRUPTED:  # typer turns Ctrl-C in a verb into this code
        say_how_to_resume(arguments)
    return code if isinstance(code, int) else ExitCode.DONE


def _usage(error: typer.TyperException) -> int:
    """A wrong command line: what is wrong, and where the right one is described."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "gradience"
    instead = INSTEAD.get((getattr(context, "info_name", None), getattr(error, "option_name", None)))
    message = plainly(error.format_message().replace(": Value error, ", ": ").rstrip("."))
    if context and message.startswith("Missing argument"):
        instead = instead or " ".join(context.get_usage().removeprefix("Usage: ").split())
    show_error(message, instead or f"see {path} --help")
    _note_conflict()
    return ExitCode.USAGE


def _note_conflict() -> None:
    """Add a note to an error if another project overwrote files of this one."""
    if text := conflict():
        show_note(text)


def conflict() -> str | None:
    """Return a sentence if the other project named `gradience` is installed too: both write `gradience/`."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        other = version("gradience")
    except PackageNotFoundError:
        return None
    return (
        f"another project, gradience {other}, is installed here too and overwrites files of {DISTRIBUTION}: run"
        f" pip uninstall gradience {DISTRIBUTION}, then install {DISTRIBUTION} again"
    )


def _terminate(signum: int, frame: FrameType | None) -> NoReturn:
    """SIGTERM as an exception, so that temporary files are removed on the way out."""
    raise SystemExit(int(ExitCode.TERMINATED))


def main() -> NoReturn:
    """Entry point of the console script."""
    signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in ("stdout", "stderr"):
        # A closed stream is None: print nothing.
        stream = getattr(sys, name) or open(os.devnull, "w")  # noqa: SIM115 (until the process ends)
        # A narrow locale must not turn a result into a traceback: σ becomes \u03c3 there.
        stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, VisibleStream(stream))
    try:
        code = run()
    except BrokenPipeError:  # standard error was closed as well
        code = ExitCode.PIPE_CLOSED
    if code in (ExitCode.OUTPUT, ExitCode.PIPE_CLOSED):
        # What is still buffered cannot be written either; without this the interpreter would fail on it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    gc.freeze()  # the system takes back the memory; a last search for garbage takes a fifth of a small audit
    sys.exit(int(code))


if __name__ == "__main__":
    main()
