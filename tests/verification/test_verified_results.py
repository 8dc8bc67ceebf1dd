"""Results of shrink, evaluate, compress, distill and evidence: untouched ones agree, and forgeries are named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import adapters_to_compare as data
import pytest
from bench_process import change_records, edit

from gradience import evaluate_adapters, verify
from gradience.bench.verify.folder import Findings, unpacked
from gradience.card import card_of
from gradience.cli.app import run
from gradience.compress.adapter import compress_adapter
from gradience.digests import sha256_file
from gradience.evaluate.verb import write_result
from gradience.files.artifact import digest_of
from gradience.files.card import write_card
from gradience.files.digests import Digests, root_of, write_digests
from gradience.reports.evaluation import EvaluationReport
from gradience.reports.shrink import ShrinkPlan, ShrinkReport
from gradience.verification.answers import evaluation_again, shrink_again

EVIDENCE = Path(__file__).parents[2] / "examples" / "evidence"


@pytest.fixture(scope="module")
def shrunk(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search as the command line writes it: ranks 2 and 1 of 4, both shown."""
    output = tmp_path_factory.mktemp("shrunk") / "out"
    options = ["-b", str(prepared / "base"), "--data", str(prepared / "rows.csv"), "--device", "cpu"]
    options += ["--ranks", "2,1", "--margin", "90", "-q", "-o", str(output)]
    assert run(["shrink", str(prepared / "reference"), *options]) == 0
    return output


@pytest.fixture
def copy(shrunk: Path, tmp_path: Path) -> Path:
    """What its owner publishes: without the candidates."""
    return Path(shutil.copytree(shrunk, tmp_path / "out", ignore=shutil.ignore_patterns("candidates")))


def fields(folder: Path, **options: Any) -> list[str]:
    """File and field of each mismatch."""
    return [" ".join((one.file, one.field)).strip() for one in verify(folder, **options).mismatches]


def careful(folder: Path) -> None:
    """Let every digest, the page and the card say what the files are now."""
    plan, records = ShrinkPlan.read(folder / "plan.json"), folder / "records"
    plan.save(folder / "plan.json")

    def bound(values: Any) -> None:
        values["plan"] = digest_of(plan)
        for name, file in values["files"].items():
            file["sha256"] = sha256_file(records / name)

    def named(values: Any) -> None:
        values |= {"plan": plan.model_dump(mode="json"), "plan_sha256": digest_of(plan)}
        results = [
            values["reference"],
            values["control"]["result"],
            *(c["result"] for c in values["candidates"]),
        ]
        for file in (file for row in results for file in row["records"]):
            file["sha256"] = sha256_file(folder / file["path"])

    edit(records / "manifest.json", bound)
    edit(folder / "shrink.json", named)
    report = ShrinkReport.read(folder / "shrink.json")
    (folder / "shrink.md").write_text(report.to_markdown(), encoding="utf-8")
    if report.smallest_sha256 == sha256_file(folder / "adapter" / "adapter_model.safetensors"):
        write_card(folder / "adapter", card_of(folder / "adapter", report))
    write_digests(folder, Digests.read(folder / "digests.json").files)


def made_again(folder: Path) -> None:
    """Compute the result from plan and records, as the most careful forger does."""
    careful(folder)
    report, plan = ShrinkReport.read(folder / "shrink.json"), ShrinkPlan.read(folder / "plan.json")
    shrink_again(folder, report, plan, Findings()).save(folder / "shrink.json")
    careful(folder)


# ---------------------------------------------------------------- untouched


def test_an_untouched_shrink_agrees_with_its_records(shrunk: Path, copy: Path) -> None:
    whole, published = verify(shrunk), verify(copy, root=root_of(copy), plan=sha256_file(copy / "plan.json"))
    assert (whole.verdict, whole.level) == ("consistent", "L2")
    assert (published.verdict, published.level) == ("verified", "L2")
    assert {check.result for check in published.checks} == {"passed"}
    rows = [check.what for check in whole.checks if check.name == "adapter"]
    assert len(rows) == 3  # adapter/, the other candidate, the control
    assert all(row in whole.to_text(width=1000) for row in rows)
    assert any("ranks and parameters of rank2" in gap for gap in published.not_verified)
    careful(copy)
    assert fields(copy) == []
    made_again(copy)
    assert fields(copy) == []


