"""Artifacts are made to be shared: no output of any verb contains a folder of the machine, and so a user's name."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from factory import edit_config

from gradience.cli.app import run
from gradience.cli.demo import example_adapter
from gradience.files.shared_names import command_text, path_text, sentence_text, values_text

RUNS = Path(__file__).parent / "monitor" / "runs"


@pytest.fixture
def home(tmp_path):
    """Alice's home folder, with an adapter whose base she has on her disk."""
    home = tmp_path / "home" / "alice"
    adapter = shutil.copytree(example_adapter(), home / "adapter")
    edit_config(adapter, base_model_name_or_path=str(home / "models" / "base"))
    shutil.copy(RUNS / "good.jsonl", home / "run.jsonl")
    (home / "trl.yaml").write_text(
        f"model_name_or_path: {home}/models/base\noutput_dir: {home}/out\nlearning_rate: 1e-4\nlora_r: 8\n"
        "use_peft: true\ndataset_name: d\n"
    )
    return home


@pytest.fixture
def said(monkeypatch, capsys):
    """Gives the standard output of a verb; its command line is that of the process, as for a user."""

    def call(*words):
        arguments = [str(word) for word in words]
        monkeypatch.setattr(sys, "argv", ["gradience", *arguments])
        assert run(arguments) in (0, 1)
        return capsys.readouterr().out

    return call


def test_no_artifact_of_any_verb_names_the_home_folder(home, said):
    adapter, smaller = home / "adapter", home / "smaller"
    said("audit", adapter, "--output", home / "audit.json", "--append", home / "run.jsonl")
    said("compress", adapter, "--rank", "2", f"--output={smaller}")
    plan = said("compress", adapter, "--rank", "2", "--dry-run", "--json")
    printed = [
        plan,
        said("audit", adapter, "--json"),
        said("compare", adapter, smaller, "--json"),
        said("monitor", home / "run.jsonl", "--json"),
        said("check", adapter, home / "trl.yaml", "--json"),
    ]
    assert all("alice" not in text for text in printed)
    given = ("trl.yaml", "adapter_config.json")  # hers, and the one that PEFT loads the base by
    written = [path for path in home.rglob("*") if path.is_file() and path.name not in given]
    assert {"audit.json", "compression_report.json", "compression_report.md"} <= {
        path.name for path in written
    }
    assert [path for path in written if b"alice" in path.read_bytes()] == []


def test_a_compression_says_that_the_config_names_a_folder(home, said):
    said("compress", home / "adapter", "--rank", "2", "--output", home / "smaller")
    report = json.loads((home / "smaller" / "compression_report.json").read_text())
    assert any("base_model_name_or_path" in warning for warning in report["warnings"])
    fields = json.loads((home / "smaller" / "adapter_config.json").read_text())
    assert fields["base_model_name_or_path"] == str(home / "models" / "base")


@pytest.mark.parametrize(
    ("given", "shared"),
    [
        ("runs/mine", "runs/mine"),
        ("./adapter", "./adapter"),
        ("../adapter", "../adapter"),
        ("org/model", "org/model"),
        ("embedded:minilm", "embedded:minilm"),
        ("/home/alice/models/mistral", "mistral"),
        ("/home/alice/models/mistral/", "mistral"),
        ("/home/alice", "~"),
        ("/Users/alice/", "~"),
        ("C:\\Users\\alice\\m", "m"),
        ("C:/Users/alice", "~"),
        ("~/models/m", "m"),
        ("file:///home/alice/m", "m"),
        ("/", "/"),
        ("", ""),
        (Path("/srv/alice/café"), "café"),
    ],
)
def test_a_path_is_as_given_or_its_last_part(given, shared):
    assert path_text(given) == shared


def test_a_command_can_be_typed_again_where_its_files_are():
    words = [
        *(
            "gradience",
            "bench",
            "run",
            "-c",
            "/home/alice/my run.yaml",
            "--output=/home/alice/out",
            "lora.alpha=8",
        ),
        *(
            "task.options.train_file=/home/alice/a b.csv",
            "seeds=[1, 2]",
            "x=[/home/alice/a, '/home/alice/b']",
        ),
        *("model.name=org/model", "u=https://example.org/a/b", "runs/mine"),
    ]
    assert command_text(words) == (
        "gradience bench run -c 'my run.yaml' --output=out lora.alpha=8 'task.options.train_file=a b.csv'"
        " 'seeds=[1, 2]' 'x=[a, '\"'\"'b'\"'\"']' model.name=org/model u=https://example.org/a/b runs/mine"
    )


def test_a_sentence_and_a_config_keep_all_but_the_folders():
    assert sentence_text("cannot read '/home/alice/a.csv': see https://x.org/a/b, and/or 3/4") == (
        "cannot read 'a.csv': see https://x.org/a/b, and/or 3/4"
    )
    config = {"model": {"name": "/home/alice/m", "r": 4}, "files": ["/home/alice/x", "y"], "none": None}
    assert values_text(config) == {"model": {"name": "m", "r": 4}, "files": ["x", "y"], "none": None}
