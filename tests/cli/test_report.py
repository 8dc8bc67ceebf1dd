"""`gradience report` and `--html`: what is read, what is replaced, what is refused."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from test_help import EVERY

from gradience.cli.app import run
from gradience.cli.demo import example_adapter

KEPT = Path(__file__).parents[2] / "benchmarks" / "results" / "minilm_reviews"
RUN = Path(__file__).parents[1] / "monitor" / "runs" / "good.jsonl"


@pytest.fixture(scope="module")
def audit(tmp_path_factory):
    file = tmp_path_factory.mktemp("audit") / "audit.json"
    assert run(["audit", str(example_adapter()), "--output", str(file), "--quiet"]) == 0
    return file


def test_a_file_becomes_a_page_and_an_earlier_page_is_replaced(audit, tmp_path, capsys):
    page = tmp_path / "report.html"
    for _ in range(2):
        assert run(["report", str(audit), "-o", str(page), "--json"]) == 0
        said = json.loads(capsys.readouterr().out)
        assert said["bytes"] == page.stat().st_size
        assert said["from"][0]["schema"] == "gradience.audit/3"
    assert 'data-plot="0"' in page.read_text(encoding="utf-8")


def test_a_folder_gives_all_its_reports(audit, tmp_path, capsys):
    for step in (100, 200):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "audit.json").write_bytes(audit.read_bytes())
    shutil.copyfile(RUN, tmp_path / "run.jsonl")
    assert run(["report", str(tmp_path), "-o", str(tmp_path / "r.html"), "--json"]) == 0
    made_from = json.loads(capsys.readouterr().out)["from"]
    assert [one["file"] for one in made_from] == [
        "checkpoint-100/audit.json", "checkpoint-200/audit.json", "run.jsonl",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{}", "cannot report on this"),
        ('{"schema": "gradience.digests/1"}', "cannot report on this"),
        ('{"schema": "gradience.audit/1"}', "this is 'gradience.audit/1'"),
        ('{"schema": 7}', "this is '7', not Gradience"),
        ("[", "Invalid JSON"),
    ],
    ids=["nothing", "another-kind", "another-version", "no-text", "no-json"],
)
def test_what_is_no_report_is_refused(text, code, tmp_path, capsys):
    file = tmp_path / "x.json"
    file.write_text(text, encoding="utf-8")
    assert run(["report", str(file), "-o", str(tmp_path / "r.html")]) == 3
    assert code in capsys.readouterr().err
    assert not (tmp_path / "r.html").exists()


def test_the_page_of_a_run_has_the_command_that_verifies_it_with_its_root(tmp_path):
    page = tmp_path / "r.html"
    assert run(["report", str(KEPT), "-o", str(page), "-q"]) == 0
    root = hashlib.sha256((KEPT / "digests.json").read_bytes()).hexdigest()
    assert f"gradience verify minilm_reviews --root {root}" in page.read_text(encoding="utf-8")


def test_a_folder_without_reports_says_what_to_do(tmp_path, capsys):
    assert run(["report", str(tmp_path), "-o", str(tmp_path / "r.html")]) == 3
    assert "gradience audit" in capsys.readouterr().err


def test_no_other_file_is_replaced(audit, tmp_path, capsys):
    notes = tmp_path / "notes.html"
    notes.write_text("mine", encoding="utf-8")
    assert run(["report", str(audit), "-o", str(notes)]) == 2
    assert run(["audit", str(example_adapter()), "--html", str(notes)]) == 2
    assert "not replaced" in capsys.readouterr().err
    assert notes.read_text(encoding="utf-8") == "mine"


def test_verbs_write_their_page(tmp_path, capsys):
    adapter = str(example_adapter())
    for verb in (["audit", adapter], ["compare", adapter, adapter], ["check", "--peft-dir", adapter]):
        page = tmp_path / f"{verb[0]}.html"
        run([*verb, "--html", str(page)])
        assert page.read_bytes().startswith(b"<!doctype html>")
        assert capsys.readouterr().out


WITHOUT_A_REPORT = {"bench status", "card", "env", "plot", "report"}
"""Verbs whose --json prints facts, or the page itself."""


def test_every_verb_that_reports_writes_its_page():
    for words, command in EVERY:
        options = {option for parameter in command.params for option in parameter.opts}
        if "--json" in options and " ".join(words) not in WITHOUT_A_REPORT:
            assert "--html" in options, words


@pytest.mark.parametrize("verb", ["calibrate", "distill"])
def test_a_plan_of_needs_has_no_page(verb, tmp_path, capsys):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "x"}\n', encoding="utf-8")
    words = [verb, str(example_adapter()), "--prompts", str(tmp_path / "rows.jsonl"), "--dry-run"]
    words += ["--teacher", str(example_adapter())] if verb == "distill" else []
    assert run([*words, "--html", str(tmp_path / "x.html")]) == 2
    assert "--html cannot be combined with --dry-run" in capsys.readouterr().err


def test_the_folder_of_a_search_gives_its_evidence_and_the_adapter_that_holds(tmp_path, capsys):
    """Not the candidates, which lie one folder deeper."""
    shrunk = KEPT.parent / "minilm_shrink" / "shrink.json"
    shutil.copyfile(shrunk, tmp_path / "shrink.json")
    for place in ("adapter", "candidates/rank2"):
        assert (
            run(["compress", str(example_adapter()), "--rank", "2", "-o", str(tmp_path / place), "-q"]) == 0
        )
    capsys.readouterr()
    page = tmp_path / "r.html"
    assert run(["report", str(tmp_path), "-o", str(page), "--json"]) == 0
    made_from = json.loads(capsys.readouterr().out)["from"]
    assert [one["file"] for one in made_from] == ["shrink.json", "adapter/compression_report.json"]
    text = page.read_text(encoding="utf-8")
    assert all(f'id="plot-{anchor}"' in text for anchor in ("1-forest", "1-pareto", "2-map"))
