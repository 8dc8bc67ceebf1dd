"""Adapters behind a server with OpenAI's completions API: the same answers as ours, and every failure of a server."""

import json
import subprocess
import sys

import pytest
import urllib3
from completions_server import Server, serving, tiny_server
from tiny_models import letters_tokenizer, llama, llama_adapter, sums

import gradience
from gradience import evaluate_adapters
from gradience.cli.app import run
from gradience.digests import sha256_text
from gradience.errors import InputError, NetworkError, UsageError
from gradience.evaluate.engines import openai
from gradience.evaluate.engines.transformers import TransformersEngine
from gradience.files.records import read_records

KEY = "sk-of-nobody-0123456789abcdef"
NAMES = ("first", "second")


def choices_of(row):
    return [f" {row.answer}", f" {row.answer}0", " 7"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("served")
    for seed, name in enumerate(NAMES, start=1):
        llama_adapter(root / name, seed)
    rows = sums(24)
    prompts = [{"prompt": row.prompt, "answer": row.answer} for row in rows]
    choices = [
        {"prompt": row.prompt, "choices": choices_of(row), "label": place % 3}
        for place, row in enumerate(rows)
    ]
    for name, lines in (("prompts", prompts), ("choices", choices)):
        (root / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


@pytest.fixture
def server(folders, monkeypatch):
    monkeypatch.setattr(openai, "RETRIES", openai.RETRIES.new(backoff_factor=0, backoff_jitter=0))
    monkeypatch.delenv(openai.KEY, raising=False)
    state = tiny_server(llama(), letters_tokenizer(), {name: folders / name for name in NAMES})
    with serving(state):
        yield state


def evaluated(server, folders, data="prompts", out=None, adapters=NAMES, **more):
    return evaluate_adapters(
        list(adapters), base_model="tiny", data=folders / f"{data}.jsonl", engine="openai", server=server.url,
        output=out, max_new_tokens=None if data == "choices" else 6, **more,
    )  # fmt: skip


def ours(folders):
    engine = TransformersEngine(llama(), letters_tokenizer())
    for name in NAMES:
        engine.add(name, folders / name)
    return engine


@pytest.mark.parametrize("folders_given", [False, True])
def test_texts_are_those_of_transformers_and_the_report_says_what_is_missing(
    server, folders, tmp_path, folders_given
):
    out, adapters = tmp_path / "out", [folders / name for name in NAMES] if folders_given else NAMES
    report = evaluated(server, folders, out=out, adapters=adapters, with_base=True, all_rows=True)
    rows, engine = sums(24), ours(folders)
    for row, name in zip(report.adapters, [*NAMES, None], strict=True):
        records = in_order(out / row.records[0].path, rows)
        expected = engine.generate(name, [row.prompt for row in rows], max_new_tokens=6)
        assert [record.output for record in records] == [output.text for output in expected]
        assert [record.stopped_by for record in records] == [output.stopped_by for output in expected]
        assert [record.n_tokens for record in records] == [output.n_tokens for output in expected]
        assert row.change is None
    header = read_records(out / report.adapters[0].records[0].path).run
    assert (header.engine, header.versions["openai"], header.dtype) == ("openai", "vllm 0.0-tiny", None)
    page = report.to_markdown()
    assert (
        "the engine openai computes no KL: KL, flips, and whether an adapter has any effect were not" in page
    )
    assert ("2 adapters given as folders: the server was asked by name" in page) == folders_given
    assert (report.adapters[0].lora_params is None) != folders_given
    asked = len(server.asked)
    again = evaluated(server, folders, out=out, adapters=adapters, with_base=True, all_rows=True)
    assert (again.adapters, len(server.asked)) == (report.adapters, asked)
    assert run(["verify", str(out), "-q"]) == 0


def in_order(path, rows):
    by_prompt = {record.prompt_sha256: record for record in read_records(path).records}
    return [by_prompt[sha256_text(row.prompt)] for row in rows]


def test_choices_are_scored_from_the_log_probabilities_of_the_prompt(server, folders, tmp_path):
    report = evaluated(server, folders, "choices", tmp_path / "out", with_base=True, all_rows=True)
    engine = ours(folders)
    pairs = [(row.prompt, choice) for row in sums(24) for choice in choices_of(row)]
    for row, name in zip(report.adapters, [*NAMES, None], strict=True):
        records = in_order(tmp_path / "out" / row.records[0].path, sums(24))
        measured = [value for record in records for value in record.loglikelihoods]
        expected = engine.score(name, pairs, end=False)
        assert measured == pytest.approx([score.loglikelihood for score in expected], abs=1e-4)
    for asked in server.asked:
        assert asked["model"] in ("tiny", *NAMES)


def test_stop_strings_end_an_answer_and_a_templates_begin_token_is_sent_once(server, folders):
    engine = openai.OpenAIEngine.load(
        settings(server), tokenizer=letters_tokenizer(bos=True, bos_token="<s>")
    )
    engine.add("first", folders / "first")
    prompts = [row.prompt for row in sums(24)]
    for stop in (("a", "7"), ("+",)):
        outputs = engine.generate(
            "first", [f"<s>{prompt}" for prompt in prompts], max_new_tokens=6, stop=stop
        )
        expected = ours(folders).generate("first", prompts, max_new_tokens=6, stop=stop)
        assert [(one.text, one.stopped_by) for one in outputs] == [
            (one.text, one.stopped_by) for one in expected
        ]
    assert not any("<s>" in asked["prompt"] for asked in server.asked)
    engine.close()


def settings(server, **more):
    from gradience.models.settings import ModelSettings

    return ModelSettings(name="tiny", type="causal_lm", server=server.url, **more)


BUSY = [(429, {"Retry-After": "0"}, b"slow down"), (500, {}, b""), (503, {}, b"<html>")]


def test_busy_servers_are_asked_again(server, folders):
    server.failures = [*BUSY]
    report = evaluated(server, folders, limit=4, all_rows=True)
    assert report.adapters[0].n == 4
    assert server.failures == []


@pytest.mark.parametrize(
    ("failures", "code", "exit_code", "says"),
    [
        ([(500, {}, b"it broke")] * 99, "no-server-answer", 7, "status 500: it broke"),
        ([(200, {}, b"<html>")], "server-answer", 7, "its answer is not that of a completions API"),
        ([(200, {}, b'{"choices": [], "usage": {"prompt_tokens": 1}}')], "server-answer", 7, "choices"),
        ([(200, {}, b'{"choices": [{"text": "\\ud800"}], "usage": {}}')], "server-answer", 7, "Invalid JSON"),
        ([(200, {}, b"[" * 10**4)], "server-answer", 7, "Invalid JSON"),
        ([(200, {}, b" " * 2**20)], "server-answer", 7, "more than"),
        ([(200, {"Content-Length": "99999999"}, b"{}")], "no-server-answer", 7, "no answer from the server"),
        ([(400, {}, b"too long: \x1b[2J" + KEY.encode())], "engine-refuses", 3, "status 400: too long"),
        ([(401, {}, b"no " + KEY.encode())], "server-key", 7, "refused the API key"),
        ([(307, {"Location": "http://127.0.0.2/"}, b"")], "no-server-answer", 7, "status 307"),
    ],
)
def test_what_else_a_server_may_answer_is_an_error(
    server, folders, tmp_path, monkeypatch, failures, code, exit_code, says
):
    monkeypatch.setenv(openai.KEY, KEY)
    server.failures = failures * openai.IN_FLIGHT
    with pytest.raises((InputError, NetworkError), match=says) as error:
        evaluated(server, folders, out=tmp_path / "out", limit=1)
    assert (error.value.code, error.value.exit_code) == (code, exit_code)
    assert KEY not in f"{error.value} {error.value.hint}"
    assert len(str(error.value)) < 500


def test_a_server_that_dies_leaves_an_evaluation_that_resumes(server, folders, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(openai.KEY, KEY)
    given = ["evaluate", *NAMES, "-b", "tiny", "--data", str(folders / "prompts.jsonl"), "--engine", "openai",
             "--batch-size", "4", "--max-new-tokens", "6", "--all-rows"]  # fmt: skip
    server.left = 10
    assert run([*given, "--server", server.url, "-o", str(tmp_path / "out")]) == 7
    assert "start the server again, and repeat the command" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("records/*.jsonl"))
    finished, server.left = len(server.asked), None
    code = run([*given, "--server", server.url, "-o", str(tmp_path / "out")])
    assert len(server.asked) < finished + 2 * 24  # those of whole batches were kept
    assert run([*given, "--server", server.url, "-o", str(tmp_path / "whole")]) == code
    for name in NAMES:
        one, other = (tmp_path / out / "records" / f"{name}.jsonl" for out in ("out", "whole"))
        assert one.read_bytes() == other.read_bytes()
    assert server.keys == {f"Bearer {KEY}"}
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(KEY.encode() in content for content in written)


def test_a_candidate_that_the_server_lacks_is_not_evaluated(server, folders, tmp_path):
    report = evaluated(server, folders, adapters=("first", "third"), limit=4)
    assert [row.grade for row in report.adapters] == [None, "X"]
    assert "the server has no model called third" in report.adapters[1].reason
    server.models.append({"id": "other-base"})
    with pytest.raises(InputError, match="the server has no model called nothing") as error:
        evaluate_adapters(["first"], base_model="nothing", data=folders / "prompts.jsonl", engine="openai",
                          server=server.url, with_base=True)  # fmt: skip
    assert error.value.hint == "it serves tiny, first, second, other-base"


def test_a_server_without_log_probabilities_of_the_prompt_answers_no_choices(server, folders):
    complete = server.complete
    server.complete = lambda body: complete({**body, "echo": False})
    with pytest.raises(InputError, match="no log-probabilities of the prompt") as error:
        evaluated(server, folders, "choices", limit=2)
    assert error.value.code == "engine-cannot"


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"server": None}, "no-server"),
        ({"server": "localhost:8000"}, "bad-server"),
        ({"server": "http://user:password@host/v1"}, "bad-server"),
        ({"dtype": "bfloat16"}, "engine-cannot"),
        ({"engine": "transformers"}, "engine-cannot"),
        ({"options": {"scorer": "nll"}}, "engine-cannot"),
    ],
)
def test_what_a_server_cannot_do_is_refused_before_it_is_asked(folders, more, code):
    given = {"engine": "openai", "server": "http://127.0.0.1:9/v1", "base_model": "tiny", **more}
    adapters = [folders / "first"] if given["engine"] == "transformers" else ["first"]
    with pytest.raises(UsageError) as error:
        evaluate_adapters(adapters, data=folders / "prompts.jsonl", **given)
    assert error.value.code == code
    assert "password" not in str(error.value)


