"""What of a task of lm-eval is refused, and what is made of the others."""

import json
import textwrap
from pathlib import Path

import pytest
import tiny_bench
from bench_process import NO_GATE
from data_files import write_jsonl
from raising import raises

from gradience import tasks
from gradience.errors import GradienceError
from gradience.evaluate.forecast import scored_example
from gradience.tasks.base import ChoiceTask, GenerationTask

pytestmark = [pytest.mark.conformance, pytest.mark.filterwarnings("ignore")]

TASK = """
    task: sums
    dataset_path: json
    dataset_kwargs: {{data_files: {{train: {train}, test: {test}}}}}
    test_split: test
    output_type: generate_until
    doc_to_text: "{{{{question}}}}"
    doc_to_target: "{{{{answer}}}}"
    generation_kwargs: {{until: ["\\n"], do_sample: false, max_gen_toks: 7}}
    filter_list: [{{name: bare, filter: [{{function: remove_whitespace}}, {{function: take_first}}]}}]
    metric_list: [{{metric: exact_match}}]
    """


NEAR = "[{metric: near, aggregation: mean, higher_is_better: true}]"
"""A metric that only `process_results` of the task knows."""


WRONG_FILTER = '[{name: odd, filter: [{function: regex, regex_pattern: "([0-9]+)", group_select: one}]}]'


@pytest.fixture
def write(tmp_path, monkeypatch):
    pytest.importorskip("lm_eval", reason="needs lm-eval: make conformance")
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("GRADIENCE_ALLOW_CODE", "1")
    for name, first in (("train", 10), ("test", 50)):
        rows = [{"question": f"{n} + 1 =", "answer": str(n + 1)} for n in range(first, first + 30)]
        write_jsonl(tmp_path / f"{name}.jsonl", rows)

    def file(more: str = "", **changes: str) -> str:
        text = textwrap.dedent(TASK).format(train=tmp_path / "train.jsonl", test=tmp_path / "test.jsonl")
        for key, value in changes.items():
            text = "\n".join(
                f"{key}: {value}" if line.startswith(f"{key}:") else line for line in text.splitlines()
            )
        (tmp_path / "task.yaml").write_text(f"{text}\n{more}\n")
        return f"lm_eval:{tmp_path / 'task.yaml'}"

    return file


def test_with_permission_functions_make_prompts_and_decide(write, tmp_path):
    (tmp_path / "mine.py").write_text(
        "def text(doc):\n    return 'Add: ' + doc['question']\n\n"
        "def results(doc, results):\n    return {'near': float(abs(int(results[0]) - int(doc['answer'])) < 2)}\n"
    )
    profile = write(
        "process_results: !function mine.results",
        doc_to_text="!function mine.text",
        metric_list=NEAR,
    )
    task = tasks.load(profile, {}, needed=())
    first = task.examples.all[0]
    assert (first.prompt, first.answer) == ("Add: 50 + 1 =", "51")
    assert [task.decide(first.id, [output]).correct for output in ("51", "52", "53")] == [True, True, False]
    assert task.code.sha256 in task.scoring


def test_bench_trains_on_training_documents_and_confirms_on_the_test(write):
    with raises(GradienceError, "task-empty", "has no training documents"):
        tasks.load(write(), {})
    task = tasks.load(write("training_split: train"), {"dev": 5})
    assert isinstance(task, GenerationTask)
    assert {role: len(task.examples.of(role)) for role in ("train", "dev", "confirm")} == {
        "train": 25,
        "dev": 5,
        "confirm": 30,
    }
    assert [each.prompt for each in task.examples.of("confirm")][:2] == ["50 + 1 =", "51 + 1 ="]
    assert {each.response for each in task.examples.of("train")} <= {f" {n}" for n in range(11, 41)}
    assert (task.stop, task.max_new_tokens) == (("\n",), 7)
    shown = scored_example(task, task.examples.of("confirm")[0], None)
    assert (shown.scored, shown.extracted, shown.correct) == ("51", "51", True)
    with raises(GradienceError, "task-answer", "' 51', used for training, would be scored wrong"):
        tasks.load(write("training_split: train", filter_list="null"), {})
    for example in task.examples.all:
        assert task.decide(example.id, [example.answer]).correct
    rules = tasks.scoring_of(write("training_split: train"), {})
    first = task.examples.of("confirm")[0]
    assert [rules.decide(first.id, [text]).correct for text in ("51", "52")] == [True, False]


