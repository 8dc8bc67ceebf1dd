"""A user's own rows: what is wrong is named by file and line, and no row is on both sides of a split."""

import collections
import csv
import json
import tracemalloc
from pathlib import Path

import pytest
from data_files import write_jsonl, write_repository
from hypothesis import given
from hypothesis import strategies as st
from raising import raises
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from gradience import tasks
from gradience.errors import InputError, UsageError
from gradience.files.rows import MAX_ROW
from gradience.models.chat import chat_template
from gradience.models.tokenizers import encode_pair
from gradience.tasks import classification
from gradience.tasks.examples import ROLES, content_id, role_of
from gradience.tasks.rows import local

PROMPTS = [{"id": f"q{n}", "prompt": f"{n} - 1 =", "answer": n - 1} for n in range(30)]
LABELS = [{"text": f"text {n}", "label": ("no", "yes")[n % 2]} for n in range(30)]


def load(folder: Path, rows, profile="jsonl", **options):
    return tasks.load(profile, {"file": write_jsonl(folder / "a.jsonl", rows), **options})


def test_prompts_and_answers_become_examples_that_keep_their_ids(tmp_path):
    task = load(tmp_path, PROMPTS)
    assert {item.id for item in task.examples.all} == {row["id"] for row in PROMPTS}
    seven = next(item for item in task.examples.all if item.id == "q7")
    assert (seven.prompt, seven.response, seven.answer) == ("7 - 1 =", " 6", "6")
    assert seven.role == role_of(content_id("7 - 1 ="))
    assert task.examples.counts == {"rows": 30, "duplicates": 0, "conflicts": 0}
    assert task.scoring == "jsonl 1, exact"


def test_signs_make_another_example_and_spellings_share_a_role(tmp_path):
    rows = [{"prompt": f"{n} {sign} 1", "answer": "x"} for n in range(30) for sign in "+-*"]
    task = load(tmp_path, rows)
    assert len(task.examples.all) == 90
    roles = {}
    for item in task.examples.all:
        roles.setdefault(item.prompt.split()[0], set()).add(item.role)
    assert all(len(some) == 1 for some in roles.values())


def test_a_completion_is_trained_as_it_is_and_the_answer_is_what_the_scorer_finds_in_it(tmp_path):
    rows = [{"prompt": f"{n}?", "completion": f"\nIt is {n}, so {n}"} for n in range(30)]
    item = load(tmp_path, rows, scorer="number").examples.all[0]
    assert item.response == f"\nIt is {item.answer}, so {item.answer}"
    task = load(tmp_path, rows, scorer="regex", pattern=r"so (\d+)")
    assert {e.answer for e in task.examples.all} == {str(n) for n in range(30)}


