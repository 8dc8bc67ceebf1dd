"""Peaks of memory: of one stage and not of the process so far, and on the device where the stage computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gradience.training import memory
from gradience.training.memory import watch_peak

LARGE = 200_000_000


@pytest.mark.skipif(not memory.CLEAR.exists(), reason="only Linux can forget a peak")
def test_a_stage_s_peak_is_not_that_of_the_stage_before() -> None:
    before = watch_peak(torch.device("cpu"))
    block = bytearray(LARGE)
    block[::4096] = b"x" * len(block[::4096])  # touched, so that it is resident
    first = before()
    del block
    after = watch_peak(torch.device("cpu"))
    second = after()
    assert first is not None
    assert second is not None
    assert first - second > LARGE // 2


def test_a_gpu_is_asked_for_its_own_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second GPU's, from now on: not the first one's, and not what an earlier stage had taken."""
    asked: list[tuple[str, Any]] = []
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: asked.append(("reset", device)))
    monkeypatch.setattr(
        torch.cuda, "max_memory_allocated", lambda device: asked.append(("read", device)) or 7
    )
    peak = watch_peak(torch.device("cuda", 1))
    assert asked == [("reset", torch.device("cuda", 1))]
    assert peak() == 7
    assert asked[-1] == ("read", torch.device("cuda", 1))
