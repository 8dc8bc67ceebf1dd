"""llms.txt: the documents of docs/index.md as one list of links (https://llmstxt.org, read 2026-11-29)."""

import posixpath
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"\[([^]]+)\]\(([^)#\s]+)\)([^[]*)")
SECTION = re.compile(r"^## ", flags=re.MULTILINE)
FIRST = """\
## Start

- [Skill](SKILL.md): shrink, audit and compress, and evaluate, in commands for agents
- [README](README.md): install and first commands
- [Quickstart](docs/quickstart.md): from an adapter to a decision about its rank
- [JSON schemas](docs/schemas): what every `--json` writes
"""


def llms_text() -> str:
    """Return the title and the first paragraph of the index, then its sections, each link on a line of its own."""
    intro, *sections = SECTION.split((ROOT / "docs" / "index.md").read_text(encoding="utf-8"))
    title, summary, *_ = intro.split("\n\n")
    parts = [f"{title}\n\n> {' '.join(summary.split())}", FIRST.rstrip()]
    for section in sections:
        heading, _, text = section.partition("\n")
        lines: list[str] = []
        shared = ""  # by both links of `[A](a.md) and [B](b.md): note`
        for name, target, after in reversed(LINK.findall(text)):
            shared = shared if after.strip() == "and" else note(after)
            lines.insert(0, f"- [{' '.join(name.split())}]({posixpath.normpath(f'docs/{target}')}){shared}")
        # Sections that a reader in a hurry may leave out have this name.
        parts.append(f"## {'Optional' if 'maintainers' in heading else heading}\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def note(after: str) -> str:
    """Return the text behind a link up to the next one as its note, if it is one: it starts with a colon."""
    text = " ".join(after.split()).rstrip("·-, .")
    return f": {text[1:].strip()}" if text.startswith(":") and len(text) > 1 else ""
