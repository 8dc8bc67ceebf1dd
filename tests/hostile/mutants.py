"""Mutants of a text: bytes that are changed, and words that are exchanged for those that have been worst.

Seeded, so that a mutant can be made again from its number alone.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

WORDS = (
    b"null",
    b"true",
    b"false",
    b"0",
    b"-1",
    b"1e999",
    b"NaN",
    b"Infinity",
    b"-0.0",
    b"0.5",
    b"9" * 30,
    b"9" * 400,
    b"[]",
    b"{}",
    b'""',
    b'"x"',
    b"[[]]",
    b'{"a": 1}',
    b"18446744073709551616",
    b"1e-400",
    b'"\\ud800"',
    b'"\\u001b[2J"',
    b"[1, 2]",
    b"\xff",
    b"\0",
    b"<<: 1",
    b"*a",
    b"&a",
    b"!!int x",
    b"!!bool x",
    b".inf",
    b".nan",
    b"~",
    b"---",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b'"',
    b"\n",
    b" ",
    b"\t",
    b"#",
    b"\\",
    b"'",
)
_ATOM = re.compile(rb'"(?:[^"\\\n]|\\.)*"|-?\d[\d.eE+-]*|true|false|null|[A-Za-z_][\w.]*')


def mutants(content: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """`count` mutants, each with one to four changes."""
    atoms = [match.span() for match in _ATOM.finditer(content)]
    for number in range(count):
        yield mutant(content, random.Random(f"{seed}/{number}"), atoms)


def mutant(content: bytes, chance: random.Random, atoms: list[tuple[int, int]]) -> bytes:
    """One mutant. atoms: where the values and keys of the good text stand."""
    changed = content
    if atoms and chance.random() < 0.6:  # first, while the places are right
        start, end = chance.choice(atoms)
        other = chance.choice(atoms)
        word = chance.choice((chance.choice(WORDS), content[slice(*other)], b""))
        changed = content[:start] + word + content[end:]
    for _ in range(chance.randint(0 if changed is not content else 1, 3)):
        changed = _of_bytes(changed, chance)
    return changed


def _of_bytes(content: bytes, chance: random.Random) -> bytes:
    if not content:
        return chance.choice(WORDS)
    at = chance.randrange(len(content))
    to = min(len(content), at + chance.choice((1, 1, 2, 4, 16, 64)))
    match chance.randrange(6):
        case 0:  # a bit
            return content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :]
        case 1:  # left out
            return content[:at] + content[to:]
        case 2:  # twice
            return content[:to] + content[at:to] + content[to:]
        case 3:  # moved
            where = chance.randrange(len(content))
            rest = content[:at] + content[to:]
            return rest[:where] + content[at:to] + rest[where:]
        case 4:  # a word
            return content[:at] + chance.choice(WORDS) + content[at:]
        case _:  # cut
            return (
                content[:to] if chance.random() < 0.2 else content[:at] + chance.choice(WORDS) + content[to:]
            )
