"""The merged adapter against each parent on its own rows; resuming; the search; the predicted KL."""

import json
import shutil
from pathlib import Path

import adapters_to_compare as data
import numpy as np
import pytest
from data_files import write_jsonl
from factory import edit_config
from merging import write_updates
from raising import raises

import gradience
from gradience import (
    EvaluationReport,
    InputError,
    MergeReport,
    UsageError,
    calibrate_adapter,
    evaluate_adapters,
    merge_adapters,
)
from gradience.cli.app import run
from gradience.evaluate.inputs import read_inputs, split
from gradience.evaluate.settings import EvaluateSettings
from gradience.merge import verb
from gradience.merge.verb import GRID
from gradience.reports.merge import verdict_of

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
        write_jsonl(root / f"{name}.jsonl", rows)
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
    assert report.parents[0].sha256 in card
    assert "cosine with the merge" in card
    assert verdict.capitalize() in card


def test_the_same_command_again_uses_what_is_there(causal, tmp_path):
    first = merged(causal, tmp_path / "out")
    before = (tmp_path / "out" / "adapter_model.safetensors").stat().st_mtime_ns
    report = merged(causal, tmp_path / "out", data=both(causal), limit=8, all_rows=True)
    assert (tmp_path / "out" / "adapter_model.safetensors").stat().st_mtime_ns == before
    assert report.output_sha256 == first.output_sha256
    assert report.certificate is not None
    with raises(UsageError, "output-exists"):
        merged(causal, tmp_path / "out", data=both(causal), method="svd")


@pytest.mark.parametrize(
    "given",
    [
        {"A": "reference.jsonl"},
        {"A": "reference.jsonl", "C": "other.jsonl"},
        {"A": "reference.jsonl", "reference": "other.jsonl"},
    ],
)
def test_every_parent_needs_its_own_rows(causal, given, tmp_path):
    with raises(UsageError, "no-data"):
        merged(causal, tmp_path / "out", data={name: causal / file for name, file in given.items()})
    assert not (tmp_path / "out").exists()


def test_a_search_tries_the_grid_on_dev_rows_and_tests_once(causal, tmp_path, monkeypatch):
    grid = (("svd", 0.5, 1.0), ("ties", 1.0, 0.5))
    monkeypatch.setattr(verb, "GRID", grid)
    report = merged(causal, tmp_path / "out", data=both(causal), search=True)
    assert [row.method for row in report.search] == ["svd", "ties"]
    (chosen,) = [row for row in report.search if row.chosen]
    worst = [min(row.deltas) for row in report.search]
    assert min(chosen.deltas) == max(worst)
    assert report.method == chosen.method
    assert tuple(parent.weight for parent in report.parents) == chosen.weights
    for row in report.certificate.parents:
        dev = EvaluationReport.read(tmp_path / "out.search" / "dev" / row.parent / "evaluation.json")
        assert [adapter.name for adapter in dev.candidates] == ["svd-0.5-1", "ties-1-0.5"]
        examples = read_inputs(EvaluateSettings((causal / row.parent,), data=causal / f"{row.parent}.jsonl"))
        assert (dev.examples, row.merged.n) == tuple(len(half.examples) for half in split(examples))


def test_the_grid_is_what_the_page_says():
    assert len(GRID) == len(set(GRID)) == 10


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
    with raises(UsageError, "other-calibration"):
        merged(causal, tmp_path / "no", method="svd", weights=[1, 2], max_kl_per_token=1.0, calibration=files)


@pytest.mark.parametrize(
    ("grades", "verdict"),
    [
        ("BB", "holds on all parents"),
        ("BX", "holds on some parents"),
        ("BD", "holds on some parents"),
        ("CC", "inconclusive"),
        ("CX", "not evaluated"),
        ("DX", "do not merge"),
    ],
)
def test_a_comparison_that_failed_is_no_result(grades, verdict):
    assert verdict_of(list(grades)) == verdict


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
    assert "How to load it" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    missing = [*arguments[:5], "--data", "A=nowhere.jsonl", "-o", str(tmp_path / "two")]
    assert run(missing) == InputError.exit_code