# ---------------------------------------------------------------- a shrink, forged with every digest made again


def wrong_to_right(_: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    row = next(row for row in rows if not row["correct"])
    row |= {"logits": row["logits"][::-1], "predicted": row["label"], "correct": True}


def test_a_changed_answer_contradicts_the_report(copy: Path) -> None:
    change_records(copy / "records" / "rank1.jsonl", wrong_to_right)
    assert {"records/rank1.jsonl", "records/rank1.jsonl sha256"} <= {*fields(copy)}
    careful(copy)
    assert "shrink.json candidates.rank1.result.correct" in fields(copy)


def test_a_changed_score_contradicts_its_logits_even_if_all_is_counted_again(copy: Path) -> None:
    def score(_: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        next(row for row in rows if not row["correct"])["correct"] = True

    change_records(copy / "records" / "rank1.jsonl", score)
    made_again(copy)
    assert fields(copy) == ["records/rank1.jsonl"]


def test_another_adapter_under_the_claim_has_other_sizes(shrunk: Path, copy: Path) -> None:
    """Rank-2 weights under the rank-1 claim: digests in the result and the records, and its report, are replaced."""
    source, target = shrunk / "candidates" / "rank2", copy / "adapter"
    shutil.rmtree(target)
    shutil.copytree(source, target)
    assert "shrink.json rank1.sha256" in fields(copy)
    weights, config = (
        sha256_file(target / f"adapter_{name}") for name in ("model.safetensors", "config.json")
    )

    def claim(values: Any) -> None:
        values["smallest_sha256"] = values["candidates"][1]["result"]["sha256"] = weights
        values["candidates"][1]["result"]["config_sha256"] = config

    edit(copy / "shrink.json", claim)
    change_records(
        copy / "records" / "rank1.jsonl",
        lambda header, _: header.update(adapter_sha256=weights, adapter_config_sha256=config),
    )
    made_again(copy)
    named = fields(copy)
    assert {"shrink.json rank1.largest_rank", "shrink.json rank1.lora_params"} <= {*named}
    assert "adapter/compression_report.json new_params" in named

    def small(values: Any) -> None:  # the report of the compression claims rank 1 too
        values["new_params"] = values["new_params"] // 2
        for module in values["modules"]:
            module |= {"new_rank": 1, "stored_rank": 1, "new_params": module["new_params"] // 2}

    edit(target / "compression_report.json", small)
    careful(copy)
    assert {"adapter/compression_report.json new_params", "shrink.json rank1.largest_rank"} <= {*fields(copy)}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda report: report["candidates"][1].update(params_saved=0.9), "candidates.rank1.params_saved"),
        (lambda report: report["candidates"][1]["result"]["bounds"].update(low=-0.01), "bounds.low"),
        (
            lambda report: report["candidates"][1]["result"]["change"].update(kl_per_example=1e-4),
            "change.kl_per_example",
        ),
        (lambda report: report.update(sentence=report["sentence"].replace("at most", "hardly")), "sentence"),
        (lambda report: report["candidates"][1]["result"].update(grade="A"), "candidates.rank1.result.grade"),
        (lambda report: report["conditions"].update(scoring="mine 1"), "conditions.scoring"),
        (lambda report: report.update(base="meta-llama/Llama-3.1-8B"), "base"),
    ],
)
def test_an_edited_number_or_sentence_contradicts_the_records(
    copy: Path, change: Callable[[Any], object], field: str
) -> None:
    edit(copy / "shrink.json", change)
    careful(copy)
    assert any(name.endswith(field) for name in fields(copy))


def test_an_example_deleted_from_one_file_leaves_no_pairs(copy: Path) -> None:
    change_records(copy / "records" / "rank1.jsonl", lambda _, rows: rows.pop())
    careful(copy)
    assert "records/rank1.jsonl n" in fields(copy)


def test_an_example_deleted_everywhere_contradicts_the_plan(copy: Path) -> None:
    for path in (copy / "records").glob("*.jsonl"):
        change_records(path, lambda _, rows: rows.pop())
    made_again(copy)
    assert "records/reference.jsonl n" in fields(copy)


