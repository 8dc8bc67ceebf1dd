"""Every rule of check: one configuration where it speaks, one where it must not, and PEFT itself as the judge."""

import dataclasses
import json

import pytest
import yaml
from peft import AdaLoraConfig, LoraConfig
from raising import raises
from transformers import TrainingArguments

from gradience.check import check_config
from gradience.check.dialects import PEFT_KEYS, TRAINER_KEYS
from gradience.check.rules import RULES
from gradience.errors import InputError
from gradience.reports.base.blocks import View

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
    report = check_config(training_dir=tmp_path, **options)
    assert type(report).read(report.save(tmp_path / "check.json")) == report
    return report, {finding.code for finding in report.findings}


def test_every_rule_has_its_two_cases():
    assert [rule.code for rule in RULES] == list(CASES)


@pytest.mark.parametrize(("lr", "severity"), [(0.1, "warning"), (5.0, "error")])
def test_a_learning_rate_thousands_of_times_the_usual_is_an_error(lr, severity):
    assert [finding.severity for finding in check_config(r=16, alpha=16, lr=lr).findings] == [severity]


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


# ---------------------------------------------------------------- files of TRL

SOUND = {
    "model_name_or_path": "Qwen/Qwen2.5-0.5B", "dataset_name": "trl-lib/Capybara", "use_peft": True,
    "lora_r": 16, "lora_alpha": 32, "lora_target_modules": "all-linear", "learning_rate": 2.0e-4,
    "per_device_train_batch_size": 2, "gradient_accumulation_steps": 8, "num_train_epochs": 1,
    "eval_strategy": "steps", "eval_steps": 100, "bf16": True, "completion_only_loss": True,
}  # fmt: skip
SPEAKS = {
    "no-adapter": {"use_peft": None},
    "task-type": {"center_rewards_coefficient": 0.01},
    "attention-only": {"lora_target_modules": None},
    "no-evaluation": {"eval_strategy": None},
}
"""Rule -> changes to the sound file that trigger it; None removes a key."""
SFT_ADVICE = {"learning-rate", "attention-only", "large-batch"}


def checked_file(tmp_path, changes, **options):
    """(report, codes) of the file."""
    path = tmp_path / "config.yaml"
    values = {key: value for key, value in (SOUND | changes).items() if value is not None}
    path.write_text(yaml.safe_dump(values))
    report = check_config(path, **options)
    assert report.files[0].dialect == "trl"
    return report, {finding.code for finding in report.findings}


def test_a_sound_file_has_no_finding(tmp_path):
    assert checked_file(tmp_path, {})[1] == set()


@pytest.mark.parametrize("code", SPEAKS)
def test_the_rule_speaks(tmp_path, code):
    assert code in checked_file(tmp_path, SPEAKS[code])[1]


OBJECTIVES = {
    "GRPO by its generations": ({"num_generations": 8, "max_completion_length": 256}, "rl"),
    "GRPO by its reward": ({"reward_funcs": ["accuracy_reward"]}, "rl"),
    "RLOO": ({"normalize_advantages": True}, "rl"),
    "DPO": ({"beta": 0.1}, "preference"),
    "KTO": ({"desirable_weight": 1.0}, "preference"),
    "reward model": ({"center_rewards_coefficient": 0.01}, "reward"),
    "distillation": ({"teacher_model_name_or_path": "x"}, "distillation"),
}


@pytest.mark.parametrize(("changes", "objective"), OBJECTIVES.values(), ids=OBJECTIVES)
def test_other_methods_are_recognized_and_get_no_advice_on_supervised_tuning(tmp_path, changes, objective):
    rate = {"learning_rate": 1e-6, "gradient_accumulation_steps": 1024, "completion_only_loss": None}
    report, codes = checked_file(tmp_path, rate | changes)
    assert report.settings.objective == objective
    assert codes & SFT_ADVICE == set()


def test_the_users_word_counts_where_the_file_names_no_other_method(tmp_path):
    report, codes = checked_file(tmp_path, {}, task="rl")
    assert report.settings.objective == "rl"
    assert codes & SFT_ADVICE == set()


def test_a_low_rate_is_left_alone_if_the_command_line_names_the_method(tmp_path):
    """`trl dpo --config` takes files in which nothing says DPO."""
    low = {"learning_rate": 5e-6, "completion_only_loss": None}
    report, codes = checked_file(tmp_path, low)
    assert (report.settings.objective, "learning-rate" in codes) == (None, False)
    assert "learning-rate" in report.not_applicable
    assert "learning-rate" in checked_file(tmp_path, low, task="generation")[1]


def test_the_shortest_file_of_trl_is_read(tmp_path):
    path = tmp_path / "dpo_config.yaml"
    path.write_text("model_name_or_path: Qwen/Qwen2.5-0.5B\ndataset_name: anthropic/hh-rlhf\n")
    report = check_config(path)
    assert (report.files[0].dialect, report.findings) == ("trl", ())


def test_the_rules_on_lora_keep_away_from_full_fine_tuning(tmp_path):
    report, codes = checked_file(tmp_path, {"use_peft": False, "learning_rate": 1e-5})
    assert codes == {"no-adapter"}
    assert report.settings.adapter is False
    assert report.settings.r is None


