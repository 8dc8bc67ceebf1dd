"""One base, adapters that come and go: nothing that one of them does is seen by another."""

import json
import shutil

import adapters_to_compare as data
import numpy as np
import pytest
import tiny_bench
import torch
from data_files import write_jsonl
from evaluating import IDS, evaluate_classification, evaluate_generation, evaluate_scores, logits
from factory import edit_config
from peft import LoraConfig, PeftModel, get_peft_model
from raising import raises
from safetensors.torch import load_file, save_file
from tiny_models import (
    bert,
    bert_adapter,
    letters_tokenizer,
    llama,
    llama_adapter,
    sentences,
    sums,
    trained,
    words_tokenizer,
)
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    DistilBertConfig,
    DistilBertModel,
    LlamaForCausalLM,
)

from gradience import evaluate_adapters
from gradience.errors import InputError, UsageError
from gradience.evaluate.engines.transformers.engine import TransformersEngine
from gradience.files.records import read_records
from gradience.models import load
from gradience.models.load import load_base
from gradience.models.settings import ModelSettings

ASK = {"filters": {"all": str}, "same": str.__eq__, "max_new_tokens": 4}


def loaded(folder, labels=None, dtype="float32"):
    return TransformersEngine.load(ModelSettings(name=str(folder), dtype=dtype), labels=labels, device="cpu")


def edit_tensors(folder, change):
    path = folder / "adapter_model.safetensors"
    save_file(change(load_file(path)), path, {"format": "pt"})
    return folder


def test_names_are_used_once_and_known(engine, adapter_folders):
    with pytest.raises(UsageError, match="plain"):
        engine.add("plain", adapter_folders["dora"])
    for use in (lambda: logits(engine, "nobody"), lambda: engine.remove("nobody")):
        with pytest.raises(UsageError, match="nobody"):
            use()
    with pytest.raises(UsageError):
        logits(TransformersEngine(llama(), letters_tokenizer()), "nobody")


def test_factors_stay_in_float32_on_a_bfloat16_base(adapter_folders, tmp_path):
    bf16 = llama().to(torch.bfloat16)
    engine = TransformersEngine(bf16, letters_tokenizer())
    half = edit_tensors(
        shutil.copytree(adapter_folders["plain"], tmp_path / "half"),
        lambda tensors: {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()},
    )
    engine.add("single", adapter_folders["plain"])
    engine.add("half", half)
    engine.add("dora", adapter_folders["dora"])
    dtypes = {p.dtype for name, p in engine.base.named_parameters() if "lora_" in name}
    assert dtypes == {torch.float32}
    run = evaluate_generation(engine, "half", sums(3), **ASK).run
    assert run.dtype == "bfloat16"


# --- what is refused ------------------------------------------------------------------------------


def test_what_the_base_lacks_the_adapter_must_bring(tmp_path):
    """DistilBERT's classifier has two layers; PEFT saves both, since `pre_classifier` ends in `classifier`."""
    shape = {"dim": 16, "hidden_dim": 24, "n_layers": 1, "n_heads": 2, "vocab_size": 12}
    DistilBertModel(DistilBertConfig(**shape)).save_pretrained(tmp_path / "base")
    words_tokenizer().save_pretrained(tmp_path / "base")
    engine = loaded(tmp_path / "base", labels=2)
    for name in ("half", "whole"):
        model = loaded(tmp_path / "base", labels=2).base
        config = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["q_lin"])
        trained(get_peft_model(model, config), 1).save_pretrained(tmp_path / name)
    edit_tensors(
        tmp_path / "half",
        lambda tensors: {name: value for name, value in tensors.items() if "pre_classifier" not in name},
    )
    with raises(InputError, "no-head", "pre_classifier"):
        engine.add("half", tmp_path / "half")
    engine.add("whole", tmp_path / "whole")
    assert len(evaluate_classification(engine, "whole", sentences(5)).records) == 5
    with raises(InputError, "no-head"):
        evaluate_classification(engine, None, sentences(5))


def test_a_classifier_needs_a_head_unless_the_base_has_a_trained_one(tmp_path):
    headless = bert_adapter(tmp_path / "headless", 3, task=None)
    with raises(InputError, "no-head"):
        TransformersEngine(bert(), words_tokenizer()).add("headless", headless)
    tuned = TransformersEngine(bert(), words_tokenizer(), untrained=[])
    tuned.add("headless", headless)
    alone = evaluate_classification(tuned, None, sentences(9))
    assert alone.records != evaluate_classification(tuned, "headless", sentences(9)).records


def test_a_head_that_is_declared_must_be_in_the_file(tmp_path, adapter_folders):
    """PEFT loads such a file without a word and leaves the head at random."""

    def without_heads(tensors):
        return {name: tensor for name, tensor in tensors.items() if "lora_" in name}

    classifier = edit_tensors(bert_adapter(tmp_path / "a", 1), without_heads)
    writer = edit_tensors(shutil.copytree(adapter_folders["with_head"], tmp_path / "b"), without_heads)
    for engine, folder in [
        (TransformersEngine(bert(), words_tokenizer()), classifier),
        (TransformersEngine(llama(), letters_tokenizer()), writer),
    ]:
        with raises(InputError, "no-head"):
            engine.add("a", folder)


