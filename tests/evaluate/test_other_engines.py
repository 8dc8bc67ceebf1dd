"""Engines that are not ours: a server with the completions API of OpenAI, and the process of vLLM."""

import os
import signal
import subprocess
import sys
import time
import venv
from itertools import chain

import adapters_to_compare as data
import pytest
import torch
from completions_server import serving, tiny_server
from data_files import write_jsonl
from peft import PeftModel
from raising import raises
from tiny_models import letters_tokenizer, llama, llama_adapter, sums

import gradience
from gradience import evaluate_adapters
from gradience.bench.config import RuntimeSettings
from gradience.cli.app import run
from gradience.digests import sha256_text
from gradience.errors import EngineError, InputError, NetworkError, UsageError
from gradience.evaluate.engines import engine as engine_class
from gradience.evaluate.engines import openai
from gradience.evaluate.engines.base import Decoding, Reading
from gradience.evaluate.engines.transformers.engine import TransformersEngine
from gradience.evaluate.engines.vllm.engine import (
    PYTHON,
    Slots,
    VllmEngine,
    VllmProcess,
    interpreter,
    needs_of,
    refuse_disagreement,
    versions_in,
)
from gradience.files.records import read_records
from gradience.models.settings import ModelSettings

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
        write_jsonl(root / f"{name}.jsonl", lines)
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
        expected = engine.generate(name, [row.prompt for row in rows], Decoding(6))
        written = [(record.output, record.stopped_by, record.n_tokens) for record in records]
        assert written == [(output.text, output.stopped_by, output.n_tokens) for output in expected]
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
        expected = engine.score(name, pairs, Reading(end=False))
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
        outputs = engine.generate("first", [f"<s>{prompt}" for prompt in prompts], Decoding(6, stop))
        expected = ours(folders).generate("first", prompts, Decoding(6, stop))
        assert [(one.text, one.stopped_by) for one in outputs] == [
            (one.text, one.stopped_by) for one in expected
        ]
    assert not any("<s>" in asked["prompt"] for asked in server.asked)
    engine.close()


def settings(server, **more):
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


def test_a_candidate_that_the_server_lacks_is_not_evaluated(server, folders):
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
    with raises(InputError, "engine-cannot", "no log-probabilities of the prompt"):
        evaluated(server, folders, "choices", limit=2)


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
    with raises(UsageError, code) as error:
        evaluate_adapters(adapters, data=folders / "prompts.jsonl", **given)
    assert "password" not in str(error.value)


def test_adapters_that_are_made_here_are_not_on_a_server(folders, tmp_path):
    bench = ["bench", "run", "-c", "smollm2_arithmetic", "-o", str(tmp_path / "b")]
    assert run([*bench, "runtime.engine=openai"]) == 2
    with pytest.raises(UsageError, match="its server does not have the adapters"):
        gradience.shrink_adapter(
            folders / "first", tmp_path / "s", data=folders / "prompts.jsonl", engine="openai"
        )


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


# ---------------------------------------------------------------- vLLM


PARENT = """
import sys
from gradience.evaluate.engines.vllm.engine import VllmProcess
process = VllmProcess(sys.executable, {})
print(process._child.pid, flush=True)
sys.stdin.read()
"""


# --- its Python


def test_its_python_is_named_by_whoever_runs_it(monkeypatch, tmp_path):
    for named in (None, "", str(tmp_path / "none")):
        monkeypatch.setenv(PYTHON, named) if named is not None else monkeypatch.delenv(PYTHON, raising=False)
        with pytest.raises(UsageError) as refusal:
            interpreter()
        assert (refusal.value.code, "--engine-python" in refusal.value.hint) == ("no-engine-python", True)
    monkeypatch.setenv(PYTHON, sys.executable)
    assert interpreter() == sys.executable


def test_a_python_without_vllm_and_what_is_no_python():
    with raises(UsageError, "no-vllm", "vLLM is not installed there"):
        versions_in(sys.executable)
    with raises(UsageError, "no-engine-python", "cannot be used as the Python of vLLM"):
        versions_in("/bin/true")


def test_four_bits_are_refused_before_anything_is_loaded():
    with raises(UsageError, "engine-cannot", "does not support a base in 4 bits"):
        engine_class("vllm").check(ModelSettings(name="base", type="causal_lm", quantization="nf4"))


def two_adapters(base, folder):
    adapters = [str(llama_adapter(folder / name, seed)) for seed, name in enumerate(("one", "two"))]
    (folder / "rows.jsonl").write_text('{"prompt": "1 + 1 =", "answer": "2"}\n' * 2)
    given = ["evaluate", *adapters, "-b", str(base), "--data", str(folder / "rows.jsonl"), "--device", "cpu"]
    return [*given, "-o", str(folder / "out"), "--engine", "vllm"]


