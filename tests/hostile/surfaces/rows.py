"""Many rows of a stranger's file, the definitions of lm-eval that name one, and outputs that a scorer reads."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from gradience.tasks.scorers import SCORERS
from hostile.surface import Input, Place, Surface
from hostile.surfaces.bases import ROWS, good_files

VERB = "evaluate in/adapter -b in/base --device cpu"
MILLION = 10**6
GOOD = b'{"prompt": "2 + 2 =", "answer": "4"}\n'
TASK = "task: sums\ndescription: \"{{ cycler.__init__.__globals__.os.popen('touch ran').read() }}\"\n"
OUTPUTS = ("1,", "1", ".", "-", "$", "#", "#### ", "-1 ", " a", "a the ")


def scored(name: str, text: str) -> None:
    scorer, output = SCORERS[name], text * 200_000
    for extract in scorer.filters.values():
        scorer.same(extract(output + "2") or "", "1")
    scorer.same(output, output[1:])


def many(line: bytes, count: int) -> Place:
    def make(place: Path) -> None:
        with place.open("wb") as file:
            file.write(b"prompt,answer\n")
            for first in range(0, count, 10_000):
                file.writelines(line % number for number in range(first, min(first + 10_000, count)))

    return make


def surface(folder: Path) -> Surface:
    (folder / "rows.jsonl").write_text(ROWS)
    files: dict[str, Any] = good_files(folder)

    def rows(name: str, kind: str, content: bytes | Place, *flags: str, **more: Any) -> Input:
        verb = f"{VERB} --data in/rows.{kind} {' '.join(flags or ('--dry-run',))}"
        return Input(name, verb, files | {f"in/rows.{kind}": content}, **more)

    pattern = "--option scorer=regex --option 'pattern=^(?:a|aa)+b' --preview"
    aaa = json.dumps({"prompt": "a", "completion": "a" * 100}).encode()
    short: Callable[[bytes], Place] = partial(many, count=MILLION)
    limit = "A million short rows take 12 s and 520 MB"
    inputs = [
        Input(
            "a definition of lm-eval", f"{VERB} --task lm_eval:in/task.yaml --dry-run",
            files | {"in/task.yaml": TASK},
        ),
        rows("a million rows for a preview", "csv", short(b"%d + 1 =,4\n"), "--preview", codes={0}),
        rows(
            "a million rows for 8", "csv", short(b"%d + 1 =,4\n"), "--dry-run", "--limit 8",
            codes={0}, seconds=30, limit=limit,
        ),
        rows("1,000,001 rows", "csv", many(b"%d + 1 =,4\n", MILLION + 1), seconds=30, limit=limit),
        rows("a text of 200 kB in a table", "csv", b"prompt,answer\n" + b"a " * 100_000 + b",4\n", codes={0}),
        rows("a pattern that never ends", "jsonl", aaa, pattern),
    ]  # fmt: skip
    inputs += [
        Input(f"{name}: 200,000 times {text!r}", partial(scored, name, text), codes={0})
        for name in SCORERS
        for text in OUTPUTS
    ]
    return Surface(
        what="rows, definitions of lm-eval, outputs",
        good=[
            rows("good rows", "jsonl", GOOD, codes={0}),
            rows("a preview", "jsonl", GOOD, "--preview", codes={0}),
        ],
        inputs=inputs,
    )
