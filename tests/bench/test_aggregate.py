"""Seeds together: what may be counted together, what a missing seed means, and the verdicts in counts."""

import json
from fractions import Fraction

import pytest
from bench_sample import PUBLISHED, bench, config, named, save_seeds, three_seeds
from raising import raises
from running import python

from gradience.bench.verdict.aggregate import aggregate, find_benches, no_longer_passing
from gradience.bench.verify.verify import aggregate_checked
from gradience.cli.app import run
from gradience.errors import InputError
from gradience.reports.base.exact import exact_text
from gradience.reports.bench import BenchAggregate


@pytest.fixture
def runs(tmp_path):
    """A run a folder, one folder with several seeds, and one empty folder."""
    for bench_of_seed in three_seeds():
        folder = tmp_path / f"run{bench_of_seed.seed}"
        folder.mkdir()
        bench_of_seed.save(folder / "bench.json")
    save_seeds(tmp_path / "all")
    (tmp_path / "empty").mkdir()
    return tmp_path


# ---------------------------------------------------------------- the published numbers


def test_exactly_five_of_200_fewer_passes_and_six_do_not():
    """The announcement's uniform_median lies on the bound: in floats, .26 − .285 passes and .765 − .79 fails."""
    median = named(aggregate(three_seeds()), "uniform_median")
    assert (median.status, median.pass_rate, median.worst_delta_exact) == ("PASS", 1, "-5/200")
    one_less = [
        bench(seed, changes | ({"uniform_median": (14, 8)} if seed == 42 else {}), correct=correct)
        for seed, (correct, changes) in PUBLISHED.items()
    ]
    median = named(aggregate(one_less), "uniform_median")
    assert (median.status, median.pass_rate) == ("FAIL", Fraction(2, 3))
    assert "2 of 3 seeds pass (66.7 %; 67 % needed)" in median.reasons


def test_the_best_variant_is_the_smallest_of_those_that_pass():
    assert aggregate([bench(seed) for seed in (42, 123, 456)]).best == "uniform_median"
    worse = {"uniform_median": (9, 0), "uniform_median.truncate": (9, 0)}
    report = aggregate([bench(seed, worse) for seed in (42, 123, 456)])
    assert named(report, "uniform_median").status == "FAIL"
    assert named(report, "uniform_median").mean_reduction > named(report, "per_layer").mean_reduction
    assert report.best == "per_layer"


# ---------------------------------------------------------------- missing and failed seeds


def test_a_bad_seed_cannot_be_left_out_of_a_plan_that_names_it():
    runs = [bench(seed, {"uniform_median": (9, 0) if seed == 123 else (0, 0)}) for seed in (42, 123, 456)]
    assert named(aggregate(runs), "uniform_median").status == "FAIL"
    left_out = aggregate([runs[0], runs[2]])
    assert named(left_out, "uniform_median").status == "FAIL"
    assert left_out.reasons == ("seed 123: no result",)
    assert "seed 123: no result, counted as failed" in named(left_out, "uniform_median").reasons
    assert not any("planned separately" in note for note in left_out.notes)


def test_a_variant_that_failed_on_a_seed_is_not_dropped():
    first, *others = three_seeds()
    broken = bench(42, {**PUBLISHED[42][1], "per_layer": "OutOfMemoryError: no"}, correct=54)
    report = aggregate([broken, *others])
    assert named(report, "per_layer").pass_rate == Fraction(2, 3)
    assert named(report, "per_layer").status == "FAIL"
    assert "OutOfMemoryError" in " ".join(named(report, "per_layer").reasons)
    assert report.status == "ERROR"
    assert aggregate([first, *others]).status == "PASS"


def test_an_undertrained_seed_makes_everything_inconclusive():
    report = aggregate([bench(42, correct=10), *three_seeds()[1:]])
    assert {v.status for v in report.variants if v.name != "uniform_p90"} >= {"INCONCLUSIVE"}
    assert named(report, "uniform_median").status == "INCONCLUSIVE"
    assert report.status == "INCONCLUSIVE"
    diverged = bench(
        42, probe=None, audit=None, status="UNDERTRAINED", variants=bench(42, correct=10).variants
    )
    assert aggregate([diverged, *three_seeds()[1:]]).status == "INCONCLUSIVE"


def test_notes():
    alone = aggregate([bench(42, asked=config(seeds=[42], task={"profile": "gsm8k", "eval_role": "dev"}))])
    assert "evaluated on dev" in " ".join(alone.notes)
    assert alone.probe.sd is None
    two_seeds = aggregate(three_seeds()[:2]).probe  # 54 and 57 of 200
    assert two_seeds.sd == pytest.approx(0.015 / 2**0.5)


