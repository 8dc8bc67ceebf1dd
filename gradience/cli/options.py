"""Command-line options shared by the verbs that run a model."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

from pydantic.dataclasses import dataclass

from gradience.errors import InputError
from gradience.files.rows import is_on_hub
from gradience.settings import SETTINGS, Flag, StrPath


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
