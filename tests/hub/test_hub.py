"""Adapters and bases by their name on the hub, through the real huggingface_hub and a hub on loopback."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hub_server import LOCATIONS, TOKEN, WAITS, serving
from huggingface_hub import ModelCard
from killing import HANGS
from raising import raises

from gradience.cli.demo import example_adapter
from gradience.digests import sha256_file
from gradience.errors import UsageError
from gradience.files.hub import Address, address_of, is_public

CONFIG = (example_adapter() / "adapter_config.json").read_bytes()
WEIGHTS = (example_adapter() / "adapter_model.safetensors").read_bytes()
GOOD = {
    "adapter_config.json": CONFIG,
    "adapter_model.safetensors": WEIGHTS,
    "README.md": b"# mine",
    "train.py": b"raise SystemExit",
    "optimizer.pt": b"\x80\x04.",
}
ADAPTERS = Path(__file__).resolve().parents[1] / "adapters" / "foreign"
FOREIGN = {
    "mlx": "adapters.safetensors",
    "diffusers": "pytorch_lora_weights.safetensors",
    "kohya": "style.safetensors",
    "gguf-f16": "adapter.gguf",
}
"""Of each format its weights."""
MLX_CONFIG = (ADAPTERS / "mlx" / "adapter_config.json").read_bytes()
STEPS = ("0000100_adapters.safetensors", "0000200_adapters.safetensors")
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 270000\n"
Answers = dict[str, dict[str, Any]]


def below(folder: str, files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{folder}/{name}": data for name, data in files.items()}


def ask(cases: Sequence[str | list[str]], endpoint: str, home: Path, **environment: str) -> Answers:
    """What each case came to, in one process with the real client."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("through_hub.py"))],
        input=json.dumps(cases), capture_output=True, text=True, timeout=HANGS, check=False, cwd=home,
        env={**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers = map(json.loads, done.stdout.splitlines())
    return {str(case): answer for case, answer in zip(cases, answers, strict=True)}


@pytest.fixture(scope="module")
def hub():
    with serving() as hub:
        hub.add("org/good", GOOD, {**GOOD, "README.md": b"# better"}, v1=0)
        hub.add("org/many", {**below("checkpoint-9", GOOD), **below("checkpoint-10", GOOD)})
        for wrong in ("private", "gated", "disabled", "busy", "page", "token", "broken"):
            hub.add(f"org/{wrong}", GOOD, wrong=wrong)
        hub.add("org/moved", {**GOOD, "adapter_config.json": CONFIG + b" " * 9 * 2**20}, wrong="moved")
        hub.add("org/listed", {"adapter_model.safetensors": WEIGHTS}, wrong="listed")
        hub.add("org/pickled", {"adapter_config.json": CONFIG, "adapter_model.bin": b"\x80\x02."})
        hub.add("org/pointer", {"adapter_config.json": CONFIG, "adapter_model.safetensors": POINTER})
        hub.add("org/model", {"config.json": b"{}", "model.safetensors": WEIGHTS})
        hub.add("org/other", {"README.md": b"", "weights.safetensors": WEIGHTS})
        hub.add("org/large", {"README.md": b"", "weights.safetensors": WEIGHTS}, wrong="large")
        hub.add("org/two", {"one.safetensors": WEIGHTS, "two.safetensors": WEIGHTS})
        for name in FOREIGN:
            folder = ADAPTERS / name
            files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "expected.npz"}
            hub.add(f"org/{name}", {**files, "README.md": b"", "optimizer.pt": b"."})
        steps = {path: (ADAPTERS / "mlx" / "adapters.safetensors").read_bytes() for path in STEPS}
        hub.add("org/steps", {**steps, "adapter_config.json": MLX_CONFIG})
        base = {
            "config.json": b"{}",
            "model.safetensors": WEIGHTS,
            "modeling.py": b"",
            "pytorch_model.bin": b".",
        }
        hub.add("org/base", {**base, **below("half", base)}, wrong="")
        yield hub


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def answers(hub, home):
    """All that is asked with a network and without a token."""
    asked = [
        "org/good",
        "org/good@v1",
        "org/many:checkpoint-9",
        "hf://org/many@main/checkpoint-10",
        *FAILURES,
        *(f"org/{name}" for name in FOREIGN),
        "org/other",
        "org/large:weights.safetensors",
        "org/moved",
    ]
    lines = [
        ["compare", "org/good", "org/good@v1"],
        ["audit", "org/steps", "--adapter", STEPS[1], "--json"],
        ["compress", "org/good@v1", "--rank", "4", "--base-model", "org/base", "-o", "smaller", "--quiet"],
    ]
    return ask([*asked, "base org/base", "base org/base@main:half", *lines], hub.url, home)


