"""The carried model card: its first line says what it is about, and hubs still read its YAML."""

from __future__ import annotations

import pytest

from gradience.compress.carry import OPENING, annotate, with_first_line

LINE = f"{OPENING} Made today."
YAML = b"---\nlicense: mit\ntags: [lora]\n---\n"


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        (b"# My adapter\n", b"%s\n\n# My adapter\n"),
        (YAML + b"# My adapter\n", YAML + b"%s\n\n# My adapter\n"),
        (YAML + b"\n\n# My adapter", YAML + b"%s\n\n# My adapter"),
        (YAML.replace(b"\n", b"\r\n") + b"# A\r\n", YAML.replace(b"\n", b"\r\n") + b"%s\n\n# A\r\n"),
        (b"\xef\xbb\xbf" + YAML + b"# A", b"\xef\xbb\xbf" + YAML + b"%s\n\n# A"),
        (b"", b"%s\n\n"),
        (b"--- no yaml\n---\n", b"%s\n\n--- no yaml\n---\n"),
        (b"text\n---\na: b\n---\n", b"%s\n\ntext\n---\na: b\n---\n"),
        (b"\xff\xfe no UTF-8", b"%s\n\n\xff\xfe no UTF-8"),
        (YAML + f"{OPENING} Made earlier.\n\n# A".encode(), YAML + b"%s\n\n# A"),
    ],
)
def test_the_line_stands_above_the_text(card, expected):
    annotated = with_first_line(card, LINE)
    assert annotated == expected % LINE.encode()
    assert with_first_line(annotated, LINE) == annotated


def test_a_folder_without_a_card_gets_none(tmp_path):
    assert annotate(tmp_path, LINE) == ()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "README.md").write_bytes(YAML + b"# A\n")
    assert annotate(tmp_path, LINE) == ("README.md",)
    assert (tmp_path / "README.md").read_bytes() == YAML + f"{LINE}\n\n# A\n".encode()