@pytest.mark.parametrize(
    ("rows", "code", "message", "hint"),
    [
        ([{"prmpt": "x", "answer": "y"}], "task-column", "line 1: no column `prompt`", "mean `prmpt`"),
        ([{"prompt": "", "answer": "y"}], "task-text", "line 1: column `prompt` is empty", "remove the row"),
        ([{"prompt": 3, "answer": "y"}], "task-text", "line 1: column `prompt` contains 3", ""),
        ([{"prompt": "x", "answer": " "}], "task-text", "line 1: neither `completion` nor `answer`", "remove rows"),
        ([*PROMPTS, {"prompt": "x", "answer": None}], "task-text", "line 31: neither", "remove rows"),
        ([*PROMPTS, {"id": "q3", "prompt": "x", "answer": 1}], "task-id",
         "line 31: the id 'q3' is also that of line 4", "remove the ids"),
        ([{"id": [1], "prompt": "x", "answer": 1}], "task-id", "line 1: the id is [1]", "in quotes"),
        (LABELS, "task-kind", "line 1: has `text` and `label`", "the task `classification` reads such rows"),
        ([*PROMPTS, *LABELS], "task-kind", "line 31: has `text` and `label`", "a file of their own"),
        ([*PROMPTS, {"prompt": "x", "completion": "1"}], "task-kind",
         "line 31: has `completion`, but earlier rows have `answer`", "the same fields"),
        ([{"prompt": "x", "completion": "It is 5.", "answer": "5"}], "task-answer",
         "line 1: its own response would be scored wrong: `exact` finds 'It is 5.'", "another scorer"),
        ([], "task-empty", "no train examples in a.jsonl (0 rows", ""),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path, rows, code, message, hint):
    with raises(InputError, code) as caught:
        load(tmp_path, rows)
    assert message in str(caught.value)
    assert hint in caught.value.hint


def test_a_row_in_two_files_is_refused_with_both_places(tmp_path):
    train = write_jsonl(tmp_path / "train.jsonl", PROMPTS)
    confirm = write_jsonl(tmp_path / "test.jsonl", [{"prompt": "new", "answer": 1}, PROMPTS[3]])
    with raises(InputError, "task-leak", r"train\.jsonl: line 4: the same as .*test\.jsonl: li"):
        tasks.load("jsonl", {"train_file": train, "confirm_file": confirm})


def test_files_that_number_their_rows_alike_keep_their_roles(tmp_path):
    files = {}
    for role in ("train", "confirm"):
        rows = [{"id": n, "prompt": f"{role} {n}", "answer": n} for n in range(20)]
        files[f"{role}_file"] = write_jsonl(tmp_path / f"{role}.jsonl", rows)
    task = tasks.load("jsonl", {**files, "dev": 5})
    assert {role: len(task.examples.of(role)) for role in ROLES} == {"train": 15, "dev": 5, "confirm": 20}
    assert all(item.prompt.startswith("confirm") for item in task.examples.of("confirm"))


@pytest.mark.parametrize("names", [(), ("train",), ("file", "train", "confirm"), ("dev", "confirm")])
def test_files_that_leave_the_roles_open(tmp_path, names):
    path = write_jsonl(tmp_path / "a.jsonl", PROMPTS)
    options = {name if name == "file" else f"{name}_file": path for name in names}
    with raises(UsageError, "task-files"):
        tasks.load("jsonl", options)


# --- where files lie ------------------------------------------------------------------------------


def test_relative_paths_start_at_the_folder(tmp_path):
    write_jsonl(tmp_path / "data" / "a.jsonl", PROMPTS)
    task = tasks.load("jsonl", {"file": "data/a.jsonl"}, folder=tmp_path)
    absolute = tasks.load("jsonl", {"file": str(tmp_path / "data/a.jsonl")}, folder=Path("no"))
    assert task.examples == absolute.examples
    with pytest.raises(InputError, match=r"data/a\.jsonl: no such file"):
        tasks.load("jsonl", {"file": "data/a.jsonl"})


# --- the examples of the page ---------------------------------------------------------------------


def test_pairs_of_texts(tmp_path):
    pairs = [{**row, "text_pair": f"second {n}"} for n, row in enumerate(LABELS)]
    task = load(tmp_path, pairs, "classification")
    assert {(e.text, e.text_pair) for e in task.examples.all} == {(r["text"], r["text_pair"]) for r in pairs}
    with pytest.raises(InputError, match="line 31: column `text_pair` has a text in some rows only"):
        load(tmp_path, [*pairs, {"text": "x", "label": "no"}], "classification")
    turned = [{**pairs[0], "text": pairs[0]["text_pair"], "text_pair": pairs[0]["text"]}, *pairs, pairs[3]]
    task = load(tmp_path, turned, "classification")
    assert (len(task.examples.all), task.examples.counts["duplicates"]) == (31, 1)


# ---------------------------------------------------------------- Labeled texts of the user


load_texts = classification.load


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def rows(count: int, start: int = 0) -> list[dict[str, object]]:
    return [
        {"text": f"A film about number {n}.", "label": ("bad", "good")[n % 2]}
        for n in range(start, start + count)
    ]


def labels_of(task) -> dict[str, str]:
    return {item.text: task.label_names[item.label] for item in task.examples.all}


# --- formats --------------------------------------------------------------------------------------

EXPECTED = {"Good, and long": "yes", 'She said "no"': "no", "Touché": "yes"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.CSV", '\ufefflabel,text\r\nyes,"Good, and long"\r\n\r\nno,"She said ""no"""\r\nyes,Touché'),
        ("a.tsv", 'text\tlabel\nGood, and long\tyes\nShe said "no"\tno\nTouché\tyes\n'),
    ],
)
def test_marks_line_ends_blank_lines_and_quotes(tmp_path, name, content):
    assert labels_of(load_texts(file=written(tmp_path / name, content))) == EXPECTED


@given(
    st.lists(st.fixed_dictionaries({"text": st.text(min_size=1), "label": st.text(min_size=1)}), min_size=1)
)
def test_what_the_standard_library_writes_is_read_back(tmp_path_factory, given_rows):
    folder = tmp_path_factory.mktemp("files")
    given_rows = [{column: text.replace("\0", "0") for column, text in row.items()} for row in given_rows]
    with (folder / "a.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label"], quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(given_rows)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in given_rows)
    (folder / "a.jsonl").write_bytes(lines.encode())
    for name in ("a.csv", "a.jsonl"):
        assert [row.values for row in local(folder / name).read()] == given_rows


@pytest.mark.parametrize(
    ("name", "content", "message", "code"),
    [
        ("a.csv", "text,label\nFine,a\nGood\n", "line 3: 1 field", "task-row"),
        ("a.csv", 'text,label\n"Fine" x,a\n', "line 2: ", "task-row"),
        ("a.csv", 'text,label\n"Fine,a\n', "unexpected end of data", "task-row"),
        ("a.csv", "text;label\nFine;a\n", "line 2: no column `text`", "task-column"),
        ("a.csv", "text,text\nFine,a\n", "line 1 must list the column names", "task-file"),
        ("a.csv", "", "line 1 must list the column names", "task-file"),
        ("a.csv", "text,label\n  ,a\n", "line 2: column `text` is empty", "task-text"),
        ("a.csv", "text,label\nFine,\n", "line 2: column `label` is empty", "task-text"),
        ("a.tsv", "text\tlabel\nFine\twine\ta\n", "line 2: 3 fields", "task-row"),
        ("a.jsonl", '{"text": "Fine", "label": 1}\n{"text": \n', "line 2: ", "task-row"),
        ("a.jsonl", '[{"text": "Fine", "label": 1}]\n', "line 1 is not a JSON object", "task-row"),
        ("a.jsonl", f'{{"text": "{"x" * MAX_ROW}", "label": 1}}\n', "line 1: a row of more than", "task-row"),
        ("a.csv", 'text,label\nFine,a\n"' + "x\n" * MAX_ROW, "a row of more than 4,194,304", "task-row"),
        ("a.jsonl", '{"text": "Fine", "label": 0.5}\n', "contains 0.5", "task-label"),
        ("a.jsonl", '{"text": "Fine", "label": [1]}\n', "contains \\[1\\]", "task-label"),
        ("a.csv", "text,label\nTouché,a\n".encode("latin-1"), "is not UTF-8", "task-file"),
        ("a.csv", "text,label\nFine,a\nGood,a\n", "its labels are a", "task-label"),
        ("a.xml", "[]", "unknown file extension", "task-file"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_texts_is_named(tmp_path, name, content, message, code):
    path = written(tmp_path / name, content)
    with raises(InputError, code, message) as caught:
        load_texts(file=path)
    assert str(path) in str(caught.value) or path.name in str(caught.value)
    assert caught.value.hint


def test_long_texts_and_long_numbers_are_read(tmp_path):
    long = "word " * 40_000
    path = written(tmp_path / "a.csv", f"text,label\n{long},{'9' * 5000}\nshort,1\n")
    task = load_texts(file=path)
    assert task.label_names == ("1", "9" * 5000)
    assert long in {example.text for example in task.examples.all}


def test_rows_are_read_one_at_a_time(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "Fine"}\n' * 2_000_000)
    tracemalloc.start()
    rows = local(path).read()
    assert next(iter(rows)).values == {"text": "Fine"}
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6_000_000
    with pytest.raises(InputError, match="more than 1,000,000 rows"):
        collections.deque(local(path).read(), maxlen=0)


# --- labels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "names", "expected_names", "expected"),
    [
        (["b", "a", "b"], None, ("a", "b"), [1, 0, 1]),
        ([10, 9, 10], None, ("9", "10"), [1, 0, 1]),
        (["10", "9", 9.0], None, ("9", "10"), [1, 0, 0]),
        ([True, False, True], None, ("false", "true"), [1, 0, 1]),
        (["b", "a", "b"], ["b", "a"], ("b", "a"), [0, 1, 0]),
        ([1, 0, "1"], ["no", "yes"], ("no", "yes"), [1, 0, 1]),
        ([True, False, "TRUE"], ["no", "yes"], ("no", "yes"), [1, 0, 1]),
        (["1", "3", "2"], ["1", "2", "3"], ("1", "2", "3"), [0, 2, 1]),
        (["a", "b", "a"], ["a", "b", "c"], ("a", "b", "c"), [0, 1, 0]),
    ],
    ids=["words", "numbers-by-size", "numbers-of-any-type", "bools", "words-in-given-order", "places",
         "bools-as-places", "names-that-are-numbers", "a-name-without-rows"],
)  # fmt: skip
def test_labels(tmp_path, labels, names, expected_names, expected):
    given_rows = [{"text": f"Text {n}", "label": label} for n, label in enumerate(labels)]
    task = load_texts(file=write_jsonl(tmp_path / "a.jsonl", given_rows), label_names=names)
    assert task.label_names == expected_names
    assert [item.label for item in sorted(task.examples.all, key=lambda item: item.text)] == expected


@pytest.mark.parametrize(
    ("labels", "names", "wrong"),
    [
        (["good", "god"], ["bad", "good"], "god"),
        ([0, 2], ["bad", "good"], "2"),
        ([0, -1], ["bad", "good"], "-1"),
        (["1", "0"], ["1", "2", "3"], "0"),
        (["good", 0], ["bad", "good"], "0"),
    ],
    ids=["misspelt", "no-such-place", "unlabeled", "names-are-not-places", "one-reading-for-all"],
)
def test_an_unknown_label_is_named_with_its_row(tmp_path, labels, names, wrong):
    given_rows = [{"text": f"Text {n}", "label": label} for n, label in enumerate(labels)]
    with pytest.raises(InputError, match=f"line 2: `{wrong}` is not one of the labels"):
        load_texts(file=write_jsonl(tmp_path / "a.jsonl", given_rows), label_names=names)


def test_f1_is_for_two_labels(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": f"Text {n}", "label": n} for n in range(3)])
    with raises(UsageError, "task-metric", "there are 3"):
        load_texts(file=path, metric="f1")


# --- roles and identities -------------------------------------------------------------------------


FEATURES = """\
  - name: text
    dtype: string
  - name: label
    dtype:
      class_label:
        names:
          '0': bad
          '1': good
"""


def test_splits_of_a_data_set_of_the_hub_have_their_roles(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    numbered = [{**row, "label": int(row["label"] == "good")} for row in rows(120)]
    splits = {"train": numbered[:100], "test": numbered[100:]}
    write_repository(tmp_path / "films" / "plain", "default", splits, FEATURES)
    train, confirm = Path("hf://films/plain:train"), Path("hf://films/plain:test")
    task = load_texts(train_file=train, confirm_file=confirm, label_names=["bad", "good"])
    assert labels_of(task)["A film about number 0."] == "bad"
    assert {role: len(task.examples.of(role)) for role in ROLES} == {"train": 80, "dev": 20, "confirm": 20}


# ---------------------------------------------------------------- Conversations


CHATML = (
    "{% for m in messages %}<s>{{ m['role'] }} : "
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}<e>{% endgeneration %}"
    "{% else %}{{ m['content'] }}<e>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant : {% endif %}"
)
GEMMA = CHATML.replace("<e>", "<t>")
"""A turn is closed by another token than the end token."""
WORDS = "[PAD] [UNK] <s> <e> <t> [BOS] user assistant system : hi you ho one two".split()  # noqa: SIM905
TALK = [("system", "you"), ("user", "hi you"), ("assistant", "ho"), ("user", "one"), ("assistant", "two two")]


def tokenizer(template: str | None = CHATML, *, bos: bool = False) -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "eos_token": "<e>", "bos_token": "[BOS]"}
    reader = PreTrainedTokenizerFast(
        tokenizer_object=words, additional_special_tokens=["<s>", "<t>"], **special
    )
    if bos:
        reader.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="[BOS] $A", special_tokens=[("[BOS]", WORDS.index("[BOS]"))]
        )
    reader.chat_template = template
    return reader


def messages(talk=TALK):
    return [{"role": role, "content": content} for role, content in talk]


def last_turn(reader, messages):
    with chat_template(reader) as template:
        return template.last_turn([(message["role"], message["content"]) for message in messages])


def write(folder, talks, name="a.jsonl", **more):
    return write_jsonl(folder / name, [{"messages": messages(talk), **more} for talk in talks])


def talks(count=30):
    return [
        [("user", "one " * (n + 1)), ("assistant", "ho"), ("user", "hi"), ("assistant", "two")]
        for n in range(count)
    ]


@pytest.mark.parametrize(
    ("template", "bos"), [(CHATML, False), ("[BOS]" + CHATML, False), ("[BOS]" + CHATML, True)]
)
def test_the_assistants_tokens_are_those_of_transformers_mask(template, bos):
    reader = tokenizer(template, bos=bos)
    whole = reader.apply_chat_template(messages(), return_dict=True, return_assistant_tokens_mask=True)
    ids, mask = whole["input_ids"], whole["assistant_masks"]
    trained = [0] * len(ids)
    for place in (2, 4):
        turn = last_turn(reader, messages()[: place + 1])
        before, after = encode_pair(reader, turn.prompt, turn.response)
        assert ids[: len(before) + len(after)] == before + after
        trained[len(before) : len(before) + len(after)] = [1] * len(after)
        assert turn.close == ""
    assert trained == mask
    assert sum(mask) == len(["ho", "<e>", "two", "two", "<e>"])


def test_what_closes_a_turn_is_trained_and_stops_an_output_where_it_is_not_the_end_token():
    turn = last_turn(tokenizer(GEMMA), messages())
    assert (turn.response, turn.close) == ("two two<t>", "<t>")


@pytest.mark.parametrize(
    ("template", "bos", "code", "message"),
    [
        (None, False, "no-chat-template", "has no chat template"),
        (CHATML, True, "chat-template", "does not begin with the token"),
        ("{{ raise_exception('no system') }}", False, "chat-template", "fails on .* user, assistant: no system"),
        (CHATML.replace("{{ m['content'] }}<e>{% endg", "{{ m['content'] | upper }}<e>{% endg"), False, "chat-template",
         "in another way than it is given"),
        ("x" + "{% if add_generation_prompt %}y{% endif %}", False, "chat-template", "in another way"),
    ],
    ids=["none", "no beginning", "refuses", "changes", "is no prefix"],
)  # fmt: skip
def test_a_template_that_does_not_fit(template, bos, code, message):
    with raises(InputError, code, message):
        last_turn(tokenizer(template, bos=bos), messages())


def test_every_turn_trains_once_and_the_last_one_is_evaluated(tmp_path):
    chat = tasks.load("chat", {"file": write(tmp_path, talks())})
    task = chat.rendered(tokenizer())
    counts = {role: len(chat.examples.of(role)) for role in ("train", "dev", "confirm")}
    assert {role: len(task.examples.of(role)) for role in counts} == {**counts, "train": 2 * counts["train"]}
    for role in ("dev", "confirm"):
        assert {(e.response, e.answer) for e in task.examples.of(role)} == {("two", "two")}
        assert all(e.prompt.endswith("<s>user : hi<e><s>assistant : ") for e in task.examples.of(role))
    trained = sorted(e.response for e in task.examples.of("train"))
    assert trained == ["ho"] * counts["train"] + ["two"] * counts["train"]
    assert len({e.id for e in task.examples.all}) == len(task.examples.all)
    assert (task.stop, task.scoring) == ((), "chat 1, exact")
    assert chat.rendered(tokenizer(GEMMA)).stop == ("<t>",)


def test_an_answer_is_the_turn_that_is_missing(tmp_path):
    rows = [{"messages": messages([("user", "one " * (n + 1))]), "answer": "two"} for n in range(30)]
    task = tasks.load("chat", {"file": write_jsonl(tmp_path / "a.jsonl", rows)}).rendered(tokenizer())
    assert {(e.response, e.answer) for e in task.examples.all} == {("two", "two")}


@pytest.mark.parametrize(
    ("row", "code", "message"),
    [
        ({"messages": []}, "task-text", "is not a list of at least 1 message"),
        ({"messages": "no"}, "task-text", "is not a JSON list"),
        ({"messages": [{"role": "user", "content": "x"}]}, "task-messages", "the last message is of the user"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "task-messages", "nothing comes before"),
        ({"messages": [{"role": "narrator", "content": "x"}]}, "task-messages", "message 1 has no role"),
        ({"messages": [{"role": "user", "content": ""}]}, "task-messages", "the content of message 1"),
        ({"prompt": "x", "answer": "y"}, "task-kind", "this task needs `messages`"),
        ({"messages": messages(), "answer": "three"}, "task-answer", "scored wrong"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_conversations_is_named(tmp_path, row, code, message):
    with raises(InputError, code) as caught:
        tasks.load("chat", {"file": write_jsonl(tmp_path / "a.jsonl", [row])})
    assert message in str(caught.value)
    assert "line 1" in str(caught.value)


def test_the_row_that_a_template_refuses_is_the_one_that_is_named(tmp_path):
    refuses = "{% if messages | length > 2 %}{{ raise_exception('too long') }}{% endif %}" + CHATML
    short = [[("user", f"one {'hi ' * n}"), ("assistant", "two")] for n in range(70)]
    long = [("user", "one"), ("assistant", "ho"), ("user", "hi"), ("assistant", "two")]
    task = tasks.load("chat", {"file": write(tmp_path, [*short, long])})
    assert len(task.examples.all) == 71
    with pytest.raises(InputError, match=r"conversation of user, assistant, user.*: too long"):
        task.rendered(tokenizer(refuses))
