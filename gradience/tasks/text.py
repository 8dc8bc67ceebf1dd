"""General English prose as a guard, `--guard text`: does an adapter predict ordinary text as well as its base?

The paragraphs of *In the Year 2889* (Michel and Jules Verne, 1889, in the public domain), which reasoning-gym ships
(extra `demo`). Nothing is downloaded, and the text is not copied into this project. Nobody should train on it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

from pydantic import Field

from gradience.digests import sha256_file
from gradience.errors import InputError, require
from gradience.reading import MAX_DATA_BYTES, read_file
from gradience.tasks.base import LikelihoodScoring, LikelihoodTask
from gradience.tasks.examples import PromptExample, content_id, prepare

FILE = "data/in_the_year_2889.txt"
START, END = "*** START OF", "*** END OF"
"""Marks of Project Gutenberg around the book."""


def load(*, min_characters: Annotated[int, Field(ge=1)] = 300) -> LikelihoodTask:
    """Paragraphs of at least `min_characters` characters, each a text of its own; every third one is dev.

    Raises MissingExtra, and InputError (`task-file`) if the package's file is a different one.
    """
    path = Path(str(require("reasoning_gym", extra="demo").__file__)).parent / FILE
    examples = prepare(_paragraphs(path, min_characters))
    return LikelihoodTask(
        name="text",
        scored_by="nll",
        examples=examples,
        end=False,
        rolling=True,
        source={
            "text": "Verne, In the Year 2889",
            "package": f"reasoning-gym {version('reasoning-gym')}",
            "file": f"{path.name} sha256:{sha256_file(path)}",
        },
    )


def scoring(**_: object) -> LikelihoodScoring:
    """Return the scoring rule for likelihoods; it does not depend on the options."""
    return LikelihoodScoring()


def _paragraphs(path: Path, at_least: int) -> Iterator[PromptExample]:
    text = read_file(path, MAX_DATA_BYTES).decode("utf-8-sig").replace("\r\n", "\n")
    book = text.partition(START)[2].partition("\n")[2].partition(END)[0]
    if not book:
        raise InputError(
            f"{path}: not a book of Project Gutenberg",
            code="task-file",
            hint='install the tested release in your clone of Gradience: pip install ".[demo]"',
        )
    for paragraph in re.split(r"\n\s*\n", book):
        words = " ".join(paragraph.split())
        if len(words) >= at_least:
            key = content_id(words, exact=True)
            yield PromptExample(key, "", words, "", "dev" if int(key, 16) % 3 == 0 else "confirm")
