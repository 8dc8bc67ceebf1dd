"""What is added to tasks, engines and Bench: a toy of each, seen wherever its kind is seen."""

from pathlib import Path
from shutil import copytree
from types import MappingProxyType

import pytest

import gradience
from gradience.evaluate.engines.base import Engine, Output
from gradience.tasks.base import GenerationTask
from gradience.tasks.examples import PromptExample, content_id, prepare

EXAMPLE = Path(gradience.__file__).parent / "examples" / "minilm-reviews-r8"


class TableEngine(Engine):
    """Answers from a table, by names; the adapter `forgetful` knows less, and the base alone says nothing."""

    name = "table"
    table = MappingProxyType({"two and two": "4", "two and three": "5"})

    def generate(self, name, prompts, how):
        known = {prompt: self.table.get(prompt, "") if name else "" for prompt in prompts}
        if name == "forgetful":
            known["two and three"] = ""
        return [Output(known[prompt], 1, "eos", truncated=False) for prompt in prompts]


def additions(*, answers: tuple[str, ...] = ("4", "5", "6")) -> GenerationTask:
    texts = ("two and two", "two and three", "two and four")
    return GenerationTask(
        name="additions",
        examples=prepare(
            PromptExample(content_id(f"{role} {text}"), text, f" {answer}", answer, role)
            for role in ("train", "confirm")
            for text, answer in zip(texts, answers, strict=True)
        ),
        filters={"all": lambda output: output or None},
        same=str.__eq__,
        max_new_tokens=4,
    )


def test_a_toy_engine_and_a_toy_task_are_one_file_and_one_line_each(tmp_path, add, new_file):
    """Seen in the answers, the header of the records, the key of the evaluation, and what may be compared."""
    from gradience import tasks
    from gradience.errors import UsageError
    from gradience.evaluate import diverge, engine
    from gradience.evaluate.evaluator import Evaluator
    from gradience.files.records import count, read_records
    from gradience.models.settings import ModelSettings

    new_file("tasks/additions.py", f"from {__name__} import additions as load")
    with pytest.raises(UsageError, match="no engine `table`"):
        engine("table")

    add("task", "additions")
    add("engine", f"{__name__}:TableEngine", name="table")

    task = tasks.load("additions", {"answers": ["4", "5", "6"]})
    examples, base = task.examples.of("confirm"), ModelSettings(name="nothing", type="causal_lm")
    evaluator = Evaluator(task, base, examples, batch_size=2, max_length=8, engine_name="table")
    assert evaluator.settings["engine"] == "table"
    answers = evaluator.answers(("a", tmp_path), tmp_path / "a.records.jsonl")
    assert (count(answers.records).correct, count(answers.records).failed_extractions) == (2, 1)
    assert read_records(tmp_path / "a.records.jsonl") == answers
    assert (answers.run.engine, answers.run.scoring) == ("table", "additions 1")
    assert (answers.run.adapter_sha256, answers.run.dtype, answers.run.device) == (None, None, None)
    elsewhere = answers.run.model_copy(update={"engine": "transformers"})
    with pytest.raises(UsageError, match="their settings differ"):
        diverge(answers, (elsewhere, answers.records))
    evaluator.close()


def test_an_engine_that_only_generates_from_names_goes_through_evaluate(tmp_path, add, new_file):
    """Neither files of a base or an adapter nor scores: the report says what was not measured."""
    from gradience import evaluate_adapters
    from gradience.errors import UsageError
    from gradience.evaluate.forecast import forecast_evaluation
    from gradience.evaluate.inputs import read_inputs
    from gradience.evaluate.settings import EvaluateSettings

    new_file("tasks/additions.py", f"from {__name__} import additions as load")
    add("task", "additions")
    add("engine", f"{__name__}:TableEngine", name="table")
    given = {"base_model": "served/base", "task": "additions", "engine": "table", "with_base": True}
    adapters = ["known", "org/forgetful"]
    plan = forecast_evaluation(read_inputs(EvaluateSettings(adapters, **given, preview=True)))
    assert plan.assumptions == ("No memory estimate: the engine computes elsewhere.",)
    assert plan.scored[0].prompt.startswith("two and")

    report = evaluate_adapters(adapters, output=tmp_path / "out", **given)
    rows = {row.name: (row.correct, row.lora_params, row.sha256, row.change) for row in report.adapters}
    assert rows == {
        "known": (2, None, None, None),
        "forgetful": (1, None, None, None),
        "base": (0, 0, None, None),
    }
    assert (report.conditions.engine, report.conditions.dtype, report.base) == ("table", None, "served/base")
    page = report.to_markdown()
    assert "computes no KL: KL, flips, and whether an adapter has any effect were not measured" in page
    assert "KL and flips by" not in page
    again = evaluate_adapters(adapters, output=tmp_path / "out", **given)  # from the records
    assert again.adapters == report.adapters
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "two", "answer": "2"}\n')
    with pytest.raises(UsageError, match="the engine table does not score given responses"):
        evaluate_adapters(["known"], base_model="b", data=rows, options={"scorer": "nll"}, engine="table")


