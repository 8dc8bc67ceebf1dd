"""Columns of public data sets are read as they are, or refused with an option that works when typed."""

import json
import shlex

import pandas as pd
import pytest

import gradience
from gradience.cli.app import run
from gradience.cli.demo import example_adapter
from gradience.errors import InputError, UsageError
from gradience.evaluate.inputs import reader_of
from gradience.evaluate.settings import EvaluateSettings, columns_of
from gradience.tasks import load
from gradience.tasks.rows import local

TURNS = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]
LAYOUTS = {
    # name of the layout: a row, the task that reads it, what is asked, what is answered
    "TRL, prompt and completion": ({"prompt": "1 + 1 =", "completion": " 2"}, "jsonl", "1 + 1 =", " 2"),
    "TRL, conversational": ({"prompt": TURNS[:1], "completion": TURNS[1:]}, "chat", "1 + 1?", "2"),
    "TRL, preference": ({"prompt": "1 + 1 =", "chosen": "2", "rejected": "3"}, "jsonl", "1 + 1 =", " 2"),
    "TRL, preference in messages": (
        {"chosen": TURNS, "rejected": [TURNS[0], {"role": "assistant", "content": "3"}]},
        "chat",
        "1 + 1?",
        "2",
    ),
    "UltraFeedback": ({"prompt": "1 + 1?", "chosen": TURNS, "rejected": TURNS[:1]}, "chat", "1 + 1?", "2"),
    "HH-RLHF": (
        {"chosen": "\n\nHuman: 1 + 1?\n\nAssistant: 2", "rejected": "\n\nHuman: 1 + 1?\n\nAssistant: 3"},
        "jsonl",
        "\n\nHuman: 1 + 1?\n\nAssistant:",
        " 2",
    ),
    "OpenAI": ({"messages": TURNS}, "chat", "1 + 1?", "2"),
    "ShareGPT": (
        {"conversations": [{"from": "human", "value": "1 + 1?"}, {"from": "gpt", "value": "2"}]},
        "chat",
        "1 + 1?",
        "2",
    ),
    "Alpaca": ({"instruction": "Add.", "input": "1 + 1", "output": "2"}, "jsonl", "Add.\n\n1 + 1", " 2"),
    "Alpaca without input": (
        {"instruction": "Add 1 + 1.", "input": "", "output": "2"},
        "jsonl",
        "Add 1 + 1.",
        " 2",
    ),
    "LLaMA-Factory, Alpaca with history": (
        {"instruction": "And 1?", "output": "3", "system": "Be brief.", "history": [["1 + 1?", "2"]]},
        "chat",
        "And 1?",
        "3",
    ),
    "GPTeacher": ({"instruction": "Add.", "input": "1 + 1", "response": "2"}, "jsonl", "Add.\n\n1 + 1", " 2"),
    "Dolly": (
        {"instruction": "Which sum?", "context": "1 + 1", "response": "2", "category": "closed_qa"},
        "jsonl",
        "Which sum?\n\n1 + 1",
        " 2",
    ),
    "GSM8K": ({"question": "1 + 1?", "answer": "#### 2"}, "jsonl", "1 + 1?", " #### 2"),
    "OpenOrca": (
        {"id": "a", "system_prompt": "Be brief.", "question": "1 + 1?", "response": "2"},
        "chat",
        "1 + 1?",
        "2",
    ),
    "MetaMathQA": ({"query": "1 + 1?", "response": "2", "type": "GSM"}, "jsonl", "1 + 1?", " 2"),
    "MATH": ({"problem": "1 + 1?", "level": "1", "solution": "2"}, "jsonl", "1 + 1?", " 2"),
    "Natural Instructions": ({"input": "1 + 1?", "output": "2"}, "jsonl", "1 + 1?", " 2"),
    "CNN/DailyMail": ({"article": "Long.", "highlights": "Short.", "id": "a"}, "jsonl", "Long.", " Short."),
    "SAMSum": ({"id": "a", "dialogue": "A: Long.", "summary": "Short."}, "jsonl", "A: Long.", " Short."),
    "MMLU": ({"question": "1 + 1?", "choices": ["2", "3"], "answer": 0}, "jsonl", "1 + 1?", " 2"),
    "ARC": (
        {"question": "1 + 1?", "choices": {"text": ["3", "2"], "label": ["A", "B"]}, "answerKey": "B"},
        "jsonl",
        "1 + 1?",
        " 2",
    ),
    "HellaSwag": ({"ctx": "One and", "endings": ["two", "car"], "label": "0"}, "jsonl", "One and", " two"),
    "IMDB": ({"text": "Good.", "label": "1"}, "classification", "Good.", None),
    "SST-2": ({"idx": 3, "sentence": "Good.", "label": "1"}, "classification", "Good.", None),
    "MNLI": (
        {"premise": "It rains.", "hypothesis": "Wet.", "label": "0"},
        "classification",
        "It rains.",
        None,
    ),
    "QQP": ({"question1": "Rain?", "question2": "Wet?", "label": "0"}, "classification", "Rain?", None),
    "QNLI": ({"question": "Rain?", "sentence": "Wet.", "label": "0"}, "classification", "Rain?", None),
    "plain text": ({"text": "It rains."}, "jsonl", "", "It rains."),
}


