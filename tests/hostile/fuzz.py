"""python -m hostile.fuzz [TARGET …] --seconds N: feed each parser that a stranger can reach for N seconds.

By coverage where atheris is installed (`make fuzz` does so), else with the mutants of the corpus. What a target
fails on is left in the folder that `--finds` names, and the exit code is 1.
"""

from __future__ import annotations

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
from hostile.mutants import mutant


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
