"""The list of file faults, with the exit codes that fit each.

A fault changes the bytes of a good file, or replaces the file. Which faults a file can have depends on
its syntax; faults of the fields of a JSON object, and of the headers of weights, are made for each field. Mutants are
drawn for each kind of file.
"""

import json
import os
import pickle
import random
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from factory import lfs_pointer
from test_names import WORST

from hostile.header_faults import header_faults

REFUSED = frozenset({3})
"""The file is none: it can only be refused."""
NO_FILE = frozenset({2, 3, 5})
"""There is something else in its place, or it may not be read."""
ANY = frozenset({0, 1, 2, 3, 4, 8})
"""The file is one, with odd content: a report, a finding or a refusal."""


class Fault(NamedTuple):
    """change: good bytes -> bad ones.   place: puts something at the path, in place of the file."""

    name: str
    codes: frozenset[int]
    change: Callable[[bytes], bytes] | None = None
    place: Callable[[Path], object] | None = None


class Payload:
    """What a pickle would do to whoever opens it."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("echo opened > /tmp/opened",)


def middle(content: bytes, inserted: bytes) -> bytes:
    half = len(content) // 2
    return content[:half] + inserted + content[half:]


PAGE = b"<!DOCTYPE html>\n<html><body>401 Unauthorized</body></html>\n"
BYTES = [
    Fault("empty", REFUSED, lambda content: b""),
    *(
        Fault(f"cut to {share}/8", REFUSED, lambda content, share=share: content[: len(content) * share // 8])
        for share in range(1, 8)
    ),
    Fault("twice", ANY, lambda content: content + content),
    Fault("git lfs pointer", REFUSED, lambda content: lfs_pointer()),
    Fault("web page", REFUSED, lambda content: PAGE),
    Fault("pickle in letters", REFUSED, lambda content: pickle.dumps(Payload(), 0)),
    Fault("pickle", REFUSED, lambda content: pickle.dumps(Payload(), 4)),
    Fault("zeros", REFUSED, lambda content: bytes(2**20)),
    Fault("NUL bytes inside", ANY, lambda content: middle(content, bytes(16))),
    Fault("a byte that is no UTF-8", ANY, lambda content: middle(content, b"\xff")),
    Fault("a surrogate in UTF-8", ANY, lambda content: middle(content, b"\xed\xa0\x80")),
    Fault("byte order mark", ANY, lambda content: b"\xef\xbb\xbf" + content),
    Fault("UTF-16", ANY, lambda content: content.decode("latin-1").encode("utf-16")),
    Fault("line ends of Windows", ANY, lambda content: content.replace(b"\n", b"\r\n")),
    Fault("32 MB of spaces behind it", ANY, lambda content: content + b" " * 2**25),
    Fault("32 MB of letters", REFUSED, lambda content: b"x" * 2**25),
    Fault("4 MB of lines", ANY, lambda content: b"a\n" * 2**21),
    Fault("ESC before it", ANY, lambda content: b"\x1b[2J" + content),
]


def _sparse(path: Path, size: int = 20 * 2**30) -> None:
    with path.open("wb+") as file:
        file.truncate(size)
        while size < 2**30 and file.read(2**20):
            pass  # the kernel makes the pages here: their first touch can take 5 s of the reader's processor time


def _socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the path of a socket may have 107 bytes
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)
    os.chdir(here)


PLACES = [
    Fault("missing", frozenset({2, 3, 8}), place=lambda path: None),
    Fault("folder", NO_FILE, place=lambda path: path.mkdir()),
    Fault("pipe", NO_FILE, place=os.mkfifo),
    Fault("socket", NO_FILE, place=_socket),
    Fault("link to /dev/zero", NO_FILE, place=lambda path: path.symlink_to("/dev/zero")),
    Fault("link to /dev/null", NO_FILE, place=lambda path: path.symlink_to("/dev/null")),
    Fault("link to /dev/full", NO_FILE, place=lambda path: path.symlink_to("/dev/full")),
    Fault("link to nothing", NO_FILE, place=lambda path: path.symlink_to("nowhere")),
    Fault("link to itself", NO_FILE, place=lambda path: path.symlink_to(path.name)),
    Fault("link to a secret", NO_FILE, place=lambda path: path.symlink_to("/etc/passwd")),
    Fault("sparse, 600 MB", REFUSED, place=lambda path: _sparse(path, 600_000_000)),
    Fault("sparse, 20 GB", NO_FILE, place=_sparse),
]


# ---------------------------------------------------------------- JSON

DEEP = 100_000
WORDS = {
    "null": b"null",
    "-1": b"-1",
    "half": b"0.5",
    "1e309": b"1e309",
    "NaN": b"NaN",
    "400 digits": b"9" * 400,
    "5000 digits": b"9" * 5000,
    "worst": json.dumps(WORST).encode(),
    "surrogate": rb'"\ud800"',
    "1 MB of text": b'"' + b"x" * 2**20 + b'"',
    "path": b'"../../../../etc/passwd"',
    "empty list": b"[]",
    "100,000 numbers": b"[" + b"1," * 99_999 + b"1]",
    "object": b'{"a": {"b": [1, null]}}',
    "deep list": b"[" * DEEP + b"]" * DEEP,
    "key twice": b'{"a": 1, "a": 2}',
    "regexes": json.dumps({"(a|aa)+$" + "b" * i: 2 for i in range(200)}).encode(),
}
"""Values as they stand in a file, also those that JSON does not have."""
WHOLE = {
    "null": b"null",
    "a list": b"[]",
    "an empty object": b"{}",
    "deep lists": b"[" * DEEP,
    "deep objects": b'{"a":' * DEEP,
    "a million lists": b"[" + b"[]," * 10**6 + b"[]]",
    "100,000 keys": json.dumps({f"key{i}": i for i in range(100_000)}).encode(),
    "a key of 1 MB": json.dumps({"k" * 2**20: 1}).encode(),
    "a surrogate": rb'{"a": "\ud800"}',
    "a key twice": b'{"r": 1, "r": 2}',
    "the original project": b'{"bench_version": "0.1"}',
    "another schema": b'{"schema": "gradience.audit/99"}',
    "a schema that steers": rb'{"schema": "\u001b[2J"}',
    "a schema of 1 MB": json.dumps({"schema": "x" * 2**20}).encode(),
}


def json_faults(content: bytes) -> Iterator[Fault]:
    """Whole texts of JSON; and each field of the object, at the top and one below, left out or with an odd value."""
    for name, text in WHOLE.items():
        yield Fault(f"JSON: {name}", ANY, lambda _, text=text: text)
    value = json.loads(content)
    places = [(key,) for key in value]
    places += [(key, inner) for key, part in value.items() if isinstance(part, dict) for inner in part]
    for path in places:
        shown = ".".join(path)
        yield Fault(f"{shown} left out", ANY, lambda _, path=path: _with(value, path, None))
        for name, word in WORDS.items():
            yield Fault(f"{shown}: {name}", ANY, lambda _, path=path, word=word: _with(value, path, word))


def _with(value: Any, path: tuple[str, ...], word: bytes | None) -> bytes:
    """The JSON text of `value` in which `word` stands at `path`; None leaves the key out."""
    first, *rest = path
    changed = dict(value)
    if rest:
        inner = _with(value[first], tuple(rest), word)
    elif word is None:
        del changed[first]
        return json.dumps(changed).encode()
    else:
        inner = word
    changed[first] = "\0word\0"
    return json.dumps(changed).encode().replace(b'"\\u0000word\\u0000"', inner)


def line_faults(content: bytes) -> Iterator[Fault]:
    """Odd lines of a file that has one object a line, at its beginning, in its middle and at its end."""
    lines = content.splitlines(keepends=True)
    rows = [json.loads(line) for line in lines[:40]]
    chosen = {json.dumps(sorted(row)): (place, row) for place, row in enumerate(rows)}.values()
    for name, text in WHOLE.items():
        for where, place in (("first", 0), ("middle", len(lines) // 2), ("last", len(lines))):
            yield Fault(
                f"{where} line: {name}",
                ANY,
                lambda _, p=place, t=text: b"".join([*lines[:p], t, b"\n", *lines[p:]]),
            )
    for place, row in chosen:
        places = [(key,) for key in row]
        places += [
            (key, inner) for key, part in row.items() if isinstance(part, dict) for inner in list(part)[:6]
        ]
        for path in places:
            for name, word in WORDS.items():
                text = _with(row, path, word)
                yield Fault(
                    f"line {place + 1}: {'.'.join(path)}: {name}",
                    ANY,
                    lambda _, p=place, t=text: b"".join([*lines[:p], t, b"\n", *lines[p + 1 :]]),
                )
    yield Fault("lines in another order", ANY, lambda _: b"".join(reversed(lines)))
    yield Fault("every line twice", ANY, lambda _: b"".join(line * 2 for line in lines))
    yield Fault("a line of 32 MB", ANY, lambda _: b"".join([*lines, b'{"a": "' + b"x" * 2**25 + b'"}\n']))
    yield Fault(
        "a line of 20 MB of lists", ANY, lambda _: b"".join([*lines, b"[" + b"[]," * 7_000_000 + b"0]\n"])
    )
    yield Fault("only its first line", ANY, lambda _: lines[0])
    yield Fault("without its first line", ANY, lambda _: b"".join(lines[1:]))


YAML_ALONE = {
    "the root in itself": b"&a [*a]",
    "100,000 keys": b"\n".join(b"k%d: %d" % (i, i) for i in range(100_000)),
}
YAML_BEHIND = {
    "a merge of itself": b"x: &a\n  <<: *a",
    "aliases of aliases": b"\n".join(
        [b"a0: &a0 [x, x]", *(b"a%d: &a%d [%s]" % (i, i, b"*a%d, " % (i - 1) * 9) for i in range(1, 9))]
    ),
    "a list of 100,000": b"x: [" + b"1, " * 100_000 + b"1]",
    "2,000 brackets": b"x: " + b"[" * 2000 + b"]" * 2000,
    "a key of 100,000 letters": b"k" * 100_000 + b": 1",
    "an anchor of 1 MB": b"x: &" + b"a" * 2**20 + b" 1",
    "a call": b"x: !!python/object/apply:os.system ['touch out/ran']",
    "a file": b"x: !include /etc/passwd",
}
"""What is read of YAML, and what is not: tests/adapters/test_strict_yaml.py."""


def yaml_faults() -> Iterator[Fault]:
    for name, text in YAML_ALONE.items():
        yield Fault(f"YAML: {name}", ANY, lambda _, text=text: text)
    for name, text in YAML_BEHIND.items():
        yield Fault(f"YAML: {name}", ANY, lambda content, text=text: content + b"\n" + text + b"\n")


ROWS = {
    "a quote that never ends": lambda content: content.replace(b'"text number 3', b'"text number 3"', 1),
    "10,000 columns": lambda content: (
        b",".join(b"c%d" % i for i in range(10_000)) + b"\n" + b"," * 9_999 + b"\n"
    ),
    "a field of 200 kB": lambda content: content + b'"' + b"word " * 40_000 + b'",good\n',
    "a label of 5,000 digits": lambda content: content + b"x," + b"9" * 5000 + b"\n",
    "a quote that is closed after 20 MB": lambda content: content + b'"' + b"x\n" * 10_000_000 + b'",good\n',
    "1,000,001 rows": lambda content: b"text,label\n" + b"a,b\n" * 1_000_001,
    "a field of 8 MB": lambda content: content + b'"' + b"x" * 2**23 + b'",good\n',
    "a label that steers": lambda content: content + b"x,\x1b[2J\n",
    "100,000 labels": lambda content: (
        content + b"".join(b"text %d,label %d\n" % (i, i) for i in range(100_000))
    ),
}


# ---------------------------------------------------------------- mutants

MUTANTS = 60
PIECES = (
    *b"null true false 0 -1 1e999 NaN Infinity -0.0 0.5 [] {} [[]] 18446744073709551616 1e-400 .inf .nan ~ ---".split(),
    *b"\xff \0 *a &a { } [ ] , : # \" \\ '".split(b" "),
    *(b'""', b'"x"', b'{"a": 1}', b'"\\ud800"', b'"\\u001b[2J"', b"[1, 2]", b"9" * 30, b"9" * 400),
    *(b"<<: 1", b"!!int x", b"!!bool x", b"\n", b" ", b"\t"),
)


def mutants(name: str) -> Iterator[Fault]:
    """Yield files with one to four random, reproducible mutations."""
    for number in range(MUTANTS):
        yield Fault(f"mutant {number}", ANY, partial(mutant, seed=f"{name}/{number}"))


def mutant(content: bytes, seed: str) -> bytes:
    chance = random.Random(seed)
    for _ in range(chance.randint(1, 4)):
        content = _mutated(content, chance)
    return content


def _mutated(content: bytes, chance: random.Random) -> bytes:
    if not content:
        return chance.choice(PIECES)
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
            rest = content[:at] + content[to:]
            where = chance.randrange(len(rest) + 1)
            return rest[:where] + content[at:to] + rest[where:]
        case 4:  # put in
            return content[:at] + chance.choice(PIECES) + content[at:]
        case _:  # exchanged
            return content[:at] + chance.choice(PIECES) + content[to:]


def faults_of(syntax: str, content: bytes) -> Iterator[Fault]:
    """Every fault that a file of this syntax can have."""
    yield from PLACES
    yield from BYTES
    if syntax == "json":
        yield from json_faults(content)
    elif syntax == "lines":
        yield from line_faults(content)
    elif syntax == "yaml":
        yield from yaml_faults()
    elif syntax == "safetensors":
        yield from (
            Fault(f"header: {name}", ANY, lambda _, content=content: content())
            for name, content in header_faults()
        )
    elif syntax == "rows":
        yield from (Fault(f"rows: {name}", ANY, change) for name, change in ROWS.items())
