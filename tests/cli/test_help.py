"""Help pages and completion: nothing is cut, nothing is wider than the terminal, no type of Python is shown."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from killing import HANGS

from gradience.bench.config.shipped import config_titles
from gradience.cli import app
from gradience.cli.help import summary


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
    files = {path.stem for path in Path(app.__file__).parent.glob("*.py")}
    assert set(verbs) <= files


def test_help_of_the_root_imports_no_verb():
    code = "import sys; from gradience.cli.app import run, LazyVerbs; run(['--help']); import gradience.cli as cli\n"
    code += "print([name for name in LazyVerbs() if f'gradience.cli.{name}' in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"


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
