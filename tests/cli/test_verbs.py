"""What all verbs that report have in common: JSON of the committed schema, a screen made from it, no PyTorch."""

import json
from pathlib import Path

import jsonschema
import pytest
from running import printed_by

from gradience import compress_adapter
from gradience.cli.app import run
from gradience.cli.demo import example_adapter
from gradience.reports.registry import model_of

ROOT = Path(__file__).resolve().parents[2]
RUN = ROOT / "tests" / "monitor" / "runs" / "good.jsonl"
KEPT = ROOT / "benchmarks" / "results" / "minilm_reviews"
LOGS = ROOT / "tests" / "evidence" / "logs" / "lm_eval"
SUMS = [str(next((LOGS / side).glob("samples_sums_*"))) for side in "ab"]
ADAPTER = str(example_adapter())
VERBS = {
    "audit": ["audit", ADAPTER],
    "comparison": ["compare", ADAPTER, "SMALLER"],
    "compression_plan": ["compress", ADAPTER, "--energy", "0.9", "--dry-run"],
    "compression": ["compress", ADAPTER, "--max-error", "0.2", "-o", "OUT"],
    "conversion": ["convert", ADAPTER, "OUT"],
    "fleet": ["fleet", "FLEET", "--root", "/"],
    "evidence": ["evidence", *SUMS, "--filter", "strict-match", "--require-grade", "C"],
    "check": ["check", ADAPTER],
    "monitor": ["monitor", str(RUN)],
}
"""Kind of report -> a command that makes one."""


@pytest.fixture
def words(tmp_path):
    """The words of a command; what it writes is new each time."""
    smaller = tmp_path / "fleet" / "smaller"
    compress_adapter(ADAPTER, smaller, rank=3)
    number = iter(range(99))

    def call(kind):
        names = {"SMALLER": smaller, "FLEET": smaller.parent, "OUT": tmp_path / f"{next(number)}" / "out"}
        names["OUT"].parent.mkdir()
        return [str(names.get(word, word)) for word in VERBS[kind]]

    return call


@pytest.mark.parametrize("kind", VERBS)
def test_json_is_one_line_of_the_committed_schema_and_the_screen_is_made_from_it(kind, words, capsys):
    assert run([*words(kind), "--json"]) in (0, 1)
    printed, said = capsys.readouterr()
    assert (printed.count("\n"), said) == (1, "")
    schema = (ROOT / "docs" / "schemas" / f"{kind}.schema.json").read_text(encoding="utf-8")
    jsonschema.validate(json.loads(printed), json.loads(schema))
    report = model_of(kind).model_validate_json(printed)
    assert run(words(kind)) in (0, 1)
    screen = capsys.readouterr().out
    heading = report.to_text().splitlines()[0]
    assert screen.startswith(heading)
    assert "\x1b" not in screen


@pytest.mark.parametrize("kind", ["audit", "comparison", "compression", "conversion", "fleet", "evidence"])
def test_quiet_says_nothing(kind, words, command):
    assert command(*words(kind), "--quiet") == ("", "")


def test_no_verb_on_files_loads_torch(words):
    commands = [words(kind) for kind in VERBS]
    commands += [["verify", str(KEPT)], ["env"], ["schema", "audit"], ["demo"]]
    code = (
        "import io, sys; from contextlib import redirect_stdout; from gradience.cli.app import run\n"
        f"for words in {commands!r}:\n"
        "    with redirect_stdout(io.StringIO()): assert run(words) in (0, 1), words\n"
        "print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    )
    heavy = {"torch", "transformers", "peft", "datasets", "accelerate", "pandas"}
    assert not heavy & set(printed_by(code).split())


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["fleet", "nope"], 3, "nope: no such file or folder"),
        (["evaluate", ADAPTER, "--task", "nope", "-o", "out"], 2, "no task is called `nope`"),
        (["evaluate", ADAPTER, "-b", "embedded:nope", "--task", "reviews", "-o", "out"], 2, "embedded:nope"),
        (["evaluate", ADAPTER, "--data", "nope.jsonl", "-o", "out"], 3, "nope.jsonl: no such file"),
        (["shrink", ADAPTER, "--data", "nope.jsonl", "-o", "out"], 3, "nope.jsonl: no such file"),
        (["calibrate", ADAPTER, "--prompts", "nope.jsonl", "-o", "out"], 3, "nope.jsonl: no such file"),
        (["monitor", str(RUN), "--fail-on", "much"], 2, "--fail-on"),
        (["monitor", str(RUN), "--gap-threshold", "0.5"], 2, "--gap-threshold"),
        (["monitor", "nope"], 3, "nope: no such file"),
        (["compare", ADAPTER], 2, "Missing argument"),
        (["compare", ADAPTER, "nope"], 3, "nope: no such file"),
        (["verify", "nope"], 3, "nope"),
        (["bench", "export", "nope", "--to", "csv", "-o", "out"], 2, "--to csv"),
        (["audit", ADAPTER, "-o", "x.html"], 2, "hint: for the page, type --html x.html"),
        (["fleet", ADAPTER, "-o", "x.HTM"], 2, "x.HTM: the output would not be an HTML page"),
        (["convert", ADAPTER, "x.html"], 2, "--html x.html"),
        (["bench", "run", "-c", "minilm_reviews_demo", "-o", "x.html"], 2, "--html x.html"),
    ],
    ids=lambda value: " ".join(value).replace(ADAPTER, "A") if isinstance(value, list) else "",
)
def test_trouble(words, code, said, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    shown = command(*words, code=code)
    assert shown.out == ""
    assert said in shown.err
    assert "\n\nhint: " in shown.err
    assert not list(tmp_path.iterdir())


def test_no_file_is_looked_for_behind_slow_imports(tmp_path):
    """Each of these was answered after seconds: PyTorch, scipy or all of Bench was imported first."""
    commands = [
        ["evaluate", ADAPTER, "--data", "nope", "-o", "out"],
        ["shrink", "nope", "-o", "out"],
        ["calibrate", "nope", "--prompts", ADAPTER, "-o", "out"],
        ["distill", "nope", "--teacher", ADAPTER, "--prompts", "nope", "-o", "out"],
        ["evidence", "nope", "nope"],
        ["verify", "nope"],
        ["bench", "run", "-c", "nope", "-o", "out"],
        ["bench", "aggregate", "nope"],
        ["bench", "status", "nope"],
        ["bench", "export", "nope", "--to", "eee", "-o", "out"],
    ]
    code = (
        "import json, sys; from gradience.cli.app import run\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    assert run(words) in (2, 3), words\n"
        "    slow = {'torch', 'scipy.stats', 'scipy.optimize', 'gradience.bench.config'} & set(sys.modules)\n"
        "    assert not slow, (words, slow)"
    )
    printed_by(code, json.dumps(commands), cwd=tmp_path)
