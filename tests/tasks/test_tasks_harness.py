"""Definitions of lm-eval's tasks, read without it: what they say together, and that no code in them is run unasked."""

from __future__ import annotations

import importlib.machinery
import re
import textwrap

import pytest

from gradience import tasks
from gradience.cli.app import run
from gradience.errors import InputError, MissingExtra
from gradience.tasks.harness import definition, definition_of
from gradience.tasks.user_code import allowing

PLAIN = """
    task: sums
    dataset_path: json
    dataset_kwargs: {data_files: {test: rows.jsonl}}
    test_split: test
    output_type: generate_until
    doc_to_text: "{{question}} !function is a word here"
    doc_to_target: "{{answer}}"
    """
TRACE = "from pathlib import Path\nPath(__file__).with_name('ran').touch()\n\ndef text(doc):\n    return ''\n"


@pytest.fixture
def write(tmp_path):
    def file(text: str, name: str = "task.yaml") -> str:
        (tmp_path / name).write_text(textwrap.dedent(text).lstrip("\n"), encoding="utf-8")
        return f"lm_eval:{tmp_path / name}"

    return file


def test_a_file_stands_over_what_it_includes_in_the_order_of_lm_eval(write, tmp_path):
    write("{num_fewshot: 1, doc_to_text: first, task_list: [a]}", "first.yaml")
    write("{include: third.yaml, num_fewshot: 2, description: second}", "second.yaml")
    write("{num_fewshot: 3, gen_prefix: third}", "third.yaml")
    profile = write("{include: [first.yaml, second.yaml], task: mine, description: mine}")
    read = definition_of(profile)
    assert read.values == {
        "num_fewshot": 2,
        "doc_to_text": "first",
        "gen_prefix": "third",
        "description": "mine",
        "task": "mine",
    }
    assert [name for name, _ in read.files] == ["task.yaml", "first.yaml", "second.yaml", "third.yaml"]
    before = read.sha256
    write("{num_fewshot: 3, gen_prefix: other}", "third.yaml")
    assert definition_of(profile).sha256 != before
    assert definition_of("lm_eval:task.yaml", tmp_path).values["task"] == "mine"


def test_a_definition_without_code_needs_no_permission(write):
    profile = write(PLAIN)
    assert tasks.code_of(profile) is None
    assert definition_of(profile).values["doc_to_text"] == "{{question}} !function is a word here"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("process_docs: !function trace.text", "!function trace.text"),
        ("metric_list: [{metric: !function trace.text}]", "!function trace.text"),
        ("fewshot_config: {sampler: !function 'trace.text'}", "!function trace.text"),
        ("include: other.yaml", "!function trace.text"),
        ("class: trace.Task", "class"),
        ("unsafe_code: true", "unsafe_code"),
        ("use_prompt: 'promptsource:*'", "use_prompt"),
        ("dataset_path: ./trace.py", "dataset_path trace.py"),
        ("dataset_path: pandas", "dataset_path pandas: pickles"),
        ("metric_list: [{metric: ./trace, hf_evaluate: true}]", "hf_evaluate ./trace"),
    ],
)
def test_code_is_located_hashed_and_not_run(write, tmp_path, line, reason):
    write(TRACE, "trace.py")
    write("doc_to_text: !function trace.text\n", "other.yaml")
    text = textwrap.dedent(PLAIN).replace("dataset_path: json\n", "") if "dataset_path" in line else PLAIN
    profile = write(textwrap.dedent(text) + line + "\n")
    code = tasks.code_of(profile)
    assert code.name == f"task.yaml ({reason})"
    with pytest.raises(InputError, match="runs its own code") as refused:
        tasks.find(profile)
    assert refused.value.code == "code-refused"
    assert "--allow-code" in refused.value.hint
    if "!function" in reason:
        write(TRACE + "# another\n", "trace.py")
        assert tasks.code_of(profile).sha256 != code.sha256
    with allowing():
        assert callable(tasks.find(profile))
    assert not (tmp_path / "ran").exists()