def test_the_command_refuses_a_classifier_and_asks_for_a_python(base, tmp_path, monkeypatch, command):
    monkeypatch.chdir(data.classifiers(tmp_path / "labels"))
    given = ["evaluate", "reference", "other", "-b", "base", "--data", "rows.csv", "--engine", "vllm"]
    assert "does not support a sequence classifier" in command(*given, "-o", "out", code=2).err
    monkeypatch.delenv(PYTHON, raising=False)
    given = two_adapters(base, tmp_path)
    assert "the engine vllm needs its own Python" in command(*given, code=2).err
    monkeypatch.setenv(PYTHON, "")
    assert "vLLM is not installed there" in command(*given, "--engine-python", sys.executable, code=2).err
    assert "'llm' is not one of transformers, vllm" in command(*given[:-1], "llm", code=2).err


def test_a_config_names_the_engine_and_never_a_python():
    assert "engine" not in RuntimeSettings().model_dump()
    assert RuntimeSettings(engine="vllm").model_dump()["engine"] == "vllm"
    with pytest.raises(ValueError, match="not one of transformers, vllm"):
        RuntimeSettings(engine="other")
    with pytest.raises(ValueError, match="Extra inputs"):
        RuntimeSettings(engine_python="/usr/bin/python3")


# --- its process


def test_a_process_that_dies_says_what_it_printed_last():
    process = VllmProcess(sys.executable, {})
    with pytest.raises(
        EngineError, match=r"ended with code 1 during 'sing'.*'Server' object has no attribute 'sing'"
    ) as died:
        process.ask("sing")
    assert (died.value.code, died.value.exit_code) == ("engine-died", 5)
    with pytest.raises(EngineError, match="ended with code 1"):
        process.ask("sing")
    process.close()


def test_a_process_that_is_killed_is_told_from_one_that_fails():
    process = VllmProcess(sys.executable, {})
    os.kill(process._child.pid, signal.SIGKILL)
    with pytest.raises(EngineError, match="was ended by signal 9") as died:
        process.ask("start", settings={})
    assert "out of memory" in died.value.hint
    process.close()


def test_it_ends_with_the_process_that_started_it():
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    child = int(parent.stdout.readline())
    assert runs(child)
    parent.kill()
    parent.communicate()
    until = time.monotonic() + 60
    while runs(child) and time.monotonic() < until:
        time.sleep(0.02)
    assert not runs(child)


def runs(pid: int) -> bool:
    """Whether there is such a process, and not only its entry."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# --- its slots


def slots_of(folder):
    return needs_of(folder, "cuda")


def test_slots_are_as_large_as_what_is_served(tmp_path):
    small = slots_of(llama_adapter(tmp_path / "small", 1))
    patterned = llama_adapter(
        tmp_path / "large", 1, r=4, rank_pattern={"down_proj": 9}, target_modules=["down_proj"]
    )
    large = slots_of(patterned)
    assert small == (8, {"q_proj", "v_proj", "down_proj"})  # vLLM allows 1, 8, 16, 32, …
    assert large == (16, {"down_proj"})
    assert small.joined(slots_of(llama_adapter(tmp_path / "rank7", 1, r=7))) == small
    both = small.joined(large)
    assert both == (16, small.modules)
    modules = {"max_lora_rank": 16, "lora_target_modules": ["down_proj", "q_proj", "v_proj"]}
    assert both.settings() == {"enable_lora": True, "max_loras": 1, **modules}
    assert Slots().settings() == {"enable_lora": False}
    assert slots_of(llama_adapter(tmp_path / "huge", 1, r=513)).rank == 513  # for vLLM to refuse


# --- what is refused before it is started


def test_lora_on_the_head_is_refused_on_a_processor(tmp_path):
    adapter = llama_adapter(tmp_path / "adapter", 1, target_modules=["q_proj", "lm_head"])
    with raises(InputError, "engine-cannot", "LoRA on lm_head, with which vLLM cannot read prompts"):
        needs_of(adapter, "cpu")
    assert needs_of(adapter, "cuda").modules == {"q_proj", "lm_head"}


def test_room_is_made_for_all_that_will_come_and_not_for_what_is_refused(engine, tmp_path):
    small, large, head = (
        llama_adapter(tmp_path / name, 1, **lora)
        for name, lora in {
            "small": {},
            "large": {"r": 17, "target_modules": ["up_proj"]},
            "head": {"r": 200, "target_modules": ["lm_head"]},
        }.items()
    )
    engine.expect([small, tmp_path / "none"])
    assert engine._expected == slots_of(small)
    engine.expect([large, head])
    assert engine._expected == (32, {"q_proj", "v_proj", "down_proj", "up_proj"})
    with pytest.raises(InputError) as refusal:
        engine.add("head", head)
    assert (refusal.value.code, engine._process, dict(engine.adapters)) == ("engine-cannot", None, {})


# --- a vLLM that is installed and cannot run


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """An environment whose vLLM lacks a library of the GPU's driver, as one that was made for another machine."""
    folder = tmp_path_factory.mktemp("broken")
    venv.create(folder, with_pip=False)
    packages = next(folder.glob("lib/python*/site-packages"))
    (packages / "vllm").mkdir()
    (packages / "vllm" / "__init__.py").write_text("import ctypes\nctypes.CDLL('libnone.so.12')\n")
    about = packages / "vllm-0.32.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0\n")
    (about / "top_level.txt").write_text("vllm\n")
    return str(folder / "bin" / "python")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    llama().save_pretrained(folder)
    letters_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def engine(broken, base, monkeypatch):
    monkeypatch.setenv(PYTHON, broken)
    return VllmEngine(TransformersEngine(llama(), letters_tokenizer()), base, torch.device("cpu"))


