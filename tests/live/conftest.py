"""PEFT and transformers warn each other about names that will go; that is theirs to mend."""

from __future__ import annotations

import pytest

UPSTREAM = (
    "ignore:.*is deprecated and will be removed in v6:FutureWarning",
    "ignore:.*pin_memory.*:UserWarning",
)


def pytest_itemcollected(item):
    for pattern in UPSTREAM:
        item.add_marker(pytest.mark.filterwarnings(pattern))
