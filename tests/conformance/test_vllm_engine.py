"""Real vLLM as the engine of an evaluation and of Bench: `make conformance-vllm`.

Its Python is what GRADIENCE_ENGINE_PYTHON names. What needs no vLLM is in tests/evaluate/test_other_engines.py.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import tiny_models as tiny
import torch
import urllib3
from data_files import write_jsonl
from factory import edit_config
from peft import LoraConfig, get_peft_model
from raising import raises
from transformers import AutoModelForCausalLM, set_seed

from gradience import evaluate_adapters
from gradience.bench.run.seed import MadeElsewhere, refuse_mixture
from gradience.bench.verdict.facts import ANSWERS, SCORES
from gradience.cli.app import run
from gradience.errors import InputError, NetworkError, UsageError
from gradience.evaluate import diverge
from gradience.evaluate.engines import openai
from gradience.evaluate.engines.base import Decoding, Reading
from gradience.evaluate.engines.transformers.engine import TransformersEngine
from gradience.evaluate.engines.vllm.engine import PYTHON, RefusedByVllm, VllmEngine, VllmProcess
from gradience.evaluate.settings import EvaluateSettings
from gradience.files.records import read_records
from gradience.models.embedded import smollm2
from gradience.models.settings import ModelSettings
from gradience.progress import Watcher
from gradience.settings import call

pytestmark = [
    pytest.mark.conformance,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(not os.environ.get(PYTHON), reason=f"{PYTHON} names no Python with vLLM"),
]
SHAPE = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2}
"""Heads of 32: vLLM's kernels for processors take no smaller ones."""
ADAPTERS = {
    "first": {"r": 4},
    "rslora": {"r": 8, "use_rslora": True},
    "patterned": {"r": 4, "rank_pattern": {"down_proj": 2}, "alpha_pattern": {"q_proj": 3}},
    "untrained": {"B": False},
    "larger": {"r": 16, "target_modules": ["q_proj", "up_proj"]},
    "dora": {"use_dora": True},
}
WAYS = (
    {},
    {"end": False},
    {"rolling": True, "end": False},
    {"rolling": True, "end": False, "max_length": 7},
)
SHORT = [
    "seeds=[42]", "runtime.threads=1", "train.max_steps=12", "train.per_device_train_batch_size=8",
    "task.eval_samples=24", "task.probe_gate.min_value=0", "task.probe_gate.above_base=null",
    "compression.ladder.steps=[8,2]", "compression.variants=[uniform_median]", "compression.controls=[rewrite_control]",
]  # fmt: skip


def write_models(root, adapters):
    """The base, and adapters by their names beside it."""
    tiny.llama(**SHAPE).save_pretrained(root / "base")
    tiny.letters_tokenizer().save_pretrained(root / "base")
    for seed, (name, config) in enumerate(adapters.items(), start=1):
        tiny.llama_adapter(root / name, seed, base=tiny.llama(**SHAPE), **config)
    return root


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("tiny"), ADAPTERS)


@pytest.fixture(scope="module")
def settings(folders):
    return ModelSettings(name=str(folders / "base"), type="causal_lm", dtype="float32")


@pytest.fixture(scope="module")
def vllm(folders, settings):
    engine = VllmEngine.load(settings, device="cpu")
    for name in ("first", "rslora", "patterned", "untrained"):
        engine.add(name, folders / name)
    yield engine
    engine.close()


@pytest.mark.parametrize("name", [None, "first", "rslora", "patterned", "untrained"])
def test_texts_and_likelihoods_are_those_of_transformers(vllm, name):
    rows = tiny.sums(40)
    prompts = [row.prompt for row in rows]
    for how in ({}, {"stop": ("a", "7")}, {"max_length": 20}):
        answers = [each.generate(name, prompts, Decoding(12, **how)) for each in (vllm, vllm.peft)]
        assert answers[0] == answers[1]
    for how in WAYS:
        pairs = [
            ("", row.prompt + row.response) if "rolling" in how else (row.prompt, row.response)
            for row in rows
        ]
        here, there = (each.score(name, pairs, Reading(**how)) for each in (vllm, vllm.peft))
        assert [one.loglikelihood for one in here] == pytest.approx(
            [one.loglikelihood for one in there], abs=1e-4
        )
        for one, other in zip(here, there, strict=True):
            assert (one.n_tokens, one.exact, one.truncated) == (other.n_tokens, other.exact, other.truncated)
            assert (one.kl, one.flips) == (None, None)
    vllm.check_adapter(name, prompts[:8], None)