def drop_one(tensors):
    tensors.pop("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight")
    return tensors


def add_one(tensors):
    return {**tensors, "base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight": torch.ones(4, 32)}


@pytest.mark.parametrize("first", [True, False], ids=["first", "beside others"])
@pytest.mark.parametrize(
    ("change", "tensors", "options", "code"),
    [
        ({}, drop_one, {}, "adapter-misfit"),
        ({}, add_one, {}, "adapter-misfit"),
        ({}, None, {"hidden_size": 16}, "adapter-misfit"),
        ({"target_modules": ["nowhere"]}, None, {}, "adapter-misfit"),
        ({"target_modules": ["q_proj", "act_fn"]}, None, {}, "adapter-misfit"),
        ({"bias": "all"}, None, {}, "adapter-changes-base"),
    ],
    ids=["tensor missing", "tensor too many", "shapes", "no module", "no linear", "bias"],
)
def test_what_does_not_fit_is_refused_and_leaves_no_trace(
    tmp_path, adapter_folders, change, tensors, options, code, first
):
    folder = edit_config(llama_adapter(tmp_path / "bad", 3, base=llama(**options)), **change)
    if tensors is not None:
        edit_tensors(folder, tensors)
    engine = TransformersEngine(llama(), letters_tokenizer())
    if not first:
        engine.add("dora", adapter_folders["dora"])
    with pytest.raises(InputError, match="bad") as caught:
        engine.add("bad", folder)
    assert (caught.value.code, bool(caught.value.hint)) == (code, True)
    assert "bad" not in engine.adapters
    engine.add("plain", adapter_folders["plain"])
    alone = PeftModel.from_pretrained(llama(), str(adapter_folders["plain"])).eval()
    assert torch.equal(logits(engine, "plain"), alone(input_ids=IDS).logits)
    assert torch.equal(logits(engine, None), llama()(input_ids=IDS).logits)
    kept = sum("lora_A" in name for name, _ in engine.base.named_parameters())
    assert kept == (6 if first else 12)


def test_embeddings_beside_lora_must_be_those_of_the_base(tmp_path):
    """PEFT stores the embeddings beside LoRA on them, and would load them into the base."""
    config = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["lm_head"])
    model = trained(get_peft_model(llama(), config), 1)
    for name in ("same", "other"):
        model.save_pretrained(tmp_path / name, save_embedding_layers=True)
        with torch.no_grad():
            model.get_base_model().lm_head.base_layer.weight[0, 0] += 1
    engine = TransformersEngine(llama(), letters_tokenizer())
    engine.add("same", tmp_path / "same")
    with raises(InputError, "adapter-changes-base", r"lm_head\.weight"):
        engine.add("other", tmp_path / "other")
    assert torch.equal(logits(engine, None), llama()(input_ids=IDS).logits)


@pytest.mark.parametrize(
    "kind", [{}, {"use_dora": True}, {"use_rslora": True}], ids=["lora", "dora", "rslora"]
)
def test_a_causal_adapter_that_changes_nothing_is_an_error(tmp_path, engine, kind):
    engine.add("untrained", llama_adapter(tmp_path / "untrained", 3, B=False, **kind))
    for evaluate in (
        lambda **options: evaluate_generation(engine, "untrained", sums(9), **ASK, **options),
        lambda **options: evaluate_scores(engine, ["plain", "untrained"], sums(9), **options)["untrained"],
        lambda **options: evaluate_scores(engine, ["plain"], sums(9), reference="untrained", **options)[
            "plain"
        ],
    ):
        with raises(InputError, "adapter-inert", "untrained"):
            evaluate()
        assert evaluate(allow_inert=True).run.n == 9


# --- the header -----------------------------------------------------------------------------------


def header(engine, name="plain", **options):
    return evaluate_generation(engine, name, sums(4), **{**ASK, **options}).run


def test_the_header_says_who_answered_and_how(engine, adapter_folders):
    import hashlib

    run = header(engine, stop=["\n"], batch_size=3)
    weights = (adapter_folders["plain"] / "adapter_model.safetensors").read_bytes()
    assert run.adapter_sha256 == hashlib.sha256(weights).hexdigest()
    assert (run.adapter, run.kind, run.dtype, run.threads) == ("plain", "generation", "float32", 1)
    assert run.engine == engine.name == "transformers"
    assert (run.stop, run.batch_size, run.quantization, run.attention) == (("\n",), 3, None, "sdpa")
    assert run.device.startswith("cpu ")
    assert set(run.versions) == {"gradience", "torch", "transformers", "peft", "tokenizers"}
    assert run.same_run_as(header(engine, "dora", stop=["\n"], batch_size=3))