def test_a_dump_of_trl_arguments_without_lora_gets_no_default_rank(tmp_path):
    path = tmp_path / "training_args.json"
    path.write_text(
        json.dumps({"learning_rate": 1e-6, "num_generations": 8, "per_device_train_batch_size": 8})
    )
    report = check_config(path)
    assert report.files[0].dialect == "trl"
    assert (report.settings.r, report.settings.adapter, report.settings.objective) == (None, None, "rl")


# ---------------------------------------------------------------- what the libraries write


def test_what_peft_writes(tmp_path):
    config = LoraConfig(
        r=16, lora_alpha=32, target_modules=["q_proj", "up_proj"], use_rslora=True, task_type="CAUSAL_LM"
    )
    config.save_pretrained(tmp_path)
    report = check_config(peft_dir=tmp_path)
    assert report.files[0].dialect == "peft"
    assert (report.settings.r, report.settings.alpha, report.settings.scale) == (16, 32, 8)
    assert set(report.settings.target_modules) == {"q_proj", "up_proj"}
    assert not [finding for finding in report.findings if finding.severity == "error"]


def test_another_method_of_peft_gets_no_advice_on_lora(tmp_path):
    AdaLoraConfig(r=8, init_r=12, total_step=10, target_modules=["q_proj"]).save_pretrained(tmp_path)
    report = check_config(tmp_path, lr=1e-6)
    assert [(f.code, f.seen) for f in report.findings] == [("no-adapter", "peft_type ADALORA")]
    assert (report.settings.r, report.settings.alpha) == (None, None)


def test_one_file_with_the_settings_of_the_adapter_and_of_the_training(tmp_path):
    path = tmp_path / "both.yaml"
    path.write_text(
        "r: 64\nlora_alpha: 16\ntarget_modules: [q_proj, up_proj]\nlearning_rate: 5.0e-3\nnum_train_epochs: 10\n"
    )
    adapter = tmp_path / "adapter_config.json"
    adapter.write_text(json.dumps({"peft_type": "LORA", "r": 8, "target_modules": "all-linear"}))
    for report in (check_config(path), check_config([adapter, path])):
        assert [file.dialect for file in report.files[-2:]] == ["peft", "trainer"]
        assert (report.settings.learning_rate, report.settings.epochs) == (5e-3, 10)


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_what_the_trainer_writes(tmp_path, suffix):
    """JSON is YAML, so the same text serves both."""
    args = TrainingArguments(
        output_dir="x", learning_rate=2e-4, num_train_epochs=2, eval_strategy="epoch", use_cpu=True
    )
    path = tmp_path / f"training_args.{suffix}"
    path.write_text(args.to_json_string())
    report = check_config(training_dir=tmp_path)
    assert report.files[0].dialect == "trainer"
    assert (report.settings.learning_rate, report.settings.epochs) == (2e-4, 2)
    assert report.settings.evaluation == "epoch"
    assert not [finding for finding in report.findings if finding.severity == "error"]


def test_the_keys_are_those_of_the_libraries():
    assert set(PEFT_KEYS) <= {field.name for field in dataclasses.fields(LoraConfig)}
    assert set(TRAINER_KEYS) <= {field.name for field in dataclasses.fields(TrainingArguments)}


@pytest.mark.parametrize("number", [1e-320, 1e300, 10**60, -(10**60), "1e999", "nan", "-inf"])
@pytest.mark.parametrize(
    "key", ["lora_r", "lora_alpha", "learning_rate", "per_device_train_batch_size", "max_steps"]
)
def test_a_number_beyond_all_use_is_a_finding(tmp_path, key, number):
    path = tmp_path / "config.json"
    given = {"use_peft": True, "lora_r": 8, "lora_alpha": 16, "learning_rate": 1e-4, "dataset_name": "d"}
    path.write_text(json.dumps(given | {key: number}))
    report = check_config(path, task="generation")
    json.loads(report.to_json(), parse_constant=pytest.fail)
    report.to_text(view=View(full=True))
    assert "unreadable-value" in [finding.code for finding in report.findings]


BAD = {
    "pickle": ("training_args.bin", b"\x80\x04", "config-pickle"),
    "missing": ("nowhere.yaml", None, "not-found"),
    "not a mapping": ("list.yaml", b"- 1\n- 2\n", "config-not-a-mapping"),
    "MLX-LM's": ("adapter_config.json", b'{"lora_parameters": {"rank": 8}, "beta": 0.1}', "config-unknown"),
    "unknown": ("other.yaml", b"color: blue\n", "config-unknown"),
    "broken yaml": ("x.yaml", b"a: [1\n", "bad-yaml"),
    "nan in json": ("x.json", b'{"r": 8, "lora_alpha": NaN}', "bad-json"),
    "too large": ("x.yaml", b"#" * 1_000_001, "too-large"),
}


@pytest.mark.parametrize(("name", "content", "code"), BAD.values(), ids=BAD)
def test_what_cannot_be_read_is_refused_with_a_code(tmp_path, name, content, code):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with raises(InputError, code):
        check_config(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("r", "16"),
        ("r", True),
        ("r", 16.5),
        ("lora_alpha", "big"),
        ("use_dora", "yes"),
        ("rank_pattern", [1]),
    ],
)
def test_a_value_of_the_wrong_kind_is_an_error_finding(tmp_path, key, value):
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({"peft_type": "LORA", "r": 8, "lora_alpha": 16, key: value}))
    assert "unreadable-value" in {finding.code for finding in check_config(path).findings}
