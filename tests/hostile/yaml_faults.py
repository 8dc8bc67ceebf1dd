"""What is wrong with a YAML text beyond its bytes: aliases, tags, numbers, and keys that are none."""

from collections.abc import Callable

Change = Callable[[bytes], bytes]


def behind(text: str) -> Change:
    """The good text, and this."""
    return lambda content: content + b"\n" + text.encode("utf-8", "surrogatepass") + b"\n"


def alone(text: str) -> Change:
    return lambda content: text.encode("utf-8", "surrogatepass")


def bomb(levels: int, width: int) -> str:
    """Aliases of aliases: `width ** levels` nodes in some hundred bytes."""
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, levels)]
    return "\n".join(lines)


def merges(levels: int) -> str:
    lines = ["m0: &m0 {a: 1}"]
    lines += [f"m{i}: &m{i} {{<<: [*m{i - 1}, *m{i - 1}], k{i}: 1}}" for i in range(1, levels)]
    return "\n".join(lines)


TAGS = (
    "!!python/object/apply:os.system ['touch out/ran']",
    "!!python/name:os.system",
    "!!python/tuple [1]",
    "!!bool foo",
    "!!int foo",
    "!!int 0b2",
    "!!float foo",
    "!!timestamp 2024-99-99",
    "!!binary '***'",
    "!!set [a]",
    "!!omap [1]",
    "!!pairs [[1]]",
    "!!null x",
    "!!str []",
    "!unknown x",
    "!<tag:example.com,2000:x> y",
    "!include /etc/passwd",
    "!!merge x",
    "!!value =",
)
SCALARS = (
    ".inf",
    ".nan",
    "1e999",
    "9" * 400,
    "9" * 5000,
    "0x" + "f" * 5000,
    "1_000",
    "190:20:30",
    "2024-13-45",
    "~",
    "=",
    "<<",
    '"\\e[2J\\e[31m"',
    '"\\uD800"',
    '"\\u202e"',
    '"\\0"',
    "|\n  a\n  b",
    "- a",
    "&x",
    "*x",
    "@x",
    "{a: " * 2000,
    "[" * 2000 + "]" * 2000,
    "'" + "x" * 2**20 + "'",
    "0.1e-400",
    "[]",
    "''",
)
KEYS = (
    "1: a",
    "true: a",
    ".nan: a",
    "? [a, b]\n: c",
    "'': a",
    '"\\e[2J": a',
    "? !!binary aGk=\n: a",
    f"{'k' * 100_000}: 1",
    "model: 1\nmodel: 2",
    "<<: [1]",
    "<<: *nowhere",
)
YAML_FAULTS: dict[str, Change] = {
    "recursive list": behind("x: &a [*a]"),
    "recursive map": behind("x: &a {b: *a}"),
    "recursive key": behind("? &a [*a]\n: 1"),
    "recursive merge": behind("x: &a\n  <<: *a"),
    "the root in itself": alone("&a [*a]"),
    "bomb of lists": behind(bomb(9, 9)),
    "bomb, deep": behind(bomb(30, 2)),
    "merges": behind(merges(20)),
    "a bomb under model": alone(bomb(9, 9) + "\nmodel: *a8"),
    "undefined alias": behind("x: *y"),
    "200 aliases": behind("x: &a 1\n" + "\n".join(f"y{i}: *a" for i in range(200))),
    "two documents": behind("---\na: 1"),
    "end of document": behind("...\nx"),
    "directive": lambda content: b"%YAML 3.0\n---\n" + content,
    "tab": behind("\tx: 1"),
    "unclosed quote": behind("x: 'a"),
    "bad indent": behind("  x: 1\n y: 2"),
    "only a comment": alone("# nothing"),
    "a scalar": alone("model"),
    "a list": alone("- model"),
    "null": alone("~"),
    "100,000 keys": alone("\n".join(f"k{i}: {i}" for i in range(100_000))),
    "a list of 100,000": behind("x: [" + "1, " * 100_000 + "1]"),
    "a control character": behind("x: a\x01b"),
    "a surrogate": behind("x: \ud800"),
    "an anchor of 1 MB": behind("x: &" + "a" * 2**20 + " 1"),
    **{f"tag {tag}": behind(f"x: {tag}") for tag in TAGS},
    **{
        f"r: {tag}": lambda content, tag=tag: content.replace(
            b"seed: 42", f"seed: {tag}".encode(), 1
        ).replace(b"lora_r: 32", f"lora_r: {tag}".encode(), 1)
        for tag in TAGS
    },
    **{
        f"seed: {scalar[:40]!r} ({len(scalar)})": lambda content, scalar=scalar: content.replace(
            b"seed: 42", f"seed: {scalar}".encode(), 1
        ).replace(b"lora_r: 32", f"lora_r: {scalar}".encode(), 1)
        for scalar in SCALARS
    },
    **{
        f"lr: {scalar[:40]!r} ({len(scalar)})": lambda content, scalar=scalar: content.replace(
            b"lr: 3e-4", f"lr: {scalar}".encode(), 1
        ).replace(b"learning_rate: 2e-4", f"learning_rate: {scalar}".encode(), 1)
        for scalar in SCALARS
    },
    **{
        f"name: {scalar[:40]!r} ({len(scalar)})": lambda content, scalar=scalar: content.replace(
            b"embedded:minilm", scalar.encode(), 1
        ).replace(b"Qwen/Qwen2.5-0.5B", scalar.encode(), 1)
        for scalar in SCALARS
    },
    **{f"key {key[:40]!r}": behind(key) for key in KEYS},
}
"""Name -> what it makes of a good text."""
