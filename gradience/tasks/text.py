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
from pydoc_data.topics import topics
from typing import Annotated

from pydantic import Field

from gradience.files.rows import paragraphs_of
from gradience.reading import MAX_DATA_BYTES, read_file
from gradience.tasks.base import LikelihoodScoring, LikelihoodTask
from gradience.tasks.examples import PromptExample, content_id, prepare

CODE = re.compile(r"::=|>>>|\| |\n {5,}\S")
"""A paragraph with grammar, a session, a table or indented code is left out."""


def load(*, min_characters: Annotated[int, Field(ge=1)] = 100) -> LikelihoodTask:
    """Paragraphs in prose of at least `min_characters` characters, each a text of its own; about every third is dev."""
    paragraphs = (paragraph for text in _documentation() for paragraph in paragraphs_of(text))
    prose = (" ".join(paragraph.split()) for paragraph in paragraphs if not CODE.search(paragraph))
    examples = (
        _example(words)
        for words in prose
        if len(words) >= min_characters and words[0].isupper() and words.endswith(".")
    )
    return LikelihoodTask(
        name="text",
        scored_by="nll",
        examples=prepare(examples),
        rolling=True,
        source={"text": f"documentation in the standard library of Python {platform.python_version()}"},
    )


def scoring(**_: object) -> LikelihoodScoring:
    """Return the scoring rule for likelihoods; it does not depend on the options."""
    return LikelihoodScoring()


def _example(words: str) -> PromptExample:
    key = content_id(words, exact=True)
    return PromptExample(key, "", words, "", "dev" if int(key, 16) % 3 == 0 else "confirm")


def _documentation() -> Iterator[str]:
    """The language reference, and docstrings of modules that are not imported."""
    yield from topics.values()
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(ast.parse(read_file(path, MAX_DATA_BYTES))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                yield ast.get_docstring(node) or ""
