"""Logs for tests: tables made here, and those that the real tools wrote (scripts/make_evidence_fixtures.py)."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from gradience import GradienceError, compare_logs

LOGS = Path(__file__).parent / "logs"


def table(path: Path, scores: Iterable[float], **columns: Iterable[Any]) -> Path:
    """A CSV of `id` q0, q1, … and `score`, with more columns."""
    names = ["id", "score", *columns]
    rows = zip(scores, *columns.values(), strict=True) if columns else ((score,) for score in scores)
    lines = [",".join([f"q{number}", *map(str, row)]) for number, row in enumerate(rows)]
    path.write_text("\n".join([",".join(names), *lines]) + "\n", encoding="utf-8")
    return path


def counts(folder: Path, both: int, lost: int, gained: int, neither: int) -> tuple[Path, Path]:
    """Two tables with these numbers of examples: both 1, only A, only B, none."""
    a = [1] * (both + lost) + [0] * (gained + neither)
    b = [1] * both + [0] * lost + [1] * gained + [0] * neither
    return table(folder / "a.csv", a), table(folder / "b.csv", b)


def samples(task: str, side: str) -> Path:
    """The samples that lm-eval wrote of a task; side: `a` or `b`."""
    (path,) = (LOGS / "lm_eval" / side).glob(f"samples_{task}_*.jsonl")
    return path


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def refused(a: Path, b: Path, **options: Any) -> GradienceError:
    """The error of comparing two logs, which says what to do next."""
    with pytest.raises(GradienceError) as caught:
        compare_logs(a, b, **options)
    assert caught.value.hint
    return caught.value
