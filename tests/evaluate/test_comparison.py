"""Records on the disk, and what changes between two of them: from hand-made records alone."""

import hashlib
import math
import shutil
import tracemalloc
from dataclasses import replace

import adapters_to_compare as data
import numpy as np
import pytest
from adapters_to_compare import tiny_bench
from data_files import write_jsonl
from raising import raises
from records_sample import NO, SHA, YES, chosen, labeled, run_of, scored, written

from gradience import evaluate_adapters, shrink_adapter, verify
from gradience.errors import InputError, UsageError
from gradience.evaluate import diverge
from gradience.files.records import read_records, write_records
from gradience.statistics.paired import largest_share


def cells(change):
    return change.table.n11, change.table.n10, change.table.n01, change.table.n00


def labels(answers):
    return [labeled(number, label, logits) for number, (logits, label) in enumerate(answers)]


def test_every_cell_of_two_classifiers_is_counted():
    first = [(YES, 1), (YES, 1), (YES, 1), (NO, 1), (NO, 1), (NO, 1), (NO, 0)]
    second = [(YES, 1), (NO, 1), (NO, 1), (YES, 1), (NO, 1), (NO, 1), (NO, 0)]
    change = diverge((run_of(), labels(first)), (run_of(adapter="b"), labels(second)))
    assert (change.table.n, change.flips) == (7, 3)
    assert cells(change) == (2, 2, 1, 2)
    per_flip = math.tanh(0.5)  # KL between softmax(0, 1) and softmax(1, 0)
    assert change.kl_per_example == pytest.approx(3 * per_flip / 7)
    spread = np.std([0, per_flip, per_flip, per_flip, 0, 0, 0], ddof=1) / math.sqrt(7)
    assert change.kl_per_example_standard_error == pytest.approx(spread)
    assert diverge((run_of(), labels(first)), (run_of(), labels(first))).kl_per_example == 0
    single = diverge((run_of(), labels(first[:1])), (run_of(), labels(second[:1])))
    assert (single.table.n, single.kl_per_example_standard_error) == (1, None)


def test_two_writers_differ_in_answers_and_in_being_right():
    first = [written(0, "7"), written(1, "7"), written(2, "8"), written(3, None), written(4, None)]
    second = [written(0, "7"), written(1, "9"), written(2, "9"), written(3, "7"), written(4, None)]
    change = diverge((run_of("generation"), first), (run_of("generation", "b"), second))
    assert cells(change) == (1, 1, 1, 2)
    assert change.flips == 3
    assert change.kl_per_example is change.kl_per_example_standard_error is None


@pytest.mark.parametrize("missing", [{"kl": None}, {"flips": None}])
def test_scores_of_an_engine_that_measures_no_kl_are_not_averaged(missing):
    """Not NaN, and not a count of nothing: not measured."""
    reference = {"reference": "a", "reference_sha256": SHA}
    first = [scored(0, -1.0, True), scored(1, -2.0, False)]
    second = [scored(0, -1.5, True, **{"kl": 0.1, "flips": 1} | missing), scored(1, -2.0, False, 0.2, 0)]
    change = diverge(
        (run_of("scores", "a", **reference), first), (run_of("scores", "b", **reference), second)
    )
    assert (change.kl_per_example, change.kl_per_example_standard_error, change.flips) == (None, None, None)


def test_scores_tell_kl_only_against_their_reference():
    first = [scored(0, -1.0, True, 0.0, 0), scored(1, -2.0, False, 0.0, 0)]
    second = [scored(0, -1.5, True, 0.25, 0), scored(1, -1.0, True, 0.75, 2)]
    reference = {"reference": "a", "reference_sha256": SHA}
    a, b = (run_of("scores", "a", **reference), first), (run_of("scores", "b", **reference), second)
    change = diverge(a, b)
    assert (change.kl_per_example, change.flips) == (0.5, 1)
    assert (change.table.n11, change.table.n01) == (1, 1)
    assert diverge(b, a).kl_per_example is None
    other = (run_of("scores", "a", **{**reference, "reference_sha256": "1" * 64}), first)
    with pytest.raises(UsageError):
        diverge(other, b)


