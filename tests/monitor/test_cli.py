"""`gradience monitor` as a user runs it."""

import json
from pathlib import Path

import pytest

from gradience.cli.app import run

RUNS = Path(__file__).parent / "runs"
GOOD, NAN = str(RUNS / "good.jsonl"), str(RUNS / "nan.jsonl")


def test_verbose_adds_evidence_and_sources(command):
    assert "source:" not in command("monitor", NAN).out
    assert "source:" in command("monitor", NAN, "--verbose").out


@pytest.mark.parametrize(
    ("file", "fail_on", "code"),
    [(GOOD, "error", 0), (GOOD, "warning", 0), (NAN, "error", 1), (NAN, "warning", 1), (NAN, None, 0)],
)
def test_fail_on(file, fail_on, code):
    assert run(["monitor", file, *(["--fail-on", fail_on] if fail_on else [])]) == code


def test_an_audit_is_appended_to_the_run_and_shown(tmp_path, command):
    from tests.live.tiny import give_random_factors, lora_llama

    give_random_factors(lora_llama()).save_pretrained(tmp_path / "adapter")
    path = tmp_path / "run.jsonl"
    path.write_bytes((RUNS / "crashed.jsonl").read_bytes())
    last = path.read_text().splitlines()[-1]
    assert run(["audit", str(tmp_path / "adapter"), "--append", str(path), "--quiet"]) == 0
    record = json.loads(path.read_text().splitlines()[-1])
    assert (record["event"], record["kind"]) == ("metrics", "lora_audit")
    assert record["run_id"] == json.loads(last)["run_id"]
    assert record["metrics"]["n_layers"] == 14
    assert record["metrics"]["suggested_r_global_90"] >= 1
    out = command("monitor", path).out
    assert "Audits" in out
    assert f"suggests rank {record['metrics']['suggested_r_global_90']}" in out
    assert run(["audit", str(tmp_path / "adapter"), "--append", str(tmp_path / "none.jsonl")]) == 2


def test_an_audit_is_appended_to_no_file_that_is_no_run(tmp_path, command):
    """A mistyped name, or a link that leads elsewhere, must not gain a line."""
    from tests.adapters.factory import adapter, modules

    other, link = tmp_path / "notes.txt", tmp_path / "run.jsonl"
    other.write_text("root:x:0:0\n")
    link.symlink_to(other)
    folder = adapter(tmp_path / "adapter", modules())
    for path in (other, link):
        said = command("audit", folder, "--append", path, "--output", tmp_path / "a.json", code=3).err
        assert f"{path}: contains no telemetry records" in said
    assert other.read_text() == "root:x:0:0\n"
    assert not (tmp_path / "a.json").exists()
    (tmp_path / "empty.jsonl").touch()
    assert run(["audit", str(folder), "--append", str(tmp_path / "empty.jsonl"), "--quiet"]) == 0
