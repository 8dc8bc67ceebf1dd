"""`gradience init`: what it writes runs, once what it leaves open is filled in."""

import shutil
from pathlib import Path

import adapters_to_compare
import pytest
import tiny_bench
import yaml

from gradience.bench.config import BenchConfig
from gradience.cli.app import run
from gradience.settings import known_keys

ROWS = Path(__file__).parents[2] / "examples" / "rows"
TEMPLATE = "{% for m in messages %}{{ m['content'] }} [END] {% endfor %}"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Two bases, an adapter of each with another, and rows of every kind."""
    root = tmp_path_factory.mktemp("project")
    for name, make, task in (("bert", tiny_bench.bert, "SEQ_CLS"), ("llama", tiny_bench.llama, "CAUSAL_LM")):
        make(root / name)
        for seed, which in enumerate(("adapter", "smaller")):
            adapters_to_compare.adapter(root / f"{name}_{which}", root / name, seed, task=task, labels=3)
    reader = tiny_bench.tokenizer()
    reader.chat_template = TEMPLATE
    reader.save_pretrained(root / "llama")
    shutil.copytree(ROWS, root / "rows")
    return root


@pytest.fixture
def here(project, monkeypatch):
    monkeypatch.chdir(project)
    return project


LABELS, CHAT = ("rows/labels.csv", "bert"), ("rows/messages.jsonl", "llama")
"""Prompts are what the placeholders stand for."""


@pytest.mark.parametrize(("rows", "base"), [LABELS, CHAT])
def test_a_config_of_bench_is_filled_in_and_runs(rows, base, here, capsys):
    file = Path("configs") / f"{Path(rows).stem}.yaml"
    file.parent.mkdir(exist_ok=True)
    assert run(["init", "-b", base, "--data", rows, "-o", str(file), "--force"]) == 0
    following = f"; next: gradience bench run --config {file} --dry-run"
    assert following in capsys.readouterr().err
    values = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert (values["model"]["name"], values["task"]["options"]["file"]) == (f"../{base}", f"../{rows}")
    assert run(["bench", "run", "--config", str(file), "--dry-run"]) == 0, capsys.readouterr().err
    assert "Smallest margin" in capsys.readouterr().out


def test_the_placeholders_are_refused_by_name_and_may_be_edited(here, tmp_path, capsys, command):
    file = tmp_path / "bench.yaml"
    assert run(["init", "-o", str(file)]) == 0
    assert "path/to/base: no such folder" in command("bench", "run", "-c", file, "--dry-run", code=3).err
    text = file.read_text(encoding="utf-8").replace("path/to/base", str(here / "llama"))
    text = text.replace("rows.jsonl", str(here / "rows" / "prompts.jsonl"))
    file.write_text(text, encoding="utf-8")
    assert run(["bench", "run", "-c", str(file), "--dry-run"]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("task", ["arithmetic", "glue", "gsm8k", "reviews", "my/task.py"])
def test_a_named_task_gets_the_options_that_it_needs(task, here, tmp_path):
    (here / "my").mkdir(exist_ok=True)
    (here / "my" / "task.py").touch()
    file = tmp_path / "bench.yaml"
    assert run(["init", "--task", task, "-o", str(file)]) == 0
    text = file.read_text(encoding="utf-8")
    values = yaml.safe_load(text)
    assert set(values) <= set(known_keys(BenchConfig))
    named = values["task"]["profile"]
    assert (file.parent / named).resolve() == here / task if task.endswith(".py") else named == task
    assert ("--allow-code" in text) == task.endswith(".py")
    assert all(len(line) <= 120 or "task.py" in line for line in text.splitlines())


def test_a_file_that_is_there_stays_without_force(here, tmp_path, command):
    file = tmp_path / "mine.yaml"
    file.write_text("mine")
    assert "replace it with --force" in command("init", "-o", file, code=2).err
    assert file.read_text() == "mine"
    assert run(["init", "-o", str(file), "--data", "no.jsonl", "--force"]) == 3
    assert file.read_text() == "mine"