def test_the_card_verb_keeps_what_a_merge_says(causal, tmp_path):
    report = merged(causal, tmp_path / "out")
    assert run(["card", str(tmp_path / "out")]) == 0
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert all(parent.sha256[:12] in card for parent in report.parents)
    assert "How to load it" in card


# ---------------------------------------------------------------- Adapters and options that do not belong together


UPDATES = {"layers.0.q": np.ones((6, 4)), "layers.1.q": np.eye(6, 4)}
OTHERS = {name: 2 * update for name, update in UPDATES.items()}


@pytest.fixture
def pair(tmp_path) -> tuple[Path, Path]:
    return (
        write_updates(tmp_path / "A", UPDATES, base_model_name_or_path="org/base"),
        write_updates(tmp_path / "B", OTHERS, base_model_name_or_path="org/base"),
    )


def again(folder: Path, updates: dict[str, np.ndarray], **fields: object) -> None:
    shutil.rmtree(folder)
    write_updates(folder, updates, **({"base_model_name_or_path": "org/base"} | fields))


UNLIKE = {
    "bases": (
        lambda a, b: edit_config(b, base_model_name_or_path="org/other"),
        "other-base", 3, "A, and org/other in",
    ),
    "a base that no file can be": (
        lambda a, b: edit_config(b, base_model_name_or_path="x" * 5000 + "\0"),
        "other-base", 3, "base_model_name_or_path is org/base in",
    ),
    "revisions": (
        lambda a, b: (edit_config(a, revision="v1"), edit_config(b, revision="v2")),
        "other-base", 3, "A, and v2 in",
    ),
    "tasks": (
        lambda a, b: (edit_config(a, task_type="CAUSAL_LM"), edit_config(b, task_type="SEQ_CLS")),
        "other-config", 3, "A, and SEQ_CLS in",
    ),
    "shapes": (
        lambda a, b: again(b, {"layers.0.q": np.ones((7, 4))}), "shapes-differ", 3, "layers.0.q is 6 x 4 (linear) in"
    ),
    "NaN": (
        lambda a, b: again(b, {**OTHERS, "layers.1.q": np.full((6, 4), np.nan)}),
        "non-finite", 3, "B/adapter_model.safetensors: layers.1.q contains NaN or infinity",
    ),
    "infinity": (
        lambda a, b: again(b, {**OTHERS, "layers.1.q": np.full((6, 4), np.inf)}),
        "non-finite", 3, "B/adapter_model.safetensors: layers.1.q contains NaN or infinity",
    ),
    "a changed base": (
        lambda a, b: edit_config(b, init_lora_weights="pissa"), "not-in-format", 3, "init_lora_weights is 'pissa'"
    ),
    "invocation tokens": (
        lambda a, b: edit_config(b, alora_invocation_tokens=[3, 4]),
        "not-in-format", 3, "alora_invocation_tokens in its config",
    ),
    "no config": (
        lambda a, b: (b / "adapter_config.json").unlink(), "no-config", 3, "no adapter_config.json beside the weights"
    ),
    "no adapter": (lambda a, b: shutil.rmtree(b), "not-found", 3, "B"),
}  # fmt: skip


@pytest.mark.parametrize("method", ["linear", "svd", "ties", "dare", "knots"])
@pytest.mark.parametrize(("change", "code", "exit_code", "says"), UNLIKE.values(), ids=UNLIKE)
def test_pairs_that_cannot_be_merged(change, code, exit_code, says, method, pair, tmp_path, command):
    change(*pair)
    with pytest.raises(gradience.GradienceError) as caught:
        gradience.merge_adapters(pair, tmp_path / "out", method=method)
    assert (caught.value.code, caught.value.exit_code) == (code, exit_code)
    assert says in str(caught.value)
    assert caught.value.hint
    assert not (tmp_path / "out").exists()
    if method == "svd":
        arguments = ["merge", *map(str, pair), "--method", method, "-o", str(tmp_path / "out")]
        assert "Traceback" not in command(*arguments, code=exit_code).err


