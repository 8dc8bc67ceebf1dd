"""python -m hostile.fuzz [TARGET …] --seconds N: feed each parser that a stranger can reach for N seconds.

By coverage where atheris is installed (`make fuzz` does so), else with the mutants of the corpus. What a target
fails on is left in the folder that `--finds` names, and the exit code is 1.
"""

import argparse
import itertools
import json
import random
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from hostile.fuzzed import CORPUS, TARGETS, feed, seeds

WORDS = (
    *b"null true false 0 -1 1e999 NaN Infinity -0.0 0.5 [] {} [[]] 18446744073709551616 1e-400 .inf .nan ~ ---".split(),
    *b"\xff \0 *a &a { } [ ] , : # \" \\ '".split(b" "),
    *(b'""', b'"x"', b'{"a": 1}', b'"\\ud800"', b'"\\u001b[2J"', b"[1, 2]", b"9" * 30, b"9" * 400),
    *(b"<<: 1", b"!!int x", b"!!bool x", b"\n", b" ", b"\t"),
)
"""Words that have been worst."""


def by_mutants(name: str, seconds: float, finds: Path) -> dict[str, Any]:
    """Feed mutants of the corpus, one after the other."""
    corpus = [content for content in seeds(name).values() if content]
    started = time.perf_counter()
    accepted = failed = 0
    for number in itertools.count():
        chance = random.Random(f"{name}/{number}")
        base = chance.choice(corpus)
        content = mutant(base, chance, [(at, min(len(base), at + 3)) for at in range(0, len(base), 7)])
        try:
            accepted += feed(name, content)
        except Exception:  # noqa: BLE001  (any exception is a find)
            failed += 1
            keep(finds, name, content, traceback.format_exc())
        if time.perf_counter() - started > seconds:
            return {"by": "mutants", "inputs": number + 1, "accepted": accepted, "failed": failed}
    raise AssertionError


def keep(finds: Path, name: str, content: bytes, why: str) -> None:
    finds.mkdir(parents=True, exist_ok=True)
    file = finds / f"{name}-{abs(hash(why)) % 10**8:08d}"
    file.write_bytes(content)
    sys.stderr.write(f"{file}: {why.splitlines()[-1][:200]}\n")


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


def by_coverage(name: str, seconds: float, finds: Path) -> dict[str, Any]:
    """Let libFuzzer look for new branches, in a process of its own: it ends the process."""
    finds.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as grown:
        options = [
            f"-max_total_time={seconds:.0f}",
            "-rss_limit_mb=2048",
            "-timeout=10",
            "-max_len=4096",
            "-print_final_stats=1",
            f"-artifact_prefix={finds}/{name}-",
            grown,
            str(CORPUS / name),
        ]
        done = subprocess.run(
            [sys.executable, "-m", "hostile.fuzz_one", name, *options],
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        said = dict(
            line.split(":", 1)
            for line in done.stderr.splitlines()
            if line.startswith("stat::")
            for line in [line[6:]]
        )
        if done.returncode:
            sys.stderr.write(done.stderr[-3000:])
        kept = len(list(Path(grown).iterdir()))
    return {
        "by": "coverage",
        "inputs": int(said.get("number_of_executed_units", 0)),
        "new": kept,
        "failed": int(done.returncode != 0),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=float, default=300, help="for each target")
    parser.add_argument("--finds", type=Path, default=Path("fuzz-finds"))
    options = parser.parse_args()
    try:
        import atheris  # noqa: F401

        run = by_coverage
    except ModuleNotFoundError:
        run = by_mutants
    results = {name: run(name, options.seconds, options.finds) for name in options.targets or TARGETS}
    sys.stdout.write(json.dumps(results, indent=1) + "\n")
    return int(any(result["failed"] for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