def test_a_larger_adapter_starts_it_anew_and_what_it_refuses_is_said_in_its_words(vllm, folders):
    prompts = [row.prompt for row in tiny.sums(8)]
    before = vllm.generate("first", prompts, Decoding(12))
    vllm.add("larger", folders / "larger")
    assert vllm.generate("larger", prompts, Decoding(12)) == vllm.peft.generate(
        "larger", prompts, Decoding(12)
    )
    assert vllm.generate("first", prompts, Decoding(12)) == before
    with raises(InputError, "engine-refuses", "vLLM does not yet support DoRA"):
        vllm.add("dora", folders / "dora")
    with pytest.raises(RefusedByVllm, match="vLLM does not yet support DoRA"):  # which was no guess
        vllm._process.ask("add", number=99, path=str(folders / "dora"))
    assert "dora" not in vllm.adapters
    with raises(InputError, "engine-context", "vLLM has memory for 129"):
        vllm.generate("first", ["1" * 100], Decoding(100))
    vllm.remove("larger")
    assert vllm.generate("first", prompts, Decoding(12)) == before


def test_a_wrong_scale_does_not_pass_the_gate(vllm, folders, settings):
    peft = TransformersEngine.load(settings, device="cpu")
    other = shutil.copytree(folders / "first", folders / "other_scale")
    edit_config(other, lora_alpha=2 * LoraConfig.from_pretrained(other).lora_alpha)
    peft.add("first", other)
    before, vllm.peft = vllm.peft, peft
    vllm._verified.clear()
    with pytest.raises(InputError, match="vLLM and PEFT disagree") as refusal:
        vllm.check_adapter("first", [row.prompt for row in tiny.sums(8)], None)
    vllm.peft = before
    assert refusal.value.code == "engine-disagrees"


def test_a_base_that_it_does_not_take_is_refused_in_its_words(folders, settings):
    model = AutoModelForCausalLM.from_pretrained(folders / "base")
    model.save_pretrained(folders / "pickled")  # and then only a name without weights that it may read
    for path in (folders / "pickled").glob("*.safetensors"):
        path.unlink()
    engine = VllmEngine.load(settings, device="cpu")
    engine._folder = folders / "pickled"
    with raises(InputError, "engine-refuses", r"vLLM 0.* refuses to load the base"):
        engine.generate(None, ["1"], Decoding(1))
    engine.close()


@contextmanager
def counted_starts():
    """Process ids of vLLM, in the order in which they were started meanwhile."""
    pids, start = [], VllmProcess.__init__

    def counted(self, *arguments):
        start(self, *arguments)
        pids.append(self._child.pid)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VllmProcess, "__init__", counted)
        yield pids


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """SmolLM2, really trained for a moment, its truncations, and one that is trained at its rank, all answered through
    vLLM, which is started once."""
    folder = tmp_path_factory.mktemp("bench") / "run"
    given = ["bench", "run", "-c", "smollm2_arithmetic", "-o", str(folder), "runtime.engine=vllm", *SHORT]
    with counted_starts() as starts:
        assert run([*given, "model.dtype=float32"]) in (0, 1, 8)
    assert len(starts) == 1
    return folder


