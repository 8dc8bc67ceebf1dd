"""English text as a guard, `--guard text`: does an adapter predict ordinary prose as well as its base?

The text is documentation in Python's standard library: paragraphs of the language reference and docstrings. Nothing is
downloaded, and no text is copied into this project. Nobody should train on it.
"""

import ast
import platform
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field

from gradience.errors import InputError
from gradience.reading import MAX_DATA_BYTES, read_file
from gradience.tasks.base import LikelihoodScoring, LikelihoodTask
from gradience.tasks.examples import PromptExample, content_id, prepare

TOPICS = "pydoc_data/topics.py"
CODE = re.compile(r"::=|>>>|\| |\n {5,}\S")
"""A paragraph with grammar, a session, a table or indented code is left out."""


def load(*, min_characters: Annotated[int, Field(ge=1)] = 100) -> LikelihoodTask:
    """Paragraphs of at least `min_characters` characters, each a text of its own; about every third one is dev.

    Raises InputError (`task-file`) if the text is not in the standard library.
    """
    library = Path(sysconfig.get_path("stdlib"))
    if not (library / TOPICS).is_file():
        raise InputError(
            f"{library / TOPICS}: no such file",
            code="task-file",
            hint="give a text of your own: --guard text:notes.txt",
        )
    examples = (_example(words) for words in _documentation(library) if len(words) >= min_characters)
    name = f"documentation in the standard library of Python {platform.python_version()}"
    return LikelihoodTask(
        name="text",
        scored_by="nll",
        examples=prepare(examples),
        rolling=True,
        source={"text": name},
    )


def scoring(**_: object) -> LikelihoodScoring:
    """Return the scoring rule for likelihoods; it does not depend on the options."""
    return LikelihoodScoring()


def _example(words: str) -> PromptExample:
    key = content_id(words, exact=True)
    return PromptExample(key, "", words, "", "dev" if int(key, 16) % 3 == 0 else "confirm")


def _paragraphs(text: str) -> Iterator[str]:
    yield from filter(None, re.split(r"\n\s*\n", text.replace("\r\n", "\n")))


def _documentation(library: Path) -> Iterator[str]:
    """Paragraphs in prose, from a capital letter to a full stop; no module is imported."""
    for path in (library / TOPICS, *sorted(library.glob("*.py"))):
        tree = ast.parse(read_file(path, MAX_DATA_BYTES))
        for node in ast.walk(tree):
            text: object = None
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node)
            elif isinstance(node, ast.Constant) and path.match(TOPICS):
                text = node.value
            for paragraph in _paragraphs(text) if isinstance(text, str) else ():
                words = " ".join(paragraph.split())
                if words[:1].isupper() and words.endswith(".") and not CODE.search(paragraph):
                    yield words
