"""Examples that belong together: spellings of one text, and a column of documents, users or templates."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gradience import compare_logs
from gradience.errors import InputError, UsageError
from gradience.statistics.groups import joined, spelling_key


def test_spellings_share_a_key_and_other_texts_do_not() -> None:
    spellings = ["What's 1.5 + 2?", "what's 1.5 + 2", "WHAT’S  1.5 + 2 !", "(What's 1.5 + 2.)"]
    assert len({spelling_key(text) for text in spellings}) == 1
    others = ["What's 15 + 2?", "What's 1.5 - 2?", "What's 1.5 + 3?", "How's 1.5 + 2?"]
    assert len({spelling_key(text) for text in (*others, spellings[0])}) == 5


def test_groups_join_through_any_key() -> None:
    assert joined([None, None, None]) == (0, 1, 2)
    assert joined(["d1", "d1", "d2", "d3"], ["x", "y", "y", "z"]) == (0, 0, 0, 1)


def logs(folder: Path, texts: int, spellings: int) -> list[Path]:
    """Two tables of equal answers: each text in several spellings."""
    ends = ["", "!", "?", " .", "…", "!!", " ?", ";", ":", " !"]
    rows = [
        {
            "id": f"{text}.{end}",
            "prompt": f"Question {text}: what is it{ends[end]}",
            "document": f"d{text // 2}",
        }
        for text in range(texts)
        for end in range(spellings)
    ]
    paths = [folder / "a.jsonl", folder / "b.jsonl"]
    for path in paths:
        path.write_text("".join(json.dumps({**row, "score": 1}) + "\n" for row in rows), encoding="utf-8")
    return paths


def test_forty_texts_in_ten_spellings_earn_no_b(tmp_path: Path) -> None:
    report = compare_logs(*logs(tmp_path, 40, 10))
    assert (report.n, report.groups, report.grade) == (400, 40, "C")
    assert "400 examples are 40 independent ones: the others are spellings of the same text" in report.notes
    apart = compare_logs(*logs(tmp_path, 400, 1))
    assert (apart.n, apart.groups, apart.grade) == (400, None, "B")


def test_a_column_of_documents_makes_groups(tmp_path: Path) -> None:
    a, b = logs(tmp_path, 200, 1)
    assert compare_logs(a, b).grade == "B"
    report = compare_logs(a, b, group="document")
    assert (report.groups, report.grouped_by, report.grade) == (100, "document", "C")
    with pytest.raises(InputError, match="no group in `documents`"):
        compare_logs(a, b, group="documents")


def test_one_group_is_no_sample(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="all examples belong to one group"):
        compare_logs(*logs(tmp_path, 1, 10))
