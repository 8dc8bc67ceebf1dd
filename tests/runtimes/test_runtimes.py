"""Which runtimes load an adapter: the verdicts are those of the runs on record, and nothing beyond them is claimed."""

import json
from pathlib import Path

import pytest

from gradience.adapters.config import read_config
from gradience.adapters.patterns import anchored_key
from gradience.models.known import KNOWN
from gradience.runtimes import architecture_of
from gradience.runtimes.record import Runs, RuntimeFailure, RuntimeRecord, parts_of, read_runs
from gradience.runtimes.verdict import (
    RUNTIMES,
    UNKNOWN,
    LoadedAdapter,
    LoadedModule,
    config_scale,
    engine,
    gguf_scale,
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


@pytest.mark.parametrize(
    ("config", "names", "largest", "parts"),
    [
        ({}, tensors(Q), 8, {"LoRA", "LoRA on model.layers.*.self_attn.q_proj"}),
        (
            {},
            tensors("wte", suffixes=("lora_embedding_A", "lora_embedding_B")),
            8,
            {"LoRA of an embedding", "LoRA of an embedding on wte"},
        ),
        (
            {"use_dora": True},
            tensors(HEAD, suffixes=("lora_magnitude_vector",)),
            8,
            {"use_dora", "DoRA magnitude", "DoRA magnitude on lm_head"},
        ),
        (
            {"lora_bias": True},
            tensors(HEAD, suffixes=("lora_B.bias",)),
            8,
            {"lora_bias", "bias of lora_B", "bias of lora_B on lm_head"},
        ),
        (
            {"modules_to_save": ["score", "classifier", "score"]},
            ["base_model.model.classifier.weight", "base_model.model.classifier.bias"],
            8,
            {
                "modules_to_save: classifier, score",
                "full weight",
                "full weight on classifier",
                "bias",
                "bias on classifier",
            },
        ),
        (
            {"trainable_token_indices": [3]},
            ["base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"],
            8,
            {"trainable_token_indices", "token rows", "token rows on model.embed_tokens"},
        ),
        (
            {"target_parameters": ["mlp.experts.down_proj"]},
            tensors("m.3.experts", "m.3.experts.base_layer", suffixes=("lora_A.weight",)),
            8,
            {"target_parameters", "LoRA", "LoRA on m.*.experts", "LoRA on m.*.experts.base_layer"},
        ),
        ({"bias": "lora_only"}, [], 8, {"bias: lora_only"}),
        ({"bias": "none", "init_lora_weights": True, "use_rslora": False, "rank_pattern": {}}, [], 8, set()),
        (
            {"init_lora_weights": "pissa", "use_rslora": True},
            [],
            8,
            {"init_lora_weights: pissa", "use_rslora"},
        ),
        ({"target_modules": r".*\.q_proj"}, [], 8, {"target_modules as an expression"}),
        ({"target_modules": "all-linear", "lora_dropout": 0.1, "task_type": "CAUSAL_LM"}, [], 8, set()),
        ({"lora_alpha": 0}, [], 8, {"lora_alpha: 0"}),
        ({"a_key_of_another_year": {"a": 1}}, [], 8, {"a_key_of_another_year"}),
        ({}, [], 513, {"a rank above 512"}),
    ],
    ids=[
        "linear",
        "embedding",
        "dora",
        "lora-bias",
        "saved-head",
        "token-rows",
        "experts",
        "bias-without-a-bias",
        "defaults",
        "values-that-matter",
        "expression",
        "neutral",
        "alpha-zero",
        "unheard-of",
        "rank",
    ],
)
def test_parts(config, names, largest, parts):
    assert parts_of(config, names, largest) == parts


# ---------------------------------------------------------------- scales


RANKS = [LoadedModule(Q, 8), LoadedModule(V, 4)]


@pytest.mark.parametrize(
    ("scale", "config", "modules", "words"),
    [
        (config_scale, PLAIN, RANKS[:1], ""),
        (
            config_scale,
            PLAIN | {"alpha_pattern": {anchored_key(Q): 4}},
            RANKS[:1],
            f"1 of 1 modules; {Q} gets 2, not 0.5",
        ),
        (gguf_scale, PLAIN | {"use_rslora": True}, RANKS[:1], f"1 of 1 modules; {Q} gets 2, not 5.657"),
        (
            gguf_scale,
            {"r": 8, "lora_alpha": 8, "rank_pattern": {"v_proj": 4}, "alpha_pattern": {"v_proj": 4}},
            RANKS,
            f"1 of 2 modules; {V} gets 2, not 1",
        ),
        (gguf_scale, PLAIN | {"rank_pattern": {"v_proj": 4}}, RANKS, ""),
        (gguf_scale, PLAIN | {"lora_alpha": 0}, RANKS[:1], f"1 of 1 modules; {Q} gets 1, not 0"),
    ],
    ids=["one", "hotswap-has-one", "gguf-knows-no-rslora", "gguf-folded", "gguf-own-ranks", "gguf-zero"],
)
def test_wrong_scales(scale, config, modules, words):
    assert wrong_scale(scale, LoadedAdapter(config, modules)) == words


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


@pytest.mark.parametrize(
    ("architecture", "config", "names", "verdict", "why"),
    [
        (LLAMA, {}, tensors(Q), "loads", "with --max-lora-rank 8 or more"),
        (LLAMA, {"use_rslora": True}, tensors(V), "loads", "with --max-lora-rank 8 or more"),
        (LLAMA, {}, tensors(V, HEAD), "not run", "with LoRA on lm_head"),
        (LLAMA, {"use_rslora": True}, tensors(HEAD), "not run", "with LoRA on lm_head"),
        (LLAMA, {"lora_bias": True}, tensors(Q), "not run", "with lora_bias"),
        (LLAMA, {"use_dora": True}, tensors(Q), "refuses", "use_dora: no DoRA"),
        (LLAMA, {"use_dora": True, "unheard_of": 1}, tensors(Q), "refuses", "use_dora: no DoRA"),
        (LLAMA, {"bias": "all"}, tensors(Q), "wrong meaning", "bias: all"),
        ("GPT2LMHeadModel", {}, tensors("anything"), "refuses", "no adapters for GPT-2"),
        ("MistralForCausalLM", {}, tensors(Q), "not run", "no test adapter for MistralForCausalLM"),
        (None, {}, tensors(Q), "not run", UNKNOWN),
    ],
    ids=[
        "loaded",
        "what-one-run-holds",
        "no-single-run-holds-both-modules",
        "a-setting-of-another-run",
        "a-setting-that-was-not-run",
        "refused",
        "refused-whatever-else",
        "wrong",
        "architecture-refused",
        "architecture-not-run",
        "architecture-unknown",
    ],
)
def test_a_verdict_holds_for_what_was_run(architecture, config, names, verdict, why):
    given = verdict_of(
        MADE_UP, LoadedAdapter(PLAIN | config, [LoadedModule(Q, 8)]), parts_of(config, names), architecture
    )
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
        given = verdict_of(record, LoadedAdapter(PLAIN, []), parts, row["architecture"])
        assert given.verdict in meant[said], (row["architecture"], row["case"], given)
    assert {row["architecture"] for row, _ in asked} == set(record.architectures)


@pytest.mark.parametrize(
    ("slug", "architectures"),
    [
        (
            "vllm",
            {
                "LlamaForCausalLM",
                "Qwen2ForCausalLM",
                "GemmaForCausalLM",
                "MixtralForCausalLM",
                "GPT2LMHeadModel",
                "BertForSequenceClassification",
                "T5ForConditionalGeneration",
            },
        ),
        ("llama_cpp", {"LlamaForCausalLM", "Qwen2ForCausalLM"}),
    ],
)
def test_the_record_holds_every_encoding_of_what_compress_writes(slug, architectures):
    rows = [row for row in recorded(slug)["cases"] if row["section"] == "compressed"]
    done = {
        (row["architecture"], *row["case"].split(", ")[:: len(row["case"].split(", ")) - 1]) for row in rows
    }
    originals = ("plain", "rsLoRA", "mixed", "embedding", "faint", "saved head")
    for architecture in architectures:
        for original in originals:
            assert {(architecture, original, how) for how in ("patterns", "padded", "folded")} <= done


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


def test_the_config_of_a_base_model_on_this_machine_says_it(tmp_path, hub):
    base = base_config(tmp_path / "base")
    config = adapter_config(tmp_path / "a", base_model_name_or_path=base)
    assert architecture_of(config, tmp_path / "a") == "MistralForCausalLM"


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
    base = base_config(tmp_path / "base", text)
    assert (
        architecture_of(adapter_config(tmp_path / "a", base_model_name_or_path=base), tmp_path / "a") is None
    )


# ---------------------------------------------------------------- The bytes of a slot: what vLLM held when


RECORD = Path(__file__).resolve().parents[2] / "docs" / "conformance" / "vllm_slots.json"
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