@pytest.mark.parametrize(
    "changed",
    [
        {"batch_size": 4}, {"dtype": "bfloat16"}, {"threads": 99}, {"max_length": 7}, {"base_sha256": "1" * 64},
        {"device": "gpu"}, {"versions": {"torch": "3"}}, {"quantization": "nf4"}, {"attention": "eager"},
    ],
    ids=str,
)  # fmt: skip
def test_what_was_not_evaluated_alike_is_not_compared(changed):
    rows = labels([(YES, 1), (NO, 1)])
    with raises(UsageError, "not-paired", "settings"):
        diverge((run_of(), rows), (run_of(adapter="b", **changed), rows))


def test_other_examples_are_not_compared():
    rows = labels([(YES, 1), (NO, 1)])
    changed = labeled(1, 0, NO), labeled(1, 1, NO, text_sha256="1")
    for others in (rows[::-1], rows[:1], *([rows[0], other] for other in changed)):
        with pytest.raises(UsageError, match="examples"):
            diverge((run_of(), rows), (run_of(adapter="b"), others))


@pytest.mark.parametrize("changed", [{"prompt_sha256": "1"}, {"choices_sha256": "1"}, {"label": 1}], ids=str)
def test_other_choices_are_not_compared(changed):
    runs = run_of("choices"), run_of("choices", "b")
    rows = [chosen(0), chosen(1)]
    assert diverge((runs[0], rows), (runs[1], rows)).flips == 0
    with raises(UsageError, "not-paired", "examples"):
        diverge((runs[0], rows), (runs[1], [rows[0], chosen(1, **changed)]))


@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        ("classification", labels([(YES, 1), (NO, 1)])),
        ("generation", [written(0, "é\n\u2028"), written(1, None)]),
        ("scores", [scored(0, -1.25, True), scored(1, -1 / 3, False, 0.1, 1)]),
    ],
)
def test_records_survive_the_disk_and_damage_is_named(tmp_path, kind, rows):
    header = run_of(kind, n=2)
    path = write_records(tmp_path / "a.records.jsonl", header, rows)
    assert read_records(path) == (header, tuple(rows))
    assert write_records(tmp_path / "again", *read_records(path)).read_bytes() == path.read_bytes()
    assert path.read_text().startswith('{"schema":"gradience.records/1"')
    lines = path.read_bytes().splitlines(keepends=True)
    for damaged, where in [
        (b"".join(lines[:-1]), "1 records instead of the 2 in the first line"),
        (b"".join(lines)[:-20], "line 3"),
        (b"", "line 1"),
        (b"".join(lines[1:]), "line 1"),
    ]:
        path.write_bytes(damaged)
        with raises(InputError, "artifact-invalid", where):
            read_records(path)
    with raises(InputError, "not-found"):
        read_records(tmp_path / "none.jsonl")


@pytest.mark.parametrize("kind", ["scores", "generation"])
def test_records_of_several_adapters_take_little_memory(tmp_path, kind):
    """Texts that they share are there once; a file is read line by line."""
    count = 5000
    digests = [hashlib.sha256(str(place).encode()).hexdigest() for place in range(count)]
    make = {
        "scores": lambda place: scored(place, -1.25, True, 0.5, 1),
        "generation": lambda place: written(place, "7"),
    }
    rows = [replace(make[kind](place), prompt_sha256=digests[place]) for place in range(count)]
    files = [write_records(tmp_path / name, run_of(kind, n=count, adapter=name), rows) for name in "ab"]
    answers = [read_records(files[0])]  # Python's table of interned strings grows before the measurement
    tracemalloc.start()
    answers += [read_records(path) for path in files]
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(answers[1].records) == count
    assert kept / (2 * count) < 800
    assert peak < kept + 500_000


# ---------------------------------------------------------------- Prompts without answers: agreement decides


