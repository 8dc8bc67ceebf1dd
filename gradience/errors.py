"""Errors a user can act on, and the exit code of each. Everything else is a bug and keeps its traceback."""

import importlib
import importlib.util
from collections.abc import Iterable
from functools import partial
from types import ModuleType
from typing import Any, ClassVar, TypeGuard

MAX_MESSAGE_BYTES, MAX_HINT_BYTES = 1400, 500
"""Size limits of an error in UTF-8: it may quote names and values of megabytes from an untrusted file."""


class GradienceError(Exception):
    """An error that a user can act on; any other exception is a bug of Gradience.

    >>> try:
    ...     audit_adapter("my_adaptor")
    ... except GradienceError as error:
    ...     print(error.code, error.exit_code)
    not-found 3

    `code` is stable and short (`lfs-pointer`), for scripts and for the documentation.
    `hint`, when given, says what to do next. Both are short, whatever the input holds.
    """

    exit_code: ClassVar[int] = 3

    def __init__(self, message: str, *, code: str, hint: str = "") -> None:
        super().__init__(shortened(message, MAX_MESSAGE_BYTES))
        self.code = code
        self.hint = shortened(hint, MAX_HINT_BYTES)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle it whole, for an error of another process."""
        return partial(type(self), code=self.code, hint=self.hint), self.args


def shortened(text: str, limit: int) -> str:
    """`text` in at most `limit` bytes of UTF-8: what is too much is cut out of the middle.

    >>> shortened("0123456789", 9)
    '012…789'
    """
    half = (limit - len("…".encode())) // 2
    if len(text) <= half:
        return text
    encoded = text.encode(errors="surrogatepass")
    if len(encoded) <= limit:
        return text
    return f"{encoded[:half].decode(errors='ignore')}…{encoded[-half:].decode(errors='ignore')}"


class VerificationError(GradienceError):
    """A written file does not pass its check: PEFT does not load it, or it reads back differently.

    >>> VerificationError("small.gguf: ranks differ after reading", code="conversion-differs").exit_code
    1
    """

    exit_code = 1


class UsageError(GradienceError):
    """The command or its arguments are wrong, or contradict each other.

    >>> try:
    ...     compress_adapter("my_adapter", rank=4, energy=0.9, output="small")
    ... except UsageError as error:
    ...     print(error)
    give only one of --rank and --energy
    """

    exit_code = 2


class WrongType(UsageError, TypeError):
    """An argument of a function has the wrong type; also a TypeError.

    >>> try:
    ...     audit_adapter("my_adapter", tau="0.9")
    ... except WrongType as error:
    ...     print(error)
    tau must be a number, not str ('0.9')
    """


class InputError(GradienceError):
    """The input cannot be used, or is refused for a stated reason.

    >>> try:
    ...     audit_adapter("audit.json")
    ... except InputError as error:
    ...     print(error.code)
    wrong-format
    """

    exit_code = 3


class ReadError(InputError):
    """The input exists, but the disk or the permissions do not allow it to be read.

    >>> ReadError("adapter_config.json: cannot be opened: Permission denied", code="unreadable").exit_code
    5
    """

    exit_code = 5


class IncompleteError(GradienceError):
    """A result exists, but parts of it are missing.

    >>> IncompleteError("2 of 16 modules could not be measured", code="incomplete-audit").exit_code
    4
    """

    exit_code = 4


class OutputError(GradienceError):
    """The disk or the permissions do not allow the result to be written.

    >>> try:
    ...     audit_adapter("my_adapter").save("no_such_folder/audit.json")
    ... except OutputError as error:
    ...     print(error.code)
    write-failed
    """

    exit_code = 5


class LockedError(GradienceError):
    """Another run is writing to the same output.

    >>> LockedError("runs/mine: another run is writing there", code="locked").exit_code
    6
    """

    exit_code = 6


class NetworkError(GradienceError):
    """The network or the authorization failed.

    >>> NetworkError("org/name: no connection to the hub", code="hub-connection").exit_code
    7
    """

    exit_code = 7


class EngineError(GradienceError):
    """The engine's process ended or ran out of memory.

    >>> EngineError("the vLLM process was ended by signal 9", code="engine-died").exit_code
    5
    """

    exit_code = 5


class MissingExtra(GradienceError):
    """An optional dependency is not installed.

    >>> error = MissingExtra("pandas is not installed", code="missing-extra", hint='pip install ".[pandas]"')
    >>> error.exit_code, error.hint
    (2, 'pip install ".[pandas]"')
    """

    exit_code = 2


def require(module: str, *, extra: str) -> ModuleType:
    """Import and return an optional dependency. Raises MissingExtra, which says what brings it.

    A dependency that is installed but broken keeps its own traceback.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.split(".", maxsplit=1)[0]:
            raise
        raise _missing(module, extra) from None


def require_installed(*modules: str, extra: str) -> None:
    """Check that optional dependencies are installed, and import none. Raises MissingExtra, as `require` does."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise _missing(module, extra)


def _missing(module: str, extra: str) -> MissingExtra:
    return MissingExtra(
        f"{module} is not installed",
        code="missing-extra",
        hint=f'in your clone of Gradience: pip install ".[{extra}]"',
    )


def did_you_mean(word: str, known: Iterable[str], then: str = "", most: int = 1) -> str:
    """A hint that asks for those of `known` that are spelt most like `word`, at most `most`, with `then` behind it.

    >>> did_you_mean("gsm9k", ["glue", "gsm8k"])
    'did you mean `gsm8k`?'
    """
    from difflib import get_close_matches

    guesses = [f"`{match}`" for match in get_close_matches(word, list(known), n=most)]
    return " ".join(filter(None, [f"did you mean {' or '.join(guesses)}?" if guesses else "", then]))


# ---------------------------------------------------------------- types of values


def is_number(value: object) -> TypeGuard[int | float]:
    """Return True if a value read from a file is a number; True and False do not count as numbers."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_integer(value: object) -> TypeGuard[int]:
    """Return True if a value read from a file is an integer; True and False do not count as integers."""
    return isinstance(value, int) and not isinstance(value, bool)


def positive_integer(value: object) -> int | None:
    """Return a value of a file that is an integer above 0; None for anything else."""
    return value if is_integer(value) and value > 0 else None


def wrong_type(name: str, value: object, expected: str, hint: str = "") -> WrongType:
    """Return the error for an argument: `rank must be an integer, not str ('16')`."""
    shown = f" ({value!r:.40})" if isinstance(value, str | bytes | int | float) else ""
    return WrongType(
        f"{name} must be {expected}, not {type(value).__name__}{shown}", code="wrong-type", hint=hint
    )
