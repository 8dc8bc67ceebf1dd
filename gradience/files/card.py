"""The model card of an adapter: Gradience writes only the block between two markers in its README.md.

The block comes after the YAML that hubs read and before the text. It first says which text describes the original.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from gradience.files.whole import write_whole
from gradience.reading import MAX_DATA_BYTES, read_file

CARD = "README.md"
BEGIN, END = b"<!-- gradience:card -->\n", b"<!-- /gradience:card -->\n"
"""No name from an untrusted file can end a block: our Markdown writes `<` as a reference, and code has none."""
CardOf = Callable[[Path], str]
"""An adapter's folder -> the block of its card."""
_FRONT_MATTER = re.compile(rb"(?:\xef\xbb\xbf)?---[ \t]*\r?\n.*?\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_BLOCK = re.compile(re.escape(BEGIN) + rb".*?" + re.escape(END), re.DOTALL)


def with_block(card: bytes, block: str) -> bytes:
    """Return the card with `block` (Markdown) between the markers; an existing block is replaced.

    >>> with_block(b"---\\nlicense: mit\\n---\\n# Mine\\n", "Rank 4.")
    b'---\\nlicense: mit\\n---\\n<!-- gradience:card -->\\nRank 4.\\n<!-- /gradience:card -->\\n# Mine\\n'
    """
    text = BEGIN + block.strip("\n").encode() + b"\n" + END
    match = _BLOCK.search(card)
    if match is not None:
        start, end = match.span()
    else:
        front = _FRONT_MATTER.match(card)
        start = end = front.end() if front else 0
        if start and not card[:start].endswith(b"\n"):
            text = b"\n" + text
    return card[:start] + text + card[end:]


def block_in(card: bytes) -> str:
    """Return the Gradience block in a card; empty if there is none."""
    match = _BLOCK.search(card)
    return "" if match is None else match[0].decode("utf-8", "replace")


def without_block(card: bytes) -> bytes:
    """Return what is not ours: the card without the first block."""
    return _BLOCK.sub(b"", card, count=1)


def read_card(folder: Path) -> bytes:
    """Return the card in `folder`, empty if there is none. Raises InputError as `read_file` does."""
    path = folder / CARD
    return read_file(path, MAX_DATA_BYTES) if path.exists() else b""


def write_block(folder: Path, block: str) -> bool:
    """Put `block` into the card in `folder`, creating the card if necessary. Return True if the file changed.

    Raises InputError as `read_file` does, OutputError if the file cannot be written.
    """
    before = read_card(folder)
    after = with_block(before, block)
    if after == before:
        return False
    write_whole(folder / CARD, [after])
    return True
