"""docs/questions.md: ten questions of users, each with a command, and no transcript that nothing renews.

What the transcripts show is compared with what is printed in `test_readme.py`, as for every page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "questions.md").read_text(encoding="utf-8")
THREADS = [
    "sglang#9449",
    "vllm#14435",
    "gpustack#5438",
    "vllm#34186",
    "axolotl#3626",
    "unsloth#1093",
    "lorax#504",
    "llm-compressor#164",
    "lm-evaluation-harness#3831",
    "musubi-tuner#378",
]
SECTIONS = [part for part in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:] if "?" in part.splitlines()[0]]


def test_there_are_ten_and_each_names_its_thread():
    assert [re.search(r"\((\S+?#\d+)", section)[1] for section in SECTIONS] == THREADS


@pytest.mark.parametrize("section", SECTIONS, ids=THREADS)
def test_each_is_answered_by_a_command(section):
    assert re.search(r"(\$ |`)gradience \w+", section)


def test_every_transcript_is_renewed_by_the_script_that_checks_pages():
    script = (ROOT / "scripts" / "update_readme.py").read_text(encoding="utf-8")
    blocks = re.findall(r"^<!-- ([\w-]+) -->$", PAGE, flags=re.MULTILINE)
    assert len(blocks) == PAGE.count("```text") >= 6
    assert {block for block in blocks if f'"{block}"' not in script} == set()
