r"""Names of files, modules and tensors come from untrusted sources: here they become safe to show, for every output.

A name may hold terminal escapes, C1 controls, bidirectional overrides, newlines, markup or HTML. First every
invisible character is written out (`\x1b`, `\u202e`), then the output format adds its own escapes. JSON keeps names
unchanged: artifacts contain such characters as JSON escapes.
"""

import re
from collections.abc import Sequence
from itertools import product, takewhile

from gradience.words import printable

MAX_NAME = 200
"""Maximum number of characters of a name that are shown; a longer name is cut in the middle."""
MAX_SENTENCE = 600
"""Maximum number of characters of a message that are shown: messages contain names."""

# Structure, HTML, math, and text that renderers turn into links (addresses, mentions; `k@90` is neither).
_MARKDOWN_ACTIVE = re.compile(r"[\\`*{}\[\]#|~$^!<>&]|(?<!\bk)@|@(?!\d)|://|(?<=www)\.")
_PLAIN_NAME = re.compile(r"[\w.\-/ …]+")


def display_name(name: str, limit: int = MAX_NAME) -> str:
    """Return a name, safe for a terminal: visible characters only, at most `limit` of them.

    A longer name loses its middle: module names differ at their ends.
    """
    if len(name) > 4 * limit:  # escaping never makes text shorter: no need to escape megabytes
        name = name[: 2 * limit] + name[-2 * limit :]
    shown = printable(name)
    if len(shown) <= limit:
        return shown
    head = limit // 2
    return shown[:head] + "…" + shown[head + 1 - limit :]


def display_sentence(text: str) -> str:
    """Return a message that contains names, safe for a terminal."""
    return display_name(text, MAX_SENTENCE)


def markdown_text(text: str) -> str:
    """Return text for a Markdown paragraph or table cell: nothing in it is markup, HTML, a link or a cell border.

    Character references never count as structure in CommonMark, not even in a table, so they are used for
    all that could; only the harmless underscore gets a backslash, to keep the source readable.
    """
    return _MARKDOWN_ACTIVE.sub(_reference, display_sentence(text)).replace("_", "\\_")


def markdown_name(name: str) -> str:
    """Return a name as inline code if its characters allow it, otherwise as escaped text."""
    shown = display_name(name)
    return f"`{shown}`" if _PLAIN_NAME.fullmatch(shown) else markdown_text(shown)


def _reference(match: re.Match[str]) -> str:
    return "".join(f"&#{ord(character)};" for character in match[0])


def html_text(text: str) -> str:
    """Return text for HTML, also inside a quoted attribute."""
    return _escaped(display_sentence(text))


def html_name(name: str) -> str:
    """Return a name for HTML, isolated from the text direction around it."""
    return f"<bdi>{_escaped(display_name(name))}</bdi>"


def _escaped(text: str) -> str:
    import html  # all named characters of HTML: most verbs write none

    return html.escape(text, quote=True)


# ---------------------------------------------------------------- names in the columns of a terminal


def cells(text: str) -> int:
    """Return the number of columns that `text` takes in a terminal (a CJK character takes two)."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def fit(text: str, width: int) -> str:
    """Return `text` in at most `width` columns, cut at the front if it is too long: names differ at their ends."""
    if cells(text) <= width:
        return text
    used, start = 1, len(text)
    while start > 0 and used + cells(text[start - 1]) <= width:
        start -= 1
        used += cells(text[start])
    return "…" + text[start:]


KEPT_IN_FRONT = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)
"""Numbers of characters that may be kept at the front of a name: few tries, because there may be 50,000 names."""


def fit_names(names: Sequence[str], width: int) -> list[str]:
    """Return each name in at most `width` columns, cut so that no two different names look the same.

    >>> fit_names(["encoder.block.0.q", "decoder.block.0.q"], 12)
    ['e….block.0.q', 'd….block.0.q']

    The front is cut first. If that makes two names equal, the same number of characters is kept at the front of all
    names, then after their common prefix. If no cut keeps them distinct, all names stay whole: a line that is too
    long is better than two equal lines.
    """
    different = len(set(names))
    signs = zip(*(name for name in names if cells(name) > width), strict=False)
    shared = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, signs))
    heads = [head for head in KEPT_IN_FRONT if head < width - 1]
    for skip, head in [(0, 0), *product((0, shared), heads)]:
        shown = [_cut(name, width, skip, head) for name in names]
        if len(set(shown)) == different:
            return shown
    return list(names)


def _cut(name: str, width: int, skip: int, head: int) -> str:
    """Return `head` characters of `name` after the first `skip`, then as much of its end as fits."""
    if cells(name) <= width:
        return name
    front = "…" * bool(skip) + name[skip : skip + head]
    return front + fit(name[skip + head :], width - cells(front))
