"""Command-line options that several verbs share."""

import os
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, TypeVar

from gradience.cli.console import show_note
from gradience.errors import InputError, UsageError
from gradience.files.rows import is_on_hub
from gradience.settings import Flag, StrPath, settings_model

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
