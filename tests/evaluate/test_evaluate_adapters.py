"""`evaluate_adapters`: counts against transformers and PEFT themselves; what is used again; what is refused."""

import csv
import json
import shutil
from fractions import Fraction

import adapters_to_compare as data
import numpy as np
import pytest
import torch
from data_files import write_jsonl
from factory import edit_config
from kill_verbs import killed_in
from killing import apart
from peft import PeftModel
from raising import raises
from scipy.special import log_softmax
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from watching import Notes

import gradience
from gradience import evaluate_adapters, verify
from gradience.errors import InputError
from gradience.evaluate.evaluator import Evaluator
from gradience.evaluate.forecast import forecast_evaluation
from gradience.evaluate.inputs import read_inputs
from gradience.evaluate.settings import EvaluateSettings
from gradience.files.digests import DIGESTS
from gradience.files.records import read_records
from gradience.reports.evaluation import EvaluationReport
from gradience.settings import call
from gradience.tasks.user_code import allowing


@pytest.fixture
def folder(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "all")
    return tmp_path / "all"


def evaluate(folder, *names, **options):
    settings = {"base_model": folder / "base", "data": folder / "rows.csv", "device": "cpu", "batch_size": 7}
    return call(
        evaluate_adapters, EvaluateSettings([folder / name for name in names], **{**settings, **options})
    )


def rows_of(report):
    return {row.name: row for row in report.adapters}


# ---------------------------------------------------------------- groups


