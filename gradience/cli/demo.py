"""`gradience demo`: the audit of a trained adapter that comes with the package, and Bench on a small model."""

import shlex
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated

from gradience.settings import Flag, StrPath, call, settings_model

EXAMPLE = "minilm-reviews-r8"
CONFIG = "minilm_reviews_demo"


@settings_model(kw_only=True)
class DemoSettings:
    """Options."""

    train: Annotated[StrPath | None, Flag("DIR")] = None
    """Train and evaluate in DIR instead (takes minutes; needs the extra bench)."""


def demo(settings: DemoSettings) -> int:
    """The adapter is a LoRA of MiniLM-L6, trained on movie-review sentences; nothing is downloaded. With --train, a
    rank-32 adapter is trained, audited and truncated, a smaller one is retrained, and all of them are evaluated on
    the same sentences.
    """
    if settings.train is not None:
        return train_and_decide(Path(settings.train))
    from gradience.audit.adapter import audit_adapter
    from gradience.audit.options import AuditSettings
    from gradience.cli.shared import command_line, print_screen
    from gradience.reports.base import terminal
    from gradience.reports.base.blocks import Facts, Heading, View

    path = shown_path(example_adapter())
    typed = shlex.quote(str(path))
    print(f"$ gradience audit {typed}\n")
    report = call(audit_adapter, AuditSettings(path, command=command_line()))
    print_screen(type(report).to_text, report, view=View(brief=True, paths=(str(path),)))
    print()
    steps = Facts(
        [
            ("your adapter", "gradience audit ./your_adapter"),
            ("train and test", "gradience demo --train runs/demo"),
            ("terms", "gradience help glossary"),
        ]
    )
    print_screen(terminal.render, [Heading("Next steps"), steps])
    return 0


def train_and_decide(output: Path, overrides: Sequence[str] = ()) -> int:
    """Run Bench on the demo's config in `output`, print its result, and return the exit code."""
    from gradience.bench.settings import BenchSettings
    from gradience.bench.verb import run_bench
    from gradience.cli.bench import code_of
    from gradience.cli.console import show_written
    from gradience.cli.shared import ReportOutput
    from gradience.reports.bench import Bench

    settings = BenchSettings(config=CONFIG, output=output, overrides=overrides)
    result = ReportOutput().watch(run_bench, settings)
    assert isinstance(result, Bench)  # of one seed
    print(result)
    show_written(output / "bench.json", output / "bench.md")
    return code_of(result.status)


def example_adapter() -> Path:
    """Return the folder of the bundled adapter."""
    return Path(str(files("gradience"))) / "examples" / EXAMPLE


def shown_path(path: Path) -> Path:
    """Return `path` relative to the working directory if that is shorter to type."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
