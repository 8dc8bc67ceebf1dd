"""Groups of examples that belong together: of one document, user or template, or spellings of one text."""

import re
import unicodedata
from collections.abc import Hashable, Iterable, Sequence

_BETWEEN = re.compile(r"(?<!\d)[.,:]|[.,:](?!\d)|[\s;!?…\"'`´“”„‘’«»()\[\]{}]+")
"""Spaces and punctuation; a point inside a number stays, and so do signs such as + and −."""


def spelling_key(text: str) -> str:
    """Return what spellings of one text share: no case, space or punctuation decides, but every letter, digit and sign.

    >>> spelling_key("It's 3 - 4."), spelling_key("it s  3 - 4!"), spelling_key("It's 3 + 4.")
    ('it s 3 - 4', 'it s 3 - 4', 'it s 3 + 4')
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(_BETWEEN.sub(" ", folded).split()) or folded


def joined(*keys: Sequence[Hashable | None]) -> tuple[int, ...]:
    """Return the group of each example: two are in one if they share a key, also through others; None is no key.

    >>> joined(["a", "b", "b", None], ["x", "x", "y", "z"])  # the second shares "x" with the first, "b" with the third
    (0, 0, 0, 1)
    """
    count = len(keys[0])
    parent, first = list(range(count)), dict[Hashable, int]()

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = place = parent[parent[place]]
        return place

    for column, values in enumerate(keys):
        for place, value in enumerate(values):
            if value is not None:
                roots = root(first.setdefault((column, value), place)), root(place)
                parent[max(roots)] = min(roots)
    return numbered(map(root, range(count)))


def numbered(groups: Iterable[Hashable]) -> tuple[int, ...]:
    """Return the groups as numbers in the order in which they occur."""
    numbers: dict[Hashable, int] = {}
    return tuple(numbers.setdefault(group, len(numbers)) for group in groups)


def group_note(examples: int, groups: Sequence[int], column: str | None) -> str:
    """Return the warning that examples are not independent.

    >>> group_note(400, [place // 10 for place in range(400)], None)
    '400 examples are 40 independent ones: the others are spellings of the same text'
    """
    reason = f"groups by `{column}` and spellings of the same text count as one" if column else ""
    reason = reason or "the others are spellings of the same text"
    return f"{examples:,} examples are {len(set(groups)):,} independent ones: {reason}"
