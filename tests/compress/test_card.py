"""The block in a model card: where it goes, that it is replaced, and that every other byte stays."""

from __future__ import annotations

import pytest

from gradience.compress.carry import annotate
from gradience.files.card import BEGIN, CARD, END, Card, with_block, without_block, write_card

YAML = b"---\nlicense: mit\ntags: [lora]\n---\n"
BLOCK = BEGIN + b"Made today.\n" + END
CARDS = {
    "text": (b"# My adapter\n", b"%s# My adapter\n"),
    "yaml": (YAML + b"# My adapter\n", YAML + b"%s# My adapter\n"),
    "blank lines": (YAML + b"\n\n# My adapter", YAML + b"%s\n\n# My adapter"),
    "windows": (YAML.replace(b"\n", b"\r\n") + b"# A\r\n", YAML.replace(b"\n", b"\r\n") + b"%s# A\r\n"),
    "byte order mark": (b"\xef\xbb\xbf" + YAML + b"# A", b"\xef\xbb\xbf" + YAML + b"%s# A"),
    "nothing": (b"", b"%s"),
    "yaml alone": (YAML.rstrip(), YAML + b"%s"),
    "a rule is no yaml": (b"--- no yaml\n---\n", b"%s--- no yaml\n---\n"),
    "a rule below": (b"text\n---\na: b\n---\n", b"%stext\n---\na: b\n---\n"),
    "no UTF-8": (b"\xff\xfe no UTF-8", b"%s\xff\xfe no UTF-8"),
    "an earlier block": (b"# A\n" + BEGIN + b"Old.\n" + END + b"end", b"# A\n%send"),
    "no end": (BEGIN + b"text\n", b"%s" + BEGIN + b"text\n"),
}


@pytest.mark.parametrize(("card", "expected"), CARDS.values(), ids=CARDS)
def test_the_block_stands_above_the_text_and_nothing_else_changes(card, expected):
    written = with_block(card, "Made today.")
    assert written == expected.replace(b"%s", BLOCK)
    assert with_block(written, "Made today.") == written
    assert without_block(written).replace(b"\n", b"") == without_block(card).replace(b"\n", b"")


def test_a_block_is_written_once(tmp_path):
    assert write_card(tmp_path, Card("Made today.")) is True
    assert (tmp_path / CARD).read_bytes() == BLOCK
    assert write_card(tmp_path, Card("Made today.\n")) is False
    assert [path.name for path in tmp_path.iterdir()] == [CARD]


def test_a_folder_without_a_card_gets_none_from_a_compression(tmp_path):
    assert annotate(tmp_path, "Made today.") == ()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / CARD).write_bytes(YAML + b"# A\n")
    assert annotate(tmp_path, "Made today.") == (CARD,)
    assert (tmp_path / CARD).read_bytes() == YAML + BLOCK + b"# A\n"
