"""`--push`: what goes to the hub and what does not, against a hub on loopback and the real client."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import TOKEN, Hub, serving
from huggingface_hub import ModelCard
from test_hub import ask

from gradience.cli.demo import example_adapter

PLAIN = {"HF_HUB_DISABLE_XET": "1"}
"""The server on loopback takes large files as Git LFS does, not through Xet."""


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with serving() as hub:
        yield hub


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = shutil.copytree(example_adapter(), tmp_path / "adapter")
    for name in ("training_args.bin", "optimizer.pt", ".secret", "checkpoint-5/adapter_model.safetensors"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"private")
    (folder / "link").symlink_to("/etc/passwd")
    return folder


def test_nothing_is_sent_before_yes_and_then_what_was_listed(hub, folder, tmp_path):
    card = ["card", str(folder), "--push", "org/new"]
    lines = [card, [*card, "--yes"], [*card, "--yes", "--json"]]
    answers = ask(lines, hub.url, tmp_path, **PLAIN, HF_TOKEN=TOKEN)
    planned, sent, again = (answers[str(line)] for line in lines)
    assert planned["exit"] == sent["exit"] == again["exit"] == 0
    assert "nothing was sent. --yes uploads to org/new: README.md, adapter_config.json" in planned["err"]
    assert not [line for line in hub.asked[: hub.asked.index("POST /api/repos/create")] if "POST" in line]
    assert hub.private["org/new"] is True
    repo = hub.repos["org/new"]
    files = repo.files[repo.refs["main"]]
    assert files == {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.name in {*(path.name for path in example_adapter().iterdir()), "README.md"}
    }
    assert f"uploaded to org/new at commit {repo.refs['main'][:12]}" in sent["err"]
    assert TOKEN not in json.dumps(answers)
    assert ModelCard(files["README.md"].decode()).data.base_model_relation == "adapter"


def test_compress_pushes_the_smaller_adapter(hub, tmp_path):
    line = [
        "compress",
        str(example_adapter()),
        "--rank",
        "4",
        "-o",
        "smaller",
        "-q",
        "--push",
        "org/s",
        "--yes",
    ]
    assert ask([line], hub.url, tmp_path, **PLAIN, HF_TOKEN=TOKEN)[str(line)]["exit"] == 0
    repo = hub.repos["org/s"]
    files = repo.files[repo.refs["main"]]
    assert files["adapter_model.safetensors"] == (tmp_path / "smaller/adapter_model.safetensors").read_bytes()
    assert {"adapter_config.json", "README.md", "compression_report.json"} <= set(files)


REFUSALS = {
    "no token": (["--push", "org/x", "--yes"], 7, "no token for the hub"),
    "a revision": (["--push", "org/x@v1"], 2, "not a repository name"),
    "yes alone": (["--yes"], 2, "--yes belongs to --push"),
    "dry run": (["--push", "org/x", "--dry-run"], 2, "cannot be combined with --dry-run"),
}


def test_a_refused_push_writes_nothing_to_the_hub(hub, tmp_path):
    folder = shutil.copytree(example_adapter(), tmp_path / "adapter")
    lines = [["card", str(folder), *flags] for flags, *_ in REFUSALS.values()]
    asked = len(hub.asked)
    answers = ask(lines, hub.url, tmp_path, **PLAIN, HF_TOKEN="")
    for line, (_, code, words) in zip(lines, REFUSALS.values(), strict=True):
        assert (answers[str(line)]["exit"], words in answers[str(line)]["err"]) == (code, True)
    assert len(hub.asked) == asked
    assert (folder / "README.md").read_bytes() == (example_adapter() / "README.md").read_bytes()


def test_a_wrong_token_leaves_the_card_written_and_the_hub_as_it_was(hub, tmp_path):
    folder = shutil.copytree(example_adapter(), tmp_path / "adapter")
    line = ["card", str(folder), "--push", "org/x", "--yes"]
    answer = ask([line], hub.url, tmp_path, **PLAIN, HF_TOKEN="hf_wrong")[str(line)]
    assert (answer["exit"], "the hub rejected the token" in answer["err"]) == (7, True)
    assert "hf_wrong" not in answer["err"]
    assert "org/x" not in hub.repos
    assert "gradience:card" in (folder / "README.md").read_text(encoding="utf-8")
