"""Evidence on the screen: grades in words, and nothing said of files that have none."""

from bench_sample import LARGE, SEEDS, bench, config, ladder

from gradience.bench.verdict.aggregate import aggregate
from gradience.reports.bench import p_value, round_up


def test_small_p_values_are_not_spelled_out() -> None:
    assert [p_value(value) for value in (None, 1e-9, 0.0123)] == ["–", "< 0.001", "0.012"]
    assert [round_up(number) for number in (7, 99, 101, 1063, 2400)] == [7, 99, 110, 1100, 2400]


def test_only_a_run_with_verified_records_and_controls_is_called_certified() -> None:
    changes = {"random_directions": (1400, 10), "uniform_r4": (20, 15)}
    asked = config(
        compression={
            "variants": ["uniform_r4"],
            "arms": ["truncate"],
            "controls": ["random_directions", "rewrite_control"],
        }
    )
    runs = [bench(seed, {"uniform_r4.truncate": (20, 15)} | changes, asked=asked, **LARGE) for seed in SEEDS]
    verified, unknown = (aggregate(runs, records_verified=known) for known in (True, False))
    for report, says in ((verified, True), (unknown, False)):
        for text in (report.to_text(), report.to_markdown()):
            assert (": A, certified" in " ".join(text.split())) == says
    without_controls = aggregate(ladder(*[(5, 5)] * 4), records_verified=True)
    assert ": B, shown for these runs" in " ".join(without_controls.to_text().split())
