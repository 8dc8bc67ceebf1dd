"""`gradience shrink`: its screen, its files, its exit codes, its plan."""

import json

import adapters_to_compare as data
import pytest

from gradience import shrink_adapter
from gradience.cli.app import run
from gradience.cli.shrink import code_of
from gradience.errors import UsageError
from gradience.reports.shrink import ShrinkForecast, ShrinkReport
from gradience.shrink.plan import MISSING
from gradience.shrink.settings import ranks_of


@pytest.fixture
def arguments(prepared, monkeypatch):
    monkeypatch.chdir(prepared)
    return ["shrink", "reference", "-b", "base", "--data", "rows.csv", "--device", "cpu", "--ranks", "2,1"]


def test_a_search_prints_what_it_writes_and_says_when_nothing_is_shown(arguments, tmp_path, capsys):
    out = tmp_path / "out"
    assert run([*arguments, "-o", str(out), "--margin", "90"]) == 0
    printed = capsys.readouterr()
    report = ShrinkReport.read(out / "shrink.json")
    assert printed.out == report.to_text()
    assert printed.err.startswith(
        f"note: {data.LABELS}\n60 examples: 80 % power to rule out a drop of about "
    )
    for words in ("stage 4 of 4: evaluating rank1", f"written: {out}/shrink.json, shrink.md, adapter/"):
        assert words in printed.err
    assert "rank 1 is the smallest candidate shown to stay within the margin: 75.0 %" in " ".join(
        printed.out.split()
    )
    assert report.sentence in (out / "shrink.md").read_text(encoding="utf-8")
    assert (out / "adapter" / "compression_report.md").read_text(encoding="utf-8")
    (out / "plan.json").unlink()
    assert run([*arguments, "-o", str(out), "--margin", "90", "--quiet"]) == 8  # exploratory
    for name in ("shrink.md", "adapter/README.md"):
        page = " ".join((out / name).read_text(encoding="utf-8").split())
        assert "the choice was made after looking at answers" in page
    capsys.readouterr()
    assert run([*arguments, "-o", str(out), "--margin", "0.5", "--json", "--quiet"]) in (1, 8)
    printed = capsys.readouterr()
    again = ShrinkReport.model_validate(json.loads(printed.out))
    assert again.smallest is None
    assert again.plan.changes == (MISSING, "the margin was 90.00 points, and is 0.50 points")
    screen = again.to_text()
    assert "plan changed after the first answers: the margin was 90.00 points" in " ".join(screen.split())


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        (("shown", "shown"), 0),
        (("shown", "worse"), 0),
        (("inconclusive", "not tested"), 8),
        (("worse", "not tested"), 1),
        (("shown", "not evaluated"), 4),
    ],
)
def test_a_smaller_one_that_holds_gives_0_and_one_that_could_not_be_evaluated_4(statuses, code):
    kept = ShrinkReport.read(data.RESULTS / "minilm_shrink" / "shrink.json")
    candidates = tuple(kept.candidates[0].model_copy(update={"status": status}) for status in statuses)
    smallest = "rank4" if "shown" in statuses else None
    assert code_of(kept.model_copy(update={"candidates": candidates, "smallest": smallest})) == code


def test_a_plan_loads_nothing_and_names_candidates_margins_and_memory(
    arguments, capsys, monkeypatch, tmp_path
):
    monkeypatch.setattr("gradience.models.load.load_base", lambda *_, **__: pytest.fail("a model is loaded"))
    assert run([*arguments, "--dry-run", "--json", "-o", str(tmp_path / "out")]) == 0
    plan = ShrinkForecast.model_validate(json.loads(capsys.readouterr().out))
    assert [candidate.rank for candidate in plan.candidates] == [2, 1]
    assert plan.weights_bytes > 0 < plan.batch_bytes
    assert plan.process_bytes > 100e6
    shown = shrink_adapter(
        "reference",
        tmp_path / "out",
        base_model="base",
        data="rows.csv",
        device="cpu",
        ranks=[2, 1],
        dry_run=True,
    )
    assert shown.plan == plan.plan
    assert run([*arguments, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    for words in (
        "Candidates, tested from the largest down",
        "Smallest margin",
        "Python and libraries",
    ):
        assert words in printed
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (["-o", "out", "--ranks", "4,x"], 2, "not a list of ranks"),
        (["-o", "out", "--ranks", "9"], 2, "no candidate is smaller"),
        (["-o", "reference"], 2, "the output is the adapter itself"),
    ],
)
def test_a_wrong_command_says_what_to_do(arguments, more, code, words, capsys):
    assert run([*arguments, *more]) == code
    printed = capsys.readouterr()
    assert words in printed.err
    assert "hint: " in printed.err


def test_ranks_are_whole_numbers():
    assert (ranks_of(None), ranks_of("8, 4,1")) == (None, (8, 4, 1))
    for text in ("", "8,", "-1", "0", "1.5", "²", "9" * 7):
        with pytest.raises(UsageError):
            ranks_of(text)
