"""Terminal text in plain ASCII, for terminals and files that cannot hold anything else."""

_ASCII = str.maketrans(
    "▁▂▃▄▅▆▇█▓▒░·○✓✗→–−…×‖ΣσταηΔ√≤≥±²₁₂°▏§—′″“”━─●┊│◂▸",
    '1234567#=-..o+x>--~x|Sstandv<>~212o|S-\'"""=-o:|<>',
)


def ascii_look(text: str) -> str:
    """Our own signs replaced by ASCII of the same width, for a terminal or file that cannot hold them."""
    return text.translate(_ASCII)
