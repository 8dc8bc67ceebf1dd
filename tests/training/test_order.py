"""The order of the examples where the recipe groups them by length, and products in TF32 while it trains."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_training import recipe, run, weights

from gradience.models.settings import ModelSettings
from gradience.training.arguments import ByLength


class Stop(Exception):
    pass


def test_groups_are_of_like_length_and_each_epoch_has_its_own_order() -> None:
    lengths = [place % 40 + 1 for place in range(640)]
    order = ByLength(lengths, 8, seed=3)
    first, again = list(order), list(order)
    assert first == again
    assert sorted(first) == list(range(640))
    groups = [first[start : start + 8] for start in range(0, 640, 8)]
    padded = sum(8 * max(lengths[place] for place in group) for group in groups)
    assert padded < 1.05 * sum(lengths)
    assert 8 * sum(max(lengths[start : start + 8]) for start in range(0, 640, 8)) > 1.1 * sum(lengths)
    order.set_epoch(1)
    assert list(order) != first
    assert list(ByLength(lengths, 8, seed=4)) != first


def test_resumed_in_the_second_epoch_it_sees_the_same_examples(causal: ModelSettings, tmp_path: Path) -> None:
    asked = recipe(group_by_length=True, train_samples=24, max_steps=10, save_steps=2)  # six steps an epoch
    whole = run(causal, tmp_path / "whole", recipe=asked)

    def stopped(done: int, total: int) -> None:
        if done == 9:
            raise Stop

    with pytest.raises(Stop):
        run(causal, tmp_path / "killed", recipe=asked, on_step=stopped)
    killed = run(causal, tmp_path / "killed", recipe=asked)
    assert killed.resumed_from == [8]
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")
    assert killed.start == whole.start
    drawn = run(causal, tmp_path / "drawn", recipe=recipe(train_samples=24, max_steps=10))
    assert drawn.start.initial_adapter_sha256 == whole.start.initial_adapter_sha256
    assert weights(tmp_path / "drawn") != weights(tmp_path / "whole")


@pytest.mark.parametrize(("wanted", "precision"), [(False, "highest"), (True, "high")])
def test_float32_products_are_as_the_recipe_says_whatever_the_process_did_before(
    wanted: bool, precision: str, causal: ModelSettings, tmp_path: Path
) -> None:
    seen = []
    torch.set_float32_matmul_precision("medium")
    try:
        run(
            causal,
            tmp_path,
            recipe=recipe(tf32=wanted, max_steps=1),
            on_step=lambda *_: seen.append(torch.get_float32_matmul_precision()),
        )
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert set(seen) == {precision}