# ---------------------------------------------------------------- what may not be counted together


def other(seed: int, **more):
    return bench(seed, correct=57, **more)


@pytest.mark.parametrize(
    ("second", "code", "said"),
    [
        (lambda: other(42), "bench-repeated", "seed 42 is in a already"),
        (lambda: other(123, model="gpt2"), "bench-mismatch", "another model (mistralai/Mistral-7B-v0.1 there, gpt2"),
        (lambda: other(123, base_fingerprint="x"), "bench-mismatch", "another base weights"),
        (lambda: other(123, data=of_glue()), "bench-mismatch", "another task (gsm8k there, glue here)"),
        (lambda: other(123, n=500), "bench-mismatch", "another data"),
        (
            lambda: other(123, asked=config(train={"lr": 2e-4, "max_steps": 1200})),
            "bench-mismatch", "`train.lr` is 0.0001 there, 0.0002 here",
        ),
        (
            lambda: other(123, asked=config(policy={"floor": "0.05"})), "bench-mismatch", "another policy",
        ),
        (lambda: other(123, asked=config(run_type="smoke")), "bench-smoke", "a smoke run is no evidence"),
        (
            lambda: with_same("initial_adapter_sha256"),
            "bench-not-independent", "probe started from the same initial adapter",
        ),
        (lambda: with_same("first_batch_sha256"), "bench-not-independent", "began with the same first batch"),
    ],
    ids=range(10),
)  # fmt: skip
def test_what_is_refused(second, code, said):
    """The original project: the same folder twice and another config give "3 seeds, certifiable, 41.6 %"."""
    with raises(InputError, code) as caught:
        aggregate([three_seeds()[0], second()], ["a", "b"])
    assert said in str(caught.value)


def of_glue():
    return bench(123).data.model_copy(update={"task": "glue"})


def with_same(field):
    """Another seed whose probe began as that of the first."""
    probe, first = other(123).probe, three_seeds()[0].probe.training
    training = probe.training.model_copy(update={field: getattr(first, field)})
    return other(123).model_copy(update={"probe": probe.model_copy(update={"training": training})})


# ---------------------------------------------------------------- folders and the command


def test_folders(runs):
    assert len(find_benches([runs / "all"])) == 3
    assert len(find_benches([runs / "run42", runs / "run123" / "bench.json"])) == 2
    with pytest.raises(InputError, match=r"no bench\.json in it"):
        find_benches([runs / "run42", runs / "empty"])
    one, other = (
        aggregate_checked([runs / "all"]),
        aggregate_checked([runs / f"run{s}" for s in (456, 42, 123)]),
    )
    ignored = {"run", "seeds", "notes"}  # which name the folders
    assert one.model_dump(exclude=ignored) == other.model_dump(exclude=ignored)


def test_the_command(runs, command):
    folders = [str(runs / f"run{seed}") for seed in PUBLISHED]
    assert "3 of 3" in command("bench", "aggregate", *folders, "--output", runs / "out").out
    report = BenchAggregate.read(runs / "out" / "bench_aggregate.json")
    assert (
        (runs / "out" / "bench_aggregate.md")
        .read_text(encoding="utf-8")
        .startswith("# Bench PASS: `mistralai")
    )
    assert run(["bench", "aggregate", *folders, "--output", str(runs / "out")]) == 2
    command("bench", "aggregate", *folders, "--output", runs / "out", "--force", "--quiet")
    printed = json.loads(command("bench", "aggregate", *folders, "--json").out)
    assert printed["seeds"][0]["source"] == "run42/bench.json", "no folder above it"
    assert printed["variants"][0]["pass_rate"] == exact_text(report.variants[0].pass_rate)


def test_the_published_name_of_the_command(runs):
    done = python("-m", "gradience.bench.aggregate", runs / "all", "--output", runs / "o")
    assert done.returncode == 0
    assert done.stderr.startswith("root: ")
    assert (runs / "o" / "bench_aggregate.json").is_file()


# ---------------------------------------------------------------- stopped early


def test_what_can_no_longer_pass_is_known_before_the_last_seed():
    worse = bench(42, {"uniform_median": (30, 0), "per_layer": (1, 0)}, correct=57)
    planned = (42, 123, 456)
    assert set(no_longer_passing([worse], planned, worse.policy)) == {"uniform_median"}
    assert no_longer_passing([], planned, worse.policy) == {}
    failed = worse.variant("uniform_median").model_copy(update={"status": "ERROR"})
    resumable = worse.model_copy(update={"variants": (failed,)})
    assert no_longer_passing([resumable], planned, worse.policy) == {}
