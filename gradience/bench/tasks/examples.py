"""Labelled text, made ready once for every task: deduplicated, identified, and given a role by its content.

The role of an example depends on its text alone. So it is the same on every machine, in every order of
rows and in every subset of the data; and two spellings of one sentence can never stand on both sides.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

Role = Literal["train", "dev", "confirm"]
ROLES: tuple[Role, ...] = get_args(Role)

PER_10_000: Mapping[Role, int] = {"train": 5600, "dev": 2200, "confirm": 2200}
"""Shares of the roles. Decisions are taken on dev; confirm is looked at once, for a claim."""


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled text. `id` is the first 16 hexadecimal digits of the sha256 of `canonical(text)`."""

    id: str
    text: str
    label: int
    role: Role


@dataclass(frozen=True, slots=True)
class Examples:
    """The examples of one task, in an order that depends on their content alone, and what was left out."""

    items: tuple[Example, ...]
    label_names: tuple[str, ...]
    counts: Mapping[str, int]
    """rows, duplicates (later spellings of a kept text), conflicts (rows of texts with more than one label)."""

    def of(self, role: Role) -> tuple[Example, ...]:
        """The examples that have `role`."""
        return tuple(example for example in self.items if example.role == role)

    def fingerprint(self, role: Role) -> str:
        """sha256 over ids, texts and labels of one role: equal if and only if the split is the same."""
        digest = hashlib.sha256()
        for example in self.of(role):
            digest.update(f"{example.id}\t{example.label}\t{example.text}\n".encode())
        return digest.hexdigest()


def canonical(text: str) -> str:
    """What two spellings of one text have in common: letters and digits, without case, accents or spacing."""
    decomposed = unicodedata.normalize("NFKD", text).casefold()
    kept = "".join(c if c.isalnum() else " " for c in decomposed if not unicodedata.combining(c))
    return " ".join(kept.split()) or " ".join(text.split())


def content_id(text: str) -> str:
    """The identity of a text: the first 16 hexadecimal digits of the sha256 of its canonical form."""
    return hashlib.sha256(canonical(text).encode()).hexdigest()[:16]


def role_of(example_id: str) -> Role:
    """The role that an example's identity gives it."""
    place, bound = int(example_id, 16) % 10_000, 0
    for role in ROLES:
        bound += PER_10_000[role]
        if place < bound:
            return role
    raise AssertionError("the shares of the roles do not add up to 10,000")


def prepare(rows: Iterable[tuple[str, int]], label_names: tuple[str, ...]) -> Examples:
    """Examples from rows of (text, label).

    The first spelling of a text is kept. A text that occurs with different labels is left out altogether.
    """
    counts: Counter[str] = Counter(rows=0, duplicates=0, conflicts=0)
    kept: dict[str, tuple[str, int]] = {}
    seen: Counter[str] = Counter()
    conflicting: set[str] = set()
    for text, label in rows:
        key = content_id(text)
        counts["rows"] += 1
        seen[key] += 1
        if kept.setdefault(key, (text, label))[1] != label:
            conflicting.add(key)
    counts["conflicts"] = sum(seen[key] for key in conflicting)
    counts["duplicates"] = sum(seen[key] - 1 for key in kept if key not in conflicting)
    items = tuple(
        Example(key, text, label, role_of(key))
        for key, (text, label) in sorted(kept.items())
        if key not in conflicting
    )
    return Examples(items, label_names, dict(counts))
