"""README is a first screen, and the output, commands and Python shown there and on the first pages are real."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from gradience.cli.app import run
from gradience.cli.demo import example_adapter
from gradience.models.embedded import minilm

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    ROOT / "README.md",
    *(ROOT / "docs" / page for page in ("quickstart.md", "audit.md", "reference/python.md")),
]


def blocks(page, *languages):
    fenced = re.findall(
        r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    return [text for language, text in fenced if language in languages]


def shown_commands():
    """Every `gradience …` line of a code block, and of the next steps that the demo prints."""
    for page in PAGES:
        for block in blocks(page, "", "text"):
            for line in block.splitlines():
                command = re.search(r"(?:^|\$ |\s{2}|\.venv/bin/)gradience (.*)", line)
                if command:
                    yield pytest.param(
                        re.split(r"\s{2,}|\s[#>]|\s\|\|", command[1])[0], id=f"{page.name}: {command[1]}"
                    )


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with the adapters, the config and the finished runs that the pages use."""
    runs = (
        "run/checkpoint-100",
        "run/checkpoint-200",
        "seed42",
        "seed123",
        "adapters/support",
        "adapters/sales",
    )
    for name in ("adapter", "my_adapter", "your_adapter", *runs):
        shutil.copytree(example_adapter(), tmp_path / name)
    (tmp_path / "adapters" / "broken").mkdir()
    shutil.copytree(example_adapter(), tmp_path / example_adapter().relative_to(ROOT))
    shutil.copy(ROOT / "gradience" / "bench" / "configs" / "minilm_reviews.yaml", tmp_path / "my.yaml")
    for seed in (42, 123, 456):
        kept = ROOT / "benchmarks" / "results" / "minilm_reviews" / f"seed_{seed}" / "bench.json"
        (tmp_path / "runs" / f"seed{seed}").mkdir(parents=True)
        shutil.copy(kept, tmp_path / "runs" / f"seed{seed}")
    for scores in (ROOT / "examples" / "evidence").iterdir():
        shutil.copy(scores, tmp_path)
    for name, side in (("base", "a"), ("lora", "b")):
        (tmp_path / f"{name}_nll.csv").write_text(f"id,score\n1,2.5{len(side)}\n2,3.1\n3,1.{ord(side)}\n")
        (log,) = (ROOT / "tests" / "evidence" / "logs" / "lm_eval" / side).glob("samples_sums_*")
        (tmp_path / "runs" / name).mkdir()
        shutil.copy(log, tmp_path / "runs" / name)
    shutil.copy(ROOT / "tests" / "monitor" / "runs" / "good.jsonl", tmp_path / "run.jsonl")
    rows = [{"text": f"film {n} was {'good' if n % 2 else 'bad'}", "label": n % 2} for n in range(40)]
    (tmp_path / "examples.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    base = tmp_path / "sentence-transformers" / "all-MiniLM-L6-v2"  # the base that the example's config names
    base.parent.mkdir()
    base.symlink_to(minilm())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_readme_is_short_and_begins_with_a_picture_and_the_two_commands():
    text = PAGES[0].read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 110
    assert (ROOT / re.search(r"^!\[.+\]\((.+)\)$", text, flags=re.MULTILINE)[1]).is_file()
    install = blocks(PAGES[0], "")[0].splitlines()
    assert [line.split("    ")[0] for line in install[1:]] == ["make demo", "make test"]


@pytest.mark.parametrize("line", list(shown_commands()))
def test_a_shown_command_works(line, folder, command):
    words = [
        str(path)
        for word in shlex.split(line)
        for path in (sorted(folder.glob(word)) if "*" in word else [word])
    ]
    if words[0] == "evaluate":
        shutil.copytree(example_adapter(), folder / "smaller")
    if words[0] in {"evaluate", "shrink"} or (words[:2] == ["bench", "run"] and "--dry-run" not in words):
        words.append("--dry-run")  # a run takes minutes: tests/bench has them
    assert command(*words).out


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(block, id=f"{page.name}-{n}")
        for page in PAGES
        for n, block in enumerate(blocks(page, "python"))
    ],
)
def test_shown_python_works(source, folder):
    exec(source, {})
    assert (folder / "audit.json").exists()


# ---------------------------------------------------------------- The commands and the Python of the guides


DOCS = ROOT / "docs"
GUIDES = ["compress.md", "compare.md", "evidence.md"]


@pytest.mark.parametrize("page", GUIDES)
def test_the_commands_work_one_after_the_other(page, folder, capsys):
    if page == "compare.md":
        assert run(shlex.split("compress my_adapter --rank 4 --output smaller --quiet")) == 0
    lines = [line for block in blocks(DOCS / page, "") for line in block.splitlines()]
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
def test_the_python_works(page, folder, capsys):
    if page == "compare.md":
        assert run(shlex.split("compress my_adapter --rank 4 --output smaller --quiet")) == 0
    sources = blocks(DOCS / page, "python")
    assert sources
    expected = "The candidate is within the margin of" if page == "evidence.md" else "bert.encoder.layer.0"
    exec("\n".join(sources), {})
    assert expected in capsys.readouterr().out


def test_every_option_of_the_guide_exists_and_every_option_is_in_it():
    from typer.main import get_command

    from gradience.cli.app import app

    text = (DOCS / "compress.md").read_text(encoding="utf-8")
    compress = get_command(app).commands["compress"]
    options = {option for param in compress.params for option in param.opts if option.startswith("--")}
    named = set(re.findall(r"--[a-z][a-z-]+", text))
    assert named <= options | {"--evaluation"}  # of card
    assert options - named == {"--adapter", "--quiet"}
