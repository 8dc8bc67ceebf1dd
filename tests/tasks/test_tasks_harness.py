"""Definitions of lm-eval's tasks, located without it: those of the user are code, and not run unasked."""

import importlib.machinery

import pytest
from raising import raises

from gradience import tasks
from gradience.cli.app import run
from gradience.errors import InputError, MissingExtra
from gradience.tasks import harness
from gradience.tasks.harness import definition_of
from gradience.tasks.user_code import allowing

TRACE = "from pathlib import Path\nPath(__file__).with_name('ran').touch()\n\ndef text(doc):\n    return ''\n"


@pytest.fixture
def custom(tmp_path):
    (tmp_path / "task.yaml").write_text("task: sums\nprocess_docs: !function trace.text\n")
    (tmp_path / "trace.py").write_text(TRACE)
    return tmp_path / "task.yaml"


def test_a_yaml_of_ones_own_is_located_hashed_and_not_run(custom):
    profile = f"lm_eval:{custom}"
    code = tasks.code_of(profile)
    assert code.name == "task.yaml"
    with raises(InputError, "code-refused", "runs its own code") as refused:
        tasks.find(profile)
    assert "--allow-code" in refused.value.hint
    with allowing():
        assert callable(tasks.find(profile))
    assert not custom.with_name("ran").exists()
    assert tasks.code_of("lm_eval:task.yaml", custom.parent).sha256 == code.sha256


@pytest.mark.parametrize("name", ["task.yaml", "trace.py", "other.yml"])
def test_its_digest_covers_the_definitions_and_modules_beside_it(custom, name):
    before = definition_of(f"lm_eval:{custom}").sha256
    custom.with_name("rows.jsonl").write_text("{}")
    assert definition_of(f"lm_eval:{custom}").sha256 == before
    with custom.with_name(name).open("a") as file:
        file.write("# another\n")
    assert definition_of(f"lm_eval:{custom}").sha256 != before


def test_the_command_line_refuses_code_before_it_looks_at_data(custom, tmp_path, capsys):
    import adapters_to_compare as data

    data.writers(tmp_path)
    arguments = ["evaluate", str(tmp_path / "reference"), "-b", str(tmp_path / "base")]
    assert run([*arguments, "--task", f"lm_eval:{custom}", "-o", str(tmp_path / "out")]) == 3
    assert "runs its own code" in capsys.readouterr().err
    with raises(InputError, "task-file", "no such file"):
        tasks.find("lm_eval:nowhere.yaml")


def test_a_name_is_looked_up_in_the_installed_lm_eval(tmp_path, monkeypatch):
    folder = tmp_path / "lm_eval" / "tasks"
    (folder / "sums").mkdir(parents=True)
    (folder / "sums" / "sums.yaml").write_text('"task": "sums"\nnum_fewshot: 1\n')
    (folder / "sums" / "more.yaml").write_text("group: more # all\ntask: [sums]\n")
    (folder / "zzz.yaml").write_text("task: 'sums'\nnum_fewshot: 2\n")
    spec = importlib.machinery.ModuleSpec("lm_eval", None, is_package=True)
    spec.submodule_search_locations = [str(folder.parent)]
    monkeypatch.setattr(harness, "find_spec", lambda _: spec)
    located = definition_of("lm_eval:sums")
    assert (located.path, located.code) == (folder / "sums" / "sums.yaml", None)
    for name, code in (("more", "task-group"), ("sumz", "task-unknown")):
        with raises(InputError, code) as refused:
            definition_of(f"lm_eval:{name}")
    assert "did you mean `sums`?" in refused.value.hint
    monkeypatch.setattr(harness, "find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match="lm_eval is not installed") as missing:
        definition_of("lm_eval:sums")
    assert '".[lm-eval]"' in missing.value.hint