def test_adapters_that_are_made_here_are_not_on_a_server(folders, tmp_path):
    for command in (
        [
            "shrink",
            str(folders / "first"),
            "-o",
            str(tmp_path / "s"),
            "--data",
            str(folders / "prompts.jsonl"),
        ],
        ["bench", "run", "-c", "smollm2_arithmetic", "-o", str(tmp_path / "b")],
    ):
        engine = ["--engine", "openai"] if command[0] == "shrink" else ["runtime.engine=openai"]
        assert run([*command, *engine]) == 2
    with pytest.raises(UsageError, match="its server does not have the adapters"):
        gradience.shrink_adapter(
            folders / "first", tmp_path / "s", data=folders / "prompts.jsonl", engine="openai"
        )


def test_no_server_at_all_is_tried_again_and_reported(folders, monkeypatch):
    monkeypatch.setattr(openai, "RETRIES", urllib3.Retry(1))
    with pytest.raises(NetworkError, match="no answer from the server") as error:
        evaluated(Server(lambda body: body, [], url="http://127.0.0.1:9/v1"), folders)
    assert error.value.code == "no-server-answer"


def test_it_needs_no_torch(server, folders, tmp_path):
    """The extra `server` is enough: torch, transformers and peft are not imported."""
    program = (
        "import sys\n"
        "class Without:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in ('torch', 'transformers', 'peft', 'datasets', 'accelerate'):\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Without())\n"
        "from gradience.cli.app import run\n"
        "sys.exit(run(sys.argv[1:]))"
    )
    given = ["evaluate", *NAMES, "-b", "tiny", "--data", str(folders / "prompts.jsonl"), "--engine", "openai",
             "--server", server.url, "-o", str(tmp_path / "out"), "--max-new-tokens", "6", "--limit", "8"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", program, *given], capture_output=True, text=True, check=False
    )
    assert (tmp_path / "out" / "evaluation.json").is_file(), done.stderr
