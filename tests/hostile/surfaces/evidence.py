"""Logs of evaluations that `gradience evidence` reads, and its margin."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

from hostile import samples
from hostile.surface import Input, Surface, sparse

GOOD = samples.csv_scores()
VERB = "evidence in/a.csv in/b.csv"
LINES = "evidence in/a.jsonl in/b.jsonl"
MARGINS = ("1e-320", "5e-324", "1e-300", "2.2250738585072014e-308", "0.9999999999999999")
KEYS = b",".join(b'"k%d":1' % number for number in range(500_000))


def csv(content: bytes) -> dict[str, bytes]:
    return {"in/a.csv": GOOD, "in/b.csv": content}


def jsonl(content: bytes) -> dict[str, bytes]:
    return {"in/a.jsonl": samples.jsonl_scores(), "in/b.jsonl": content}


def scores(*values: str) -> bytes:
    return "\n".join(chain(["id,score"], (f"{place},{value}" for place, value in enumerate(values)))).encode()


def surface(_folder: Path) -> Surface:
    both = {"in/a.csv": GOOD, "in/b.csv": GOOD}
    rows = [
        ("500,000 keys in a line", jsonl(b'{"id":"1","score":1,' + KEYS + b"}")),
        ("500,000 keys in each of 20 lines", jsonl((b'{"id":"1","score":1,' + KEYS + b"}\n") * 20)),
        ("a line of 60 MB", jsonl(b'{"id":"1","score":1,"prompt":"' + b"a" * 60_000_000 + b'"}')),
        ("lists 100,000 deep", jsonl(b'{"id":"1","score":' + b"[" * 100_000 + b"]" * 100_000 + b"}")),
        ("a score of 5,000 digits", jsonl(b'{"id":"1","score":' + b"9" * 5000 + b"}")),
        ("two million empty lines", jsonl(b"\n" * 2_000_000)),
    ]
    tables = [
        ("a sparse CSV of 900 MB", {"in/a.csv": GOOD, "in/b.csv": sparse(900_000_000)}),
        ("a field of 50 MB", csv(b"id,score\n" + b"a" * 50_000_000 + b",1\n")),
        ("a quote that never ends", csv(b'id,score\n"' + b"a\n" * 20_000_000)),
        ("a million columns", csv(b"id,score," + b",".join(b"c%d" % n for n in range(1_000_000)) + b"\n")),
        ("a million commas in a row", csv(b"id,score\n" + b"," * 1_000_000)),
        ("200,001 rows", csv(scores(*"1" * 200_001))),
    ]
    extreme = [
        ("1e308", "-1e308"),
        ("1e308", "1e308"),
        ("5e-324", "0"),
        ("-0.0", "0.0"),
        ("1e-320", "1e308"),
    ]
    pairs = [
        {"in/a.csv": scores(*first * 20), "in/b.csv": scores(*second * 20)}
        for first in extreme
        for second in extreme
    ]
    lines = [Input(name, LINES, files, codes={2, 3}) for name, files in rows]
    return Surface(
        what="evidence",
        good=[Input("two tables", VERB, both, codes={0, 1, 8})],
        inputs=[
            *(
                Input(f"a margin of {margin}", f"{VERB} --margin {margin}", both, codes={0, 1, 2, 8})
                for margin in MARGINS
            ),
            *lines,
            *(Input(name, VERB, files) for name, files in tables),
            *(
                Input(f"scores {number}", f"{VERB} --margin {margin} --json", files, codes={0, 1, 2, 3, 8})
                for number, files in enumerate(pairs)
                for margin in ("0.1", "1e-320", "1e308")
            ),
        ],
    )