def test_a_vllm_that_cannot_be_imported_is_told_in_one_message(engine, broken, base, tmp_path, command):
    assert versions_in(broken) == {"vllm": "0.32.0"}
    error = command(*two_adapters(base, tmp_path), code=3).err
    assert f"vLLM 0.32.0 refuses to be imported by {broken}: OSError: libnone.so.12: cannot open" in error
    assert "--engine-python" in error
    assert "Traceback" not in error
    assert not list((tmp_path / "out").rglob("*.jsonl"))


# --- its gate: two engines that really compute; the one under test is given another adapter under the same name


def engine_with(folder, seed: int = 0):
    made_of = TransformersEngine(llama(seed), letters_tokenizer())
    made_of.add("a", folder)
    return made_of


def test_the_gate_compares_log_probabilities_and_sees_what_is_left_out(tmp_path):
    prompts = [row.prompt for row in sums(8)]
    adapter, other = (llama_adapter(tmp_path / str(seed), seed) for seed in (1, 2))
    zero = llama_adapter(tmp_path / "zero", 1, B=False)
    peft = engine_with(adapter)

    def ask(under_test, reference=peft):
        refuse_disagreement(under_test, reference, ["a"], prompts, None)

    ask(engine_with(adapter))
    ask(engine_with(zero), engine_with(zero))  # what changes nothing in PEFT may change nothing
    for under_test, code, words in (
        (engine_with(zero), "engine-ignores-adapter", "vLLM ignores this adapter"),
        (
            engine_with(other),
            "engine-disagrees",
            "differ by up to .* nats per token .limit for float32: 0.001",
        ),
        (engine_with(adapter, seed=3), "engine-disagrees", "vLLM and PEFT disagree"),
    ):
        with raises(InputError, code, words):
            ask(under_test)
    with raises(InputError, "engine-disagrees"):
        ask(engine_with(adapter), engine_with(zero))


# --- what it makes of the process's answers, which here come from transformers


class Computing:
    """Stands in for the process: a model for each adapter, asked token by token."""

    def __init__(self, *_):
        self.models = {None: llama()}

    def ask(self, method, *, number=None, path="", rows=(), room=(), first=(), end=0, **_):
        if method == "start":
            return {"device": "cpu", "max_model_len": 129}
        if method == "add":
            self.models[number] = PeftModel.from_pretrained(llama(), path).eval()
        if method == "generate":
            return [self.written(number, row, most, end) for row, most in zip(rows, room, strict=True)]
        if method == "score":
            return [self.terms(number, row, start) for row, start in zip(rows, first, strict=True)]
        return None

    def logits(self, number, row):
        with torch.inference_mode():
            return self.models[number](input_ids=torch.tensor([row])).logits[0]

    def written(self, number, row, most, end):
        ids = list(row)
        while len(ids) < len(row) + most and ids[len(row) :][-1:] != [end]:
            ids.append(int(self.logits(number, ids)[-1].argmax()))
        return ids[len(row) :]

    def terms(self, number, row, start):
        logs = self.logits(number, row).log_softmax(-1)
        places = range(start, len(row))
        return [[float(logs[p - 1, row[p]]), bool(logs[p - 1].argmax() == row[p])] for p in places]

    def close(self):
        self.models.clear()


def test_answers_are_cut_and_summed_as_those_of_transformers(base, broken, tmp_path, monkeypatch):
    monkeypatch.setenv(PYTHON, broken)
    monkeypatch.setattr("gradience.evaluate.engines.vllm.engine.VllmProcess", Computing)
    vllm = VllmEngine(TransformersEngine(llama(), letters_tokenizer()), base, torch.device("cpu"))
    peft, rows = TransformersEngine(llama(), letters_tokenizer()), sums(6)
    for seed, name in enumerate(("a", "b"), 1):
        folder = llama_adapter(tmp_path / name, seed, r=4 * seed)
        for engine in (vllm, peft):
            engine.add(name, folder)
    prompts, pairs = [row.prompt for row in rows], [(row.prompt, row.response) for row in rows]
    for name in ("a", "b"):
        vllm.check_adapter(name, prompts, None)
    for name in (None, "a", "b"):
        given = Decoding(6, ["1"])
        assert vllm.generate(name, prompts, given) == peft.generate(name, prompts, given)
    for how in (Reading(), Reading(end=False), Reading(7, rolling=True)):
        ours, theirs = ([engine.score(name, pairs, how) for name in (None, "a")] for engine in (vllm, peft))
        for score, expected in zip(chain(*ours), chain(*theirs), strict=True):
            assert (score.n_tokens, score.exact) == (expected.n_tokens, expected.exact)
            assert score.loglikelihood == pytest.approx(expected.loglikelihood, abs=1e-4)
    vllm.close()
