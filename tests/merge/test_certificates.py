"""The certificate: the merged adapter against each parent on its own rows; resuming; the search; the predicted KL."""

import json

import adapters_to_compare as data
import pytest

from gradience import (
    InputError,
    MergeReport,
    UsageError,
    calibrate_adapter,
    evaluate_adapters,
    merge_adapters,
)
from gradience.cli.app import run
from gradience.merge import certificate
from gradience.merge.certificate import GRID, Candidate

OPTIONS = {"device": "cpu", "batch_size": 8, "max_new_tokens": 4}


@pytest.fixture(scope="module")
def causal(tmp_path_factory):
    """A tiny base, two adapters, and rows for each."""
    root = data.writers(tmp_path_factory.mktemp("writers"))
    for name, step in (("reference", 1), ("other", 2)):
        rows = [
            {
                "prompt": f"{place % 10} + {place * step % 7} =",
                "completion": f" {place % 10 + place * step % 7}",
            }
            for place in range(40)
        ]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (root / f"{name}.jsonl").write_text(lines)
    return root


def merged(root, output, **options):
    settings = {"base_model": root / "base", "margin": "90", **OPTIONS}
    return merge_adapters([root / "reference", root / "other"], output, **{**settings, **options})


def both(root):
    return {"A": root / "reference.jsonl", "other": root / "other.jsonl"}


def test_each_parent_is_compared_on_its_own_rows(causal, tmp_path):
    report = merged(causal, tmp_path / "out", data=both(causal))
    assert [row.parent for row in report.certificate.parents] == ["reference", "other"]
    for row in report.certificate.parents:
        direct = evaluate_adapters(
            [causal / row.parent, tmp_path / "out"], data=causal / f"{row.parent}.jsonl",
            base_model=causal / "base", margin="90", **OPTIONS,
        )  # fmt: skip
        assert row.merged.pairs == direct.candidates[0].pairs
        assert row.merged.grade == direct.candidates[0].grade
        assert row.reference.correct == direct.adapters[0].correct
        assert (tmp_path / "out" / row.evaluation / "evaluation.json").exists()
    shown = [row.merged.grade == "B" for row in report.certificate.parents]
    verdict = (
        "holds on all parents" if all(shown) else "holds on some parents" if any(shown) else "do not merge"
    )
    assert report.certificate.verdict == verdict
    assert MergeReport.read(tmp_path / "out" / "merge_report.json") == report
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert report.parents[0].sha256[:12] in card
    assert verdict.capitalize() in card


def test_the_same_command_again_uses_what_is_there(causal, tmp_path):
    first = merged(causal, tmp_path / "out")
    before = (tmp_path / "out" / "adapter_model.safetensors").stat().st_mtime_ns
    report = merged(causal, tmp_path / "out", data=both(causal), limit=8, all_rows=True)
    assert (tmp_path / "out" / "adapter_model.safetensors").stat().st_mtime_ns == before
    assert report.output_sha256 == first.output_sha256
    assert report.certificate is not None
    with pytest.raises(UsageError) as caught:
        merged(causal, tmp_path / "out", data=both(causal), method="svd")
    assert caught.value.code == "output-exists"


@pytest.mark.parametrize(
    ("given", "code"),
    [({"A": "reference.jsonl"}, "no-data"), ({"A": "reference.jsonl", "C": "other.jsonl"}, "no-such-parent")],
)
def test_every_parent_needs_its_own_rows(causal, given, code, tmp_path):
    with pytest.raises(UsageError) as caught:
        merged(causal, tmp_path / "out", data={name: causal / file for name, file in given.items()})
    assert caught.value.code == code
    assert not (tmp_path / "out").exists()


def test_a_search_tries_the_grid_on_dev_rows_and_tests_once(causal, tmp_path, monkeypatch):
    grid = (Candidate("svd", 0.5), Candidate("ties", 1.0, 0.5))
    monkeypatch.setattr(certificate, "GRID", grid)
    report = merged(causal, tmp_path / "out", data=both(causal), search=True)
    assert [row.method for row in report.search] == ["svd", "ties"]
    (chosen,) = [row for row in report.search if row.chosen]
    worst = [min(row.deltas) for row in report.search]
    assert min(chosen.deltas) == max(worst)
    assert report.method == chosen.method
    assert tuple(parent.weight for parent in report.parents) == chosen.weights
    rows = tmp_path / "out.search" / "rows"
    for parent in ("reference", "other"):
        halves = [(rows / f"{parent}.{half}.jsonl").read_text().splitlines() for half in ("dev", "test")]
        assert not {*halves[0]} & {*halves[1]}
        lines = (causal / f"{parent}.jsonl").read_text().splitlines()
        assert sorted(map(json.loads, halves[0] + halves[1]), key=str) == sorted(
            map(json.loads, lines), key=str
        )
    assert [row.merged.n for row in report.certificate.parents] == [
        len((rows / f"{name}.test.jsonl").read_text().splitlines()) for name in ("reference", "other")
    ]


def test_the_grid_is_what_the_page_says():
    assert len(GRID) == len({candidate.name for candidate in GRID}) == 10


def test_the_smallest_rank_whose_predicted_kl_is_below_the_limit(causal, tmp_path):
    merge_adapters([causal / "reference", causal / "other"], tmp_path / "sum")
    files = []
    for name in ("reference", "other"):
        files.append(tmp_path / f"{name}.safetensors")
        calibrate_adapter(
            tmp_path / "sum", prompts=causal / f"{name}.jsonl", output=files[-1], base_model=causal / "base",
            device="cpu", completion_tokens=4,
        )  # fmt: skip
    reports = [
        merged(causal, tmp_path / f"out{limit}", method="svd", max_kl_per_token=limit, calibration=files)
        for limit in (1e-9, 10.0)
    ]
    assert [report.largest_rank for report in reports] == [8, 1]
    assert all(row.high <= 10.0 for row in reports[1].predicted)
    assert len(reports[0].predicted) == 2
    with pytest.raises(UsageError) as caught:
        merged(causal, tmp_path / "no", method="svd", weights=[1, 2], max_kl_per_token=1.0, calibration=files)
    assert caught.value.code == "other-calibration"


def test_the_command_prints_the_verdict_and_its_exit_code(causal, tmp_path, capsys):
    arguments = [
        "merge", str(causal / "reference"), str(causal / "other"), "--base-model", str(causal / "base"),
        "--data", f"A={causal / 'reference.jsonl'}", "--data", f"B={causal / 'other.jsonl'}", "--margin", "90",
        "--max-new-tokens", "4", "--device", "cpu", "-o", str(tmp_path / "out"),
    ]  # fmt: skip
    code = run(arguments)
    report = MergeReport.read(tmp_path / "out" / "merge_report.json")
    grades = [row.merged.grade for row in report.certificate.parents]
    assert code == (1 if "D" in grades else 8 if "C" in grades else 0)
    assert report.certificate.verdict.capitalize() in capsys.readouterr().out
    missing = [*arguments[:5], "--data", "A=nowhere.jsonl", "-o", str(tmp_path / "two")]
    assert run(missing) == InputError.exit_code


def test_the_card_verb_keeps_what_a_merge_says(causal, tmp_path):
    report = merged(causal, tmp_path / "out")
    assert run(["card", str(tmp_path / "out")]) == 0
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert all(parent.sha256[:12] in card for parent in report.parents)
    assert "How to load it" in card
