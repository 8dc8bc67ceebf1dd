"""`gradience check` as a user runs it."""

import json
import re
from pathlib import Path

import pytest

from gradience.check import TASKS, check_config, task_of
from gradience.cli.app import run
from gradience.cli.demo import example_adapter
from gradience.cli.original_options import INSTEAD

CONFIGS = Path(__file__).parent / "configs"


def test_the_screen(command):
    out = command("check", CONFIGS / "trl.yaml").out
    assert "trl settings" in out
    assert "only attention is adapted" in out
    assert "advised: all-linear" in out
    assert max(map(len, out.splitlines())) <= 100


def test_an_error_finding_is_exit_code_1_and_json_says_the_same(tmp_path, command):
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({"peft_type": "LORA", "r": 0, "lora_alpha": 8}))
    report = json.loads(command("check", path, "--json", code=1).out)
    assert report["schema"] == "gradience.check/2"
    assert [f["code"] for f in report["findings"] if f["severity"] == "error"] == ["impossible-number"]


CANNOT = {
    "nothing": ([], 2),
    "missing": (["nowhere.json"], 3),
    "no config in folder": (["--peft-dir", "."], 3),
    "unknown task": (["--task", "cooking", "x"], 2),
    "no such path": (["nowhere"], 3),
    "empty folder": (["."], 3),
    "a task alone": (["--task", "gsm8k"], 2),
}


@pytest.mark.parametrize(("arguments", "code"), CANNOT.values(), ids=CANNOT)
def test_exit_codes_of_what_cannot_be_checked(arguments, code, command, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    captured = command("check", *arguments, code=code)
    assert captured.out == ""
    assert "error:" in captured.err


# ------------------------------------------------------------ what a path may be

ADAPTER = {"peft_type": "LORA", "r": 16, "lora_alpha": 16, "target_modules": ["q_proj", "up_proj"]}
TRAINED = {"learning_rate": 2e-4, "eval_strategy": "steps", "bf16": True}


@pytest.fixture
def folder(tmp_path):
    """An adapter beside what trained it, as a Trainer's checkpoint has them, and another program's config.yaml."""
    (tmp_path / "adapter_config.json").write_text(json.dumps(ADAPTER))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    (tmp_path / "training_args.json").write_text(json.dumps(TRAINED))
    (tmp_path / "config.yaml").write_text("color: blue\n")
    return tmp_path


def read(report):
    return [Path(file.path).name for file in report.files]


@pytest.mark.parametrize("inside", ["", "adapter_config.json"])
def test_a_folder_is_read_with_the_training_beside_the_adapter(folder, inside):
    report = check_config(folder / inside)
    assert read(report)[0] == "adapter_config.json"
    assert read(report)[1:] == ([] if inside else ["training_args.json"])
    assert report.settings.learning_rate == (None if inside else 2e-4)


def test_a_training_folder_and_a_file_of_any_name(folder):
    (folder / "adapter_config.json").unlink()
    (folder / "adapter_model.safetensors").unlink()
    assert read(check_config(folder)) == ["training_args.json"]
    assert read(check_config(CONFIGS / "trl.yaml")) == ["trl.yaml"]


# ------------------------------------------------------------ what the original's users type


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("sst2", "classification"),
        ("glue/sst2", "classification"),
        ("SEQ_CLS", "classification"),
        ("openai/gsm8k", "reasoning"),
        ("text-generation", "generation"),
        ("CAUSAL_LM", "generation"),
        ("grpo", "rl"),
        *((task, task) for task in TASKS),
    ],
)
def test_the_originals_tasks_are_understood(name, task):
    assert task_of(name) == task


@pytest.mark.parametrize("option", ["--task", "--dataset"])
def test_the_task_has_the_originals_option_too(option, command):
    report = json.loads(command("check", example_adapter(), option, "sst2", "--json").out)
    assert report["task"] == "classification"


def test_settings_that_are_typed_count_before_the_file(command):
    arguments = ["check", str(CONFIGS / "trl.yaml"), "--lr", "1e-6", "--r", "64", "--alpha", "128", "--json"]
    report = json.loads(command(*arguments).out)
    assert (report["settings"]["r"], report["settings"]["scale"]) == (64, 2.0)
    finding = next(f for f in report["findings"] if f["code"] == "learning-rate")
    assert (finding["seen"], finding["where"]) == ("1e-06", "as given")


def test_settings_alone_are_judged_for_what_they_say(command):
    report = json.loads(command("check", "--r", "8", "--alpha", "256", "--lr", "2e-3", "--json").out)
    assert report["files"] == []
    assert [f["code"] for f in report["findings"]] == ["learning-rate", "scale"]
    assert run(["check", "--r", "0", "--json"]) == 1


@pytest.mark.parametrize(("verb", "option"), INSTEAD, ids=" ".join)
def test_an_option_of_the_original_is_answered_with_what_to_type(verb, option, command):
    group = ["bench"] if verb in ("run", "aggregate") else []
    said = command(*group, verb, "x", option, "y", code=2).err
    assert f"No such option: {option}" in said
    assert f"hint: {INSTEAD[verb, option]}" in said


def test_what_is_told_to_be_typed_exists(capsys):
    for instead in INSTEAD.values():
        for verb in re.findall(r"gradience (bench \w+|\w+)", instead):
            assert run([*verb.split(), "--help"]) == 0
    capsys.readouterr()