def test_bench_says_which_engine_gave_which_number_and_mixes_none(bench):
    probe, smaller = (read_records(bench / name / "eval" / ANSWERS) for name in ("probe", "rewrite_control"))
    scores = read_records(bench / "rewrite_control" / "eval" / SCORES)
    assert (probe.run.engine, probe.run.batch_invariant, scores.run.engine) == ("vllm", False, "transformers")
    assert probe.run.versions["vllm"] == VllmEngine.decides()["engine_version"]
    assert "vllm" not in scores.run.versions
    assert "by vllm; KL and flips by transformers" in (bench / "bench.md").read_text(encoding="utf-8")
    other = smaller.run.model_copy(update={"engine": "transformers"})
    with pytest.raises(UsageError, match="their settings differ"):
        diverge(probe, (other, smaller.records))
    refuse_mixture(bench, ANSWERS, VllmEngine.numerics("cpu"))
    with pytest.raises(MadeElsewhere, match="vllm"):
        refuse_mixture(bench, ANSWERS, TransformersEngine.numerics("cpu"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_answers_of_smollm2_in_both_engines(bench, tmp_path, dtype, capsys):
    """In float32 the same texts; in less precision those that differ are counted and shown."""
    adapters = [bench / "probe" / "train" / "adapter", *bench.glob("uniform_median*/adapter/adapter")]
    texts = {}
    for engine in ("transformers", "vllm"):
        out = tmp_path / engine
        report = evaluate_adapters(
            adapters, base_model="embedded:smollm2", task="arithmetic", limit=48, with_base=True, dtype=dtype,
            output=out, engine=engine,
        )  # fmt: skip
        assert report.conditions.engine == engine
        rows = [read_records(out / row.records[0].path) for row in report.adapters]
        texts[engine] = [[record.output for record in each.records] for each in rows]
    same = [sum(map(str.__eq__, *pair)) for pair in zip(texts["transformers"], texts["vllm"], strict=True)]
    with capsys.disabled():
        sys.stdout.write(f"\n{dtype}: equal outputs of 48 for each of {len(same)} rows: {same}\n")
    assert len(same) == 3
    assert dtype != "float32" or same == [48, 48, 48]


# ---------------------------------------------------------------- Adapters behind a real server of vLLM


RANKS = {"first": 8, "second": 4}
ROWS = 16
QUIET = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
}
STARTS_IN = 600
"""Seconds."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Adapters of SmolLM2 with random factors, written by PEFT."""
    root = tmp_path_factory.mktemp("served")
    for seed, (name, rank) in enumerate(RANKS.items()):
        set_seed(seed)
        base = AutoModelForCausalLM.from_pretrained(smollm2(), dtype=torch.float32)
        config = LoraConfig(task_type="CAUSAL_LM", r=rank, target_modules=["q_proj", "v_proj"])
        model = get_peft_model(base, config)
        with torch.no_grad():
            for parameter in (value for key, value in model.named_parameters() if "lora_B" in key):
                parameter.normal_(std=0.02)
        model.save_pretrained(root / name, save_embedding_layers=False)
    rows = tiny.sums(ROWS)
    prompts = [{"prompt": row.prompt, "answer": row.answer} for row in rows]
    choices = [
        {"prompt": row.prompt, "choices": [row.response, f"{row.response}0", f"{row.response}1"], "answer": 0}
        for row in rows
    ]
    for name, lines in (("prompts", prompts), ("choices", choices)):
        write_jsonl(root / f"{name}.jsonl", lines)
    return root


@contextmanager
def serving(folder, port):
    """The process of a server that holds the base and both adapters."""
    adapters = [f"{name}={folder / name}" for name in RANKS]
    command = [
        os.environ[PYTHON], "-m", "vllm.entrypoints.openai.api_server", "--model", str(smollm2()),
        "--served-model-name", "smollm2", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32",
        "--enable-lora", "--max-lora-rank", "8", "--lora-modules", *adapters, "--generation-config", "vllm",
        "--max-model-len", "128", "--enforce-eager", "--no-enable-prefix-caching",
        # Without them the head has room for LoRA too, and then vLLM 0.32.0 dies of log-probabilities of a prompt on a
        # processor ("einsum(): subscript b has size 2 for operand 1", seen 2026-11-29).
        "--lora-target-modules", "q_proj", "v_proj",
        # On a processor vLLM gathers the factors of a LoRA again for each token of a step, and ends a step after 300 s.
        "--max-num-batched-tokens", "128", "--max-num-seqs", "16",
    ]  # fmt: skip
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(
            command, env={**os.environ, **QUIET}, stdout=log, stderr=log, start_new_session=True
        )
    try:
        until = time.monotonic() + STARTS_IN
        while time.monotonic() < until and process.poll() is None:
            try:
                if urllib3.request("GET", f"http://127.0.0.1:{port}/health", retries=False).status == 200:
                    break
            except urllib3.exceptions.HTTPError:
                time.sleep(1)
        yield process
    finally:
        kill(process)


def kill(process):
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def furthest(some, others):
    """The largest difference of a log-likelihood."""
    return max(
        abs(x - y)
        for a, b in zip(some, others, strict=True)
        for x, y in zip(a.loglikelihoods, b.loglikelihoods, strict=True)
    )


def test_answers_are_those_of_transformers_and_a_killed_server_leaves_what_resumes(
    folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(openai, "RETRIES", openai.RETRIES.new(total=1))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"with_base": True, "all_rows": True, "no_ledger": True}

    def served(out, data="prompts", **more):
        given = {**common, "max_new_tokens": 12 if data == "prompts" else None, **more}
        settings = EvaluateSettings(
            [*RANKS], base_model="smollm2", data=folder / f"{data}.jsonl", output=tmp_path / out,
            engine="openai", server=f"http://127.0.0.1:{port}/v1", **given,
        )  # fmt: skip
        return call(evaluate_adapters, settings)

    def here(out, data="prompts"):
        return evaluate_adapters(
            [folder / name for name in RANKS], base_model="embedded:smollm2", dtype="float32", device="cpu",
            data=folder / f"{data}.jsonl", output=tmp_path / out, **common,
            max_new_tokens=12 if data == "prompts" else None,
        )  # fmt: skip

    def rows(report, out):
        return [read_records(tmp_path / out / row.records[0].path).records for row in report.adapters]

    with serving(folder, port) as process:
        texts = rows(served("served"), "served"), rows(here("here"), "here")
        choices = (
            rows(served("served choices", "choices"), "served choices"),
            rows(here("here choices", "choices"), "here choices"),
        )

        class Killing(Watcher):
            def step(self, done, total):
                if done >= ROWS // 2:
                    kill(process)

        with raises(NetworkError, "no-server-answer"):  # a part of it may answer that its engine is gone
            served("killed", watcher=Killing(), batch_size=4)
    [left] = (tmp_path / "killed" / "records").glob("*.part")
    assert len(left.read_bytes().splitlines()) == 1 + ROWS // 2
    with serving(folder, port):
        again = rows(served("killed", batch_size=4), "killed")

    def fields(record):
        return record.output, record.n_tokens, record.stopped_by

    same = [
        sum(fields(a) == fields(b) for a, b in zip(*pair, strict=True)) for pair in zip(*texts, strict=True)
    ]
    resumed = [
        sum(a.output == b.output for a, b in zip(*pair, strict=True))
        for pair in zip(again, texts[0], strict=True)
    ]
    apart = [furthest(*pair) for pair in zip(*choices, strict=True)]
    effects = [furthest(answers, choices[0][-1]) for answers in choices[0][:-1]]
    predicted = [
        sum(a.predicted == b.predicted for a, b in zip(*pair, strict=True))
        for pair in zip(*choices, strict=True)
    ]
    with capsys.disabled():
        print(f"\nequal texts of {ROWS}: {same}; after a kill {resumed}; equal choices of {ROWS}: {predicted}; "  # noqa: T201
              f"largest difference of a log-likelihood: {max(apart):.2g} nats")  # fmt: skip
    assert same == resumed == predicted == [ROWS] * 3
    assert max(apart) < 1e-3
    assert min(effects) > 0.05  # each adapter was applied


# ---------------------------------------------------------------- What fails around real vLLM: one message


SERVED = {
    "first": {"r": 4},
    "second": {"r": 8},
    "third": {"r": 16, "target_modules": ["q_proj", "up_proj"]},
}
PARENT = """
import sys, torch
from pathlib import Path
from gradience.evaluate.engines.base import Decoding
from gradience.evaluate.engines.vllm.engine import VllmEngine
from gradience.models.settings import ModelSettings
engine = VllmEngine.load(ModelSettings(name=sys.argv[1], type="causal_lm", dtype="float32"), device="cpu")
engine.generate(None, ["1"], Decoding(2))
print(engine._process._child.pid, flush=True)
while True:
    engine.generate(None, ["1 + 1 ="] * 64, Decoding(100))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = write_models(tmp_path_factory.mktemp("failures"), SERVED)
    rows = [{"prompt": row.prompt, "answer": row.answer} for row in tiny.sums(40)]
    write_jsonl(root / "rows.jsonl", rows)
    return root


def evaluate(place: Path, out: Path, *adapters: str, base: str = "base") -> int:
    """The command, in small batches; its exit code."""
    given = [*(str(place / name) for name in adapters), "-b", str(place / base), "-o", str(out)]
    given += ["--data", str(place / "rows.jsonl"), "--dtype", "float32", "--device", "cpu"]
    return run(["evaluate", *given, "--batch-size", "1", "--max-new-tokens", "4", "--engine", "vllm"])


def records(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "records").glob("*.jsonl")}


def test_room_is_made_once_for_adapters_of_rising_rank(place):
    given = {"base_model": place / "base", "data": place / "rows.jsonl", "dtype": "float32", "limit": 8}
    with counted_starts() as starts:
        report = evaluate_adapters([place / name for name in SERVED], engine="vllm", device="cpu", **given)
    assert [row.n for row in report.adapters] == [8, 8, 8]
    assert len(starts) == 1


def test_an_architecture_that_it_does_not_have(place, tmp_path, capsys):
    from transformers import XLNetConfig, XLNetLMHeadModel

    model = XLNetLMHeadModel(XLNetConfig(vocab_size=64, d_model=64, n_layer=2, n_head=2, d_inner=64))
    model.save_pretrained(place / "xlnet")
    tiny.letters_tokenizer().save_pretrained(place / "xlnet")
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["layer_1"], r=4)
    for seed, name in enumerate(("on_xlnet", "too")):
        base = XLNetLMHeadModel.from_pretrained(place / "xlnet")
        tiny.trained(get_peft_model(base, config), seed).save_pretrained(place / name)
    assert evaluate(place, tmp_path / "out", "on_xlnet", "too", base="xlnet") == 3
    error = capsys.readouterr().err
    assert "refuses to load the base: Model architectures ['XLNetLMHeadModel'] are not supported" in error
    assert "Traceback" not in error
    assert not records(tmp_path / "out")


def test_too_little_memory(place, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "100000")
    assert evaluate(place, tmp_path / "out", "first", "second") == 5
    error = capsys.readouterr().err
    assert "too little memory to load the base: ValueError: Available memory" in error
    assert "VLLM_CPU_KVCACHE_SPACE" in error
    assert "Traceback" not in error
    assert not records(tmp_path / "out")


@pytest.mark.parametrize(("at", "code"), [(2, 5), (5, 4)], ids=["in the reference", "in a candidate"])
def test_it_is_killed_in_the_middle_of_an_evaluation(place, tmp_path, capsys, monkeypatch, at, code):
    """Of 40 rows in batches of 1 it is handed 16 at once, so each adapter is three questions."""
    ask, asked = VllmProcess.ask, []

    def killing(self, what, **question):
        asked.append(what)
        if asked.count("generate") == at:
            asked.append("killed")
            os.kill(self._child.pid, signal.SIGKILL)
            return ask(self, what, **question)
        return ask(self, what, **question)

    with monkeypatch.context() as patch:
        patch.setattr(VllmProcess, "ask", killing)
        assert evaluate(place, tmp_path / "killed", "first", "second") == code
    said = capsys.readouterr()
    assert "the vLLM process was ended by signal 9 during 'generate'" in said.err + said.out
    assert "Traceback" not in said.err + said.out
    left = records(tmp_path / "killed")
    assert evaluate(place, tmp_path / "killed", "first", "second") == evaluate(
        place, tmp_path / "whole", "first", "second"
    )
    whole = records(tmp_path / "whole")
    assert records(tmp_path / "killed") == whole
    assert all(whole[name] == content for name, content in left.items())


def test_it_does_not_outlive_a_process_that_is_killed_while_it_answers(place):
    parent = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", PARENT, str(place / "base")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    server = int(parent.stdout.readline())
    below = [server, *descendants(server)]
    time.sleep(1)  # it answers
    parent.kill()
    parent.communicate()
    until = time.monotonic() + 60
    while any(map(runs, below)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not [pid for pid in below if runs(pid)]


def descendants(pid: int) -> list[int]:
    """Processes that a process started, and those that these started."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    children = [int(child) for child in path.read_text(encoding="utf-8").split()]
    return [*children, *(each for child in children for each in descendants(child))]


def runs(pid: int) -> bool:
    """Whether there is such a process, and not only its entry."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
