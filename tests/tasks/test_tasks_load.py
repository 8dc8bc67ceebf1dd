"""Tasks by name: the right one, with options that are checked before anything is read."""

import subprocess
import sys
from inspect import signature
from pathlib import Path

import pytest
from raising import raises

from gradience import tasks
from gradience.cli.app import run
from gradience.errors import InputError
from gradience.tasks import examples as identities
from gradience.tasks import reviews
from gradience.tasks.base import GenerationTask
from gradience.tasks.examples import PER_10_000, ROLES, LabeledExample, content_id, role_of
from gradience.tasks.user_code import allowing, is_allowed

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("profile", tasks.PROFILES)
def test_every_profile_is_a_documented_function(profile):
    function = tasks.find(profile)
    assert function.__module__ == f"gradience.tasks.{profile}"
    assert function.__doc__
    text = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
    section = text.partition(f"\n### `{profile}`\n")[2].partition("\n### ")[0]
    assert section
    shared = text.partition("All tasks that read your files take these options")[2].partition("\n#")[0]
    assert [name for name in signature(function).parameters if f"`{name}`" not in section + shared] == []


def test_every_file_with_a_load_is_a_profile():
    folder = Path(tasks.__file__).parent
    loads = {p.stem for p in folder.glob("[a-z]*.py") if "\ndef load(" in p.read_text(encoding="utf-8")}
    assert loads == {*tasks.PROFILES}


@pytest.mark.parametrize(
    ("profile", "options", "message", "hint"),
    [
        ("gsm9k", {}, "no task is called `gsm9k`", "did you mean `gsm8k`?"),
        ("zzz", {}, "no task is called `zzz`", "the tasks are arithmetic, chat, classification"),
        ("gsm8k", {"subse": "main"}, "no option `subse`", "did you mean `subset`?"),
        ("gsm8k", {"dev": "many"}, "`dev`: input should be a valid integer", ""),
        ("gsm8k", {"dev": -1}, "`dev`: input should be greater than or equal to 0", ""),
        ("gsm8k", {"dataset": 8}, "`dataset`: input should be a valid string", ""),
        ("glue", {}, "`subset`: missing required keyword", ""),
        ("classification", {"label_names": ["one"]},
         "`label_names`: list should have at least 2 items", ""),
    ],
)  # fmt: skip
def test_a_wrong_name_or_option_is_refused(profile, options, message, hint):
    with pytest.raises(InputError) as caught:
        tasks.load(profile, options)
    assert message in str(caught.value)
    assert hint in caught.value.hint
    assert caught.value.code in {"task-unknown", "task-option"}


# ---------------------------------------------------------------- A task file of the user, run only if that is allowed


EXAMPLE = ROOT / "examples" / "custom_task.py"

LEAVES_A_TRACE = """
from pathlib import Path
Path(__file__).with_name("ran").touch()
def load():
    return 1
"""


@pytest.fixture
def allowed(monkeypatch):
    monkeypatch.setenv("GRADIENCE_ALLOW_CODE", "1")


@pytest.fixture
def trace(tmp_path):
    """A task file that says when it was run."""
    path = tmp_path / "trace.py"
    path.write_text(LEAVES_A_TRACE, encoding="utf-8")
    return path


# ------------------------------------------------------------------ allowed


@pytest.mark.usefixtures("allowed")
def test_the_example_of_the_documentation():
    task = tasks.load(str(EXAMPLE), {"size": 400})
    assert isinstance(task, GenerationTask)
    assert sum(len(task.examples.of(role)) for role in ROLES) == 400
    for item in task.examples.all:
        assert all(task.same(extract(item.response), item.answer) for extract in task.filters.values())
    with pytest.raises(InputError, match="`size`: input should be a valid integer"):
        tasks.load(str(EXAMPLE), {"size": "large"})


@pytest.mark.usefixtures("allowed")
@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("    return {'train': []}", "task-contract"),
        (
            "    return GenerationTask(name='none', examples=prepare([]), filters={},"
            " same=str.__eq__, max_new_tokens=1)",
            "task-empty",
        ),
        ("    raise AssertionError\nload = 'no function'", "task-contract"),
    ],
    ids=["no task", "an empty task", "no function"],
)
def test_what_a_file_must_hold(tmp_path, body, code):
    lines = [
        "from gradience.tasks.base import GenerationTask",
        "from gradience.tasks.examples import prepare",
        "def load():",
        body,
    ]
    path = tmp_path / "mine.py"
    path.write_text("\n".join(lines), encoding="utf-8")
    with raises(InputError, code):
        tasks.load(str(path), {})


# ------------------------------------------------------------------ not allowed


@pytest.mark.parametrize("value", ["", "0", "true"])
def test_a_file_is_not_run_unless_it_is_allowed(trace, monkeypatch, value):
    monkeypatch.setenv("GRADIENCE_ALLOW_CODE", value)
    with raises(InputError, "code-refused", "which is not allowed yet") as caught:
        tasks.load(str(trace), {})
    assert "--allow-code" in caught.value.hint
    assert not trace.with_name("ran").exists()


