"""`--dry-run`: what does not exist is refused, what cannot be reached is not checked, nothing is fetched or run."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from data_files import small_gsm8k
from tiny_bench import gsm8k_values

from gradience.cli.app import run
from gradience.reports.forecast import BenchForecast


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return small_gsm8k(tmp_path_factory.mktemp("data"))


@pytest.fixture
def dry_run(base, tmp_path, capsys, monkeypatch):
    """`--dry-run` of a config with these sections: exit code, stdout, stderr."""
    monkeypatch.setattr("gradience.bench.plan.forecast.process_bytes", lambda device: 500_000_000)
    monkeypatch.setattr("gradience.bench.plan.forecast.disk_usage", lambda path: SimpleNamespace(free=10**9))

    def call(*arguments, **changes):
        path = tmp_path / "config.yaml"
        path.write_text(json.dumps(gsm8k_values(base, **changes)), encoding="utf-8")
        code = run(["bench", "run", "--config", str(path), "--dry-run", *arguments])
        return int(code), *capsys.readouterr()

    return call


def task(**options):
    gate = {"min_value": 0, "above_base": None}
    return {"profile": "gsm8k", "options": {"max_new_tokens": 8, **options}, "probe_gate": gate}


def test_the_first_example_is_shown_as_the_model_sees_it(dry_run, data, tmp_path):
    page = tmp_path / "plan.html"
    code, out, err = dry_run("--html", str(page), task=task(**data))
    assert page.read_bytes().startswith(b"<!doctype html>")
    assert code == 0, err
    assert "First training example" in out
    assert "a film" in out
    assert "very good [UNK]" in out  # the tokenizer has no word `####`: only the model's view shows that
    assert "[END]" in out
    assert "40 train, 0 dev, 10 confirm" in out
    parsed = BenchForecast.model_validate_json(dry_run("--json", task=task(**data))[1])
    assert parsed.to_text() == out
    assert parsed.cost.tokens_per_training < 6 * 3 * 2 * 512 / 10  # real lengths
    assert parsed.example.tokens is not None


def test_requirements_of_the_flagship_name_files_memory_disk_packages_and_settings(capsys):
    """The largest adapter of Mistral-7B at r = 64, counted by hand: layers times the sides of its seven projections."""
    assert run(["bench", "run", "-c", "mistral_gsm8k_certifiable_seed42", "--dry-run", "--json"]) == 0
    forecast = BenchForecast.model_validate_json(capsys.readouterr().out)
    needed = {requirement.what: requirement.needed for requirement in forecast.requirements}
    assert (
        "mistralai/Mistral-7B-v0.1 from the hub: config, tokenizer, weights (14.5 GB)" in needed["base files"]
    )
    params = 32 * 64 * (2 * (4096 + 4096) + 2 * (4096 + 1024) + 3 * (4096 + 14336))
    assert params == forecast.cost.probe_params
    disk = params * (4 * 11 + 12 * 3)  # 11 adapters, and three checkpoints with two moments
    assert f"at most {disk / 1e9:.1f} GB in the output folder: 11 adapters" in needed["disk"]
    assert "[hf]" in needed["packages"]
    assert (
        "r = 64, 1,200 steps of 4 × 4 sequences, lr 0.0001, max_length 512, dtype bfloat16"
        in needed["settings"]
    )
    here = {requirement.what: requirement.here for requirement in forecast.requirements}
    assert here["base files"] == "not in the hub's cache"
    assert "torch " in here["packages"]


def test_what_is_too_long_is_counted(dry_run, tmp_path):
    options = small_gsm8k(tmp_path)
    rows = Path(options["train_file"]).read_text(encoding="utf-8").splitlines()
    longer = json.loads(rows[0])
    longer["question"] += " a film" * 5
    Path(options["train_file"]).write_text(
        "\n".join([*rows, rows[0], json.dumps(longer)]) + "\n", encoding="utf-8"
    )
    train = {"max_steps": 2, "lr": 1e-3, "max_length": 12}
    code, out, err = dry_run(task=task(**options), train=train)
    assert code == 0, err
    shown = " ".join(out.split())
    assert (
        "1 repeated row left out; 1 of 41 training examples exceed `train.max_length: 12` and are left out"
        in shown
    )
    code, _, err = dry_run(task=task(**options, max_new_tokens=64))
    assert code == 2
    assert "64 new tokens leave no room for a prompt: the base is limited to 64" in err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task": {"profile": "gsm9k"}}, "no task is called `gsm9k`"),
        ({"task": {"profile": "tasks/mine.py"}}, "tasks/mine.py: cannot read this task"),
        ({"task": task(train_file="no.jsonl", test_file="no.jsonl")}, "no.jsonl: no such file"),
        ({"task": task(annotation="keep")}, "has no option `annotation`"),
        ({"model": {"name": "./no/base", "type": "causal_lm"}}, "no/base: there is no such folder"),
        ({"model": {"name": "/no/base", "type": "causal_lm"}}, "/no/base: there is no such folder"),
        ({"lora": {"probe_r": 4, "alpha": 8, "target_modules": ["qq"]}}, "PEFT refuses it on this llama"),
        ({"model": {"name": "embedded:none", "type": "causal_lm"}}, "no such base model: embedded:none"),
    ],
    ids=["task", "task file", "data file", "option", "relative", "absolute", "modules", "embedded"],
)
def test_what_does_not_exist_is_refused(dry_run, changes, said):
    code, out, err = dry_run(**changes)
    assert code == 3
    assert said in err
    assert out == ""


def test_a_hub_that_cannot_be_reached_is_not_checked(dry_run, monkeypatch):
    from huggingface_hub.errors import LocalEntryNotFoundError

    def unreachable(*args, **kwargs):
        raise LocalEntryNotFoundError("no network")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", unreachable)
    for name in ("somebody/model", "distilbert-base-uncased"):
        lora = {"probe_r": 4, "alpha": 8, "target_modules": ["q_lin"]}
        code, out, err = dry_run(model={"name": name, "type": "seqcls"}, lora=lora)
        out = " ".join(out.split())
        assert code == 0, err
        assert f"{name}: not checked: the hub cannot be reached" in out
        assert "gsm8k: not checked: not here yet: openai/gsm8k" in out
        assert ("memory" in out and "about" in out) == name.startswith("distilbert")  # whose shape is known


@pytest.mark.parametrize("allowed", [False, True])
def test_code_of_one_s_own_is_named_and_not_run(dry_run, tmp_path, monkeypatch, allowed):
    monkeypatch.setenv("GRADIENCE_ALLOW_CODE", "1" if allowed else "")
    mine = tmp_path / "mine.py"
    mine.write_text("from pathlib import Path\nPath(__file__).with_name('ran').touch()\n", encoding="utf-8")
    code, out, err = dry_run(task={"profile": str(mine)})
    out = " ".join(out.split())  # it may be wrapped anywhere
    assert code == 0, err
    assert "the run executes it" in out
    assert ("needs --allow-code" in out) == (not allowed)
    assert not (tmp_path / "ran").exists()
