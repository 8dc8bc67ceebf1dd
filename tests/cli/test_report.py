"""`gradience report` and `--html`: what is read, what is replaced, what is refused."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from killing import HANGS
from running import printed_by

from gradience.bench.settings import config_titles
from gradience.cli import app
from gradience.cli.app import run
from gradience.cli.demo import example_adapter
from gradience.cli.help import summary

KEPT = Path(__file__).parents[2] / "benchmarks" / "results" / "minilm_reviews"
RUN = Path(__file__).parents[1] / "monitor" / "runs" / "good.jsonl"


@pytest.fixture(scope="module")
def audit(tmp_path_factory):
    file = tmp_path_factory.mktemp("audit") / "audit.json"
    assert run(["audit", str(example_adapter()), "--output", str(file), "--quiet"]) == 0
    return file


def test_a_file_becomes_a_page_and_an_earlier_page_is_replaced(audit, tmp_path, command):
    page = tmp_path / "report.html"
    for _ in range(2):
        said = json.loads(command("report", audit, "-o", page, "--json").out)
        assert said["bytes"] == page.stat().st_size
        assert said["from"][0]["schema"] == "gradience.audit/3"
    assert " data-plot " in page.read_text(encoding="utf-8")


def test_a_folder_gives_all_its_reports(audit, tmp_path, command):
    for step in (100, 200):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "audit.json").write_bytes(audit.read_bytes())
    shutil.copyfile(RUN, tmp_path / "run.jsonl")
    made_from = json.loads(command("report", tmp_path, "-o", tmp_path / "r.html", "--json").out)["from"]
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
def test_what_is_no_report_is_refused(text, code, tmp_path, command):
    file = tmp_path / "x.json"
    file.write_text(text, encoding="utf-8")
    assert code in command("report", file, "-o", tmp_path / "r.html", code=3).err
    assert not (tmp_path / "r.html").exists()


def test_the_page_of_a_run_has_the_command_that_verifies_it_with_its_root(tmp_path):
    page = tmp_path / "r.html"
    assert run(["report", str(KEPT), "-o", str(page), "-q"]) == 0
    root = hashlib.sha256((KEPT / "digests.json").read_bytes()).hexdigest()
    assert f"gradience verify minilm_reviews --root {root}" in page.read_text(encoding="utf-8")


def test_a_folder_without_reports_says_what_to_do(tmp_path, command):
    assert "each adapter's folder" in command("report", tmp_path, "-o", tmp_path / "r.html", code=3).err


def test_no_other_file_is_replaced(audit, tmp_path, command):
    notes = tmp_path / "notes.html"
    notes.write_text("mine", encoding="utf-8")
    assert run(["report", str(audit), "-o", str(notes)]) == 2
    assert "not replaced" in command("audit", example_adapter(), "--html", notes, code=2).err
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


def test_the_folder_of_a_search_gives_its_evidence_and_the_adapter_that_holds(tmp_path, capsys, command):
    """Not the candidates, which lie one folder deeper."""
    shrunk = KEPT.parent / "minilm_shrink" / "shrink.json"
    shutil.copyfile(shrunk, tmp_path / "shrink.json")
    for place in ("adapter", "candidates/rank2"):
        assert (
            run(["compress", str(example_adapter()), "--rank", "2", "-o", str(tmp_path / place), "-q"]) == 0
        )
    capsys.readouterr()
    page = tmp_path / "r.html"
    made_from = json.loads(command("report", tmp_path, "-o", page, "--json").out)["from"]
    assert [one["file"] for one in made_from] == ["shrink.json", "adapter/compression_report.json"]
    text = page.read_text(encoding="utf-8")
    assert all(f'id="plot-{anchor}"' in text for anchor in ("1-forest", "1-pareto"))


# ---------------------------------------------------------------- Help pages and completion: nothing is cut


def commands(command, words=()):
    yield words, command
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, (*words, name))


def squeezed(text):
    """Without white space, which wrapping changes; a word may also be broken behind its hyphen."""
    return "".join(text.split())


EVERY = list(commands(typer.main.get_command(app.app)))


@pytest.mark.parametrize("width", [60, 80, 160])
@pytest.mark.parametrize(
    ("words", "command"), EVERY, ids=[" ".join(words) or "gradience" for words, _ in EVERY]
)
def test_no_line_of_a_help_page_is_cut_or_too_wide_or_has_a_type(words, command, width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    assert app.run([*words, "--help"]) == 0
    page = capsys.readouterr().out
    for line in page.splitlines():
        assert len(line) <= width, line
        assert not any(sign in line for sign in ("<", "{", "[[")), line
        assert not line.endswith("...") or line.startswith("Usage:") or line.endswith(",R..."), line
    texts = [command.help, *(param.help for param in command.params)]
    texts += [child.help for child in getattr(command, "commands", {}).values()]
    assert all(texts), "a command or an option without help"
    for text in texts:
        assert squeezed(text.partition("\n\n")[0]) in squeezed(page)


@pytest.mark.parametrize(("words", "command"), EVERY[1:], ids=[" ".join(words) for words, _ in EVERY[1:]])
def test_a_summary_takes_one_line_of_80_columns_and_is_a_sentence(words, command, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    app.run([*words[:-1], "--help"])
    line = next(row for row in capsys.readouterr().out.splitlines() if row.startswith(f"  {words[-1]} "))
    assert summary(command).endswith(".")
    assert line.endswith(summary(command))


def test_the_sections_name_every_verb_once():
    verbs = [name for section in app.VERBS.values() for name in section]
    assert sorted(verbs) == sorted(set(verbs))
    assert app.FILES.keys() <= set(verbs)


def test_help_of_the_root_imports_no_verb():
    code = "import sys; from gradience.cli.app import FILES, run, LazyVerbs; run(['--help'])\n"
    code += "print([name for name in LazyVerbs() if f'gradience.cli.{FILES.get(name, name)}' in sys.modules])"
    assert printed_by(code).endswith("[]\n")


def test_help_takes_the_name_of_a_verb(capsys):
    assert app.run(["help", "compare"]) == 0
    shown = capsys.readouterr().out
    assert app.run(["compare", "--help"]) == 0
    assert capsys.readouterr().out == shown
    assert app.run(["help", "bench", "run"]) == 0
    assert "--dry-run" in capsys.readouterr().out
    assert app.run(["help", "glossary"]) == 0
    assert "Train a smaller adapter briefly" in capsys.readouterr().out
    assert app.run(["help"]) == 0
    assert "Set up:" in capsys.readouterr().out
    assert app.run(["help", "auditt"]) == 2
    assert "Did you mean 'audit'?" in capsys.readouterr().err


def test_without_arguments_ten_lines_say_where_to_begin(capsys):
    assert app.run([]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 10
    for words in re.findall("^  (gradience .*)$", shown.err, re.MULTILINE):
        assert words.split()[1] in app.LazyVerbs()


def test_the_shipped_configs_are_listed_with_their_titles(capsys):
    assert app.run(["bench", "configs"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for name, title in config_titles().items():
        assert f"{name} {title}" in shown
        assert title.endswith((".", "?"))


def test_a_mistyped_config_is_answered_with_near_ones(capsys):
    assert app.run(["bench", "run", "--config", "minilm_review", "--output", "out"]) == 3
    shown = capsys.readouterr().err
    assert "did you mean `minilm_reviews` or `minilm_reviews_demo`" in shown
    assert "`gradience bench configs` lists them" in shown


COMPLETE = """
source "$HOME/.bash_completions/gradience.sh"
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_gradience_completion gradience
printf '%s\\n' "${COMPREPLY[@]}"
"""
CLOSED = {
    "compress adapter --suggested ": "uniform_median uniform_p90 per_layer",
    "compress adapter --encoding pa": "patterns padded",
    "compress adapter --dtype F": "F64 F32 F16 F8_E4M3 F8_E5M2 F8_E4M3FNUZ F8_E5M2FNUZ",
    "check adapter --task ": "classification generation reasoning rl",
    "monitor run.jsonl --fail-on ": "warning error",
    "schema bench": "bench bench_aggregate bench_plan bench_forecast bench_status",
}
"""What is typed before Tab, and what may follow."""


@pytest.fixture
def shell(tmp_path):
    """Runs a shell that has `gradience` and a home of its own, with the completion of that shell installed."""
    command = tmp_path / "bin" / "gradience"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m gradience "$@"\n')
    command.chmod(0o755)
    root = Path(__file__).resolve().parents[2]
    environment = {"HOME": str(tmp_path), "PATH": f"{command.parent}:/usr/bin:/bin", "PYTHONPATH": str(root)}

    def run(*words):
        return subprocess.run(
            words, env=environment, capture_output=True, text=True, timeout=HANGS, check=True
        ).stdout

    return run


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_verbs_configs_and_closed_sets_after_the_installation(shell):
    """`gradience --install-completion`, then what bash does when Tab is pressed."""
    # two commands: bash stays its parent, by which it is known
    shell("bash", "-c", "gradience --install-completion bash; exit $?")

    def completed(line):
        return shell("bash", "-c", COMPLETE, "bash", *re.split(" ", line)).split()

    assert completed("gradience be") == ["bench"]
    assert completed("gradience bench run --config mini") == [
        "minilm_reviews",
        "minilm_reviews_calibrated",
        "minilm_reviews_demo",
    ]
    assert completed("gradience bench run --config ./my.y") == []  # bash completes files
    for line, values in CLOSED.items():
        assert completed(f"gradience {line}") == values.split()


@pytest.mark.skipif(shutil.which("fish") is None, reason="needs fish")
def test_fish_completes_closed_sets_after_the_installation(shell):
    shell("fish", "-c", "gradience --install-completion fish; exit $status")
    for line, values in CLOSED.items():
        shown = shell("fish", "-c", f'complete --do-complete "gradience {line}"').splitlines()
        assert {row.partition("\t")[0] for row in shown} == set(values.split())
