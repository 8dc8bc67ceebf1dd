"""Which runtimes load an adapter: the verdicts are those of the runs on record, and nothing beyond them is claimed."""

import json
from itertools import product
from pathlib import Path

import pytest

from gradience.adapters.base import architecture_of
from gradience.adapters.config import anchored_key, read_config
from gradience.models.locate import KNOWN
from gradience.runtimes.verdict import (
    RUNTIMES,
    UNKNOWN,
    LoadedAdapter,
    Runs,
    RuntimeFailure,
    RuntimeRecord,
    config_scale,
    engine,
    gguf_scale,
    parts_of,
    read_runs,
    slot_bytes,
    verdict_of,
    wrong_scale,
)

ROOT = Path(__file__).resolve().parents[2]
LLAMA = "LlamaForCausalLM"
Q, V, HEAD = "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj", "lm_head"
PLAIN = {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]}


def tensors(*modules, suffixes=("lora_A.weight", "lora_B.weight")):
    return [f"base_model.model.{module}.{suffix}" for module in modules for suffix in suffixes]


# ---------------------------------------------------------------- the parts of an adapter


EMBED = "model.embed_tokens"
PARTS = {
    "linear": ({}, tensors(Q), {"LoRA", "LoRA on model.layers.*.self_attn.q_proj"}),
    "embedding": (
        {}, tensors("wte", suffixes=("lora_embedding_A", "lora_embedding_B")),
        {"LoRA of an embedding", "LoRA of an embedding on wte"},
    ),
    "dora": (
        {"use_dora": True}, tensors(HEAD, suffixes=("lora_magnitude_vector",)),
        {"use_dora", "DoRA magnitude", "DoRA magnitude on lm_head"},
    ),
    "lora-bias": (
        {"lora_bias": True}, tensors(HEAD, suffixes=("lora_B.bias",)),
        {"lora_bias", "bias of lora_B", "bias of lora_B on lm_head"},
    ),
    "saved-head": (
        {"modules_to_save": ["score", "classifier", "score"]}, tensors("classifier", suffixes=("weight", "bias")),
        {"modules_to_save: classifier, score", "full weight", "full weight on classifier", "bias",
         "bias on classifier"},
    ),
    "token-rows": (
        {"trainable_token_indices": [3]}, tensors(EMBED, suffixes=("token_adapter.trainable_tokens_delta",)),
        {"trainable_token_indices", "token rows", f"token rows on {EMBED}"},
    ),
    "experts": (
        {"target_parameters": ["mlp.experts.down_proj"]},
        tensors("m.3.experts", "m.3.experts.base_layer", suffixes=("lora_A.weight",)),
        {"target_parameters", "LoRA", "LoRA on m.*.experts", "LoRA on m.*.experts.base_layer"},
    ),
    "bias-without-a-bias": ({"bias": "lora_only"}, [], {"bias: lora_only"}),
    "defaults": ({"bias": "none", "init_lora_weights": True, "use_rslora": False, "rank_pattern": {}}, [], set()),
    "values-that-matter": (
        {"init_lora_weights": "pissa", "use_rslora": True}, [], {"init_lora_weights: pissa", "use_rslora"},
    ),
    "expression": ({"target_modules": r".*\.q_proj"}, [], {"target_modules as an expression"}),
    "neutral": ({"target_modules": "all-linear", "lora_dropout": 0.1, "task_type": "CAUSAL_LM"}, [], set()),
    "alpha-zero": ({"lora_alpha": 0}, [], {"lora_alpha: 0"}),
    "unheard-of": ({"a_key_of_another_year": {"a": 1}}, [], {"a_key_of_another_year"}),
}  # fmt: skip


@pytest.mark.parametrize(("config", "names", "parts"), PARTS.values(), ids=PARTS)
def test_parts(config, names, parts):
    assert parts_of(config, names, 8) == parts
    assert parts_of(config, names, 513) == parts | {"a rank above 512"}


# ---------------------------------------------------------------- scales


RANKS = {Q: 8, V: 4}
ONE = {Q: 8}


FOLDED = {"r": 8, "lora_alpha": 8, "rank_pattern": {"v_proj": 4}, "alpha_pattern": {"v_proj": 4}}
ALPHA_OF_Q = {"alpha_pattern": {anchored_key(Q): 4}}
SCALES = {
    "one": (config_scale, PLAIN, ONE, ""),
    "hotswap-has-one": (config_scale, PLAIN | ALPHA_OF_Q, ONE, f"1 of 1 modules; {Q} gets 2, not 0.5"),
    "gguf-knows-no-rslora": (
        gguf_scale, PLAIN | {"use_rslora": True}, ONE, f"1 of 1 modules; {Q} gets 2, not 5.657",
    ),
    "gguf-folded": (gguf_scale, FOLDED, RANKS, f"1 of 2 modules; {V} gets 2, not 1"),
    "gguf-own-ranks": (gguf_scale, PLAIN | {"rank_pattern": {"v_proj": 4}}, RANKS, ""),
    "gguf-zero": (gguf_scale, PLAIN | {"lora_alpha": 0}, ONE, f"1 of 1 modules; {Q} gets 1, not 0"),
}  # fmt: skip