@pytest.mark.usefixtures("allowed")
def test_a_file_that_is_not_there():
    with raises(InputError, "task-file", "no such file"):
        tasks.load("no/such/file.py", {})


def test_what_is_allowed_for_a_while_is_not_allowed_behind_it(monkeypatch):
    monkeypatch.delenv("GRADIENCE_ALLOW_CODE", raising=False)
    with allowing():
        assert is_allowed()
        seen = subprocess.run(
            [sys.executable, "-c", "from gradience.tasks.user_code import is_allowed; print(is_allowed())"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert seen.stdout == "True\n"  # a worker inherits it
    assert not is_allowed()
    with allowing(False):
        assert not is_allowed()


# ------------------------------------------------------------------ the command line


def test_a_file_cannot_allow_itself(trace, tmp_path, capsys):
    config = tmp_path / "config.yaml"
    for place in ('"allow_code": true', '"runtime": {"allow_code": true}'):
        config.write_text(f'{{"task": {{"profile": "{trace}"}}, {place}}}')
        assert run(["bench", "run", "--config", str(config), "--output", str(tmp_path / "out")]) == 3
        assert "allow_code" in capsys.readouterr().err
    assert not trace.with_name("ran").exists()


# ---------------------------------------------------------------- Roles and identities of examples


def prepare(rows: list[tuple[str, int]]) -> identities.Examples[LabeledExample]:
    """Examples from rows of (text, label), with the roles that their identities give them."""
    return identities.prepare(
        LabeledExample(content_id(text), text, label, role_of(content_id(text))) for text, label in rows
    )


def rows(count: int) -> list[tuple[str, int]]:
    return [(f"A film about number {number}.", number % 2) for number in range(count)]


def test_the_split_is_what_it_was_when_the_adapters_were_trained() -> None:
    # Change this and every published score is about other sentences.
    expected = {
        "Touché!": ("7d54967d1806e859", "train"),
        "A film about number 4.": ("0ec3074ce717d49a", "dev"),
        "A film about number 2.": ("571b143c379652b0", "confirm"),
    }
    assert {text: (content_id(text), role_of(content_id(text))) for text in expected} == expected


def test_roles_are_disjoint_complete_and_of_the_stated_size() -> None:
    examples = prepare(rows(20_000))
    by_role = {role: {example.id for example in examples.of(role)} for role in ROLES}
    assert sum(len(ids) for ids in by_role.values()) == len(set().union(*by_role.values())) == 20_000
    for role, ids in by_role.items():
        assert abs(len(ids) - 2 * PER_10_000[role]) < 300  # more than four standard deviations
    assert sum(PER_10_000.values()) == 10_000


@pytest.mark.parametrize(
    "other", ["a  FILM about number 3", "“A film, about number 3!”", "Á film about númber 3"]
)
def test_spellings_of_one_text_are_one_example(other: str) -> None:
    examples = prepare([("A film about number 3.", 1), (other, 1), ("Another film.", 0)])
    assert [example.text for example in examples.all if example.label] == ["A film about number 3."]
    assert examples.counts == {"rows": 3, "duplicates": 1, "conflicts": 0}


def test_a_text_with_two_labels_is_left_out_and_counted() -> None:
    examples = prepare([("Fine.", 1), ("fine", 0), ("FINE!", 1), ("Good.", 1)])
    assert [example.text for example in examples.all] == ["Good."]
    assert examples.counts == {"rows": 4, "duplicates": 0, "conflicts": 3}


@pytest.mark.parametrize("pair", [("कि", "का"), ("กิ", "กา")], ids=["Devanagari", "Thai"])
def test_vowel_signs_are_no_accents(pair: tuple[str, str]) -> None:
    assert content_id(pair[0]) != content_id(pair[1])


def test_the_fingerprint_sees_text_label_and_role() -> None:
    fingerprint = prepare(rows(50)).fingerprint("train")
    assert prepare(rows(50)).fingerprint("train") == fingerprint
    assert prepare(rows(50)).fingerprint("dev") != fingerprint
    assert prepare([(text, 1 - label) for text, label in rows(50)]).fingerprint("train") != fingerprint
    assert prepare([(text.upper(), label) for text, label in rows(50)]).fingerprint("train") != fingerprint


def test_reviews_are_read_with_their_labels_and_the_neutral_ones_counted(tmp_path: Path) -> None:
    path = tmp_path / "reviews.txt"
    texts = ("2.5\tA joy from start to end.", "-0.51\tDull.", "0.5\tA film.", "-1\tdull", "3\tTouché!")
    path.write_bytes("".join(f"{place}\t{text}\r\n" for place, text in enumerate(texts, 1)).encode())
    task = reviews.load(path)
    examples = task.examples
    expected = {"A joy from start to end.": 1, "Dull.": 0, "Touché!": 1}
    assert {example.text: example.label for example in examples.all} == expected
    assert examples.counts == {"rows": 5, "duplicates": 1, "conflicts": 0, "neutral": 1}
    assert task.label_names[1] == "positive"
