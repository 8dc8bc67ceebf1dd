"""`gradience compare`, as a user runs it."""

import re

from gradience.cli.app import run
from gradience.cli.demo import example_adapter


def test_an_adapter_is_itself(capsys):
    adapter = str(example_adapter())
    assert run(["compare", adapter, adapter, "--layers"]) == 0
    text = capsys.readouterr().out
    assert "16 modules in both\n" in text
    assert re.search(r"difference +0 ", text)
    assert re.search(r"cosine +1.00 ", text)
    assert len([line for line in text.splitlines() if line.startswith("  bert.encoder.layer.")]) == 16