@pytest.fixture(scope="session")
def causal(tmp_path_factory):
    root = data.writers(tmp_path_factory.mktemp("writers"))
    shutil.copytree(root / "reference", root / "same")
    rows = enumerate(tiny_bench.sums().examples.all)
    write_jsonl(root / "prompts.jsonl", ({"prompt": row.prompt, "document": n // 2} for n, row in rows))
    return root


def evaluate(causal, *names, **options):
    adapters = [causal / name for name in ("reference", *names)]
    settings = {"base_model": causal / "base", "prompts": causal / "prompts.jsonl", "device": "cpu"}
    return evaluate_adapters(adapters, **{**settings, "max_new_tokens": 4, "batch_size": 8, **options})


def test_changed_outputs_are_counted_and_bounded(causal, tmp_path):
    report = evaluate(causal, "other", "same", output=tmp_path / "out", all_rows=True, margin=10)
    outputs = {
        row.name: [record.output for record in read_records(tmp_path / "out" / row.records[0].path).records]
        for row in report.adapters
    }
    reference, other, same = report.adapters
    changed = sum(a != b for a, b in zip(outputs["reference"], outputs["other"], strict=True))
    assert 0 < changed == other.pairs.n10 == other.n - other.correct
    assert other.bounds.low == pytest.approx(-largest_share(changed, [other.n]), abs=1e-6)
    assert (reference.correct, same.correct, same.grade) == (same.n, same.n, "B")
    assert same.reason.startswith("shown for these adapters: changed answers at most ")
    assert other.grade == "C"  # a changed answer need not be worse
    shown = " ".join(report.to_text().split())
    assert "For any deterministic scorer of the output text with values between 0 and 1" in shown
    assert "at most" in shown
    assert "KL/example" not in shown
    assert (verify(tmp_path / "out").verdict, verify(tmp_path / "out").level) == ("consistent", "L2")


def test_groups_with_a_changed_output_are_counted(causal):
    report = evaluate(causal, "other", group="document", all_rows=True)
    other, n = report.adapters[1], len(set(report.groups))
    assert n < other.n
    assert -other.bounds.low >= largest_share(-(-other.pairs.n10 // 2), [n]) - 1e-6
    assert "groups with a changed answer" in other.reason


def test_shrink_decides_by_agreement_without_examples(causal, tmp_path):
    given = {"base_model": causal / "base", "prompts": causal / "prompts.jsonl", "device": "cpu"}
    more = {"ranks": [2, 1], "max_new_tokens": 4, "margin": 60}
    report = shrink_adapter(causal / "reference", tmp_path / "out", **given, **more)
    assert report.plan.compares == "agreement"
    assert {candidate.kind for candidate in report.candidates} == {"truncated"}
    first = report.candidates[0].result
    assert first.correct == first.n - first.pairs.n10
    assert "share of changed outputs" in " ".join(report.to_text().split())
    assert verify(tmp_path / "out").verdict == "consistent"


def test_prompts_beside_examples_are_refused(causal):
    with pytest.raises(UsageError, match="cannot be evaluated together"):
        evaluate(causal, "other", data=causal / "prompts.jsonl")


def test_kl_can_be_left_out(causal, tmp_path):
    rows = tiny_bench.sums().examples.all
    path = write_jsonl(tmp_path / "rows.jsonl", ({"prompt": r.prompt, "answer": r.answer} for r in rows))
    options = {"prompts": None, "data": path, "all_rows": True}
    without = evaluate(causal, "other", **options, no_kl=True, output=tmp_path / "without")
    measured = evaluate(causal, "other", **options, output=tmp_path / "with")
    assert without.adapters[1].change is None
    assert measured.adapters[1].change.kl_per_token > 0
    answers = [(tmp_path / name / "records" / "other.jsonl").read_bytes() for name in ("with", "without")]
    assert answers[0] == answers[1]
    assert read_records(tmp_path / "with" / "records" / "other.jsonl").run.near_tie < 1e-3
