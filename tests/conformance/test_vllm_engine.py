"""Real vLLM as the engine of an evaluation and of Bench: `make conformance-vllm`.

Its Python is what GRADIENCE_ENGINE_PYTHON names. What needs no vLLM is in tests/evaluate/test_vllm_process.py.
"""

from __future__ import annotations

import json
import sys

import pytest

from conformance.tiny_vllm import WITH_VLLM, counted_starts, tiny, write_models
from gradience import evaluate_adapters
from gradience.bench.run.seed import MadeElsewhere, refuse_mixture
from gradience.bench.verdict.facts import ANSWERS, SCORES
from gradience.cli.app import run
from gradience.errors import InputError, UsageError
from gradience.evaluate import diverge
from gradience.evaluate.engines.transformers import TransformersEngine
from gradience.evaluate.engines.vllm import VllmEngine
from gradience.evaluate.engines.vllm.process import RefusedByVllm
from gradience.files.records import read_records
from gradience.models.settings import ModelSettings

pytestmark = WITH_VLLM
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
        answers = [each.generate(name, prompts, max_new_tokens=12, **how) for each in (vllm, vllm.peft)]
        assert answers[0] == answers[1]
    for how in WAYS:
        pairs = [
            ("", row.prompt + row.response) if "rolling" in how else (row.prompt, row.response)
            for row in rows
        ]
        here, there = (each.score(name, pairs, **how) for each in (vllm, vllm.peft))
        assert [one.loglikelihood for one in here] == pytest.approx(
            [one.loglikelihood for one in there], abs=1e-4
        )
        for one, other in zip(here, there, strict=True):
            assert (one.n_tokens, one.exact, one.truncated) == (other.n_tokens, other.exact, other.truncated)
            assert (one.kl, one.flips) == (None, None)
    vllm.verify(name, prompts[:8], None)


def test_a_larger_adapter_starts_it_anew_and_what_it_refuses_is_said_in_its_words(vllm, folders):
    prompts = [row.prompt for row in tiny.sums(8)]
    before = vllm.generate("first", prompts, max_new_tokens=12)
    vllm.add("larger", folders / "larger")
    assert vllm.generate("larger", prompts, max_new_tokens=12) == vllm.peft.generate(
        "larger", prompts, max_new_tokens=12
    )
    assert vllm.generate("first", prompts, max_new_tokens=12) == before
    with pytest.raises(InputError, match="vLLM does not yet support DoRA") as refusal:
        vllm.add("dora", folders / "dora")
    assert refusal.value.code == "engine-refuses"
    with pytest.raises(RefusedByVllm, match="vLLM does not yet support DoRA"):  # which was no guess
        vllm._process.ask("add", number=99, path=str(folders / "dora"))
    assert "dora" not in vllm.adapters
    with pytest.raises(InputError, match="vLLM holds 129 here") as refusal:
        vllm.generate("first", ["1" * 100], max_new_tokens=100)
    assert refusal.value.code == "engine-context"
    vllm.remove("larger")
    assert vllm.generate("first", prompts, max_new_tokens=12) == before


def test_a_wrong_scale_does_not_pass_the_gate(vllm, folders, settings):
    peft = TransformersEngine.load(settings, device="cpu")
    config = folders / "first" / "adapter_config.json"
    other = folders / "other_scale"
    other.mkdir()
    (other / "adapter_model.safetensors").write_bytes(
        (folders / "first" / "adapter_model.safetensors").read_bytes()
    )
    fields = json.loads(config.read_text())
    (other / "adapter_config.json").write_text(json.dumps(fields | {"lora_alpha": 2 * fields["lora_alpha"]}))
    peft.add("first", other)
    before, vllm.peft = vllm.peft, peft
    vllm._verified.clear()
    with pytest.raises(InputError, match="vLLM and PEFT disagree") as refusal:
        vllm.verify("first", [row.prompt for row in tiny.sums(8)], None)
    vllm.peft = before
    assert refusal.value.code == "engine-disagrees"


def test_a_base_that_it_does_not_take_is_refused_in_its_words(folders, settings):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folders / "base")
    model.save_pretrained(folders / "pickled")  # and then only a name without weights that it may read
    for path in (folders / "pickled").glob("*.safetensors"):
        path.unlink()
    engine = VllmEngine.load(settings, device="cpu")
    engine._folder = folders / "pickled"
    with pytest.raises(InputError, match=r"vLLM 0.* refuses to load the base") as refusal:
        engine.generate(None, ["1"], max_new_tokens=1)
    assert refusal.value.code == "engine-refuses"
    engine.close()


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
    assert "answers by vllm, KL and flips by transformers" in (bench / "bench.md").read_text(encoding="utf-8")
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
