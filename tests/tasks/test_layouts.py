"""Columns of public data sets are read as they are, or refused with an option that works when typed."""

import json
import shlex

import pandas as pd
import pytest
from data_files import write_jsonl

import gradience
from gradience.cli.demo import example_adapter
from gradience.errors import InputError, UsageError
from gradience.evaluate.inputs import reader_of
from gradience.evaluate.settings import EvaluateSettings, columns_of
from gradience.tasks import load
from gradience.tasks.rows import local

Q, A = "1 + 1?", "2"
TURNS = [{"role": "user", "content": Q}, {"role": "assistant", "content": A}]
SAID = [{"from": "human", "value": Q}, {"from": "gpt", "value": A}]
TEXT = "\n\nHuman: 1 + 1?\n\nAssistant:"
GENERATED = {
    # name of the layout: a row, what is asked, what is answered
    "TRL, prompt and completion": ({"prompt": Q, "completion": " 2"}, Q, " 2"),
    "TRL, preference": ({"prompt": Q, "chosen": A, "rejected": "3"}, Q, " 2"),
    "HH-RLHF": ({"chosen": f"{TEXT} 2", "rejected": f"{TEXT} 3"}, TEXT, " 2"),
    "Alpaca": ({"instruction": "Add.", "input": Q, "output": A}, f"Add.\n\n{Q}", " 2"),
    "Alpaca without input": ({"instruction": Q, "input": "", "output": A}, Q, " 2"),
    "GPTeacher": ({"instruction": "Add.", "input": Q, "response": A}, f"Add.\n\n{Q}", " 2"),
    "Dolly": ({"instruction": "Sum?", "context": Q, "response": A, "category": "qa"}, f"Sum?\n\n{Q}", " 2"),
    "GSM8K": ({"question": Q, "answer": "#### 2"}, Q, " #### 2"),
    "a question with a category": ({"question": Q, "answer": A, "category": "sums"}, Q, " 2"),
    "MetaMathQA": ({"query": Q, "response": A, "type": "GSM"}, Q, " 2"),
    "MATH": ({"problem": Q, "level": "1", "solution": A}, Q, " 2"),
    "Natural Instructions": ({"input": Q, "output": A}, Q, " 2"),
    "CNN/DailyMail": ({"article": "Long.", "highlights": "Short.", "id": "a"}, "Long.", " Short."),
    "SAMSum": ({"id": "a", "dialogue": "A: Long.", "summary": "Short."}, "A: Long.", " Short."),
    "MMLU": ({"question": Q, "choices": [A, "3"], "answer": 0}, Q, " 2"),
    "ARC": ({"question": Q, "choices": {"text": ["3", A], "label": ["A", "B"]}, "answerKey": "B"}, Q, " 2"),
    "HellaSwag": ({"ctx": "One and", "endings": ["two", "car"], "label": "0"}, "One and", " two"),
    "plain text": ({"text": "It rains."}, "", "It rains."),
}
CHATS = {
    "TRL, conversational": {"prompt": TURNS[:1], "completion": TURNS[1:]},
    "TRL, preference in messages": {"chosen": TURNS, "rejected": TURNS},
    "UltraFeedback": {"prompt": Q, "chosen": TURNS, "rejected": TURNS[:1]},
    "OpenAI": {"messages": TURNS},
    "ShareGPT": {"conversations": SAID},
    "LLaMA-Factory": {"instruction": Q, "output": A, "system": "Be brief.", "history": [["1?", "1"]]},
    "OpenOrca": {"id": "a", "system_prompt": "Be brief.", "question": Q, "response": A},
}
LABELED = {
    "IMDB": ({"text": "Good."}, None),
    "SST-2": ({"idx": 3, "sentence": "Good."}, None),
    "MNLI": ({"premise": "Good.", "hypothesis": "Wet."}, "Wet."),
    "QQP": ({"question1": "Good.", "question2": "Wet?"}, "Wet?"),
    "QNLI": ({"question": "Good.", "sentence": "Wet."}, "Wet."),
}


def file_of(folder, *rows):
    return write_jsonl(folder / "rows.jsonl", rows)


def task_of(path, columns=None):
    profile, options = reader_of(path, columns)
    extra = {} if columns is None else {"columns": columns}
    return profile, load(profile, {**options, **extra, "file": str(path)}, needed=())


@pytest.mark.parametrize("name", GENERATED)
def test_a_layout_of_prompts_is_read_without_options(name, tmp_path):
    row, prompt, response = GENERATED[name]
    read_by, task = task_of(file_of(tmp_path, row))
    (example,) = task.examples.all
    assert (read_by, example.prompt, example.response) == ("jsonl", prompt, response)


@pytest.mark.parametrize("name", CHATS)
def test_a_layout_of_conversations_is_read_without_options(name, tmp_path):
    read_by, task = task_of(file_of(tmp_path, CHATS[name]))
    (example,) = task.examples.all
    assert (read_by, example.messages[-2:]) == ("chat", (("user", Q), ("assistant", A)))
    earlier = {"LLaMA-Factory": ["system", "user", "assistant"], "OpenOrca": ["system"]}
    assert [role for role, _ in example.messages[:-2]] == earlier.get(name, [])


@pytest.mark.parametrize("name", LABELED)
def test_a_layout_of_labels_is_read_without_options(name, tmp_path):
    row, pair = LABELED[name]
    others = {key: f"{value}!?" for key, value in row.items()}
    read_by, task = task_of(file_of(tmp_path, {**row, "label": "0"}, {**others, "label": "1"}))
    assert read_by == "classification"
    assert {example.text: example.text_pair for example in task.examples.all}["Good."] == pair


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
    with pytest.raises(InputError, match="`promt` match no known layout") as caught:
        reader_of(path, {"promt": "Q"})
    assert "--columns prompt=Q,answer=A" in caught.value.hint
    with pytest.raises(InputError, match="promt"):
        load("jsonl", {"columns": {"promt": "Q"}, "file": str(path)}, needed=())
    with pytest.raises(InputError, match="no column `B`") as caught:
        reader_of(path, {"prompt": "Q", "answer": "B"})
    assert "`Q`, `A`" in caught.value.hint
    with pytest.raises(UsageError, match="not FIELD=COLUMN"):
        gradience.evaluate_adapters(["a"], columns="prompt")


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
    with pytest.raises(UsageError, match="row 1"):
        gradience.evaluate_adapters(["a", "b"], data=[{"prompt": object()}])


def test_a_hub_name_stays_one():
    path = EvaluateSettings(("a",), data="hf://org/name:test").data_file
    assert path.parts == ("hf:", "org", "name:test")


def test_the_command_previews_other_columns(tmp_path, command):
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
    assert "--columns text=review,label=stars" in command(*arguments, code=3).err
    assert "good" in command(*arguments, "--columns", "text=review,label=stars").out
