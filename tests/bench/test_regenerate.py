"""`gradience verify --regenerate K`: the adapters are asked again, and what they answer otherwise is named."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from bench_process import RUNTIME, change_records, edit, sevens, write_config, write_inputs
from test_verify import SECTIONS, forge
from tiny_bench import Watcher, sentences, sums

from gradience import verify
from gradience.bench.config import load_config
from gradience.bench.run.bench import run_bench
from gradience.bench.verify.regenerate import drawn
from gradience.digests import sha256_file
from gradience.evaluate.engines.base import fixed_batches
from gradience.reports.verification import Verification

SHORT = {"max_steps": 3, "per_device_train_batch_size": 4, "per_device_eval_batch_size": 8}
ALL_WEIGHTS = RUNTIME | {"keep_adapters": "all"}


def classifier(inputs: Path) -> Path:
    return write_inputs(inputs, **SECTIONS | {"train": SECTIONS["train"] | SHORT, "runtime": ALL_WEIGHTS})


def causal(inputs: Path) -> Path:
    """The base, a probe and a variant answer."""
    return write_config(
        inputs,
        sevens(10),
        {
            "eval_samples": 20,
            "generation": {"max_new_tokens": 4},
            "probe_gate": {"min_value": 0, "above_base": 0},
        },
        lora={"probe_r": 4, "alpha": 8, "target_modules": ["q_proj", "v_proj"]},
        train=SHORT | {"lr": 3e-2, "max_steps": 30},
        compression={"variants": ["uniform_r2"], "controls": []},
        runtime=ALL_WEIGHTS,
    )


@pytest.fixture(scope="module", params=[classifier, causal])
def ended(request, tmp_path_factory):
    output = tmp_path_factory.mktemp("ended") / "mine"
    config = load_config(request.param(tmp_path_factory.mktemp("inputs")))
    run_bench(config, output, Watcher())
    return output


@pytest.fixture
def copy(ended, tmp_path):
    return Path(shutil.copytree(ended, tmp_path / "mine"))


def again(folder: Path, least: int = 10) -> Verification:
    return verify(folder, regenerate=least)


def records_of(folder: Path) -> list[Path]:
    return sorted(folder.rglob("answers.records.jsonl"))


def answer_otherwise(row: dict[str, Any]) -> None:
    """Another answer, marked as the task marks it; a wrong output becomes another wrong output."""
    if "logits" in row:
        row["logits"].reverse()
        row["predicted"] = 1 - row["predicted"]
        row["correct"] = not row["correct"]
    elif not row["correct"]:
        row["output"] = "plot"
        row["answers"] = dict.fromkeys(row["answers"], "plot")
        row["extracted"] = "plot"


def forge_all(folder: Path) -> None:
    """Make the digests of records in every result, every manifest and digests.json again."""
    for result in folder.rglob("bench.json"):

        def renew(values: dict[str, Any], place: Path = result.parent) -> None:
            measured = [values["probe"], *(one["measures"] for one in values["variants"])]
            for one in filter(None, measured):
                one["records_sha256"] = sha256_file(place / one["records"])

        edit(result, renew)
    forge(folder)


def test_what_nobody_touched_is_answered_so_again(ended):
    report = again(ended)
    assert not report.mismatches
    assert report.level == "L3"
    assert report.regenerated is not None
    evaluations = {str(path.relative_to(ended)) for path in ended.rglob("*.records.jsonl")}
    assert {one.file for one in report.regenerated} == evaluations
    assert {one.examples for one in report.regenerated} <= set(range(10, 18))
    assert all(one.equal == one.examples and not one.undecidable for one in report.regenerated)


def test_an_answer_that_was_edited_with_all_digests_is_named(copy):
    path = copy / next(one for one in records_of(copy) if one.parts[-3] == "probe").relative_to(copy)
    change_records(path, lambda _, rows: [*map(answer_otherwise, rows)])
    forge_all(copy)
    file = str(path.relative_to(copy))
    report = again(copy, 10_000)
    named = [one for one in report.mismatches if "regenerated" in one.what]
    assert {one.file for one in named} == {file}
    assert report.level is None
    assert report.regenerated is not None
    (probe,) = (one for one in report.regenerated if one.file == file)
    assert probe.differing == len(named) == probe.examples - probe.equal > 0
    assert all(one.equal == one.examples for one in report.regenerated if one.file != file)


def labels(path: Path) -> bool:
    return '"kind":"classification"' in path.read_text(encoding="utf-8").replace(" ", "").partition("\n")[0]


def test_on_another_machine_a_difference_is_counted_and_no_mismatch(copy):
    for path in copy.rglob("*.records.jsonl"):
        change_records(path, lambda header, _: header["versions"].update(torch="1.0"))
    forge_all(copy)
    assert again(copy).level == "L3"  # equal answers are equal wherever they were made
    path = next(one for one in records_of(copy) if one.parts[-3] == "probe")
    change_records(path, lambda _, rows: [*map(answer_otherwise, rows)])
    forge_all(copy)
    report = again(copy, 10_000)
    assert not any("regenerated" in one.what for one in report.mismatches)
    assert report.level == (None if labels(path) else "L2")
    assert [one.result for one in report.checks if one.level == "L3"] == ["not done"]
    assert any("proves nothing: torch 1.0, here" in gap for gap in report.not_verified)
    assert "regenerated" in report.to_text(width=200)


def test_weights_that_are_not_there_are_said(copy):
    for weights in copy.rglob("adapter_model.safetensors"):
        if "probe" not in weights.parts:
            weights.unlink()
    report = again(copy)
    assert report.level == "L3"
    assert report.regenerated is not None
    assert {Path(one.file).parts[-3] for one in report.regenerated} <= {"probe", "base"}
    assert sum("not regenerated: the adapter's weights" in gap for gap in report.not_verified) > 0
    for weights in copy.rglob("adapter_model.safetensors"):
        weights.unlink()
    shutil.rmtree(copy / "base", ignore_errors=True)
    report = again(copy)
    assert report.regenerated == ()
    assert [one.result for one in report.checks if one.level == "L3"] == ["not done"]


def test_other_data_are_named_and_not_asked(copy):
    rows = Path(yaml.safe_load((copy / "config.yaml").read_text(encoding="utf-8"))["task"]["options"]["file"])
    before = rows.read_text(encoding="utf-8")
    lines = before.splitlines(keepends=True)
    try:
        rows.write_text("".join(lines[: len(lines) * 3 // 4]), encoding="utf-8")
        report = verify(copy, data=True, regenerate=10)
    finally:
        rows.write_text(before, encoding="utf-8")
    assert report.regenerated == ()
    (check,) = (one for one in report.checks if one.level == "L3")
    assert (check.result, "different data" in check.what) == ("not done", True)
    assert "splits.train.sha256" in {one.field for one in report.mismatches}


def test_a_config_that_is_not_the_plans_is_not_asked(copy):
    values = yaml.safe_load((copy / "config.yaml").read_text(encoding="utf-8"))
    values["task"]["eval_samples"] = 5
    (copy / "config.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    forge(copy)
    (check,) = (one for one in again(copy).checks if one.level == "L3")
    assert (check.result, "the config that plan.json" in check.what) == ("not done", True)


@pytest.mark.parametrize("least", [1, 5, 9, 1000])
@pytest.mark.parametrize("make", [sentences, sums])
def test_what_is_drawn_is_batched_as_it_was(make, least):
    """An answer may depend on what else is in its batch."""
    task = make()
    examples = task.examples.of("train")
    sample = drawn(task, examples, 8, least, 5)
    assert min(least, len(examples)) <= len(sample) < least + 8

    def batches(some: Any) -> list[list[str]]:
        texts = [one.text if hasattr(one, "text") else one.prompt for one in some]
        return [[some[place].id for place in batch] for batch in fixed_batches(texts, 8)]

    whole = batches(examples)
    assert all(batch in whole for batch in batches(sample))
    assert sample == drawn(task, examples, 8, least, 5)
