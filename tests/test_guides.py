"""The commands and the Python of the guides on compress and compare, run in the order in which a reader would."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from killing import HANGS

from gradience.cli.app import run
from gradience.cli.demo import example_adapter

DOCS = Path(__file__).resolve().parent.parent / "docs"
GUIDES = ["compress.md", "compare.md", "evidence.md"]


def blocks(page, wanted):
    text = (DOCS / page).read_text(encoding="utf-8")
    fenced = re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return [block for language, block in fenced if language == wanted]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with the adapters that the pages use."""
    names = ["my_adapter", "seed42", "seed123", "adapters/support", "adapters/sales"]
    for name in names:
        shutil.copytree(example_adapter(), tmp_path / name)
    (tmp_path / "adapters" / "broken").mkdir()
    for scores in (DOCS.parent / "examples" / "evidence").iterdir():
        shutil.copy(scores, tmp_path)
    for name, side in (("base", "a"), ("lora", "b")):
        (tmp_path / f"{name}_nll.csv").write_text(f"id,score\n1,2.5{len(side)}\n2,3.1\n3,1.{ord(side)}\n")
        (log,) = (DOCS.parent / "tests" / "evidence" / "logs" / "lm_eval" / side).glob("samples_sums_*")
        (tmp_path / "runs" / name).mkdir(parents=True)
        shutil.copy(log, tmp_path / "runs" / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", GUIDES)
def test_the_commands_work_one_after_the_other(page, folder, capsys):
    if page == "compare.md":
        assert run(shlex.split("compress my_adapter --rank 4 --output smaller --quiet")) == 0
    lines = [line for block in blocks(page, "") for line in block.splitlines()]
    assert len(lines) >= 3
    for line in lines:
        program, *words = shlex.split(line, comments=True)
        assert program == "gradience"
        words, _, target = (words[:-2], ">", words[-1]) if ">" in words else (words, "", "")
        assert run(words) in ((0, 8) if words[0] == "evidence" else (0,)), (
            line
        )  # few examples are inconclusive
        printed = capsys.readouterr()
        assert printed.out
        assert not printed.err
        if target:
            (folder / target).write_text(printed.out, encoding="utf-8")
    written = set(re.findall(r"--output (\w+)", "\n".join(lines)))
    assert all((folder / name / "compression_report.md").exists() for name in written)


@pytest.mark.parametrize("page", GUIDES)
def test_the_python_works(page, folder):
    if page == "compare.md":
        assert run(shlex.split("compress my_adapter --rank 4 --output smaller --quiet")) == 0
    sources = blocks(page, "python")
    assert sources
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(sources)], capture_output=True, text=True, timeout=HANGS, check=False
    )
    assert done.returncode == 0, done.stderr
    assert ("B is as good as A" if page == "evidence.md" else "bert.encoder.layer.0") in done.stdout


def test_every_option_of_the_guide_exists_and_every_option_is_in_it():
    from typer.main import get_command

    from gradience.cli.app import app

    text = (DOCS / "compress.md").read_text(encoding="utf-8")
    compress = get_command(app).commands["compress"]
    options = {option for param in compress.params for option in param.opts if option.startswith("--")}
    assert set(re.findall(r"--[a-z][a-z-]+", text)) <= options | {"--evaluation"}  # of card
    assert options - set(re.findall(r"--[a-z][a-z-]+", text)) == {"--adapter", "--quiet"}
