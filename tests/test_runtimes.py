"""What each runtime makes of an adapter: the rules, and that what they call a run has been run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gradience.adapters.encodings import Target, encode_modules
from gradience.adapters.patterns import anchored_key
from gradience.runtimes import verdicts
from gradience.runtimes.rules import lorax_padded
from gradience.runtimes.table import RUNTIMES
from gradience.runtimes.verdict import FEATURES
from gradience.runtimes.written import place_of

ROOT = Path(__file__).resolve().parent.parent
LAYER = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj")
NAMES = tuple(f"model.layers.{layer}.{name}" for layer in range(2) for name in LAYER)
PLAIN = {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]}
EXPERT = ("model.layers.0.mlp.experts.down_proj", 8, 64, 64, "expert")
EMBEDDING = ("model.embed_tokens", 8, 64, 512, "embedding")
CONVOLUTION = ("vision.0.conv", 8, 64, 64, "conv")
HEAD = ("lm_head", 8, 512, 64, "linear")


def linear(rank=8, *, without=()):
    ranks = rank if isinstance(rank, dict) else dict.fromkeys(NAMES, rank)
    return [(name, rank, 64, 64, "linear") for name, rank in ranks.items() if name not in without]


def judged(config, modules=None):
    """Runtime (with the version where there are two) -> verdict."""
    found = verdicts(PLAIN | config, linear() if modules is None else modules)
    return {
        "vLLM old" if (row.runtime, row.version) == ("vLLM", "before 0.31") else row.runtime: row
        for row in found
    }


def compressed(encoding, ranks, scales):
    """What `gradience compress` writes: its config fields and its modules."""
    targets = [Target(name, ranks[name], scales[name]) for name in NAMES]
    encoded = encode_modules(targets, encoding)
    return encoded.fields, linear(dict(encoded.stored_rank))


EQUAL = dict.fromkeys(NAMES, 8)
MIXED = {name: (8, 5, 3)[index % 3] for index, name in enumerate(NAMES)}
ONE_SCALE = dict.fromkeys(NAMES, 2.0)
TWO_SCALES = {name: 2.0 if "q_proj" in name else 3.5 for name in NAMES}

ALL = ("PEFT", "PEFT hotswap", "vLLM", "vLLM old", "SGLang", "LoRAX", "llama.cpp converter", "TensorRT-LLM")


@pytest.mark.parametrize(
    ("adapter", "expected"),
    [
        (compressed("uniform", EQUAL, ONE_SCALE), dict.fromkeys(ALL, "loads")),
        (compressed("padded", MIXED, TWO_SCALES), dict.fromkeys(ALL, "loads")),
        (
            compressed("patterns", MIXED, ONE_SCALE),
            {
                "PEFT": "loads",
                "PEFT hotswap": "refuses",
                "vLLM": "loads",
                "vLLM old": "loads",
                "SGLang": "refuses",
                "LoRAX": "loads",
                "llama.cpp converter": "wrong scale",
                "TensorRT-LLM": "wrong scale",
            },
        ),
        (
            compressed("patterns", EQUAL, TWO_SCALES),
            {
                "PEFT": "loads",
                "PEFT hotswap": "refuses",
                "vLLM": "loads",
                "vLLM old": "wrong scale",
                "SGLang": "wrong scale",
                "LoRAX": "wrong scale",
                "llama.cpp converter": "wrong scale",
                "TensorRT-LLM": "wrong scale",
            },
        ),
        (compressed("folded", EQUAL, TWO_SCALES), dict.fromkeys(ALL, "loads")),
        (
            compressed("folded", MIXED, TWO_SCALES),
            {"vLLM": "loads", "vLLM old": "loads", "SGLang": "refuses"},
        ),
        (compressed("uniform", EQUAL, dict.fromkeys(NAMES, 16 / 8**0.5)), dict.fromkeys(ALL, "loads")),
        (
            compressed("uniform", dict.fromkeys(NAMES, 4), ONE_SCALE),
            {"SGLang": "loads", "LoRAX": "wrong scale"},
        ),
        (compressed("uniform", dict.fromkeys(NAMES, 48), ONE_SCALE), {"vLLM": "loads", "LoRAX": "loads"}),
    ],
    ids=[
        "uniform",
        "padded-with-two-scales-folded",
        "patterns-with-other-ranks-and-one-scale",
        "patterns-with-one-rank-and-two-scales",
        "folded-at-one-rank",
        "folded-with-other-ranks",
        "alpha-not-an-integer",
        "a-rank-that-lorax-pads",
        "a-rank-that-lorax-keeps",
    ],
)
def test_what_compress_writes(adapter, expected):
    found = judged(*adapter)
    assert {name: found[name].verdict for name in expected} == expected


@pytest.mark.parametrize(
    ("config", "modules", "expected"),
    [
        (
            {"use_rslora": True},
            None,
            {"vLLM": "loads", "vLLM old": "loads", "LoRAX": "loads", "TensorRT-LLM": "loads"},
        ),
        ({"use_rslora": True}, None, {"SGLang": "wrong scale", "llama.cpp converter": "wrong scale"}),
        (
            {"use_dora": True},
            None,
            {
                "PEFT": "loads",
                "vLLM": "refuses",
                "vLLM old": "refuses",
                "SGLang": "refuses",
                "LoRAX": "wrong meaning",
            },
        ),
        ({"use_dora": True}, None, {"llama.cpp converter": "refuses", "PEFT hotswap": "unknown"}),
        (
            {"modules_to_save": ["lm_head"]},
            None,
            {"vLLM": "refuses", "vLLM old": "refuses", "SGLang": "wrong meaning", "LoRAX": "wrong meaning"},
        ),
        (
            {"modules_to_save": ["score"]},
            None,
            {"PEFT": "loads", "vLLM": "loads", "vLLM old": "refuses", "TensorRT-LLM": "refuses"},
        ),
        ({"lora_bias": True}, None, {"PEFT": "loads", "vLLM": "refuses", "llama.cpp converter": "refuses"}),
        (
            {"bias": "all"},
            None,
            {"PEFT": "loads", "vLLM": "refuses", "vLLM old": "refuses", "SGLang": "unknown"},
        ),
        ({"trainable_token_indices": [3]}, None, {"vLLM": "refuses", "SGLang": "wrong meaning"}),
        ({"init_lora_weights": "pissa"}, None, {"PEFT": "loads", "vLLM": "refuses", "SGLang": "unknown"}),
        ({"init_lora_weights": "gaussian"}, None, dict.fromkeys(ALL, "loads")),
        ({"alora_invocation_tokens": [1]}, None, {"vLLM": "refuses", "LoRAX": "unknown"}),
        ({}, [*linear(), EMBEDDING], {"vLLM": "loads", "SGLang": "loads", "LoRAX": "wrong meaning"}),
        ({}, [*linear(), EMBEDDING], {"TensorRT-LLM": "wrong meaning", "PEFT hotswap": "unknown"}),
        ({}, [*linear(), HEAD], {"vLLM": "loads", "LoRAX": "loads", "TensorRT-LLM": "wrong meaning"}),
        (
            {},
            [EXPERT],
            {"PEFT": "loads", "vLLM": "unknown", "SGLang": "unknown", "llama.cpp converter": "unknown"},
        ),
        ({}, [CONVOLUTION], {"PEFT": "loads", "vLLM": "unknown", "SGLang": "unknown"}),
        ({"r": 4}, linear(8), {"PEFT": "refuses", "vLLM old": "refuses"}),
        ({"r": 512, "lora_alpha": 512}, linear(512), {"vLLM": "loads", "vLLM old": "loads"}),
        (
            {"r": 513, "lora_alpha": 513},
            linear(513),
            {"PEFT": "loads", "vLLM": "refuses", "vLLM old": "refuses"},
        ),
        ({"target_modules": r".*\.[qv]_proj"}, None, {"vLLM": "loads", "SGLang": "refuses"}),
        ({"target_modules": "all-linear"}, None, {"vLLM": "loads", "SGLang": "loads"}),
        ({"lora_alpha": 0}, None, {"PEFT": "loads", "vLLM": "loads", "llama.cpp converter": "wrong scale"}),
        (
            {"rank_pattern": {"[[:alpha:]]+": 4}},
            None,
            dict.fromkeys(ALL, "unknown"),
        ),
    ],
    ids=[
        "rslora-read",
        "rslora-not-read",
        "dora",
        "dora-elsewhere",
        "a-saved-head",
        "a-saved-classifier",
        "lora-bias",
        "biases",
        "token-rows",
        "pissa",
        "an-initialisation-that-leaves-the-base-alone",
        "activated-lora",
        "embedding",
        "embedding-elsewhere",
        "lora-on-the-head",
        "stacked-experts",
        "convolution",
        "config-and-tensors-disagree",
        "largest-rank-of-vllm",
        "above-the-largest-rank-of-vllm",
        "targets-by-expression",
        "all-linear",
        "alpha-zero",
        "a-pattern-that-cannot-be-evaluated",
    ],
)
def test_features(config, modules, expected):
    found = judged(config, modules)
    assert {name: found[name].verdict for name in expected} == expected


@pytest.mark.parametrize(
    ("gone", "sglang", "lorax"),
    [
        ("self_attn.k_proj", "loads", "wrong meaning"),
        ("self_attn.q_proj", "refuses", "wrong meaning"),
        ("self_attn.v_proj", "refuses", "wrong meaning"),
        ("mlp.up_proj", "loads", "wrong meaning"),
        ("mlp.gate_proj", "refuses", "wrong meaning"),
    ],
)
def test_a_module_left_out_of_one_layer(gone, sglang, lorax):
    found = judged({}, linear(without=[f"model.layers.1.{gone}"]))
    assert {name: found[name].verdict for name in ("PEFT", "vLLM", "SGLang", "LoRAX")} == {
        "PEFT": "loads",
        "vLLM": "loads",
        "SGLang": sglang,
        "LoRAX": lorax,
    }


def test_a_type_left_out_of_all_layers_is_no_gap():
    names = [f"model.layers.{layer}.self_attn.k_proj" for layer in range(2)]
    assert judged({}, linear(without=names))["LoRAX"].verdict == "loads"


def test_the_words_name_the_first_module_and_both_scales():
    why = judged({"alpha_pattern": {anchored_key(NAMES[1]): 4}})["vLLM old"].why
    assert why == f"1 of 10 modules; {NAMES[1]} gets 2, not 0.5"


def test_vllm_says_which_step_it_needs():
    assert judged({"r": 33, "lora_alpha": 33}, linear(33))["vLLM"].why == "with --max-lora-rank 64 or more"


def test_several_reasons_are_all_given():
    why = judged({"use_dora": True, "bias": "all", "modules_to_save": ["lm_head"]})["vLLM"].why
    assert all(word in why for word in ("DoRA", "bias: all", "lm_head"))


@pytest.mark.parametrize(
    ("rank", "padded"), [(1, 8), (8, 8), (9, 16), (16, 16), (17, 32), (48, 48), (65, 80)], ids=str
)
def test_ranks_that_lorax_allocates(rank, padded):
    assert lorax_padded(rank) == padded


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("model.layers.3.mlp.up_proj", (3, "model.layers.*.mlp.up_proj", "up_proj")),
        ("lm_head", (None, "lm_head", "lm_head")),
        ("h.0.experts.1.w1", (0, "h.*.experts.1.w1", "w1")),
    ],
    ids=["layer", "no-layer", "expert"],
)
def test_places(name, place):
    assert place_of(name) == place


# ---------------------------------------------------------------- what the verdicts rest on


@pytest.mark.parametrize(
    ("config", "modules", "runtime", "basis"),
    [
        ({}, None, "PEFT", "run: docs/runtimes.md#peft"),
        ({}, None, "vLLM", "run: docs/runtimes.md#vllm"),
        ({}, [*linear(), EMBEDDING], "vLLM", "run: docs/runtimes.md#vllm"),
        ({"use_dora": True}, None, "vLLM", "run: docs/runtimes.md#vllm"),
        ({"use_qalora": True}, None, "vLLM", "by source of version 0.32.0, not run"),
        ({"modules_to_save": ["score"]}, None, "vLLM", "by source of version 0.32.0, not run"),
        ({}, [EXPERT], "vLLM", "by source of version 0.32.0, not run"),
        ({}, None, "vLLM old", "by source of version before 0.31, not run"),
        ({}, None, "SGLang", "by source of version 0.5.23, not run"),
    ],
    ids=[
        "peft",
        "vllm",
        "vllm-embedding",
        "vllm-dora-refused",
        "vllm-refusal-not-run",
        "vllm-classifier-not-run",
        "vllm-experts-not-run",
        "older-vllm",
        "sglang",
    ],
)
def test_basis(config, modules, runtime, basis):
    assert judged(config, modules)[runtime].basis == basis


def recorded(slug):
    return json.loads((ROOT / f"docs/conformance/{slug}.json").read_text(encoding="utf-8"))


SERVED = [("vllm", "vLLM", "vllm"), ("llama_cpp", "llama.cpp converter", "llama.cpp")]
CASE_OF = {"changed base": "PiSSA"}
"""Feature -> case of the record, where they are not called the same."""


@pytest.mark.parametrize(("slug", "name", "package"), SERVED, ids=["vllm", "llama.cpp"])
def test_what_is_called_a_run_is_in_the_record(slug, name, package):
    found = recorded(slug)
    [runtime] = [
        row for row in RUNTIMES if row.name == name and found["versions"][package].startswith(row.version)
    ]
    assert all(case["as_expected"] for case in found["cases"])
    outcome = {case["case"]: case["outcome"] for case in found["cases"]}
    assert {feature: outcome[feature] for feature in runtime.ran} == dict.fromkeys(runtime.ran, "equal")
    rules = {rule: feature for feature, rule in FEATURES.items()}
    for rule in runtime.ran_refusals:
        feature = rules.get(rule, "modules_to_save")  # vLLM's own rule for them has another name
        assert outcome[CASE_OF.get(feature, feature)] == "refused", feature


@pytest.mark.parametrize("slug", ["vllm", "llama_cpp"])
def test_the_record_holds_every_encoding_of_what_compress_writes(slug):
    cases = [case["case"].split(", ") for case in recorded(slug)["cases"] if case["section"] == "compressed"]
    done = {(parts[0], parts[-1]) for parts in cases}
    originals = ("plain", "rsLoRA", "mixed", "embedding", "faint")
    assert done >= {(original, how) for original in originals for how in ("patterns", "padded", "folded")}


def test_where_the_rules_say_wrong_scale_the_record_says_which():
    wrong = [case for case in recorded("llama_cpp")["cases"] if case["outcome"] == "differs"]
    assert {case["case"] for case in wrong} >= {"rsLoRA", "mixed", "mixed, 95 % of the energy, patterns"}
    assert all(case["from_rule"] < 1e-4 < 0.1 < case["difference"] for case in wrong)


@pytest.mark.parametrize("slug", ["vllm", "llama_cpp"])
def test_the_record_is_of_the_peft_in_the_table(slug):
    versions = {row.version for row in RUNTIMES if row.record.endswith("#peft")}
    assert versions == {recorded(slug)["versions"]["peft"]}


def test_records_are_sections_of_the_document():
    lines = (ROOT / "docs/runtimes.md").read_text(encoding="utf-8").splitlines()
    anchors = {
        line[3:].lower().replace(".", "").replace(" ", "-") for line in lines if line.startswith("## ")
    }
    for runtime in RUNTIMES:
        if runtime.record:
            path, _, section = runtime.record.partition("#")
            assert path == "docs/runtimes.md"
            assert section in anchors
