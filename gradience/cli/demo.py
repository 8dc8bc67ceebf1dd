"""`gradience demo`: the audit of a genuinely trained adapter that comes with the package."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

EXAMPLE = "minilm-reviews-r8"

NEXT = """\

What next?
  your own     gradience audit ./your_adapter
  each module  gradience audit {path} --layers
  a config     gradience audit ./your_adapter --suggest-per-layer
  smaller      gradience compress ./your_adapter --rank 8 --output ./smaller
  the numbers  docs/guide.md, docs/measures.md, docs/limitations.md
  the example  {path}/README.md
"""


def demo() -> int:
    """Audit the trained adapter that comes with the package.

    It is a LoRA adapter of MiniLM-L6, trained on movie-review sentences; nothing is downloaded.
    """
    from gradience.cli.audit import audit

    path = shown_path(example_adapter())
    print(f"$ gradience audit {path}\n")
    code = audit([str(path)])
    print(NEXT.format(path=path), end="")
    return code


def example_adapter() -> Path:
    """Return the folder of the bundled adapter."""
    return Path(str(files("gradience"))) / "examples" / EXAMPLE


def shown_path(path: Path) -> Path:
    """Return `path` relative to the working directory where that is shorter to type."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
