"""A user's own texts: formats, labels, roles, and an error that names the row."""

import collections
import csv
import json
import tracemalloc
from pathlib import Path

import pytest
from data_files import write_jsonl, write_repository
from hypothesis import given
from hypothesis import strategies as st

from gradience.errors import InputError, UsageError
from gradience.files.rows import MAX_ROW
from gradience.tasks import classification
from gradience.tasks.examples import ROLES
from gradience.tasks.rows import local

load = classification.load


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
        ("a.csv", 'text,label\n"Good, and long",yes\n"She said ""no""",no\nTouché,yes\n'),
        ("a.csv", '\ufefftext,label\r\n"Good, and long",yes\r\n\r\n"She said ""no""",no\r\nTouché,yes'),
        ("a.CSV", 'label,text\nyes,"Good, and long"\nno,"She said ""no"""\nyes,Touché\n'),
        ("a.tsv", 'text\tlabel\nGood, and long\tyes\nShe said "no"\tno\nTouché\tyes\n'),
        (
            "a.jsonl",
            '{"text": "Good, and long", "label": "yes"}\r\n{"text": "She said \\"no\\"", "label": "no"}'
            '\n\n{"text": "Touch\\u00e9", "label": "yes"}',
        ),
    ],
    ids=["csv", "csv-bom-crlf-blank-line-no-end", "csv-other-order", "tsv", "jsonl"],
)
def test_formats(tmp_path, name, content):
    assert labels_of(load(file=written(tmp_path / name, content))) == EXPECTED


@given(
    st.lists(
        st.fixed_dictionaries({"text": st.text(min_size=1), "label": st.text(min_size=1)}),
        min_size=1,
    )
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
        ("a.jsonl", '{"txt": "Fine", "label": 1}\n', "line 1: no column `text`", "task-column"),
        ("a.jsonl", '{"text": 3, "label": 1}\n', "line 1: column `text` contains 3", "task-text"),
        ("a.jsonl", '{"text": null, "label": 1}\n', "line 1: column `text` is empty", "task-text"),
        ("a.jsonl", '{"text": "\\ud83d", "label": 1}\n', "half of a character", "task-row"),
        ("a.jsonl", '{"text": "Fine", "label": NaN}\n', "NaN is not a JSON number", "task-row"),
        ("a.jsonl", '{"text": "Fine", "label": 1, "label": 2}\n', "the key 'label' occurs twice", "task-row"),
        ("a.jsonl", f'{{"text": "Fine", "label": {"9" * 5000}}}\n', "a number of 5,000 characters", "task-row"),
        ("a.jsonl", f'{{"text": "{"x" * MAX_ROW}", "label": 1}}\n', "line 1: a row of more than", "task-row"),
        ("a.csv", 'text,label\nFine,a\n"' + "x\n" * MAX_ROW, "a row of more than 4,194,304", "task-row"),
        ("a.csv", bytes(MAX_ROW + 1), "line 1: a row of more than", "task-row"),
        ("a.jsonl", '{"text": "Fine", "label": null}\n', "column `label` is empty", "task-text"),
        ("a.jsonl", '{"text": "Fine", "label": 0.5}\n', "contains 0.5", "task-label"),
        ("a.jsonl", '{"text": "Fine", "label": [1]}\n', "contains \\[1\\]", "task-label"),
        ("a.csv", "text,label\nTouché,a\n".encode("latin-1"), "is not UTF-8", "task-file"),
        ("a.csv", "text,label\nFine,a\n".encode("utf-16"), "is not UTF-8", "task-file"),
        ("a.csv", "text,label\nFine,a\nGood,a\n", "its labels are a", "task-label"),
        ("a.csv", "text,label\n", "its labels are none", "task-label"),
        ("a.xml", "[]", "unknown file extension", "task-file"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path, name, content, message, code):
    path = written(tmp_path / name, content)
    with pytest.raises(InputError, match=message) as caught:
        load(file=path)
    assert str(path) in str(caught.value) or path.name in str(caught.value)
    assert caught.value.code == code
    assert caught.value.hint


def test_long_texts_and_long_numbers_are_read(tmp_path):
    long = "word " * 40_000
    path = written(tmp_path / "a.csv", f"text,label\n{long},{'9' * 5000}\nshort,1\n")
    task = load(file=path)
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


def test_the_nearest_column_is_offered(tmp_path):
    path = written(tmp_path / "a.csv", "texts,label\nFine,a\n")
    with pytest.raises(InputError) as caught:
        load(file=path)
    assert caught.value.hint == "did you mean `texts`? the columns are `texts`, `label`: rename one to `text`"


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
    task = load(file=write_jsonl(tmp_path / "a.jsonl", given_rows), label_names=names)
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
        load(file=write_jsonl(tmp_path / "a.jsonl", given_rows), label_names=names)


def test_f1_is_for_two_labels(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": f"Text {n}", "label": n} for n in range(3)])
    with pytest.raises(UsageError, match="there are 3") as caught:
        load(file=path, metric="f1")
    assert caught.value.code == "task-metric"


# --- roles and identities -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [[], ["train_file"], ["confirm_file", "dev_file"], ["train_file", "dev_file"], ["file", "train_file"]],
    ids="+".join,
)  # fmt: skip
def test_what_leaves_the_roles_open_is_refused(tmp_path, names):
    path = write_jsonl(tmp_path / "a.jsonl", rows(10))
    with pytest.raises(UsageError) as caught:
        load(**dict.fromkeys(names, path))
    assert caught.value.code == "task-files"


def test_pairs(tmp_path):
    given_rows = [
        {"text": "A dog sleeps.", "text_pair": "An animal sleeps.", "label": "yes"},
        {"text": "An animal sleeps.", "text_pair": "A dog sleeps.", "label": "no"},
        {"text": "A dog sleeps.", "text_pair": "An animal sleeps.", "label": "yes"},
    ]
    task = load(file=write_jsonl(tmp_path / "a.jsonl", given_rows))
    assert {(item.text, item.text_pair) for item in task.examples.all} == {
        ("A dog sleeps.", "An animal sleeps."),
        ("An animal sleeps.", "A dog sleeps."),
    }
    assert task.examples.counts["duplicates"] == 1


def test_a_pair_in_some_rows_only_is_refused(tmp_path):
    given_rows = [{"text": "a", "text_pair": "b", "label": 1}, {"text": "a", "label": 0}]
    with pytest.raises(InputError, match="line 2: column `text_pair` has a text in some rows only"):
        load(file=write_jsonl(tmp_path / "a.jsonl", given_rows))


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
    files = {
        f"{role}_file": Path(f"hf://films/plain:{split}")
        for role, split in {"train": "train", "confirm": "test"}.items()
    }
    task = load(**files, label_names=["bad", "good"])
    assert labels_of(task)["A film about number 0."] == "bad"
    assert {role: len(task.examples.of(role)) for role in ROLES} == {"train": 80, "dev": 20, "confirm": 20}
