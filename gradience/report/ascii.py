"""Terminal text in plain ASCII, where that is all that a terminal or a file can hold."""

from __future__ import annotations

_ASCII = str.maketrans(
    {
        **{block: str(level) for level, block in enumerate("▁▂▃▄▅▆▇", start=1)},
        "█": "#",
        "▓": "=",
        "▒": "-",
        "░": ".",
        "·": ".",
        "○": "o",
        "✓": "+",
        "✗": "x",
        "→": ">",
        "–": "-",
        "−": "-",
        "…": "~",
        "×": "x",
        "‖": "|",
        "Σ": "S",
        "σ": "s",
        "τ": "t",
        "α": "a",
        "η": "n",
        "Δ": "d",
        "√": "v",
        "≤": "<",
        "≥": ">",
        "±": "~",
        "²": "2",
        "₁": "1",
        "₂": "2",
        "′": "'",
        "″": '"',
        "“": '"',
        "”": '"',
        "°": "o",
        "▏": "|",
        "§": "S",
        "—": "-",
    }
)


def ascii_look(text: str) -> str:
    """Our own signs replaced by ASCII of the same width, for a terminal or file that cannot hold them."""
    return text.translate(_ASCII)