FAILURES = {
    "org/absent": ("hub-not-found", 7, "no such repository on the hub, or it is private"),
    "org/private": ("hub-not-found", 7, "or it is private"),
    "org/gated": ("hub-gated", 7, "gated"),
    "org/disabled": ("hub-not-found", 7, "disabled"),
    "org/busy": ("hub-server", 7, "HTTP 500"),
    "org/page": ("hub-server", 7, "is not a Hugging Face Hub"),
    "org/token": ("hub-token", 7, "rejected the token"),
    "org/broken": ("hub-connection", 7, "could not be reached"),
    "org/listed": ("hub-file", 7, "lists is missing"),
    "org/pointer": ("hub-lfs-pointer", 7, "Git LFS pointer on the hub"),
    "org/good@v9": ("hub-revision", 7, "no revision 'v9'"),
    "org/good:lost": ("hub-file", 7, "no 'lost' in this repository"),
    "org/many": ("several-adapters", 3, "in sub-folders"),
    "org/pickled": ("pickle", 3, "adapter_model.bin is a pickle"),
    "org/model": ("full-model", 3, "a full model (model.safetensors)"),
    "org/large": ("full-model", 3, "weights.safetensors, has 3.2 GB: a full model, by its size; nothing was"),
    "org/two": ("not-an-adapter", 3, "one.safetensors, two.safetensors"),
    "org/steps": ("not-an-adapter", 3, "0000100_adapters.safetensors, 0000200_adapters.safetensors"),
    "org/good:README.md": ("not-an-adapter", 3, "not a weight file"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_each_failure_has_a_message_of_its_own(name, answers):
    code, exit_code, words = FAILURES[name]
    answer = answers[name]
    assert (answer["code"], answer["exit"]) == (code, exit_code)
    assert words in answer["message"]
    assert answer["message"].startswith(f"{name}: ")
    assert answer["hint"]


def test_the_report_names_the_commit(hub, answers):
    first, second = hub.repos["org/good"].files
    for name, revision, commit in (("org/good", None, second), ("org/good@v1", "v1", first)):
        assert answers[name]["path"] == name
        assert answers[name]["source"] == {
            "repo": "org/good", "revision": revision, "commit": commit, "inside": "",
        }  # fmt: skip
        assert answers[name]["sha256"] == sha256_file(example_adapter() / "adapter_model.safetensors")
    assert f"commit {second[:12]}" in answers[str(["compare", "org/good", "org/good@v1"])]["out"]


def test_only_config_and_weights_are_downloaded(hub, answers):
    asked = {path.rpartition("/")[2] for path in hub.asked if "/org/good/resolve/" in path}
    assert answers["org/good"]["format"] == "peft"
    assert asked == {"adapter_config.json", "adapter_model.safetensors"}
    assert not [
        path for path in hub.asked if "/org/model/resolve/" in path or "/org/pickled/resolve/" in path
    ]


def test_weights_of_every_format_are_fetched_and_nothing_else(hub, answers):
    for name, weights in FOREIGN.items():
        answer = answers[f"org/{name}"]
        assert answer["format"] == name.partition("-")[0]
        assert answer["sha256"] == sha256_file(ADAPTERS / name / weights)
        asked = {path.rpartition("/")[2] for path in hub.asked if f"/org/{name}/resolve/" in path}
        config = {"adapter_config.json"} if name.startswith("mlx") else set()
        assert asked == {weights, *config}


def test_weights_under_any_name_are_read_where_they_are_the_only_ones_or_named(hub, answers):
    known = sha256_file(example_adapter() / "adapter_model.safetensors")
    assert answers["org/other"]["sha256"] == answers["org/large:weights.safetensors"]["sha256"] == known
    step = json.loads(answers[str(["audit", "org/steps", "--adapter", STEPS[1], "--json"])]["out"])
    assert step["adapter"]["format"] == "mlx"
    assert not [path for path in hub.asked if path.endswith(f"/{STEPS[0]}")]


def test_folders(answers):
    names = {
        "org/many:checkpoint-9": (None, "checkpoint-9"),
        "hf://org/many@main/checkpoint-10": ("main", "checkpoint-10"),
    }
    for name, (revision, inside) in names.items():
        source = answers[name]["source"]
        assert (source["revision"], source["inside"]) == (revision, inside)
    assert answers["org/many"]["hint"] == "name one: org/many:checkpoint-9, org/many:checkpoint-10"


def test_a_base_is_a_commit_or_a_folder_of_it(hub, answers):
    (commit,) = hub.repos["org/base"].files
    whole, half = answers["base org/base"], answers["base org/base@main:half"]
    assert (whole["name"], whole["commit"]) == (half["name"], half["commit"]) == ("org/base", commit)
    weights = ["config.json", "model.safetensors"]
    assert (whole["files"], half["files"]) == (sorted([*weights, "half"]), weights)


def test_a_token_opens_what_is_private_or_gated(hub, tmp_path):
    answers = ask(["org/private", "org/gated"], hub.url, tmp_path, HF_TOKEN=TOKEN)
    assert [answer["format"] for answer in answers.values()] == ["peft", "peft"]
    assert TOKEN not in json.dumps(answers)


def test_offline_reads_the_cache_and_asks_nobody(hub, home, answers):
    asked = len(hub.asked)
    offline = ask(["org/good", "org/good@v1", "org/token"], hub.url, home, HF_HUB_OFFLINE="1")
    for name in ("org/good", "org/good@v1"):
        assert offline[name] == answers[name]
    assert (offline["org/token"]["code"], offline["org/token"]["exit"]) == ("hub-offline", 7)
    assert len(hub.asked) == asked


TOKENIZER = {
    "tokenizer_config.json": b"{}",
    "tokenizer.json": b'{"model": {}}',
    "chat_template.jinja": b"{{ messages }}",
}


def test_the_tokenizer_of_an_adapter_is_fetched_from_its_commit_and_no_code(tmp_path):
    """Once, and of the commit of the weights; without one nothing but the weights is asked for again."""
    with serving() as hub:
        first, _ = hub.add("org/chat", {**GOOD, **TOKENIZER, "tokenizer.py": b"raise SystemExit"}, GOOD, v1=0)
        hub.add("org/nested", below("last", {**GOOD, **TOKENIZER}))
        hub.add("org/plain", GOOD)
        names = ["org/chat@v1", "org/nested:last", f"org/chat@{first}", "org/chat", "org/plain"]
        cases = [f"tokenizer {name}" for name in names]
        answers = ask(cases, hub.url, tmp_path)
        for case in cases[:3]:
            files = answers[case]["files"]
            assert answers[case]["used"]
            assert {name: files[name].encode() for name in TOKENIZER} == TOKENIZER
            assert files.keys() == {"adapter_config.json", *TOKENIZER}
        assert [answers[case]["used"] for case in cases[3:]] == [False, False]
        asked = len(hub.asked)
        offline = ask([*cases, "tokenizer org/nested"], hub.url, tmp_path, HF_HUB_OFFLINE="1")
        assert {case: offline[case] for case in cases} == {case: answers[case] for case in cases}
        assert len(hub.asked) == asked


def test_offline_an_adapter_that_may_have_a_tokenizer_is_named(tmp_path):
    with serving() as hub:
        hub.add("org/chat", {**GOOD, **TOKENIZER})
        ask(["org/chat"], hub.url, tmp_path)
        offline = ask(["org/chat", "tokenizer org/chat"], hub.url, tmp_path, HF_HUB_OFFLINE="1")
    assert offline["org/chat"]["format"] == "peft"
    refused = offline["tokenizer org/chat"]
    assert (refused["code"], refused["exit"]) == ("hub-offline", 7)
    assert "--tokenizer base" in refused["hint"]


def test_without_a_connection_a_commit_in_the_cache_is_enough(hub, home, answers):
    commit = answers["org/good"]["source"]["commit"]
    dead = ask([f"org/good@{commit}", "org/good", "org/never"], "http://127.0.0.1:9", home)
    assert dead[f"org/good@{commit}"]["source"]["commit"] == commit
    assert [dead[name]["code"] for name in ("org/good", "org/never")] == ["hub-connection"] * 2
    assert "HF_HUB_OFFLINE=1" in dead["org/good"]["hint"]


ADDRESSES: dict[str, Address | None] = {
    "org/name": Address("org/name"),
    "org/name@v1.0": Address("org/name", "v1.0"),
    "org/name@refs/pr/3:a/b": Address("org/name", "refs/pr/3", "a/b"),
    "org/name:checkpoint-1": Address("org/name", None, "checkpoint-1"),
    "hf://org/name": Address("org/name"),
    "hf:/org/name@main/sub/x.safetensors": Address("org/name", "main", "sub/x.safetensors"),
    "hf://models/org/name@refs%2Fpr%2F3/sub": Address("org/name", "refs/pr/3", "sub"),
    "adapter": None,
    "./org/name": None,
    "/org/name": None,
    "~/name": None,
    "a/b/c": None,
    "org/adapter_model.safetensors": None,
    "org/..": None,
    "org/name:../secret": None,
    "org/name\x1b": None,
    "": None,
}


@pytest.mark.parametrize("text", ADDRESSES)
def test_what_is_a_name_on_the_hub(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    address = address_of(text)
    assert address == ADDRESSES[text]
    if address:
        assert address_of(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "hf://datasets/org/name",
        "hf://name",
        "hf://org/name@main/../x",
        "https://example.com/org/name",
        "https://huggingface.co/org/name/tree/main",
    ],
)
def test_another_address_is_refused(text):
    with raises(UsageError, "bad-address"):
        address_of(text)


def make_folder(path: Path) -> None:
    path.mkdir(parents=True)


def make_link(path: Path) -> None:
    path.parent.mkdir()
    path.symlink_to("nowhere")


MAKES: dict[str, Callable[[Path], None]] = {
    "it": make_folder,
    "a link": make_link,
    "its first part": lambda path: make_folder(path.parent),
    "a file in place of its first part": lambda path: path.parent.write_bytes(b""),
    "a link in place of its first part": lambda path: path.parent.symlink_to("nowhere"),
}


@pytest.mark.parametrize("place", MAKES)
def test_what_is_here_is_never_a_name_on_the_hub(place, tmp_path, monkeypatch):
    MAKES[place](tmp_path / "org" / "name")
    monkeypatch.chdir(tmp_path)
    assert address_of("org/name") is None


ATTACKS = {
    **dict.fromkeys(("commit", "no commit", "sha"), "names the commit"),
    **dict.fromkeys(("etag", "etag of a redirect", "long etag", "xet"), "names the digest"),
    **dict.fromkeys(("size", "negative size"), "names the size"),
    **dict.fromkeys((*LOCATIONS, "list inside", "xet route", "xet backslash"), "leads to"),
    **dict.fromkeys(
        ("null", "nameless", "names", "digests", "sizes", "shapeless"),
        "lists files with invalid names, sizes or digests",
    ),
    **dict.fromkeys(("deep list", "dates"), "is not a Hugging Face Hub"),
    **dict.fromkeys(WAITS, "asks to wait 86400 seconds"),
    "compressed list": "compresses a response",
    **dict.fromkeys(("endless list", "endless error", "endless file"), "sends an endless response"),
}
"""What is wrong with a server's answers -> what is said of it."""


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    """Yield the hub, the answers to every attack on an adapter and on a base, and the home folder."""
    home = tmp_path_factory.mktemp("attacked") / "above" / "home"
    home.mkdir(parents=True)
    with serving() as hub:
        for wrong in ATTACKS:
            hub.add(f"org/{wrong.replace(' ', '-')}", {**GOOD, "config.json": b"{}"}, wrong=wrong)
        cases = [case for name in hub.repos for case in (name, f"base {name}")]
        yield hub, ask(cases, hub.url, home), home


@pytest.mark.parametrize("wrong", ATTACKS)
def test_what_a_server_says_is_checked_before_it_is_used(wrong, attacked):
    _, answers, home = attacked
    name = f"org/{wrong.replace(' ', '-')}"
    adapter, base = answers[name], answers[f"base {name}"]
    for answer in (adapter, base):
        if answer.get("commit") or answer.get("source"):
            continue  # that part of an answer is not asked for there
        assert (answer["code"], answer["exit"]) == ("hub-server", 7)
        assert answer["message"].startswith(f"{name}: the server at http://127.0.0.1:")
        assert ATTACKS[wrong] in answer["message"]
        assert answer["hint"]
    assert "code" in adapter or "code" in base
    assert not list(home.parents[1].rglob("evil*"))
    assert {path.name for path in home.parents[1].iterdir()} == {"above"}
    assert {path.name for path in home.parent.iterdir()} == {"home"}


def test_a_password_of_the_endpoint_is_in_no_message(hub, tmp_path):
    endpoint = hub.url.replace("http://", "http://name:password@")
    answers = ask(["org/page", "org/gated"], endpoint, tmp_path)
    assert [answer["code"] for answer in answers.values()] == ["hub-server", "hub-gated"]
    assert "password" not in json.dumps(answers)


def test_no_address_inside_is_asked(attacked):
    hub, _, _ = attacked
    assert [path for path in hub.asked if path.startswith("inside")] == []


def test_a_file_is_what_its_digest_says(tmp_path):
    with serving() as hub:
        hub.add("org/twice", GOOD, wrong="corrupted")
        hub.add("org/once", GOOD, wrong="corrupted once")
        hub.add("org/base", {"config.json": b"{}", "model.safetensors": WEIGHTS}, wrong="corrupted")
        answers = ask(["org/twice", "org/once", "base org/base"], hub.url, tmp_path)
        again = ask(["org/twice"], hub.url, tmp_path)
    assert answers["org/once"]["sha256"] == sha256_file(example_adapter() / "adapter_model.safetensors")
    for answer in (answers["org/twice"], answers["base org/base"], again["org/twice"]):
        assert (answer["code"], answer["exit"]) == ("hub-corrupted", 7)
        assert "does not match its sha256" in answer["message"]


PUBLIC = {
    "93.184.216.34": True,
    "127.0.0.1": False,
    "10.1.2.3": False,
    "169.254.169.254": False,
    "100.64.0.1": False,
    "::1": False,
    "::ffff:10.0.0.1": False,
    "fe80::1": False,
    "2606:4700::1111": True,
    "localhost": False,
    "0": False,
}


@pytest.mark.parametrize("host", PUBLIC)
def test_what_is_a_public_address(host):
    assert is_public(host, 443) is PUBLIC[host]


# ---------------------------------------------------------------- `--push`: what goes to the hub and what


PLAIN = {"HF_HUB_DISABLE_XET": "1"}
"""The server on loopback takes large files as Git LFS does, not through Xet."""


@pytest.fixture(scope="module")
def taking():
    with serving() as taking:
        yield taking


@pytest.fixture
def folder(tmp_path):
    folder = shutil.copytree(example_adapter(), tmp_path / "adapter")
    for name in ("training_args.bin", "optimizer.pt", ".secret", "checkpoint-5/adapter_model.safetensors"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"private")
    (folder / "link").symlink_to("/etc/passwd")
    return folder


def test_nothing_is_sent_before_yes_and_then_what_was_listed(taking, folder, tmp_path):
    card = ["card", str(folder), "--push", "org/new"]
    lines = [card, [*card, "--yes"], [*card, "--yes", "--json"]]
    answers = ask(lines, taking.url, tmp_path, **PLAIN, HF_TOKEN=TOKEN)
    planned, sent, again = (answers[str(line)] for line in lines)
    assert planned["exit"] == sent["exit"] == again["exit"] == 0
    assert "nothing was sent. --yes uploads to org/new: README.md, adapter_config.json" in planned["err"]
    assert not [
        line for line in taking.asked[: taking.asked.index("POST /api/repos/create")] if "POST" in line
    ]
    assert taking.private["org/new"] is True
    repo = taking.repos["org/new"]
    files = repo.files[repo.refs["main"]]
    assert files == {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.name in {*(path.name for path in example_adapter().iterdir()), "README.md"}
    }
    assert f"uploaded to org/new at commit {repo.refs['main'][:12]}" in sent["err"]
    assert TOKEN not in json.dumps(answers)
    assert ModelCard(files["README.md"].decode()).data.base_model_relation == "adapter"


def test_compress_pushes_the_smaller_adapter(taking, tmp_path):
    line = [
        "compress",
        str(example_adapter()),
        *["--rank", "4", "-o", "smaller", "-q", "--push", "org/s", "--yes"],
    ]
    assert ask([line], taking.url, tmp_path, **PLAIN, HF_TOKEN=TOKEN)[str(line)]["exit"] == 0
    repo = taking.repos["org/s"]
    files = repo.files[repo.refs["main"]]
    assert files["adapter_model.safetensors"] == (tmp_path / "smaller/adapter_model.safetensors").read_bytes()
    assert {"adapter_config.json", "README.md", "compression_report.json"} <= set(files)


REFUSALS = {
    "no token": (["--push", "org/x", "--yes"], 7, "no token for the hub"),
    "a revision": (["--push", "org/x@v1"], 2, "not a repository name"),
    "yes alone": (["--yes"], 2, "--yes belongs to --push"),
    "dry run": (["--push", "org/x", "--dry-run"], 2, "cannot be combined with --dry-run"),
}


def test_a_refused_push_writes_nothing_to_the_hub(taking, tmp_path):
    folder = shutil.copytree(example_adapter(), tmp_path / "adapter")
    lines = [["card", str(folder), *flags] for flags, *_ in REFUSALS.values()]
    asked = len(taking.asked)
    answers = ask(lines, taking.url, tmp_path, **PLAIN, HF_TOKEN="")
    for line, (_, code, words) in zip(lines, REFUSALS.values(), strict=True):
        assert (answers[str(line)]["exit"], words in answers[str(line)]["err"]) == (code, True)
    assert len(taking.asked) == asked
    assert (folder / "README.md").read_bytes() == (example_adapter() / "README.md").read_bytes()


def test_a_wrong_token_leaves_the_card_written_and_the_hub_as_it_was(taking, tmp_path):
    folder = shutil.copytree(example_adapter(), tmp_path / "adapter")
    line = ["card", str(folder), "--push", "org/x", "--yes"]
    answer = ask([line], taking.url, tmp_path, **PLAIN, HF_TOKEN="hf_wrong")[str(line)]
    assert (answer["exit"], "the hub rejected the token" in answer["err"]) == (7, True)
    assert "hf_wrong" not in answer["err"]
    assert "org/x" not in taking.repos
    assert "gradience:card" in (folder / "README.md").read_text(encoding="utf-8")