def test_bases_of_two_names_are_one_if_their_weights_files_are_equal(pair, tmp_path):
    bases = tmp_path / "one", tmp_path / "two"
    for adapter, base in zip(pair, bases, strict=True):
        base.mkdir()
        (base / "model.safetensors").write_bytes(b"weights")
        edit_config(adapter, base_model_name_or_path=str(base))
    gradience.merge_adapters(pair, tmp_path / "out")
    (bases[1] / "model.safetensors").write_bytes(b"other weights")
    with raises(InputError, "other-base"):
        gradience.merge_adapters(pair, tmp_path / "no")
    for base in bases:
        (base / "model.safetensors").unlink()
    with raises(InputError, "other-base"):
        gradience.merge_adapters(pair, tmp_path / "no")


CONTRADICTIONS = [
    ({"adapters": "A"}, "one-parent"),
    ({"weights": [1]}, "bad-weights"),
    ({"weights": [1, 0]}, "bad-weights"),
    ({"weights": [1, float("nan")]}, "bad-weights"),
    ({"method": "ties", "density": 0}, "wrong-type"),
    ({"method": "ties", "density": 1.5}, "wrong-type"),
    ({"rank": 3}, "linear-rank"),
    ({"method": "svd", "max_kl_per_token": 0.1}, "max-kl"),
    ({"search": True}, "no-data"),
    ({"dtype": "F128"}, "wrong-type"),
    ({"output": None}, "no-output"),
]


@pytest.mark.parametrize(
    ("options", "code"), CONTRADICTIONS, ids=[f"{row[1]}-{place}" for place, row in enumerate(CONTRADICTIONS)]
)
def test_options_that_contradict_each_other(options, code, pair, tmp_path):
    with raises(gradience.UsageError, code):
        gradience.merge_adapters(**{"adapters": pair, "output": tmp_path / "out", **options})
    assert not (tmp_path / "out").exists()


def test_weights_that_are_no_numbers(pair, tmp_path, command):
    error = command("merge", *map(str, pair), "--weights", "1,a", "-o", str(tmp_path / "out"), code=2).err
    assert "--weights 1 a: must be a valid number\n" in error


@pytest.mark.parametrize(
    ("output", "code"), [("out", "output-exists"), ("A", "output-is-input"), ("A/inside", "output-is-input")]
)
def test_outputs_that_are_not_replaced(output, code, pair, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with raises(gradience.UsageError, code):
        gradience.merge_adapters(pair, tmp_path / output)
    with raises(gradience.UsageError, "not-ours"):
        gradience.merge_adapters(pair, tmp_path / "out", force=True)
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


def test_force_replaces_a_merged_adapter(pair, tmp_path):
    first = gradience.merge_adapters(pair, tmp_path / "out")
    second = gradience.merge_adapters(pair, tmp_path / "out", method="svd", rank=2, force=True)
    assert gradience.MergeReport.read(tmp_path / "out" / "merge_report.json") == second != first


def test_parents_of_one_name_are_called_by_the_folder_above(pair, tmp_path):
    for folder in pair:
        shutil.move(folder, tmp_path / f"run_{folder.name}" / "adapter")
    report = gradience.merge_adapters(sorted(tmp_path.glob("*/adapter")), tmp_path / "out")
    assert [parent.name for parent in report.parents] == ["run_A", "run_B"]


def test_an_unknown_bias_is_none(pair, tmp_path):
    for folder in pair:
        edit_config(folder, bias="some")
    gradience.merge_adapters(pair, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_bytes())["bias"] == "none"


def test_dora_needs_its_base_and_a_truncated_method(pair, tmp_path):
    edit_config(pair[1], use_dora=True)
    for method, base, code in (
        ("svd", None, "dora"),
        ("linear", ".", "dora-method"),
        ("knots", ".", "dora-method"),
    ):
        with raises(gradience.GradienceError, code):
            gradience.merge_adapters(pair, tmp_path / "out", method=method, base_model=base)


def test_updates_that_cancel_give_zero_and_a_note(pair, tmp_path):
    again(pair[1], {name: -update for name, update in UPDATES.items()})
    report = gradience.merge_adapters(pair, tmp_path / "out", method="svd", rank=2)
    assert any("2 merged modules are 0" in note for note in report.notes)


def test_a_memory_limit_is_kept(pair, tmp_path):
    with raises(gradience.InputError, "memory-limit"):
        gradience.merge_adapters(pair, tmp_path / "out", method="ties", max_memory=1000)
