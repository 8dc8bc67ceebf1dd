"""English text as a guard, `--guard text`: does an adapter predict ordinary prose as well as its base?

`python`: paragraphs of Python's language reference, which comes with every Python (`pydoc_data.topics`).
`verne`: paragraphs of *In the Year 2889* (Michel and Jules Verne, 1889, in the public domain), which reasoning-gym
ships (extra `demo`). Nothing is downloaded, and no text is copied into this project. Nobody should train on it.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from gradience.digests import sha256_file
from gradience.errors import InputError, require
from gradience.reading import MAX_DATA_BYTES, read_file
from gradience.tasks.base import LikelihoodScoring, LikelihoodTask
from gradience.tasks.examples import PromptExample, content_id, prepare

FILE = "data/in_the_year_2889.txt"
START, END = "*** START OF", "*** END OF"
"""Marks of Project Gutenberg around the book."""
CODE = re.compile(r"::=|>>>|\| |\n {5,}\S")
"""A paragraph with grammar, a session, a table or indented code is left out."""


def load(
    *, source: Literal["python", "verne"] = "python", min_characters: Annotated[int, Field(ge=1)] = 150
) -> LikelihoodTask:
    """Paragraphs of at least `min_characters` characters, each a text of its own; about every third one is dev.

    Raises MissingExtra, and InputError (`task-file`) if the text is not in the package.
    """
    path, name = _verne() if source == "verne" else _python()
    paragraphs = _book(path) if source == "verne" else _topics()
    examples = (_example(words) for words in paragraphs if len(words) >= min_characters)
    return LikelihoodTask(
        name="text",
        scored_by="nll",
        examples=prepare(examples),
        end=False,
        rolling=True,
        source={"text": name, "file": f"{path.name} sha256:{sha256_file(path)}"},
    )


def scoring(**_: object) -> LikelihoodScoring:
    """Return the scoring rule for likelihoods; it does not depend on the options."""
    return LikelihoodScoring()


def _example(words: str) -> PromptExample:
    key = content_id(words, exact=True)
    return PromptExample(key, "", words, "", "dev" if int(key, 16) % 3 == 0 else "confirm")


def _paragraphs(text: str) -> Iterator[str]:
    yield from filter(None, re.split(r"\n\s*\n", text.replace("\r\n", "\n")))


def _python() -> tuple[Path, str]:
    try:
        module = import_module("pydoc_data.topics")
    except ImportError:
        raise _missing("this Python comes without pydoc_data.topics") from None
    return Path(str(module.__file__)), f"language reference of Python {platform.python_version()}"


def _topics() -> Iterator[str]:
    """Sentences in prose: from a capital letter to a full stop."""
    for topic in import_module("pydoc_data.topics").topics.values():
        for paragraph in _paragraphs(topic):
            words = " ".join(paragraph.split())
            if words[:1].isupper() and words.endswith(".") and not CODE.search(paragraph):
                yield words


def _verne() -> tuple[Path, str]:
    path = Path(str(require("reasoning_gym", extra="demo").__file__)).parent / FILE
    return path, f"Verne, In the Year 2889, from reasoning-gym {version('reasoning-gym')}"


def _book(path: Path) -> Iterator[str]:
    text = read_file(path, MAX_DATA_BYTES).decode("utf-8-sig")
    book = text.partition(START)[2].partition("\n")[2].partition(END)[0]
    if not book:
        raise _missing(f"{path}: not a book of Project Gutenberg")
    yield from (" ".join(paragraph.split()) for paragraph in _paragraphs(book))


def _missing(problem: str) -> InputError:
    return InputError(problem, code="task-file", hint="give a text of your own: --guard text:notes.txt")