def test_a_plan_edited_afterwards_is_seen_only_from_outside_if_all_is_made_again(copy: Path) -> None:
    planned = sha256_file(copy / "plan.json")
    edit(copy / "plan.json", lambda plan: plan.update(margin="0.5"))
    assert {"records/manifest.json plan", "shrink.json plan"} <= {*fields(copy)}
    careful(copy)
    assert "shrink.json candidates.rank1.result.bounds.p_value" in fields(copy)
    made_again(copy)
    assert fields(copy) == []
    assert fields(copy, plan=planned) == ["plan.json"]
    (copy / "plan.json").unlink()
    assert "shrink.json" in fields(copy)


def test_a_card_or_page_that_says_more_is_named(copy: Path) -> None:
    for name in ("shrink.md", "adapter/README.md"):
        path = copy / name
        path.write_text(path.read_text(encoding="utf-8").replace("accuracy at most", "accuracy not"), "utf-8")
    write_digests(copy, Digests.read(copy / "digests.json").files)
    assert fields(copy) == ["adapter/README.md", "shrink.md"]


def test_an_example_deleted_everywhere_is_missed_in_the_tasks_own_data(tmp_path: Path) -> None:
    """An evaluation of the bundled adapter on `reviews`, kept with its records, without one wrong answer."""
    with unpacked(data.KEPT.parent) as place:
        folder = Path(shutil.copytree(place, tmp_path / "out"))
    assert (verify(folder, data=True).verdict, fields(folder, data=True)) == ("consistent", [])
    rows = [json.loads(row) for row in (folder / "records" / "rank1.jsonl").read_text().splitlines()]
    wrong = next(row["id"] for row in rows[1:] if not row["correct"])
    for path in (folder / "records").glob("*.jsonl"):
        change_records(path, lambda _, rows: rows.remove(next(row for row in rows if row["id"] == wrong)))
    edit(
        folder / "records" / "manifest.json",
        lambda kept: [
            file.update(sha256=sha256_file(folder / "records" / name)) for name, file in kept["files"].items()
        ],
    )
    edit(
        folder / "evaluation.json",
        lambda report: (
            [one.update(n=one["n"] - 1) for one in report["adapters"]]
            + [report.update(examples=report["examples"] - 1)]
        ),
    )
    report = EvaluationReport.read(folder / "evaluation.json")
    rebuilt = evaluation_again(folder, report, Findings()).model_copy(update={"run": report.run})
    write_result(rebuilt, folder)
    assert fields(folder) == []
    assert "records/rank1.jsonl id" in fields(folder, data=True)


# ---------------------------------------------------------------- the other verbs


