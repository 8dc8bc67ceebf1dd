"""Every rule of check: one configuration where it speaks, one where it must not, and PEFT itself as the judge."""

from __future__ import annotations

import json

import pytest
from peft import LoraConfig, get_peft_model
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from transformers import TrainingArguments

from gradience.adapters.families import DEFAULT_TARGETS
from gradience.check import check_config
from gradience.check.rules import RULES

PEFT = {
    "peft_type": "LORA",
    "r": 16,
    "lora_alpha": 32,
    "target_modules": ["q_proj", "up_proj"],
    "task_type": "CAUSAL_LM",
}
TRAIN = {"learning_rate": 3e-4, "per_device_train_batch_size": 16, "eval_strategy": "steps", "bf16": True}
LLAMA = {
    "model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
}  # fmt: skip
ALL = {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]}

# code -> (where it speaks, where it is silent); each is (peft, training, options)
CASES = {
    "unreadable-value": (({"r": "16"}, {}, {}), ({}, {}, {})),
    "impossible-number": (({"r": 0}, {}, {}), ({}, {}, {})),
    "no-targets": (
        ({"target_modules": None}, {}, {"base": {"model_type": "phi3"}}),
        ({"target_modules": None}, {}, {"base": {"model_type": "phi"}}),
    ),
    "no-adapter": (({}, {"use_peft": False}, {"peft": False}), ({}, {"use_peft": True}, {"peft": False})),
    "layers-with-regex": (
        ({"target_modules": ".*q_proj", "layers_to_transform": [0]}, {}, {}),
        ({"layers_to_transform": [0]}, {}, {}),
    ),
    "pattern-without-layers": (
        ({"layers_pattern": "layers"}, {}, {}),
        ({"layers_pattern": "layers", "layers_to_transform": [0]}, {}, {}),
    ),
    "initialization": (
        ({"init_lora_weights": "pisssa"}, {}, {}),
        ({"init_lora_weights": "pissa_niter_4"}, {}, {}),
    ),
    "dora": (({"use_dora": True, "lora_bias": True}, {}, {}), ({"use_dora": True}, {}, {})),
    "lora-bias": (({"lora_bias": True, "init_lora_weights": "pissa"}, {}, {}), ({"lora_bias": True}, {}, {})),
    "removed-argument": (({}, {"warmup_ratio": 0.1}, {}), ({}, {"warmup_steps": 0.1}, {})),
    "misspelled-key": (({"lora_drop": 0.1}, {}, {}), ({"lora_drop": 0.1, "peft_version": "0.99.0"}, {}, {})),
    "two-precisions": (({}, {"fp16": True}, {}), ({}, {"bf16": False, "fp16": True}, {})),
    "best-model": (
        ({}, {"load_best_model_at_end": True, "save_strategy": "epoch"}, {}),
        ({}, {"load_best_model_at_end": True, "save_strategy": "steps"}, {}),
    ),
    "task-type": (
        ({"task_type": None}, {}, {"task": "classification"}),
        ({"task_type": "SEQ_CLS"}, {}, {"task": "classification"}),
    ),
    "serving-rank": (({"r": 24}, {}, {}), ({"r": 64}, {}, {})),
    "serving-features": (({"use_dora": True}, {}, {}), ({}, {}, {})),
    "attention-only": (({"target_modules": ["q_proj", "v_proj"]}, {}, {}), ({}, {}, {})),
    "learning-rate": (({}, {"learning_rate": 1e-6}, {}), ({}, {"learning_rate": 2e-4}, {})),
    "rl-learning-rate": (
        ({}, {"learning_rate": 1e-3}, {"task": "rl"}),
        ({}, {"learning_rate": 1e-5}, {"task": "rl"}),
    ),
    "scale": (({"r": 8, "lora_alpha": 256}, {}, {}), ({"r": 256, "lora_alpha": 16}, {}, {})),
    "rslora-at-high-rank": (({"r": 256}, {}, {}), ({"r": 256, "lora_alpha": 256}, {}, {})),
    "pattern-scale": (
        ({"rank_pattern": {"q_proj": 4}}, {}, {}),
        ({"rank_pattern": {"q_proj": 4}, "alpha_pattern": {"q_proj": 8}}, {}, {}),
    ),
    "capacity": (
        ({"r": 1, **ALL}, {}, {"base": LLAMA, "completion_tokens": 50_000_000}),
        ({"r": 64, **ALL}, {}, {"base": LLAMA, "completion_tokens": 1_000_000}),
    ),
    "rank-for-rl": (({"r": 128}, {}, {"task": "rl"}), ({"r": 8}, {}, {"task": "rl"})),
    "large-batch": (({}, {"gradient_accumulation_steps": 64}, {}), ({}, {}, {})),
    "many-epochs": (
        ({}, {"num_train_epochs": 10, "eval_strategy": "no"}, {}),
        ({}, {"num_train_epochs": 10}, {}),
    ),
    "no-evaluation": (({}, {"eval_strategy": "no"}, {}), ({}, {}, {})),
    "prompt-loss": (
        ({}, {"use_peft": True, "completion_only_loss": False}, {}),
        ({}, {"use_peft": True, "completion_only_loss": True}, {}),
    ),
    "precision": (({}, {"bf16": False, "fp16": True}, {}), ({}, {}, {})),
    "quantized-base": (({}, {"use_peft": True, "load_in_4bit": True}, {}), ({}, {"use_peft": True}, {})),
}