@pytest.mark.parametrize("role", ["confirm", "dev"])
def test_a_run_of_bench_on_such_a_task_ends_with_a_verdict_that_can_be_verified(write, tmp_path, role):
    from gradience.cli.app import run
    from gradience.reports.bench import Bench

    base = tiny_bench.llama(tmp_path / "base")
    task = {"profile": write("training_split: train"), "probe_gate": NO_GATE, "eval_role": role}
    task["options"] = {"dev": 5}
    config = tmp_path / "bench.yaml"
    config.write_text(json.dumps(tiny_bench.gsm8k_values(base, task=task)))
    assert run(["bench", "run", "--config", str(config), "--output", str(tmp_path / "out"), "--quiet"]) in (
        0,
        1,
        8,
    )
    result = Bench.read(tmp_path / "out" / "bench.json")
    assert (result.data.task, result.probe.n) == ("lm_eval:sums", 30 if role == "confirm" else 5)
    assert run(["verify", str(tmp_path / "out")]) == 0


def test_multiple_choice_that_only_lm_eval_can_count_is_not_for_bench(write):
    more = 'training_split: train\ndoc_to_choice: "{{[answer, question]}}"'
    settings = {"output_type": "multiple_choice", "doc_to_target": "0", "generation_kwargs": "null"}
    settings |= {"filter_list": "null"}
    task = tasks.load(write(more, **settings, metric_list="[{metric: acc}]"), {})
    assert isinstance(task, ChoiceTask)
    assert task.decide is None
    with pytest.raises(GradienceError, match="cannot be counted again"):
        tasks.load(write(more, **settings, metric_list="[{metric: acc_bytes}]"), {})


@pytest.mark.parametrize(
    ("changes", "options", "code", "words"),
    [
        (
            {"generation_kwargs": "{do_sample: true, temperature: 0.7}"},
            {},
            "task-unsupported",
            "do_sample: True",
        ),
        ({"doc_to_text": '"{{nothing}}"'}, {}, "task-harness", "nothing"),
        ({"test_split": "absent"}, {}, "task-harness", "absent"),
        ({"output_type": "painting"}, {}, "task-harness", "painting"),
        ({}, {"metric": "bleu"}, "task-option", "has no metric `bleu`"),
        ({}, {"filter": "strict"}, "task-option", "has no filter `strict`"),
        ({}, {"shots": 3}, "task-option", "no option `shots`"),
    ],
)
def test_what_cannot_be_evaluated_here_says_why(write, changes, options, code, words):
    with raises(GradienceError, code, words):
        tasks.load(write(**changes), options, needed=())


def test_a_score_that_is_neither_0_nor_1_is_said_before_a_model_is_loaded(write):
    with raises(GradienceError, "task-metric", "neither 0 nor 1") as refused:
        tasks.load(write(metric_list="[{metric: bleu}]"), {}, needed=())
    assert "--option metric=NAME" in refused.value.hint
    with pytest.raises(GradienceError, match="lm-eval cannot use this task"):
        tasks.load(write(filter_list=WRONG_FILTER), {}, needed=())


def test_a_name_of_the_installed_lm_eval_is_found_as_lm_eval_finds_it():
    lm_eval = pytest.importorskip("lm_eval", reason="needs lm-eval: make conformance")
    from lm_eval.tasks._yaml_loader import load_yaml

    from gradience.tasks.harness import definition_of

    for name in ("gsm8k", "arc_challenge", "lambada_openai", "wikitext", "winogrande", "boolq"):
        definition = definition_of(f"lm_eval:{name}")
        assert definition.path.is_relative_to(Path(lm_eval.__file__).parent)
        assert load_yaml(definition.path, resolve_func=False)["task"] == name
        assert definition.code is None


def test_running_what_a_model_writes_needs_permission(write, monkeypatch):
    from gradience.tasks import harness

    path = Path(write("unsafe_code: true").removeprefix("lm_eval:"))
    monkeypatch.delenv("GRADIENCE_ALLOW_CODE")
    monkeypatch.setattr(harness, "_installed", lambda *_: path)
    with raises(GradienceError, "code-refused"):
        tasks.load("lm_eval:sums", {}, needed=())
