"""The Python interface: the verbs, errors for wrong arguments, and the examples of the docstrings."""

import doctest
import inspect
import shutil
from pathlib import Path

import numpy as np
import pytest
import sets_sample
from prompt_samples import distill_report
from raising import raises
from safetensors.torch import load_file, save_file

import gradience
from gradience.cli.demo import example_adapter
from gradience.models.embedded import minilm

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results" / "minilm_reviews"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with an adapter in it, as the examples have it."""
    shutil.copytree(example_adapter(), tmp_path / "my_adapter")
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --- audit ----------------------------------------------------------------------------------------


def test_an_audit_is_written_appended_to_a_run_and_compared_with_a_base(folder):
    run = gradience.TelemetryWriter(folder / "run.jsonl")
    run.close()
    report = gradience.audit_adapter("my_adapter", output="audit.json", append="run.jsonl")
    assert gradience.AuditReport.read(folder / "audit.json") == report
    assert '"lora_audit"' in (folder / "run.jsonl").read_text(encoding="utf-8").splitlines()[-1]
    with pytest.raises(gradience.UsageError, match="already exists"):
        gradience.audit_adapter("my_adapter", output="audit.json")
    compared = gradience.audit_adapter("my_adapter", base_model=minilm(), base_name="embedded:minilm")
    assert compared.base.base == "embedded:minilm"


# --- compress -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size",
    [
        {"rank": np.int64(4)},
        {"suggested": "per_layer"},
        {"reduction": np.float64(0.5), "allowed_ranks": [2, 6]},
    ],
    ids=lambda size: " ".join(size),
)
def test_every_size_is_planned_and_written(size, folder):
    plan = gradience.compress_adapter("my_adapter", dry_run=True, **size)
    assert isinstance(plan, gradience.CompressionPlan)
    assert not (folder / "smaller").exists()
    report = gradience.compress_adapter("my_adapter", output="smaller", **size)
    assert isinstance(report, gradience.CompressionReport)
    assert {row.name: row.new_rank for row in report.modules} == {
        row.name: row.new_rank for row in plan.modules
    }
    assert gradience.CompressionReport.read("smaller/compression_report.json") == report


def test_a_plan_is_given_as_an_object_or_as_its_file(folder):
    plan = gradience.plan_compression(gradience.audit_adapter("my_adapter"), gradience.ToRank(3))
    assert gradience.compress_adapter("my_adapter", plan=plan, dry_run=True) == plan
    assert gradience.compress_adapter("my_adapter", plan=plan.save("plan.json"), dry_run=True) == plan


def test_what_cannot_be_written_is_said_before_anything_is_measured(folder, monkeypatch):
    monkeypatch.setattr("gradience.compress.adapter.audit_opened", lambda *a, **k: pytest.fail("measured"))
    for options, code in [
        ({"rank": 4}, "no-output"),
        ({"rank": 4, "output": "my_adapter"}, "output-is-input"),
        ({"rank": 4, "output": "smaller", "encoding": "zip"}, "unknown-encoding"),
        ({"output": "smaller"}, "several-criteria"),
        ({"output": "smaller", "rank": 4, "energy": 0.9}, "several-criteria"),
        ({"output": "smaller", "suggested": "p95"}, "wrong-type"),
    ]:
        with raises(gradience.GradienceError, code):
            gradience.compress_adapter("my_adapter", **options)


# --- wrong types ----------------------------------------------------------------------------------


CALLS = {
    "audit_adapter(None)": "path must be a path, not NoneType",
    "audit_adapter(b'my_adapter')": "path must be a path, not bytes (b'my_adapter')",
    "audit_adapter('my_adapter', tau='0.9')": "tau must be a number, not str ('0.9')",
    "audit_adapter('my_adapter', allowed_ranks='4,x')": (
        "allowed_ranks must be ranks of at least 1, such as 4,8,16, not str ('4,x')"
    ),
    "compare_adapters('my_adapter', 3)": "b must be a path, not int (3)",
    "compress_adapter('my_adapter', 'out', rank='4')": "rank must be an integer, not str ('4')",
    "compress_adapter('my_adapter', 'out', rank=True)": "rank must be an integer, not bool (True)",
    "compress_adapter('my_adapter', 'out', suggested=8)": (
        "suggested must be 'uniform_median', 'uniform_p90' or 'per_layer', not int (8)"
    ),
    "ToRank('4')": "rank must be an integer, not str ('4')",
    "ToEnergy(None)": "tau must be a number, not NoneType",
    "plan_compression('my_adapter', ToRank(4))": "report must be an AuditReport, not str ('my_adapter')",
    "plan_compression(audit_adapter('my_adapter'), 4)": (
        "criterion must be a criterion, such as ToRank(16), not int (4)"
    ),
    "compress_adapter('my_adapter', 'out', plan={'a': 4})": (
        "plan must be a CompressionPlan, or the path of one, not dict"
    ),
    "shrink_adapter('my_adapter', ranks=[0])": "ranks must be ranks of at least 1, such as 4,8,16, not list",
    "evaluate_adapters('a', margin='x')": "margin: 'x' is not a number such as 0.5 or 2/3 (got str 'x')",
    "audit_adapter('my_adapter', rank=4)": "unknown keyword: rank",
    "audit_adapter('my_adapter', command='mine')": "unknown keyword: command",
    "compress_adapter('my_adapter', 'out', rank=4, card=print)": "unknown keyword: card",
}