def test_spellings_and_documents_count_as_groups(folder, tmp_path):
    with (folder / "rows.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    several = (
        {**row, "text": text, "document": f"d{place // 4}"}
        for place, row in enumerate(rows)
        for text in (row["text"], f"{row['text']} !")
    )
    path, output = write_jsonl(tmp_path / "several.jsonl", several), tmp_path / "out"
    settings = {"data": path, "all_rows": True, "margin": 20}
    alone = evaluate(folder, "reference", "other", margin=20, all_rows=True)
    spelled = evaluate(folder, "reference", "other", **settings, output=output)
    assert len(set(spelled.groups)) == alone.examples == spelled.examples / 2
    assert f"{spelled.examples:,} examples are {alone.examples:,} independent ones" in " ".join(spelled.notes)
    again = verify(output)
    assert (again.verdict, again.mismatches) == ("consistent", ())
    documents = evaluate(folder, "reference", "other", **settings, group="document")
    assert len(set(documents.groups)) == -(-len(rows) // 4)
    with pytest.raises(InputError, match="no column `documents`"):
        evaluate(folder, "reference", "other", **settings, group="documents")


# ---------------------------------------------------------------- counts


def labels_of_peft(folder, name, texts, *, lora=True):
    """Logits one text at a time, as a user of PEFT gets them."""
    tokenizer = data.tiny_bench.tokenizer()
    base = AutoModelForSequenceClassification.from_pretrained(folder / "base", num_labels=2)
    model = PeftModel.from_pretrained(base, folder / name).eval()
    if not lora:
        for key, weight in model.named_parameters():
            if "lora_B" in key:
                weight.data.zero_()
    with torch.no_grad():
        return np.array([model(**tokenizer(text, return_tensors="pt")).logits[0].numpy() for text in texts])


def test_every_row_counts_what_peft_answers(folder, tmp_path):
    names = list(data.KINDS)
    report = evaluate(folder, *names, output=tmp_path / "out", with_base=True)
    with (folder / "rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    texts, gold = [row["text"] for row in rows], np.array([row["label"] == "good" for row in rows])
    logits = {name: labels_of_peft(folder, name, texts) for name in names}
    logits["base"] = labels_of_peft(folder, "reference", texts, lora=False)
    reference = logits["reference"].argmax(1) == gold
    assert report.examples == len(rows)
    assert [row.name for row in report.adapters] == [*names, "base"]
    for name, row in rows_of(report).items():
        right = logits[name].argmax(1) == gold
        assert (row.n, row.correct) == (len(rows), right.sum())
        if name == "reference":
            assert (row.pairs, row.grade, row.change) == (None, None, None)
            continue
        assert (row.pairs.n10, row.pairs.n01) == ((reference & ~right).sum(), (right & ~reference).sum())
        a, b = (log_softmax(logits[each].astype(float), axis=1) for each in ("reference", name))
        assert row.change.kl_per_example == pytest.approx((np.exp(a) * (a - b)).sum(axis=1).mean(), abs=1e-5)
        flipped = (logits[name].argmax(1) != logits["reference"].argmax(1)).sum()
        assert (row.change.flipped_examples, row.change.kl_per_token) == (flipped, row.change.kl_per_example)
    assert {row.grade for row in report.candidates} <= {"B", "C", "D"}
    saved = rows_of(report)["patterns"].params_saved  # one of two layers at half the rank
    assert saved == pytest.approx(0.25)
    assert EvaluationReport.read(tmp_path / "out" / "evaluation.json") == report


def test_free_text_is_what_transformers_writes(causal, tmp_path):
    with allowing(True):
        report = evaluate_adapters(
            [causal / "reference", causal / "other"], base_model=causal / "base", task=str(causal / "task.py"),
            output=tmp_path / "out", with_base=True, device="cpu", batch_size=4, role="dev",
        )  # fmt: skip
    task, tokenizer = data.tiny_bench.sums(), data.tiny_bench.tokenizer()
    examples = task.examples.of("dev")
    kl, answers = {}, {}
    for name in ("reference", "other", "base"):
        model = AutoModelForCausalLM.from_pretrained(causal / "base")
        if name != "base":
            model = PeftModel.from_pretrained(model, causal / name)
        model.eval()
        right, logs = 0, []
        for example in examples:
            ids = tokenizer(example.prompt, return_tensors="pt")
            with torch.no_grad():
                written = model.generate(
                    **ids, max_new_tokens=4, do_sample=False, pad_token_id=0, eos_token_id=2
                )
                whole = tokenizer(example.prompt + example.response, return_tensors="pt")["input_ids"]
                logs.append(
                    torch.log_softmax(model(whole).logits[0, ids["input_ids"].shape[1] - 1 :].double(), -1)
                )
            words = tokenizer.decode(written[0, ids["input_ids"].shape[1] :]).replace("[END]", "").split()
            right += words[:1] == [example.answer]
            answers.setdefault(name, []).append(words[:1])
        assert rows_of(report)[name].correct == right
        kl[name] = logs
    for name in ("other", "base"):
        expected = np.mean(
            [float((a.exp() * (a - b)).sum()) for a, b in zip(kl["reference"], kl[name], strict=True)]
        )
        change = rows_of(report)[name].change
        assert change.kl_per_example == pytest.approx(expected, rel=1e-3)
        tokens = sum(len(each) for each in kl[name]) / len(examples)
        assert change.kl_per_token == pytest.approx(expected / tokens, rel=1e-3)
        different = [a != b for a, b in zip(answers["reference"], answers[name], strict=True)]
        assert change.flipped_examples == sum(different) <= len(examples)
    shown = report.to_text()
    (line,) = [line for line in shown.splitlines() if line.strip().startswith("base model")]
    assert line.split()[-1] == f"{change.flipped_examples}"
    assert "KL/token" in shown
    files = [file.path for row in report.adapters for file in row.records]
    names = ["reference", "other", "other.scores", "base", "base.scores"]
    assert files == [f"records/{name}.jsonl" for name in names]
    assert read_records(tmp_path / "out" / files[1]).run.n == len(examples)


def test_several_claims_are_adjusted_and_the_order_of_candidates_changes_no_grade(folder):
    there = evaluate(folder, "reference", "other", "dora", margin="30")
    back = evaluate(folder, "reference", "dora", "other", margin="30")
    grades = [{row.name: row.grade for row in report.candidates} for report in (there, back)]
    assert grades[0] == grades[1]
    smallest = min(there.candidates, key=lambda row: row.bounds.p_value)
    assert smallest.adjusted_p == pytest.approx(min(1.0, 2 * smallest.bounds.p_value))
    alone = evaluate(folder, "reference", smallest.name, margin="30")
    assert alone.candidates[0].adjusted_p == alone.candidates[0].bounds.p_value


# ---------------------------------------------------------------- what is used again


@pytest.fixture
def finished(folder, tmp_path):
    evaluate(folder, "reference", "other", output=tmp_path / "out")
    return tmp_path / "out"


def test_what_is_finished_loads_no_model_and_another_margin_gives_at_most_c(folder, finished, monkeypatch):
    monkeypatch.setattr(Evaluator, "engine", property(lambda self: pytest.fail("a model is loaded")))
    wide = evaluate(folder, "reference", "other", output=finished, margin="90")
    assert (wide.margin, wide.first_margin) == (Fraction("0.9"), Fraction("0.025"))
    assert (wide.candidates[0].grade, "exploratory" in wide.candidates[0].reason) == ("C", True)


@pytest.mark.parametrize("what", ["label", "adapter", "settings", "base", "edited", "gone"])
def test_what_has_other_inputs_is_evaluated_again(folder, finished, what):
    options, again = {}, {"reference.jsonl", "other.jsonl"}
    before = {name: (finished / "records" / name).read_bytes() for name in again}
    if what == "label":
        rows = (folder / "rows.csv").read_text().splitlines()
        rows[1] = rows[1].replace("good", "x").replace("bad", "good").replace("x", "bad")
        (folder / "rows.csv").write_text("\n".join(rows) + "\n")
    elif what == "adapter":
        data.adapter(folder / "other", folder / "base", 9)
        again = {"other.jsonl"}
    elif what == "settings":
        options = {"max_length": 2}
    elif what == "base":
        (folder / "base" / "more.txt").write_text("of the tokenizer, perhaps")
    elif what == "edited":
        path = finished / "records" / "other.jsonl"
        path.write_bytes(path.read_bytes().replace(b'"correct":true', b'"correct":false'))
        again = {"other.jsonl"}
    else:
        (finished / "records" / "other.jsonl").unlink()
        again = {"other.jsonl"}
    watcher = Notes()
    evaluate(folder, "reference", "other", output=finished, watcher=watcher, **options)
    assert {note.partition(":")[0] for note in watcher.notes} == again
    assert watcher.steps == len(again) * -(-data.ROWS // 7)
    if what in ("edited", "gone"):
        assert (finished / "records" / "other.jsonl").read_bytes() == before["other.jsonl"]


# ---------------------------------------------------------------- Adapters that do nothing, or do not fit


def inert(folder, how):
    if how == "scale":
        data.adapter(folder / "inert", folder / "base", 3)
        edit_config(folder / "inert", lora_alpha=0)
    else:
        data.adapter(folder / "inert", folder / "base", 3, init_lora_weights=True)
    return "inert"


@pytest.mark.parametrize("how", ["scale", "B"])
def test_an_adapter_that_does_nothing_is_said_to(folder, how):
    name = inert(folder, how)
    report = evaluate(folder, "reference", name, "other")
    row = rows_of(report)["inert"]
    assert (row.grade, row.n, row.pairs) == ("X", None, None)
    assert "inert: has no effect: the logits of 8 texts are the same without its LoRA" in row.reason
    assert rows_of(report)["other"].grade in ("B", "C", "D")
    with raises(InputError, "adapter-inert", "has no effect"):
        evaluate(folder, name, "other")


def test_an_adapter_of_another_base_is_a_row_that_says_so(folder):
    edit_config(folder / "other", target_modules=["key"])
    row = rows_of(evaluate(folder, "reference", "other"))["other"]
    assert row.grade == "X"
    assert "does not fit this base model" in row.reason


@pytest.mark.parametrize(
    ("names", "options", "code"),
    [
        ([], {}, "no-adapter"),
        (["reference", "other", "reference"], {}, "same-adapter"),
        (["reference"], {"data": None}, "no-task"),
        (["reference"], {"margin": 0}, "bad-margin"),
        (["reference"], {"margin": 0.025}, "bad-margin"),
        (["reference"], {"task": "reviews"}, "data-and-task"),
        (["three"], {}, "labels-differ"),
        (["causal"], {}, "wrong-model"),
        (["reference", "causal"], {}, "wrong-model"),
        (["seq2seq"], {}, "wrong-model"),
        (["nameless"], {"base_model": None}, "no-base"),
        (["nowhere"], {}, "not-found"),
        (["reference"], {"base_model": "./nowhere/at/all"}, "model-not-found"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_cannot_be_is_refused_before_a_model_is_loaded(
    prepared, tmp_path, monkeypatch, names, options, code
):
    shutil.copytree(prepared, tmp_path / "all")
    data.adapter(tmp_path / "all" / "three", prepared / "base", 0, labels=3)
    for name, change in (
        ("causal", {"task_type": "CAUSAL_LM"}),
        ("seq2seq", {"task_type": "SEQ_2_SEQ_LM"}),
        ("nameless", {"base_model_name_or_path": None}),
    ):
        shutil.copytree(prepared / "other", tmp_path / "all" / name)
        edit_config(tmp_path / "all" / name, **change)
    monkeypatch.setattr("gradience.models.load.load_base", lambda *_, **__: pytest.fail("a model is loaded"))
    with raises(gradience.GradienceError, code):
        evaluate(tmp_path / "all", *names, **options)


def test_a_second_evaluation_does_not_write_into_the_same_folder(folder, finished):
    from gradience.files.whole import only_one

    with only_one(finished), pytest.raises(gradience.LockedError):
        evaluate(folder, "reference", "other", output=finished)


# ---------------------------------------------------------------- before a run


def without_times(values):
    return {name: value for name, value in values.items() if name != "run"}


@pytest.mark.parametrize(("verb", "files"), [("evaluate", 8), ("evaluate_sets", 21)])
def test_killed_and_run_again_it_ends_with_the_same_bytes(prepared, tmp_path, verb, files):
    apart(killed_in, tmp_path, verb, prepared, kills=3, models=True)
    whole, killed = (
        {str(path.relative_to(tmp_path / name)): path.read_bytes() for path in (tmp_path / name).rglob("*.*")}
        for name in ("whole", "killed")
    )
    assert len(whole) == files
    assert whole.keys() == killed.keys()
    for name in whole:
        if name.endswith(("evaluation.json", "evaluation_sets.json")):
            one, other = (json.loads(content[name], object_hook=without_times) for content in (whole, killed))
            assert one == other
        elif not name.endswith(DIGESTS):
            assert whole[name] == killed[name], name


def test_multiple_choice_and_conversations_are_evaluated_as_rows_too(causal, tmp_path):
    turns = [("user", "a film"), ("assistant", "good"), ("user", "a plot"), ("assistant", "bad")]
    rows = {
        "choices": lambda n: {"prompt": f"{n} is", "choices": ["good", "bad", "plot"], "answer": n % 3},
        "chats": lambda n: {"messages": [{"role": role, "content": f"{text} {n}"} for role, text in turns]},
    }
    for name, row in rows.items():
        write_jsonl(tmp_path / f"{name}.jsonl", map(row, range(8)))
    shutil.copytree(causal / "base", tmp_path / "base")
    tokenizer = data.tiny_bench.tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }} {% if m.role == 'assistant' %}[END] {% endif %}{% endfor %}"
    )
    tokenizer.save_pretrained(tmp_path / "base")
    for name, task in (("choices", "jsonl"), ("chats", "chat")):
        given = {"base_model": str(tmp_path / "base"), "data": tmp_path / f"{name}.jsonl"}
        adapters = [causal / "reference", causal / "other"]
        report = evaluate_adapters(adapters, **given, device="cpu", max_new_tokens=3)
        assert (report.task, report.examples) == (task, 8)  # only the last turn of a conversation
        assert report.candidates[0].grade in ("B", "C", "D")
        assert report.candidates[0].change.kl_per_example > 0
        assert (report.adapters[0].cut_off is None) == (name == "choices")
        inputs = read_inputs(EvaluateSettings(adapters=adapters[:1], **given))
        assert forecast_evaluation(inputs).batch_bytes > 0


def test_rows_that_do_not_suit_a_classifier_name_the_columns_that_would(prepared, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "a good film", "stars": 1}\n{"text": "bad", "stars": 0}\n')
    with pytest.raises(gradience.UsageError, match="columns `text`, `stars`") as caught:
        gradience.evaluate_adapters(prepared / "reference", base_model=prepared / "base", data=rows)
    assert caught.value.hint.endswith("--columns text=text,label=stars for a classifier")
