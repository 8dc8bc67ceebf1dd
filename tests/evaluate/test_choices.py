"""Multiple choice: log-likelihoods of a naive loop, and the formulas of lm-evaluation-harness over them."""

import adapters_to_compare
import numpy as np
import pytest
from data_files import write_jsonl
from evaluating import distributions, evaluate_choices
from raising import raises
from tiny_models import MEMORIES, remembering

from gradience import evaluate_adapters, tasks
from gradience.bench.verify.folder import Findings
from gradience.bench.verify.recompute import gold_of, scored_again
from gradience.errors import InputError
from gradience.files.records import count
from gradience.tasks.base import ChoiceScoring
from gradience.tasks.examples import ChoiceExample

EXAMPLES = [
    ChoiceExample(
        str(n), f"{n}+{n % 3}=", (f"{n + n % 3}", f"{n}{n}{n}", "7")[: 2 + n % 2], n % 2, "confirm", ""
    )
    for n in range(10, 24)
]


def naive(engine, name, prompt, response):
    """Sum of the log-probabilities of each token after those before it."""
    before, ids = (engine.tokenizer(text)["input_ids"] for text in (prompt, response))
    return distributions(engine, name, before, ids)[np.arange(len(ids)), ids].sum()


@pytest.mark.parametrize("name", [None, "plain"])
def test_choices_are_those_of_lm_evals_acc_and_acc_norm(engine, name):
    run, records = evaluate_choices(engine, name, EXAMPLES, batch_size=7)
    assert (run.kind, run.adapter, run.batch_size) == ("choices", name, 7)
    for record, example in zip(records, EXAMPLES, strict=True):
        lls = np.array([naive(engine, name, example.prompt, response) for response in example.responses])
        assert record.loglikelihoods == pytest.approx(lls, abs=1e-4)
        # process_results of lm_eval/api/task.py, 0.4: acc = argmax(lls) == gold, acc_norm = argmax(lls / len) == gold
        completion_len = np.array([float(len(choice)) for choice in example.choices])
        assert record.predictions == {"sum": lls.argmax(), "per_character": (lls / completion_len).argmax()}
        assert record.correct == (lls.argmax() == example.label)
    normed = evaluate_choices(engine, name, EXAMPLES, choose_by="per_character", batch_size=7).records
    assert [record.predicted for record in normed] == [
        record.predictions["per_character"] for record in records
    ]
    assert count(normed).correct == sum(record.predicted == record.label for record in normed)
    assert any(record.predictions["sum"] != record.predictions["per_character"] for record in records)


# --- rows -----------------------------------------------------------------------------------------


def load(folder, rows, **options):
    return tasks.load(
        "jsonl", {"file": write_jsonl(folder / "a.jsonl", rows), "scorer": "multiple_choice", **options}
    )


def test_an_answer_is_a_text_or_a_place(tmp_path):
    rows = [
        {"prompt": f"{n}?", "choices": ["a", "b", n], "answer": ("b", 1, "1", "a")[n % 4]}
        for n in range(10, 40)
    ]
    task = load(tmp_path, rows, choose_by="per_character")
    assert {e.prompt: e.label for e in task.examples.all} == {
        row["prompt"]: int(row["answer"] != "a") for row in rows
    }
    assert {e.responses[1] for e in task.examples.all} == {" b"}
    assert (task.choose_by, task.scoring) == ("per_character", "jsonl 1, multiple_choice per_character")


@pytest.mark.parametrize(
    ("row", "code", "message"),
    [
        ({"choices": ["a", "b"], "answer": "c"}, "task-answer", "none of the 2 choices"),
        ({"choices": ["a", "b"], "answer": 2}, "task-answer", "none of the 2 choices"),
        ({"choices": ["1", "2"], "answer": 1}, "task-answer", "a choice, and the place of another one"),
        ({"choices": ["a"], "answer": 0}, "task-text", "not a list of at least 2 choices"),
        ({"choices": ["a", "a "], "answer": 0}, "task-choices", "a choice occurs twice"),
        ({"choices": ["a", ""], "answer": 0}, "task-text", "is empty"),
        ({"choices": "a,b", "answer": 0}, "task-text", "is not a JSON list"),
        ({"choices": ["a", "b"], "answer": " "}, "task-text", "column `answer` is empty"),
        ({"answer": "a"}, "task-kind", "this task needs `prompt` and `choices` and `answer`"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path, row, code, message):
    with raises(InputError, code) as caught:
        load(tmp_path, [{"prompt": "x", **row}])
    assert message in str(caught.value)
    assert "line 1" in str(caught.value)


def test_choices_that_are_stored_are_marked_again(engine):
    stored = evaluate_choices(engine, "plain", EXAMPLES)
    findings = Findings()
    scored_again(stored, ChoiceScoring(), "file", findings)
    assert not findings.mismatches
    normed = evaluate_choices(engine, "plain", EXAMPLES, choose_by="per_character").records
    rules = tasks.scoring_of("jsonl", {"scorer": "multiple_choice", "choose_by": "per_character"})
    assert scored_again(stored, rules, "file", findings).records == normed
    assert bool(findings.mismatches) == (normed != stored.records)
    assert {len(gold_of(record)) for record in normed} == {3}


def test_the_base_of_a_language_model_with_saved_modules_is_the_base_model(causal, tmp_path):
    saved = {"task": "CAUSAL_LM", "modules_to_save": ["lm_head"]}
    folder = adapters_to_compare.adapter(tmp_path / "saved", causal / "base", 1, **saved)
    rows = [{"prompt": word, "choices": ["good", "bad"], "answer": 0} for word in ("a", "is", "film")]
    report = evaluate_adapters(folder, base_model=causal / "base", data=rows, with_base=True, device="cpu")
    assert report.adapters[0].other_params > 0
    assert report.base_words == "base model"


# --- a prompt is read once ------------------------------------------------------------------------


def test_a_prompt_is_read_once_for_all_its_choices(engine):
    read = []
    engine.base.get_input_embeddings().register_forward_hook(
        lambda _module, arguments, _output: read.append(tuple(arguments[0].shape))
    )
    evaluate_choices(engine, "plain", EXAMPLES[:2], batch_size=9, allow_inert=True)
    assert read == [
        (2, 5),
        (4, 5),
    ]  # two prompts; and all but the last letter of "11", "101010", "13" and "111111"


@pytest.mark.parametrize("kind", MEMORIES)
def test_whatever_the_model_remembers_choices_are_those_of_the_naive_loop(kind):
    engine = remembering(kind)
    examples = [
        ChoiceExample(str(n), "1 + " * (n % 3) + f"{n}=", (f"{n}", "123 4", "7"), 0, "confirm", "")
        for n in range(4)
    ]
    for record, example in zip(
        evaluate_choices(engine, None, examples, batch_size=12).records, examples, strict=True
    ):
        expected = [naive(engine, None, example.prompt, response) for response in example.responses]
        assert record.loglikelihoods == pytest.approx(expected, abs=2e-4)
