"""Texts that are compared with committed files.

`GRADIENCE_WRITE_GOLDEN=1 pytest …` rewrites the files: then read the diff.
"""

import os
from pathlib import Path


def assert_golden(path: Path, text: str) -> None:
    """`text` is exactly what the file says."""
    if os.environ.get("GRADIENCE_WRITE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")
