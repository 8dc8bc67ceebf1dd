"""Words of messages: one and many, the first of a long list, and untrusted names made visible.

Numbers for screens are in report/numbers.py.
"""

import re
from collections.abc import Sequence
from fractions import Fraction

# Letters and marks by category, but nothing to see: fillers, joiners, variation selectors
# (the Default_Ignorable_Code_Point property of Unicode, as far as str.isprintable() lets it through).
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


def noun(number: int, singular: str, many: str | None = None) -> str:
    """Return `singular` for 1, else `many` (by default with an s).

    >>> noun(1, "key"), noun(2, "key"), noun(0, "body", "bodies")
    ('key', 'keys', 'bodies')
    """
    return singular if number == 1 else many or f"{singular}s"


def counted(number: int, singular: str, many: str | None = None) -> str:
    """Return `1 tensor`, `2 tensors`, `1000 tensors`: for messages, in which digits are not grouped.

    For screens: `plural` of report/numbers.py.
    """
    return f"{number} {noun(number, singular, many)}"


def listed(names: Sequence[str], most: int = 3) -> str:
    """Return the first names, and how many more there are.

    >>> listed(["q", "k", "v", "o"], 2)
    'q, k and 2 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, at most 300 characters; the error's class if it has no message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def points(difference: Fraction | float) -> str:
    """Format a difference of shares in percentage points with its sign: `−2.50`, `+0.15`, `0.00`."""
    hundredths = round(Fraction(difference) * 10_000)
    sign = "−" if hundredths < 0 else "+" if hundredths > 0 else ""
    return f"{sign}{abs(hundredths) // 100}.{abs(hundredths) % 100:02d}"


def printable(text: str) -> str:
    r"""`text` with every character that is not plainly visible written out, as in `\x1b` or `\u202e`.

    That is what `str.isprintable()` rejects (controls, newlines, format and bidirectional characters,
    surrogates, private and unassigned code points, odd spaces), and the invisible letters it lets through.
    """
    if text.isprintable() and (text.isascii() or not _INVISIBLE.search(text)):
        return text
    return "".join(_visible(character) for character in text)


def _visible(character: str) -> str:
    if character.isprintable() and not _INVISIBLE.match(character):
        return character
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def visible(text: str) -> str:
    """Text with `printable` lines; tabs and line ends are kept."""
    return re.sub(r"[^\n\t]+", lambda match: printable(match[0]), text)


def plainly(message: str) -> str:
    """Return a shorter version of a pydantic message.

    >>> plainly("Input should be greater than or equal to 1")
    'must be at least 1'
    """
    message = message.removeprefix("Value error, ").replace("Input should be", "must be")
    message = message.removesuffix(", unable to parse string as a number")
    return message.replace("greater than or equal to", "at least").replace("less than or equal to", "at most")