def test_an_evaluation_is_made_again(prepared: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    evaluate_adapters(
        [prepared / "reference", prepared / "other"], output=output, base_model=prepared / "base",
        data=prepared / "rows.csv", device="cpu", with_base=True,
    )  # fmt: skip
    assert (verify(output).verdict, verify(output).level) == ("consistent", "L2")
    change_records(output / "records" / "other.jsonl", wrong_to_right)
    assert "evaluation.json adapters.other.correct" in fields(output)
    edit(output / "evaluation.json", lambda report: report["adapters"][1].update(lora_params=1))
    assert "evaluation.json adapters.other.params_saved" in fields(output)
    shutil.copytree(prepared / "other", tmp_path / "other")
    assert "evaluation.json other.lora_params" in fields(output)


def test_relative_paths_verify_here_and_in_another_folder(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reports hold the whole path, records its last part; from another folder it is not mistaken for a hub name."""
    here, there = (
        Path(shutil.copytree(prepared, tmp_path / name / "w")).parent for name in ("here", "there")
    )
    shutil.rmtree(there / "w")
    monkeypatch.chdir(here)
    given, options = (
        ["w/reference", "w/other"],
        {"base_model": "w/base", "data": "w/rows.csv", "device": "cpu"},
    )
    evaluate_adapters(given, output=here / "evaluation", **options)
    compress_adapter("w/reference", here / "rank2", rank=2)
    assert EvaluationReport.read(here / "evaluation" / "evaluation.json").base == "w/base"
    for name in ("evaluation", "rank2"):
        for place in (here, there):
            monkeypatch.chdir(place)
            report = verify(here / name)
            assert report.mismatches == ()
            assert any("is not here" in gap or "are not here" in gap for gap in report.not_verified) == (
                place == there
            )
    edit(here / "evaluation" / "evaluation.json", lambda report: report.update(base="w/another"))
    assert "records/reference.jsonl base" in fields(here / "evaluation")


def test_an_evaluation_keeps_the_planned_shares_of_its_error(prepared: Path, tmp_path: Path) -> None:
    """Two candidates share the 5 %; dropping one after the answers is said, and seen if nothing says it."""
    output, given = tmp_path / "out", [prepared / "reference", prepared / "other", tmp_path / "smaller"]
    options = {
        "base_model": prepared / "base",
        "data": prepared / "rows.csv",
        "output": output,
        "device": "cpu",
    }
    compress_adapter(prepared / "reference", given[2], rank=1)
    assert evaluate_adapters(given, **options).notes == evaluate_adapters(given, **options).notes
    manifest = json.loads((output / "records" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["claims"] == [["other"], ["smaller"]]
    assert not fields(output)
    report = evaluate_adapters(given[:2], **options)
    assert any(
        "first answers (other, smaller; now other): this is a further test" in note for note in report.notes
    )
    assert not [field for field in fields(output) if "claims" in field]
    edit(output / "evaluation.json", lambda values: values.update(notes=[]))
    assert "records/manifest.json claims" in fields(output)


def test_another_strength_is_verified_and_takes_no_other_evaluation(shrunk: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(shrunk, tmp_path / "out"))
    report = compress_adapter(copied / "adapter", copied / "weaker", strength=0.8)
    assert report.output_sha256 == report.source_sha256  # only the config differs
    assert verify(copied / "weaker").verdict == "consistent"
    evaluated = "evaluated on"
    assert evaluated in card_of(copied / "adapter").block
    assert evaluated not in card_of(copied / "weaker").block
    assert "strength 0.8" in card_of(copied / "weaker").block
    edit(copied / "weaker" / "adapter_config.json", lambda config: config.update(lora_alpha=1.0))
    assert [name for name in fields(copied / "weaker") if name.endswith(".scale")]


def test_a_compression_names_the_ranks_in_its_file(prepared: Path, tmp_path: Path) -> None:
    for rank in (1, 2):
        compress_adapter(prepared / "reference", tmp_path / f"rank{rank}", rank=rank)
    folder = tmp_path / "rank1"
    assert verify(folder).verdict == "consistent"
    edit(folder / "compression_report.json", lambda report: report["modules"][0].update(measured_error=0.001))
    assert [name for name in fields(folder) if "measured_error" in name] == []  # the original is not here
    shutil.copytree(prepared / "reference", tmp_path / "reference")
    assert [name for name in fields(folder) if "measured_error" in name]
    weights = folder / "adapter_model.safetensors"
    shutil.copy(tmp_path / "rank2" / weights.name, weights)
    edit(folder / "compression_report.json", lambda report: report.update(output_sha256=sha256_file(weights)))
    assert "compression_report.json new_params" in fields(folder)


def test_evidence_is_made_again_from_both_logs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(EVIDENCE, tmp_path / "logs"))
    monkeypatch.chdir(folder)
    assert run(["evidence", "probe.csv", "truncated.csv", "--margin", "1", "--json"]) == 0
    (folder / "evidence.json").write_text(capsys.readouterr().out)
    assert verify(folder).verdict == "consistent"
    edit(folder / "evidence.json", lambda report: report.update(verdict="B is better.", low=0.0))
    assert fields(folder) == ["evidence.json low", "evidence.json verdict"]
    (folder / "probe.csv").write_text((folder / "probe.csv").read_text() + "more,1\n")
    assert fields(folder) == ["probe.csv"]


def test_regenerating_is_for_bench(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", str(copy), "--regenerate", "4"]) == 2
    assert "only the answers of a Bench run are regenerated" in capsys.readouterr().err
    assert run(["verify", str(copy)]) == 0
