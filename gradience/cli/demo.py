"""`gradience demo`: the audit of a trained adapter that comes with the package."""

import shlex
from importlib.resources import files
from pathlib import Path

import gradience
from gradience.audit.options import AuditSettings
from gradience.cli.shared import command_line, print_screen
from gradience.settings import call

EXAMPLE = "minilm-reviews-r8"


def demo() -> None:
    """The adapter is a LoRA of MiniLM-L6, trained on movie-review sentences; nothing is downloaded."""
    from gradience.reports.base import terminal
    from gradience.reports.base.blocks import Facts, Heading, View

    path = shown_path(example_adapter())
    print(f"$ gradience audit {shlex.quote(str(path))}\n")
    report = call(gradience.audit_adapter, AuditSettings(path, command=command_line()))
    print_screen(type(report).to_text, report, view=View(brief=True, paths=(str(path),)))
    print()
    steps = Facts(
        [
            ("your adapter", "gradience audit ./your_adapter"),
            ("train and test", "gradience bench run -c minilm_reviews_demo -o runs/demo"),
            ("terms", "gradience help glossary"),
        ]
    )
    print_screen(terminal.render, [Heading("Next steps"), steps])


def example_adapter() -> Path:
    """Return the folder of the bundled adapter."""
    return Path(str(files("gradience"))) / "examples" / EXAMPLE


def shown_path(path: Path) -> Path:
    """Return `path` relative to the working directory if that is shorter to type."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
