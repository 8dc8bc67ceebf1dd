"""Every rule of check: one configuration where it speaks, one where it must not, and PEFT itself as the judge."""

from __future__ import annotations

import json

import pytest
from peft import LoraConfig
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

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

# code -> (where it speaks, where it is silent); each is (peft, training, options)
CASES = {
    "unreadable-value": (({"r": "16"}, {}, {}), ({}, {}, {})),
    "impossible-number": (({"r": 0}, {}, {}), ({}, {}, {})),
    "no-adapter": (({}, {"use_peft": False}, {"peft": False}), ({}, {"use_peft": True}, {"peft": False})),
    "task-type": (
        ({"task_type": None}, {}, {"task": "classification"}),
        ({"task_type": "SEQ_CLS"}, {}, {"task": "classification"}),
    ),
    "serving-rank": (({"r": 24}, {}, {}), ({"r": 64}, {}, {})),
    "serving-features": (({"use_dora": True}, {}, {}), ({}, {}, {})),
    "attention-only": (({"target_modules": ["q_proj", "v_proj"]}, {}, {}), ({}, {}, {})),
    "learning-rate": (({}, {"learning_rate": 1e-6}, {}), ({}, {"learning_rate": 2e-4}, {})),
    "scale": (({"r": 8, "lora_alpha": 256}, {}, {}), ({"r": 256, "lora_alpha": 16}, {}, {})),
    "pattern-scale": (
        ({"rank_pattern": {"q_proj": 4}}, {}, {}),
        ({"rank_pattern": {"q_proj": 4}, "alpha_pattern": {"q_proj": 8}}, {}, {}),
    ),
    "large-batch": (({}, {"gradient_accumulation_steps": 64}, {}), ({}, {}, {})),
    "many-epochs": (
        ({}, {"num_train_epochs": 10, "eval_strategy": "no"}, {}),
        ({}, {"num_train_epochs": 10}, {}),
    ),
    "no-evaluation": (({}, {"eval_strategy": "no"}, {}), ({}, {}, {})),
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