@pytest.mark.parametrize("call", CALLS)
def test_a_wrong_type_gets_a_sentence(call, folder):
    with pytest.raises(TypeError) as refusal:
        eval(call, {name: getattr(gradience, name) for name in gradience.__all__})
    assert str(refusal.value) == CALLS[call]
    assert isinstance(refusal.value, gradience.GradienceError)
    assert not (folder / "out").exists()


# --- the examples of the docstrings ---------------------------------------------------------------


@pytest.fixture
def example_files(folder):
    """Files used by the examples, in the working directory."""
    gradience.compress_adapter("my_adapter", output="smaller", rank=4)
    gradience.audit_adapter("my_adapter").save("audit.json")
    with gradience.TelemetryWriter("run.jsonl") as run:
        run.start({"lora": {"r": 16}})
        run.train_step(10, loss=0.7, lr=1e-4)
    for scores in (RESULTS.parents[2] / "examples" / "evidence").iterdir():
        shutil.copy(scores, scores.name)
    shutil.copy(RESULTS / "seed_42" / "bench.json", "bench.json")
    shutil.copy(RESULTS / "bench_aggregate.json", "bench_aggregate.json")
    shutil.copy(RESULTS.parent / "minilm_evaluation" / "evaluation.json", "evaluation.json")
    shutil.copy(RESULTS.parent / "minilm_shrink" / "shrink.json", "shrink.json")
    kept = RESULTS.parent / "minilm_calibration"
    shutil.copy(kept / "calibration.safetensors", "calibration.safetensors")
    rows = (kept / "rows.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    Path("rows.jsonl").write_text("".join(rows[:8]), encoding="utf-8")
    Path("prompts.jsonl").write_text("".join(rows[:16]), encoding="utf-8")
    distill_report().save("distill_report.json")
    sets_sample.sets_report().save("evaluation_sets.json")
    turned_adapter("my_adapter", "other_adapter")
    return folder


def turned_adapter(source, target):
    """Another adapter for the same modules: the rows of its lora factors are in reverse order."""
    shutil.copytree(source, target)
    weights = Path(target) / "adapter_model.safetensors"
    tensors = load_file(weights)
    turned = {name: each.flip(0) if "lora_" in name else each for name, each in tensors.items()}
    save_file(turned, weights, metadata={"format": "pt"})


def make_fleet():
    """Three adapters, two of them of rank 8, and their rows."""
    for name, source in (("a", "my_adapter"), ("b", "my_adapter"), ("c", "smaller")):
        shutil.copytree(source, Path("adapters") / name)
    gradience.audit_fleet("adapters", "fleet.jsonl", workers=1)


@pytest.mark.parametrize("name", gradience.__all__)
def test_a_docstring_opens_with_an_example_that_runs(name, example_files):
    text = inspect.getdoc(getattr(gradience, name))
    summary, example = text.split("\n\n")[:2]
    assert "\n" not in summary
    assert example.startswith(">>> ")
    if "leet" in name:
        make_fleet()
    public = {public: getattr(gradience, public) for public in gradience.__all__}
    test = doctest.DocTestParser().get_doctest(text, public, name, None, None)
    report = []
    assert doctest.DocTestRunner().run(test, out=report.append).failed == 0, "".join(report)


def test_docstrings_of_functions_name_keywords_and_not_flags():
    functions = [value for value in vars(gradience).values() if inspect.isfunction(value)]
    assert functions
    assert not [function.__name__ for function in functions if "--" in (function.__doc__ or "")]


def test_one_text_is_one_path(example_files):
    assert [run.file for run in gradience.monitor_runs("run.jsonl").runs] == ["run.jsonl"]
    assert gradience.audit_fleet("my_adapter", workers=1).adapters == 1