@pytest.mark.parametrize(("scale", "config", "ranks", "words"), SCALES.values(), ids=SCALES)
def test_wrong_scales(scale, config, ranks, words):
    assert wrong_scale(scale, LoadedAdapter(config, ranks)) == words


# ---------------------------------------------------------------- verdicts


MADE_UP = RuntimeRecord(
    "vLLM",
    "9.9",
    "2026-01-01",
    "docs/runtimes.md#vllm",
    {
        LLAMA: Runs(
            loads=(parts_of({"use_rslora": True}, tensors(Q, V)), parts_of({}, tensors(Q, HEAD))),
            refuses=(RuntimeFailure(frozenset({"use_dora"}), "no DoRA"),),
            wrong=(RuntimeFailure(frozenset({"bias: all"}), ""),),
        ),
        "GPT2LMHeadModel": Runs((), (RuntimeFailure(frozenset(), "no adapters for GPT-2"),), ()),
    },
)


ROOM = "with --max-lora-rank 8 or more"
VERDICTS = {
    "loaded": (LLAMA, {}, tensors(Q), "loads", ROOM),
    "what-one-run-holds": (LLAMA, {"use_rslora": True}, tensors(V), "loads", ROOM),
    "no-single-run-holds-both-modules": (LLAMA, {}, tensors(V, HEAD), "not run", "with LoRA on lm_head"),
    "a-setting-of-another-run": (LLAMA, {"use_rslora": True}, tensors(HEAD), "not run", "with LoRA on lm_head"),
    "a-setting-that-was-not-run": (LLAMA, {"lora_bias": True}, tensors(Q), "not run", "with lora_bias"),
    "refused": (LLAMA, {"use_dora": True}, tensors(Q), "refuses", "use_dora: no DoRA"),
    "refused-whatever-else": (LLAMA, {"use_dora": True, "new": 1}, tensors(Q), "refuses", "use_dora: no DoRA"),
    "wrong": (LLAMA, {"bias": "all"}, tensors(Q), "wrong meaning", "bias: all"),
    "architecture-refused": ("GPT2LMHeadModel", {}, tensors("it"), "refuses", "no adapters for GPT-2"),
    "architecture-not-run": (
        "MistralForCausalLM", {}, tensors(Q), "not run", "with MistralForCausalLM",
    ),
    "architecture-unknown": (None, {}, tensors(Q), "not run", UNKNOWN),
}  # fmt: skip


@pytest.mark.parametrize(
    ("architecture", "config", "names", "verdict", "why"), VERDICTS.values(), ids=VERDICTS
)
def test_a_verdict_holds_for_what_was_run(architecture, config, names, verdict, why):
    given = verdict_of(MADE_UP, LoadedAdapter(PLAIN | config, ONE), parts_of(config, names), architecture)
    assert (given.verdict, given.why) == (verdict, why)
    assert given.run == ("" if verdict == "not run" else "docs/runtimes.md#vllm")


# ---------------------------------------------------------------- the record


RECORDS = {"vLLM": "vllm", "llama.cpp": "llama_cpp", "PEFT": "vllm", "PEFT hotswap": "vllm"}
COLUMN = {"PEFT": "peft", "PEFT hotswap": "hotswap"}


def recorded(slug):
    return json.loads((ROOT / f"docs/conformance/{slug}.json").read_text(encoding="utf-8"))


def outcome(runtime, row):
    """What the record says that this runtime did; None where it was not asked, or not asked fairly."""
    if row["outcome"] == "refused" and row["served"] and row["max_lora_rank"] < min(row["largest_rank"], 512):
        return None  # vLLM was started with too small a max_lora_rank, to see that it says so
    said = row[COLUMN.get(runtime, "outcome")]
    return None if said == "not run" else said


@pytest.mark.parametrize("record", read_runs(), ids=lambda record: record.runtime)
def test_the_verdicts_are_the_outcomes_on_record(record):
    rows = recorded(RECORDS[record.runtime])["cases"]
    asked = [(row, said) for row in rows if (said := outcome(record.runtime, row)) is not None]
    assert len(asked) > 40
    meant = {"equal": {"loads"}, "refused": {"refuses"}, "differs": {"loads", "wrong meaning"}}
    for row, said in asked:
        parts = frozenset(row["parts"])
        given = verdict_of(record, LoadedAdapter(PLAIN, {}), parts, row["architecture"])
        assert given.verdict in meant[said], (row["architecture"], row["case"], given)
    assert {row["architecture"] for row, _ in asked} == set(record.architectures)


SERVED = {
    "vllm": "LlamaForCausalLM Qwen2ForCausalLM GemmaForCausalLM MixtralForCausalLM GPT2LMHeadModel"
    " BertForSequenceClassification T5ForConditionalGeneration",
    "llama_cpp": "LlamaForCausalLM Qwen2ForCausalLM",
}