def test_the_command_line_refuses_code_before_it_looks_at_data(write, tmp_path, capsys):
    import adapters_to_compare as data

    data.writers(tmp_path)
    profile = write(textwrap.dedent(PLAIN) + "process_docs: !function trace.text\n")
    arguments = ["evaluate", str(tmp_path / "reference"), "-b", str(tmp_path / "base"), "--task", profile]
    assert run([*arguments, "-o", str(tmp_path / "out")]) == 3
    assert "runs its own code" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("task: !!python/object:os.system x\n", "bad-yaml", "the tag"),
        ("%TAG !e! !func\n---\ntask: !e!tion trace.text\n", "bad-yaml", "the tag '!function' is not read"),
        ("task: !<!function> trace.text\n", "bad-yaml", "cannot be read as YAML"),
        ("- a list\n", "task-file", "not a mapping"),
        ("{task: mine, include: task.yaml}", "task-file", "includes itself"),
        ("{task: mine, include: nowhere.yaml}", "not-found", "nowhere.yaml"),
        ("{group: mine, task: [a, b]}", "task-group", "a group of tasks"),
        ("task: [a, b]\n", "task-group", "a group of tasks"),
        ("group: mine\ntask: [a, {task: b, process_docs: !function trace.text}]\n", "task-group", "a group"),
    ],
)
def test_what_is_no_task_is_said_with_its_file(write, text, code, words):
    profile = write(text)
    with allowing(), pytest.raises(InputError, match=words) as refused:
        tasks.find(profile)
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("dataset_kwargs: {cache_dir: out}", "`dataset_kwargs` has 'cache_dir'"),
        ("dataset_kwargs: {data_files: a.csv, storage_options: {}}", "has 'storage_options'"),
        ("dataset_kwargs: {con: 'sqlite:///x.db', sql: x}", "has 'con'"),
        ("dataset_kwargs: cache_dir", "has 'cache_dir'"),
        (
            "dataset_kwargs: {data_files: 'http://127.0.0.1:9/a.csv'}",
            "its data are at 'http://127.0.0.1:9/a.csv'",
        ),
        (
            "dataset_kwargs: {data_files: {test: [b.csv, 'zip://x::http://127.0.0.1:9/a.zip']}}",
            "at 'zip://x::http",
        ),
        ("dataset_kwargs: {data_dir: 's3://bucket'}", "at 's3://bucket'"),
        ("dataset_path: 'https://127.0.0.1:9/a'", "at 'https://127.0.0.1:9/a'"),
        ("dataset_path: DATA", "at 'http://127.0.0.1:9/a.csv'"),
    ],
)
def test_data_are_read_here_and_written_nowhere(write, tmp_path, line, words):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files: http://127.0.0.1:9/a.csv\n---\nA card.\n"
    )
    text = textwrap.dedent(PLAIN)
    kept = [each for each in text.splitlines() if not each.startswith(line.partition(":")[0])]
    profile = write("\n".join([*kept, line.replace("DATA", str(tmp_path / "data"))]))
    with pytest.raises(InputError, match=re.escape(words)) as refused:
        tasks.find(profile)
    assert (refused.value.code, refused.value.exit_code) == ("task-data", 3)
    assert refused.value.hint


def test_a_name_is_looked_up_in_the_installed_lm_eval(tmp_path, monkeypatch):
    folder = tmp_path / "lm_eval" / "tasks"
    (folder / "sums").mkdir(parents=True)
    (folder / "sums" / "sums.yaml").write_text('"task": "sums"\nnum_fewshot: 1\n')
    (folder / "sums" / "more.yaml").write_text("group: more # all\ntask: [sums]\n")
    (folder / "zzz.yaml").write_text("task: 'sums'\nnum_fewshot: 2\n")
    spec = importlib.machinery.ModuleSpec("lm_eval", None, is_package=True)
    spec.submodule_search_locations = [str(folder.parent)]
    monkeypatch.setattr(definition, "find_spec", lambda _: spec)
    assert definition_of("lm_eval:sums").values == {"task": "sums", "num_fewshot": 1}
    for name, code in (("more", "task-group"), ("sumz", "task-unknown")):
        with pytest.raises(InputError) as refused:
            definition_of(f"lm_eval:{name}")
        assert refused.value.code == code
    assert "did you mean `sums`?" in refused.value.hint
    monkeypatch.setattr(definition, "find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match="lm_eval is not installed") as missing:
        definition_of("lm_eval:sums")
    assert '".[lm-eval]"' in missing.value.hint
