"""A user's task: a `.py` file, or a definition for lm-eval.

Such a task is code that a config names, and a config may come from a stranger. So it runs only when the user has said
so, on the command line (`--allow-code`) or in the environment (`GRADIENCE_ALLOW_CODE=1`, which child processes
inherit): no file can say it. What is not allowed is located and hashed, and not imported.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from gradience.digests import sha256_parts, sha256_text
from gradience.errors import InputError
from gradience.reading import MAX_SETTINGS_BYTES, read_file
from gradience.reports.bench_plan import TaskCode

ALLOW, FUNCTION = "GRADIENCE_ALLOW_CODE", "load"


def is_file(profile: str) -> bool:
    """Return True if the profile names a file: it ends in `.py`."""
    return profile.endswith(".py")


def file_code(profile: str, path: Path) -> tuple[TaskCode, bytes]:
    """Return the content of the file at `path`, and its digest. profile: as named in the config.

    Raises InputError (`task-file`) if the file cannot be read.
    """
    try:
        content = read_file(path, MAX_SETTINGS_BYTES)
    except InputError as error:
        if error.code != "not-found":
            raise
        raise no_such_file(profile) from None
    name = path.name if Path(profile).is_absolute() else profile
    return TaskCode(name=name, sha256=sha256_parts([content])), content


def no_such_file(profile: str) -> InputError:
    """Return the error for a task whose file does not exist."""
    return InputError(
        f"{profile}: cannot read this task: no such file",
        code="task-file",
        hint="check the path; a relative path starts at the config's folder, or at the working directory",
    )


def is_allowed() -> bool:
    """Return True if the environment allows a user's code to run."""
    return os.environ.get(ALLOW) == "1"


@contextmanager
def allowing(allow: bool = True) -> Iterator[None]:
    """Allow it for a while, in this process and in those that it starts; `allow=False` leaves things as they are."""
    before = os.environ.get(ALLOW)
    if allow:
        os.environ[ALLOW] = "1"
    try:
        yield
    finally:
        if allow and before is None:
            del os.environ[ALLOW]
        elif allow and before is not None:
            os.environ[ALLOW] = before


def require_permission(profile: str, code: TaskCode) -> None:
    """Raises InputError (`code-refused`) unless the environment allows code to run."""
    if is_allowed():
        return
    raise InputError(
        f"{profile}: this task runs its own code (sha256 {code.sha256[:16]}), which is not allowed yet",
        code="code-refused",
        hint=f"read the file; if you trust it, give --allow-code or set {ALLOW}=1",
    )


def run_file(path: Path, content: bytes) -> Any:
    """Execute the hashed bytes as a module, and return its `load`; None if it has none."""
    path = path.resolve()
    # A name of its own in sys.modules: dataclasses and the annotations of the options are looked up there.
    name = f"gradience_task_{sha256_text(str(path))[:16]}"
    sys.modules[name] = module = ModuleType(name)
    module.__file__ = str(path)
    exec(compile(content, str(path), "exec"), module.__dict__)
    return getattr(module, FUNCTION, None)