def file_of(folder, *rows):
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def task_of(path, columns=None):
    profile, options = reader_of(path, columns)
    extra = {} if columns is None else {"columns": columns}
    return profile, load(profile, {**options, **extra, "file": str(path)}, needed=())


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_public_layout_is_read_without_options(name, tmp_path):
    row, profile, prompt, response = LAYOUTS[name]
    rows = [row, {**row, "text": "Bad.", "label": "0"}] if name == "IMDB" else [row]
    rows += [{**row, "sentence": "Bad.", "label": "0"}] if name == "SST-2" else []
    if profile == "classification" and len(rows) == 1:
        rows.append({key: f"{value}!" if key != "label" else "1" for key, value in row.items()})
    read_by, task = task_of(file_of(tmp_path, *rows))
    assert read_by == profile
    if profile == "classification":
        texts = {example.text: example.text_pair for example in task.examples.all}
        pairs = {"MNLI": "Wet.", "QQP": "Wet?", "QNLI": "Wet."}
        assert texts[prompt] == pairs.get(name)
        return
    (example,) = task.examples.all
    asked = example.messages[-2][1] if profile == "chat" else example.prompt
    assert (asked, example.response) == (prompt, response)


def test_system_and_earlier_turns_are_kept(tmp_path):
    row = LAYOUTS["LLaMA-Factory, Alpaca with history"][0]
    (example,) = task_of(file_of(tmp_path, row))[1].examples.all
    assert [role for role, _ in example.messages] == ["system", "user", "assistant", "user", "assistant"]


@pytest.mark.parametrize(
    "row",
    [
        {"Q": "1 + 1?", "A": "2"},
        {"frage": "1 + 1?", "antwort": "2", "id": 7},
        {"the question": "1 + 1?", "its answer": "2"},
    ],
)
def test_another_layout_is_refused_with_an_option_that_works(row, tmp_path):
    path = file_of(tmp_path, row)
    with pytest.raises(InputError) as caught:
        reader_of(path)
    assert all(f"`{name}`" in str(caught.value) for name in row)
    option, columns = shlex.split(caught.value.hint.partition("add ")[2])[:2]
    assert option == "--columns"
    (example,) = task_of(path, columns_of(columns))[1].examples.all
    assert (example.prompt, example.response) == ("1 + 1?", " 2")


def test_wrong_columns_name_the_right_ones(tmp_path):
    with pytest.raises(InputError, match="has no rows"):
        reader_of(file_of(tmp_path))
    path = file_of(tmp_path, {"Q": "1 + 1?", "A": "2"})
    with pytest.raises(InputError, match="`promt` is not a field") as caught:
        reader_of(path, {"promt": "Q"})
    assert "`prompt`" in caught.value.hint
    with pytest.raises(InputError, match="no column `B`") as caught:
        reader_of(path, {"prompt": "Q", "answer": "B"})
    assert "`Q`, `A`" in caught.value.hint
    with pytest.raises(UsageError, match="not NAME=COLUMN"):
        columns_of("prompt")


ROW = {"question": "1 + 1?", "answer": "2"}


def write_splits(path):
    datasets = pytest.importorskip("datasets")
    other = datasets.Dataset.from_list([{"question": "train", "answer": "train"}])
    splits = {"train": other, "test": datasets.Dataset.from_list([ROW])}
    datasets.DatasetDict(splits).save_to_disk(path)


WRITERS = {
    "rows.json": lambda path: path.write_text(json.dumps([ROW])),
    "rows.parquet": pd.DataFrame([ROW]).to_parquet,
    "rows.csv": lambda path: pd.DataFrame([ROW]).to_csv(path, index=False),
    "rows.tsv": lambda path: pd.DataFrame([ROW]).to_csv(path, index=False, sep="\t"),
    "saved": lambda path: pytest.importorskip("datasets").Dataset.from_list([ROW]).save_to_disk(path),
    "splits": write_splits,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_rows(name, tmp_path):
    WRITERS[name](tmp_path / name)
    (row,) = local(tmp_path / name).read()
    assert (row.text("prompt"), row.answer()) == ("1 + 1?", "2")


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("rows.json", b'{"question": "1 + 1?"}', "is not a list of JSON objects"),
        ("rows.json", b"[", "rows.json"),
        ("rows.parquet", b"PAR1", "rows.parquet"),
    ],
)
def test_a_broken_file_is_named(name, content, problem, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=problem):
        list(local(tmp_path / name).read())


def test_rows_in_memory_are_examples():
    datasets = pytest.importorskip("datasets")
    for rows in ([ROW], pd.DataFrame([ROW]), datasets.Dataset.from_list([ROW])):
        settings = EvaluateSettings(("a",), data=rows)
        (row,) = local(settings.data_file).read()
        assert row.text("prompt") == "1 + 1?"
    with pytest.raises(InputError, match="data: row 1"):
        gradience.evaluate_adapters(["a", "b"], data=[{"prompt": object()}])


def test_a_hub_name_stays_one():
    path = EvaluateSettings(("a",), data="hf://org/name:test").data_file
    assert path.parts == ("hf:", "org", "name:test")


def test_the_command_previews_other_columns(tmp_path, capsys):
    path = file_of(tmp_path, {"review": "good", "stars": "5"}, {"review": "bad", "stars": "1"})
    arguments = [
        "evaluate",
        str(example_adapter()),
        "-b",
        "embedded:minilm",
        "--data",
        str(path),
        "--preview",
    ]
    assert run(arguments) == 3
    assert "--columns text=review,label=stars" in capsys.readouterr().err
    assert run([*arguments, "--columns", "text=review,label=stars"]) == 0
    assert "good" in capsys.readouterr().out
