"""Command-line options shared by the verbs that run a model."""

from __future__ import annotations

import os
import sys
import warnings
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic.dataclasses import dataclass

from gradience.cli.console import beneath, show_note
from gradience.errors import InputError, require_installed
from gradience.files.rows import is_on_hub
from gradience.settings import SETTINGS, Flag, StrPath

if TYPE_CHECKING:
    from gradience.evaluate.inputs import EvaluateInputs


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class DryRun:
    """Options."""

    dry_run: bool = False
    """Only check the inputs and show the plan; no model is loaded."""


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
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
            from gradience.evaluate.engines.vllm.process import PYTHON

            python = Path(self.engine_python)  # a name without a folder is looked up in PATH
            os.environ[PYTHON] = os.path.abspath(python) if len(python.parts) > 1 else str(python)
        return allowing(self.allow_code)


def require_files(*paths: str | os.PathLike[str] | None) -> None:
    """Check that files are there, before anything slow is imported. Raises InputError (`task-file`)."""
    for path in paths:
        if path is not None and not is_on_hub(Path(path)) and not os.path.exists(path):
            raise InputError(f"{path}: no such file", code="task-file", hint="check the path")


def need_libraries() -> None:
    """Check that the libraries of a run and its forecast are installed; none is imported. Raises MissingExtra."""
    require_installed("torch", "transformers", "peft", "accelerate", "datasets", extra="hf")
    # Warnings of the libraries about each other; ours go through the log.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft|torch)\b")


def say_notes(inputs: EvaluateInputs, *, candidates: int, quiet: bool) -> None:
    """Print what was noticed in the inputs, and the margin that their examples can show."""
    from gradience.evaluate.forecast import margins_of
    from gradience.reports.evaluation import showable

    for note in inputs.notes:
        show_note(note)
    if not quiet and candidates and not inputs.compares_nll:
        examples = len(inputs.examples)
        margins = margins_of(examples, candidates, inputs.looks)
        print(showable(examples, margins), file=beneath(sys.stderr), flush=True)