def checked(tmp_path, peft, training, options):
    options = dict(options)
    (tmp_path / "training_args.json").write_text(json.dumps(TRAIN | training))
    if options.pop("peft", True):
        (tmp_path / "adapter_config.json").write_text(json.dumps(PEFT | peft))
        options["peft_dir"] = tmp_path
    base = options.pop("base", None)
    if base:
        (tmp_path / "config.json").write_text(json.dumps(base))
        options["base_config"] = tmp_path / "config.json"
    report = check_config(training_dir=tmp_path, **options)
    assert type(report).read(report.save(tmp_path / "check.json")) == report
    return report, {finding.code for finding in report.findings}


def test_every_rule_has_its_two_cases():
    assert [rule.code for rule in RULES] == list(CASES)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_it_speaks_where_it_should_and_is_silent_where_it_must_be(tmp_path, rule):
    speaks, silent = CASES[rule.code]
    report, _ = checked(tmp_path, *speaks)
    finding = next(f for f in report.findings if f.code == rule.code)
    assert finding.severity == rule.severity
    assert all((finding.seen, finding.advised, finding.message, finding.reason, finding.source))
    report, codes = checked(tmp_path, *silent)
    assert rule.code not in codes
    assert rule.code in (*report.passed, *report.not_applicable)


def test_a_sound_configuration_has_no_finding(tmp_path):
    report, codes = checked(tmp_path, {}, {}, {})
    assert codes == set()
    assert len(report.passed) + len(report.not_applicable) == len(RULES)


@pytest.mark.parametrize(
    ("optimizer", "spoken"),
    [
        (None, True),
        ("adamw_torch", True),
        ("came_pytorch", True),
        ("sgd", False),
        ("schedule_free_sgd", False),
    ],
)
def test_the_reference_is_for_optimizers_that_step_as_adam_does(tmp_path, optimizer, spoken):
    _, codes = checked(tmp_path, {}, {"learning_rate": 1.0, "optim": optimizer}, {})
    assert ("learning-rate" in codes) is spoken


def test_the_default_targets_are_those_of_peft():
    theirs = {
        name: targets if isinstance(targets, str) else tuple(targets)
        for name, targets in TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.items()
    }
    assert dict(DEFAULT_TARGETS) == theirs


@pytest.mark.parametrize(
    ("model_type", "spoken"),
    [
        ("llama", "q_proj, v_proj"),
        ("qwen3", "q_proj, v_proj"),
        ("gpt2", "c_attn"),
        ("phi", None),
        ("rwkv", None),
    ],
)
def test_attention_alone_is_seen_where_it_is_pefts_default(tmp_path, model_type, spoken):
    report, _ = checked(tmp_path, {"target_modules": None}, {}, {"base": {"model_type": model_type}})
    finding = next((f for f in report.findings if f.code == "attention-only"), None)
    if spoken is None:
        assert finding is None
    else:
        assert finding.seen == f"not set: PEFT's default for {model_type}, {spoken}"


REFUSED_BY_PEFT = ["layers-with-regex", "pattern-without-layers", "dora", "lora-bias"]


@pytest.mark.parametrize("code", REFUSED_BY_PEFT)
def test_what_is_an_error_here_is_refused_by_peft(code):
    refused, accepted = (
        {key: value for key, value in (PEFT | case[0]).items() if key != "peft_type"} for case in CASES[code]
    )
    with pytest.raises(ValueError, match=r"."):
        LoraConfig(**refused)
    LoraConfig(**accepted)


@pytest.mark.filterwarnings("ignore:.*eva.*:UserWarning")
@pytest.mark.parametrize(
    "name", ["true", "gaussian", "eva", "olora", "pissa", "pissa_niter_4", "orthogonal", "nonsense"]
)
def test_initializations_are_those_that_peft_knows(name):
    from torch import nn

    from gradience.adapters.config import initialization_of

    config = LoraConfig(r=2, target_modules=["0"], init_lora_weights=True if name == "true" else name)
    known = initialization_of(name) is not None
    try:
        from peft import get_peft_model

        get_peft_model(nn.Sequential(nn.Linear(8, 8)), config)
    except (ValueError, KeyError):
        assert not known
    else:
        assert known


def test_removed_arguments_are_refused_by_transformers():
    from gradience.check.dialects import REMOVED_IN_TRANSFORMERS_5

    for key in REMOVED_IN_TRANSFORMERS_5:
        with pytest.raises(TypeError, match=key):
            TrainingArguments(output_dir="x", **{key: "no"})


def test_parameters_are_counted_as_peft_counts_them(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    small = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "vocab_size": 32,
        "head_dim": 24,
    }
    config = LlamaConfig(**LLAMA | small | {"num_attention_heads": 4, "num_key_value_heads": 2})
    config.save_pretrained(tmp_path / "base")
    model = get_peft_model(
        LlamaForCausalLM(config), LoraConfig(r=3, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    (tmp_path / "a.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 3, "target_modules": "all-linear"})
    )
    report = check_config(peft=tmp_path / "a.json", base_config=tmp_path / "base")
    assert report.lora_params == trainable
