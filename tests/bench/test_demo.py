"""`gradience demo --train`: its stages on a model scaled down, and its last screen."""

from __future__ import annotations

from pathlib import Path

import pytest
from scaled_down import scaled_down

from gradience.bench.config.load import load_config
from gradience.bench.config.shipped import find_config
from gradience.cli.demo import CONFIG, train_and_decide
from gradience.report.bench import brief_text
from gradience.reports.bench import Bench

KEPT = Path(__file__).parents[2] / "benchmarks" / "results" / CONFIG / "bench.json"
MOST_LINES = 25


def test_it_says_what_it_does_and_ends_with_the_short_screen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = scaled_down(load_config(find_config(CONFIG)), tmp_path)
    code = train_and_decide(tmp_path / "demo", changes)
    said, result = capsys.readouterr(), Bench.read(tmp_path / "demo" / "bench.json")
    assert code in (0, 1), said.err
    assert said.out == brief_text(result)
    for doing in ("training probe", "evaluating probe", "auditing probe", "making uniform_r8.truncate"):
        assert f": {doing}\n" in said.err
    assert f"written: {tmp_path / 'demo' / 'bench.json'}" in said.err


@pytest.mark.parametrize("width", [80, 160, None])
def test_the_last_screen_is_short_and_explains_each_number(width: int | None) -> None:
    kept = Bench.read(KEPT)
    screen = brief_text(kept, width=width)
    assert len(screen.splitlines()) < MOST_LINES  # and a line that says where the rest is
    assert all(result.name in screen for result in kept.variants)
    _, explained = screen.split("What do the numbers mean?")
    for label in (
        "Δ, points",
        "saved",
        ".truncate",
        "must fail  random_directions",
        "must pass  aa",
        "one seed",
    ):
        assert f"\n  {label}" in explained
    assert "at most 54 fewer correct (2.5 %)" in explained
