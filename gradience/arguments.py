"""Type checks for arguments of public functions: the error for a wrong type names the expected one."""

from typing import TypeGuard

from gradience.errors import WrongType


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