@pytest.mark.parametrize("slug", SERVED)
def test_the_record_holds_every_encoding_of_what_compress_writes(slug):
    done = set()
    for row in recorded(slug)["cases"]:
        if row["section"] == "compressed":
            original, *_, encoding = row["case"].split(", ")
            done.add((row["architecture"], original, encoding))
    originals = ("plain", "rsLoRA", "mixed", "embedding", "faint", "saved head")
    assert set(product(SERVED[slug].split(), originals, ("patterns", "padded", "folded"))) <= done


def test_every_runtime_has_a_scale_and_a_section_of_the_document():
    lines = (ROOT / "docs/runtimes.md").read_text(encoding="utf-8").splitlines()
    anchors = {
        line[3:].lower().replace(".", "").replace(" ", "-") for line in lines if line.startswith("## ")
    }
    for record in read_runs():
        path, _, section = record.page.partition("#")
        assert (path, section in anchors, record.runtime in RUNTIMES) == ("docs/runtimes.md", True, True)


# ---------------------------------------------------------------- Where the architecture of an adapter's


def adapter_config(folder, **fields):
    folder.mkdir(exist_ok=True)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(PLAIN | fields), encoding="utf-8")
    return read_config(path)


def base_config(folder, text='{"architectures": ["MistralForCausalLM"], "model_type": "mistral"}'):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(text, encoding="utf-8")
    return str(folder)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return tmp_path / "hf" / "hub"


def test_the_cache_of_the_hub_says_it(tmp_path, hub):
    commit, model = "0123456789" * 4, hub / "models--org--name"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(commit, encoding="utf-8")
    base_config(model / "snapshots" / commit)
    config = adapter_config(tmp_path / "a", base_model_name_or_path="org/name")
    assert architecture_of(config, tmp_path / "a") == "MistralForCausalLM"


def test_the_base_model_that_was_given_comes_first(tmp_path, hub):
    mapping = {"base_model_class": "OPTForCausalLM"}
    config = adapter_config(tmp_path / "a", auto_mapping=mapping)
    base = base_config(tmp_path / "base")
    assert architecture_of(config, tmp_path / "a", base_model=base) == "MistralForCausalLM"


@pytest.mark.parametrize(
    ("declared", "task", "expected"),
    [
        ("BertForMaskedLM", "SEQ_CLS", "BertForSequenceClassification"),
        ("BertModel", "TOKEN_CLS", "BertForTokenClassification"),
        ("GPT2LMHeadModel", "SEQ_CLS", "GPT2ForSequenceClassification"),
        ("GPT2LMHeadModel", "CAUSAL_LM", "GPT2LMHeadModel"),
        ("T5ForConditionalGeneration", "SEQ_2_SEQ_LM", "T5ForConditionalGeneration"),
        ("LlamaForCausalLM", None, "LlamaForCausalLM"),
    ],
)
def test_the_task_names_the_head(tmp_path, hub, declared, task, expected):
    base = base_config(tmp_path / "base", json.dumps({"architectures": [declared]}))
    config = adapter_config(tmp_path / "a", base_model_name_or_path=base, task_type=task)
    assert architecture_of(config, tmp_path / "a") == expected


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"architectures": []}', '{"architectures": "X"}', '{"architectures": ["a b\\n"]}'],
)
def test_a_config_that_does_not_say_it_is_no_error(tmp_path, hub, text):
    config = adapter_config(tmp_path / "a", base_model_name_or_path=base_config(tmp_path / "base", text))
    assert architecture_of(config, tmp_path / "a") is None


# ---------------------------------------------------------------- The bytes of a slot: what vLLM held when


RECORD = ROOT / "docs" / "conformance" / "vllm_slots.json"
SETTINGS = json.loads(RECORD.read_text(encoding="utf-8"))["settings"]


def widths():
    """Σ(m + n) over the linear modules, and over embedding and head, of the model that was served."""
    model = KNOWN["embedded:smollm2"]
    hidden, inner = model["hidden_size"], model["intermediate_size"]
    narrow = hidden // model["num_attention_heads"] * model["num_key_value_heads"]
    layer = 2 * (hidden + hidden) + 2 * (narrow + hidden) + 3 * (inner + hidden)
    return model["num_hidden_layers"] * layer, 2 * (model["vocab_size"] + hidden)


@pytest.mark.parametrize("row", [row for row in SETTINGS if row["lora_target_modules"] is None])
def test_vllm_held_what_the_formula_says_of_every_module_that_it_knows(row):
    linear, beside = widths()
    assert row["linear"] == row["max_loras"] * slot_bytes(linear, row["max_lora_rank"])
    assert row["embedding_and_head"] == row["max_loras"] * slot_bytes(beside, row["max_lora_rank"])


def test_what_was_run_is_the_engine_that_fleet_names():
    assert engine() == f"vLLM {json.loads(RECORD.read_text(encoding='utf-8'))['vllm']}"
    assert {(row["max_loras"], row["max_lora_rank"]) for row in SETTINGS} == {
        (loras, rank) for loras in (1, 2, 4) for rank in (8, 16, 32)
    }
