"""The model card that is carried along: it describes the original, and its first line says so."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from gradience.artifacts.compression import ModuleResult

CARD = "README.md"
OPENING = "> **A smaller approximation of the adapter described here.**"
_FRONT_MATTER = re.compile(rb"(?:\xef\xbb\xbf)?---[ \t]*\r?\n.*?\r?\n---[ \t]*\r?\n", re.DOTALL)


def with_first_line(card: bytes, line: str) -> bytes:
    """Return the card with `line` above its text, behind the YAML that hubs read, in place of an earlier such line.

    >>> with_first_line(b"---\\nlicense: mit\\n---\\n# My adapter\\n", OPENING)
    b'---\\nlicense: mit\\n---\\n> **A smaller approximation of the adapter described here.**\\n\\n# My adapter\\n'
    """
    front = _FRONT_MATTER.match(card)
    head, text = (card[: front.end()], card[front.end() :]) if front else (b"", card)
    text = text.lstrip(b"\r\n")
    if text.startswith(OPENING.encode()):
        text = text.partition(b"\n")[2].lstrip(b"\r\n")
    return head + line.encode() + b"\n\n" + text


def annotate(folder: Path, line: str) -> tuple[str, ...]:
    """Put `line` on top of the card in `folder` and return its name; nothing where there is none. Raises OSError."""
    card = folder / CARD
    if not card.is_file():
        return ()
    card.write_bytes(with_first_line(card.read_bytes(), line))
    return (CARD,)


def first_line(rows: Sequence[ModuleResult], error: float) -> str:
    """Return what the card of an adapter compressed to `rows`, with this relative error, must say first."""
    before, now = (_span([getattr(row, name) for row in rows]) for name in ("old_rank", "new_rank"))
    return (
        f"{OPENING} `gradience compress` wrote it without training: LoRA rank {before} → {now}, the same scale, "
        f"relative error of the update {error:.2g}. What follows, every figure in it included, is about the original."
    )


def _span(ranks: Sequence[int]) -> str:
    low, high = min(ranks), max(ranks)
    return str(low) if low == high else f"{low} to {high}"