def test_what_can_move_an_answer_moves_the_header(engine, adapter_folders):
    run = header(engine)
    for changed in ({"batch_size": 5}, {"max_new_tokens": 5}, {"stop": ["x"]}, {"max_length": 99}):
        assert not run.same_run_as(header(engine, **changed))
    eager = AutoModelForCausalLM.from_config(llama().config, attn_implementation="eager")
    for model, reader, field in [
        (llama(seed=1), {}, "base_sha256"),
        (llama(), {"bos": True}, "tokenizer_sha256"),
        (llama().to(torch.bfloat16), {}, "dtype"),
        (eager, {}, "attention"),
    ]:
        changed = TransformersEngine(model, letters_tokenizer(**reader))
        changed.add("plain", adapter_folders["plain"])
        assert getattr(header(changed), field) != getattr(run, field)
        assert not header(changed).same_run_as(run)


def test_a_classifiers_identity_leaves_out_its_random_head(tmp_path):
    bert().bert.save_pretrained(tmp_path / "base")
    words_tokenizer().save_pretrained(tmp_path / "base")
    settings = ModelSettings(name=str(tmp_path / "base"), dtype="float32")
    bases = [load_base(settings, labels=2, seed=seed, device="cpu") for seed in range(2)]
    first, second = (TransformersEngine(base.model, base.tokenizer) for base in bases)
    assert not np.array_equal(first.base.classifier.weight.detach(), second.base.classifier.weight.detach())
    assert first.facts == second.facts


# ---------------------------------------------------------------- Bases on the disk


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The base of the classifiers as one file in `base`, and in shards in `shards`."""
    root = data.classifiers(tmp_path_factory.mktemp("classifiers"))
    model = AutoModelForSequenceClassification.from_pretrained(root / "base", num_labels=2)
    shutil.copytree(root / "base", root / "shards", ignore=shutil.ignore_patterns("*.safetensors"))
    model.save_pretrained(root / "shards", max_shard_size="8KB")
    return root


def evaluate(folder, base, output, **options):
    return evaluate_adapters(
        [folder / "reference", folder / "other"], base_model=folder / base, data=folder / "rows.csv", output=output,
        device="cpu", **options,
    )  # fmt: skip


def test_a_base_in_shards_answers_as_the_same_base_in_one_file(folder, tmp_path):
    shards = sorted((folder / "shards").glob("*.safetensors"))
    assert len(shards) > 2
    whole, parts = (evaluate(folder, base, tmp_path / base) for base in ("base", "shards"))
    for name in ("reference", "other"):
        one, other = (
            read_records(tmp_path / base / "records" / f"{name}.jsonl") for base in ("base", "shards")
        )
        assert one.records == other.records
        assert one.run.base_sha256 == other.run.base_sha256
    assert whole.candidates[0].pairs == parts.candidates[0].pairs
    # Another shard is another base; one that is missing is no base.
    assert whole.conditions.base_fingerprint != parts.conditions.base_fingerprint
    shutil.copytree(folder / "shards", tmp_path / "fewer")
    (tmp_path / "fewer" / shards[1].name).unlink()
    with raises(InputError, "model-unreadable") as caught:
        evaluate(folder, tmp_path / "fewer", None)
    assert shards[1].name in str(caught.value)
    index = folder / "shards" / "model.safetensors.index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"metadata": {}}))
    assert evaluate(folder, "shards", None).conditions.base_fingerprint != parts.conditions.base_fingerprint


# --- auto -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("instructions", [True, False])
def test_auto_takes_what_the_processor_computes_fast(tmp_path, monkeypatch, stored, instructions):
    """Half precision without instructions for it takes 3.5 times as long as float32."""
    monkeypatch.setattr(load.torch.cpu, "_is_avx512_bf16_supported", lambda: instructions)
    monkeypatch.setattr(load.torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(load.platform, "machine", lambda: "x86_64")
    tiny_bench.llama(tmp_path / "base")
    half = LlamaForCausalLM.from_pretrained(tmp_path / "base", dtype=stored)
    half.save_pretrained(tmp_path / "base")
    data.adapter(tmp_path / "adapter", tmp_path / "base", 1, task="CAUSAL_LM")
    questions = ({"prompt": f"1 + {n} =", "answer": n + 1} for n in range(4))
    rows = write_jsonl(tmp_path / "rows.jsonl", questions)
    asked = {"base_model": tmp_path / "base", "data": rows, "max_new_tokens": 2, "device": "cpu"}
    expected = "bfloat16" if (stored, instructions) == ("bfloat16", True) else "float32"
    report = evaluate_adapters([tmp_path / "adapter"], **asked)
    assert report.conditions.dtype == expected
    assert [f"own {stored}" in note for note in report.notes] == [True] * (stored != expected)
    given = evaluate_adapters([tmp_path / "adapter"], dtype=stored, **asked)
    assert (given.conditions.dtype, given.notes) == (stored, ())
