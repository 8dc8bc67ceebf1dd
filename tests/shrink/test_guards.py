"""`shrink --guard`: the smallest candidate that holds on the task and on every guard."""

import json

from tiny_bench import counted_loads

from gradience import shrink_adapter, verify
from gradience.cli.exit_codes import ExitCode
from gradience.cli.models import code_of
from gradience.files.records import read_records
from gradience.reports.shrink import ShrinkPlan

GENERAL = [
    {"text": f"{first} {second} {third}", "label": ("bad", "good")[place % 2]}
    for first in ("a", "film")
    for second in ("good", "bad", "plot")
    for place, third in enumerate(("is", "film", "a", "plot"))
]


def shrink(folder, output, **options):
    given = {"base_model": folder / "base", "data": folder / "rows.csv", "guards": {"general": GENERAL}}
    settings = {"margin": {"": "90", "general": "90"}, "ranks": [3, 2, 1], "batch_size": 7, "no_ledger": True}
    return shrink_adapter(folder / "reference", output, device="cpu", **{**given, **settings, **options})


def test_every_set_is_answered_on_one_base_and_the_records_say_what_the_table_says(prepared, tmp_path):
    with counted_loads() as loads:
        report = shrink(prepared, tmp_path / "out")
    assert len(loads) == 1
    assert (report.smallest, [row.name for row in report.guards[0].results]) == (
        "rank1",
        ["rank3", "rank2", "rank1"],
    )
    records = tmp_path / "out" / "guards" / "general" / "records"
    before, after = ([row.correct for row in read_records(records / f"{name}.jsonl").records]
                     for name in ("reference", "rank1"))  # fmt: skip
    pairs = report.guards[0].row("rank1").pairs
    lost = sum(b and not a for b, a in zip(before, after, strict=True))
    gained = sum(a and not b for b, a in zip(before, after, strict=True))
    assert (pairs.n, pairs.n10, pairs.n01) == (24, lost, gained)
    assert "general: accuracy" in report.sentence
    assert verify(tmp_path / "out").verdict == "consistent"


def test_a_guard_that_shows_nothing_stops_every_candidate(prepared, tmp_path):
    """With 24 examples, no margin of 1 point can be shown, whatever the answers are."""
    report = shrink(prepared, tmp_path / "out", margin={"": "90", "general": "1"})
    assert [row.grade for row in report.guards[0].results] == ["C"]
    assert [row.status for row in report.candidates] == ["inconclusive", "not tested", "not tested"]
    assert (report.smallest, code_of(report)) == (None, ExitCode.INCONCLUSIVE)
    assert "Rank 3 on general is inconclusive" in report.sentence
    assert not (tmp_path / "out" / "adapter").exists()
    assert verify(tmp_path / "out").verdict == "consistent"

    again = shrink(prepared, tmp_path / "out", guards={}, margin="90")
    digest = report.plan.guards[0].examples_sha256
    assert again.plan.changes == (f"the guards were general (1.00 points, {digest[:8]}), and are none",)
    assert (again.smallest, code_of(again)) == ("rank1", ExitCode.INCONCLUSIVE)


def test_an_edited_result_on_a_guard_is_a_mismatch(prepared, tmp_path):
    shrink(prepared, tmp_path / "out", ranks=[1])
    path = tmp_path / "out" / "guards" / "general" / "records" / "rank1.jsonl"
    lines = path.read_text().splitlines()
    row = json.loads(lines[1])
    lines[1] = json.dumps({**row, "predicted": 1 - row["predicted"]})
    path.write_text("\n".join(lines) + "\n")
    assert "guards/general/records/rank1.jsonl" in {each.file for each in verify(tmp_path / "out").mismatches}


def test_the_dry_run_and_the_plan_name_the_guards(prepared, tmp_path):
    forecast = shrink(prepared, tmp_path / "out", dry_run=True)
    assert "24 examples of classification" in forecast.to_text()
    shrink(prepared, tmp_path / "out", ranks=[1])
    (planned,) = ShrinkPlan.read(tmp_path / "out" / "plan.json").guards
    assert (planned.name, planned.guard, planned.examples, planned.compares) == (
        "general",
        True,
        24,
        "correct",
    )
