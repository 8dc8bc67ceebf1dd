"""Controls that do not come to what they must, and a probe that has nearly everything correct."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from bench_sample import bench, config, three_seeds
from hypothesis import given
from hypothesis import strategies as st

from gradience.bench.verdict.aggregate import aggregate
from gradience.bench.verdict.conditions import at_ceiling, seed_notes
from gradience.cli.bench import code_of
from gradience.reports.bench import BenchAggregate
from gradience.reports.bench_plan import allowed_losses

CONTROLS = {"controls": ["per_layer_shuffled", "random_directions", "rewrite_control"], "arms": ["truncate"]}
SEEDS = (42, 123, 456)


def over_seeds(**lost: int | tuple[int, ...]) -> BenchAggregate:
    """Three seeds of 200 examples. lost: net, by control and by seed; a variant that is not named loses nothing."""
    asked = config(compression=CONTROLS)
    by_seed: Any = {
        seed: {
            name: (number if isinstance(number, int) else number[place], 0) for name, number in lost.items()
        }
        for place, seed in enumerate(SEEDS)
    }
    return aggregate([bench(seed, by_seed[seed], asked=asked) for seed in SEEDS])


def rows_of(name: str, text: str) -> list[str]:
    """The lines of a screen or a page that begin with `name`."""
    lines = [line.lstrip(" |").replace("`", "") for line in text.splitlines()]
    return [line for line in lines if line.startswith(f"{name} ")]


def test_a_control_that_must_fail_and_passes_on_all_seeds_makes_the_run_inconclusive() -> None:
    report = over_seeds(random_directions=3)
    assert report.status == "INCONCLUSIVE"
    assert report.reasons == (
        "random_directions must fail but passes on all 3 seeds: the task does not distinguish good adapters from bad"
        " ones",
    )
    assert report.best is None
    assert int(code_of(report.status)) == 8
    for text in (report.to_text(width=100), report.to_markdown().replace("\\_", "_")):
        assert "the task does not distinguish good adapters from bad ones" in " ".join(text.split())
        assert "not as expected" in text
        assert "Smallest variant that passes" not in text
        assert "No conclusion is possible." in text


@pytest.mark.parametrize("lost", [(50, 3, 3), (3, 3, 50), (50, 50, 50)])
def test_a_control_that_fails_on_one_seed_has_seen_a_loss(lost: tuple[int, ...]) -> None:
    report = over_seeds(random_directions=lost)
    assert report.status == "PASS"
    assert report.best is not None
    assert "as expected" in report.to_text()


def test_on_one_seed_it_is_a_note() -> None:
    run = bench(42, {"random_directions": (3, 0)}, asked=config(compression=CONTROLS, seeds=[42]))
    (note,) = seed_notes(run.probe, run.variants, run.policy)
    assert note.startswith("random_directions must fail but passes on this seed")
    assert run.status == "PASS"
    alone = aggregate([run])
    assert alone.status == "PASS"
    assert "random_directions must fail but passes on the only seed" in alone.notes


@pytest.mark.parametrize(
    ("name", "lost", "shown"),
    [
        ("random_directions", 50, "as expected"),
        ("random_directions", 0, "not as expected"),
        ("rewrite_control", 0, "as expected"),
        ("rewrite_control", 50, "not as expected"),
        ("per_layer_shuffled.truncate", 50, "for comparison"),
        ("per_layer_shuffled.truncate", 0, "for comparison"),
    ],
)
def test_a_control_s_row_never_says_pass(name: str, lost: int, shown: str) -> None:
    run = bench(42, {name: (lost, 0)}, asked=config(compression=CONTROLS, seeds=[42]))
    report = aggregate([run])
    texts = (run.to_text(width=200), report.to_text(width=200))
    for text in (*texts, run.to_markdown(), report.to_markdown()):
        rows = rows_of(name, text)
        assert any(shown in row for row in rows)
        assert not any(status in row for status in ("PASS", "FAIL") for row in rows)


@given(st.integers(1, 5000), st.integers(0, 5000))
def test_at_the_ceiling_no_more_are_wrong_than_may_be_lost(n: int, wrong: int) -> None:
    if wrong <= n:
        assert at_ceiling(n - wrong, n, Fraction(1, 40)) == (wrong <= allowed_losses(n, Fraction(1, 40)))


def test_a_probe_at_its_ceiling_is_a_warning() -> None:
    high = bench(42, correct=195)
    (note,) = seed_notes(high.probe, high.variants, high.policy)
    assert note.startswith("warning: the probe is at its ceiling (195 / 200 correct)")
    assert not seed_notes(bench(42, correct=194).probe, (), high.policy)
    assert any(
        "at its ceiling on 1 of 3 seeds" in note for note in aggregate([high, *three_seeds()[1:]]).notes
    )