def test_a_toy_metric_is_one_function_and_one_line(add, tmp_path):
    """A task may ask for it, and its name stands where another one is unknown."""
    from gradience import tasks
    from gradience.errors import InputError
    from gradience.tasks.metrics import score

    add("metric", lambda _, labels, predictions: float(labels != predictions), name="errors")
    table = tmp_path / "table.jsonl"
    table.write_text("".join(f'{{"text": "text {i}", "label": "{"ab"[i % 2]}"}}\n' for i in range(40)))
    task = tasks.load("classification", {"file": table, "metric": "errors"})
    assert score(task.metric, [0, 1], [0, 0]) == 1
    with pytest.raises(
        InputError, match="option `metric`: input should be one of accuracy, f1, matthews, errors"
    ):
        tasks.load("classification", {"file": table, "metric": "mistakes"})


def test_a_toy_kind_of_candidate_is_one_object_and_one_line(tmp_path, add):
    """Seen in the candidates of a plan, and in what is made for them."""
    from gradience.adapters.formats import open_adapter
    from gradience.audit.adapter import audit_opened
    from gradience.shrink.candidates import KINDS, CandidateSource, TruncatedKind, plan_candidates
    from gradience.shrink.search import maker

    class Twin(TruncatedKind):
        """Twice as many directions as the size says."""

        def plan(self, source, rank):
            return super().plan(source, 2 * rank)

        def make(self, source, rank, folder):
            super().make(source, 2 * rank, folder)

    add("kind of candidate", Twin("twin"), name="twin")
    with open_adapter(EXAMPLE) as opened:
        source = CandidateSource(opened, audit_opened(opened))
        (candidate,), _ = plan_candidates(source, [2], KINDS["twin"])
        assert (candidate.kind, candidate.params_saved) == ("twin", 0.5)
        assert maker(source, tmp_path)(candidate).ranks == (4, 4)


def test_a_toy_control_a_toy_arm_and_a_toy_variant_are_one_object_and_one_line_each(tmp_path, add):
    """Seen in the config, the plan, a run, its verdict, and the pages."""
    from tiny_bench import bert, sentences

    from gradience.bench.arms import ARMS, Arm, Choice, Control
    from gradience.bench.config import BenchConfig
    from gradience.bench.plan import bench_plan
    from gradience.bench.run.seed import SeedRun
    from gradience.bench.verdict.aggregate import aggregate
    from gradience.bench.verdict.assemble import assemble, data_of
    from gradience.plan.criteria import ToRank
    from gradience.reports.base.report import Stopwatch

    values = {
        "model": {"name": str(bert(tmp_path / "base")), "type": "seqcls"},
        "task": {"profile": "sentences", "probe_gate": {"min_value": 0}},
        "lora": {"probe_r": 4, "alpha": 8, "target_modules": ["query", "value"]},
        "train": {"lr": 3e-3, "max_steps": 2, "per_device_train_batch_size": 4, "max_length": 16},
        "compression": {"variants": ["narrow"], "arms": ["cut"], "controls": ["unharmed"]},
        "runtime": {"device": "cpu", "threads": 1},
    }
    with pytest.raises(ValueError, match="'unharmed' is not one of per_layer_shuffled, random_directions"):
        BenchConfig.model_validate(values)

    narrow = Choice({}, "two of each module")
    add("variant", lambda probe: narrow._replace(ranks=probe.ranks_by(ToRank(2))), name="narrow")
    cut = Arm("cut", ARMS["truncate"].make)
    add("arm", cut, name="cut")
    unharmed = Control(
        name="unharmed",
        words="the probe itself",
        ranks=lambda probe: Choice(probe.ranks, "all of it"),
        arm=Arm("copy", lambda source, _, target: copytree(source.probe, target)),
        expected="FAIL",
        otherwise="nothing was lost",
    )
    add("control", unharmed, name="unharmed")

    config, task = BenchConfig.model_validate(values), sentences()
    plan = bench_plan(config, "sentences", [])
    assert (plan.tests, plan.controls) == (("narrow.cut",), ("unharmed",))
    facts = SeedRun(config, task, 42, tmp_path / "run").run()
    data = data_of(plan, task.source, task.examples.counts)
    bench = assemble(facts, task, data, plan, Stopwatch().run_info())
    assert [(result.name, result.arm, result.made_by, result.rank_basis) for result in bench.variants] == [
        ("narrow.cut", "cut", "cut", "two of each module"),
        ("unharmed", "control", "copy", "all of it"),
    ]
    assert bench.variants[0].ranks.largest == 2
    assert bench.notes[-1].endswith("If it passes on all seeds, nothing was lost")
    assert "| `unharmed` | not as expected | 0.00 | must fail: the probe itself |" in bench.to_markdown()

    page = aggregate([bench]).to_markdown()
    assert "unharmed must fail but passes on the only seed" in page
    assert "unharmed is not as expected" in page
