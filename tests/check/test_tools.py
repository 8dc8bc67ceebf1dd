"""Every rule on the files of every tool: where it speaks, where it must not, and where the file cannot ask for it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from gradience.check import check_configs
from gradience.check.dialects.dialect import OF_ALGORITHM
from gradience.check.rules import RULES
from gradience.report.check import settings_sentence
from tests.check.tool_cases import CANNOT, CASES, POLICY_GRADIENT, SEVEN, SOUND

BASES = {
    "llama": {
        "model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
    },
    "phi3": {"model_type": "phi3"},
    "qwen2": {"model_type": "qwen2"},
}  # fmt: skip

SFT_ADVICE = {"learning-rate", "attention-only", "capacity", "large-batch", "prompt-loss"}


def written(tool: str, changes: dict[str, Any]) -> dict[str, Any]:
    """The tool's sound file with the changes; a dotted key reaches into a section."""
    values = json.loads(json.dumps(SOUND[tool]))
    for key, value in changes.items():
        *sections, last = key.split(".")
        place = values
        for section in sections:
            place = place[section]
        place.pop(last, None)
        if value is not None:
            place[last] = value
    return values


def checked(tmp_path, tool, changes, options=None):
    """(report, codes) of the file."""
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(written(tool, changes)))
    options = dict(options or {})
    base = options.pop("base", None)
    if base:
        (tmp_path / "base.json").write_text(json.dumps(BASES[base]))
        options["base_config"] = tmp_path / "base.json"
    report = check_configs(training=path, **options)
    assert report.files[0].dialect == tool
    return report, {finding.code for finding in report.findings}


PAIRS = [pytest.param(tool, code, id=f"{tool}: {code}") for tool, cases in CASES.items() for code in cases]


@pytest.mark.parametrize("tool", SOUND)
def test_every_rule_is_spoken_for(tool):
    assert sorted([*CASES[tool], *CANNOT[tool]]) == sorted(rule.code for rule in RULES)


@pytest.mark.parametrize("tool", SOUND)
def test_a_sound_file_has_no_finding(tmp_path, tool):
    _, codes = checked(tmp_path, tool, {})
    assert codes == set()


@pytest.mark.parametrize(("tool", "code"), PAIRS)
def test_the_rule_speaks(tmp_path, tool, code):
    case = CASES[tool][code]
    _, codes = checked(tmp_path, tool, case.fires, case.options)
    assert code in codes


@pytest.mark.parametrize(("tool", "code"), PAIRS)
def test_the_rule_must_not_speak(tmp_path, tool, code):
    case = CASES[tool][code]
    _, codes = checked(tmp_path, tool, case.silent, case.silent_options)
    assert code not in codes


@pytest.mark.parametrize("tool", SOUND)
def test_what_a_file_cannot_ask_for_is_never_found(tmp_path, tool):
    for case in CASES[tool].values():
        _, codes = checked(tmp_path, tool, case.fires, case.options)
        assert not codes & set(CANNOT[tool])


# ------------------------------------------------------------ what is trained for

ELSEWHERE = {
    "trl, GRPO by its generations": ("trl", {"num_generations": 8, "max_completion_length": 256}, "rl", None),
    "trl, GRPO by its reward": ("trl", {"reward_funcs": ["accuracy_reward"]}, "rl", None),
    "trl, GRPO by its loss": ("trl", {"loss_type": "dr_grpo"}, "rl", "dr_grpo"),
    "trl, RLOO": ("trl", {"normalize_advantages": True}, "rl", None),
    "trl, DPO": ("trl", {"beta": 0.1}, "preference", None),
    "trl, DPO by its losses": ("trl", {"loss_type": ["sigmoid", "sft"]}, "preference", "sigmoid"),
    "trl, KTO": ("trl", {"desirable_weight": 1.0}, "preference", None),
    "trl, reward model": ("trl", {"center_rewards_coefficient": 0.01}, "reward", None),
    "trl, distillation": ("trl", {"teacher_model_name_or_path": "x"}, "distillation", None),
    "trl, Unsloth's GRPOConfig": ("trl", {"num_generations": 8, "unsloth_num_chunks": -1}, "rl", None),
    **{
        f"axolotl, {name}": ("axolotl", {"rl": name}, objective, name)
        for name, objective in OF_ALGORITHM.items()
        if name in ("dpo", "gdpo", "grpo", "ipo", "orpo", "kto", "simpo", "ebft")
    },
    "axolotl, a method of tomorrow": ("axolotl", {"rl": "xpo"}, "rl", "xpo"),
    "axolotl, reward model": ("axolotl", {"reward_model": True}, "reward", None),
    "axolotl, process reward model": ("axolotl", {"process_reward_model": True}, "reward", None),
    **{
        f"llama-factory, {stage}": ("llama-factory", {"stage": stage}, objective, stage)
        for stage, objective in (("rm", "reward"), ("ppo", "rl"), ("dpo", "preference"), ("kto", "preference"))
    },
}  # fmt: skip


@pytest.mark.parametrize(("tool", "changes", "objective", "algorithm"), ELSEWHERE.values(), ids=ELSEWHERE)
def test_other_methods_are_recognised_and_get_no_advice_on_supervised_tuning(
    tmp_path, tool, changes, objective, algorithm
):
    targets = {"axolotl": {"lora_target_linear": None, "lora_target_modules": ["q_proj"]}}
    rate = {"learning_rate": 1e-6, "gradient_accumulation_steps": 1024, "completion_only_loss": None}
    asked = rate | targets.get(tool, {}) | changes
    report, codes = checked(tmp_path, tool, asked, {"base": "llama", "completion_tokens": 10**10})
    assert (report.settings.objective, report.settings.algorithm) == (objective, algorithm)
    assert codes & SFT_ADVICE == set()


@pytest.mark.parametrize("tool", SOUND)
def test_what_the_sound_files_train_for(tmp_path, tool):
    report, _ = checked(tmp_path, tool, {})
    assert report.settings.objective == (None if tool == "llama-factory-v1" else "sft")


@pytest.mark.parametrize("tool", SOUND)
def test_the_users_word_counts_where_the_file_names_no_other_method(tmp_path, tool):
    report, codes = checked(tmp_path, tool, {}, {"task": "rl"})
    assert report.settings.objective == "rl"
    assert codes & SFT_ADVICE == set()


def test_a_file_of_another_method_is_what_it_says(tmp_path):
    report, _ = checked(tmp_path, "axolotl", {"rl": "dpo"}, {"task": "rl"})
    assert report.settings.objective == "preference"


@pytest.mark.parametrize("tool", ["trl", "llama-factory-v1"])
def test_a_low_rate_is_left_alone_where_the_command_line_names_the_method(tmp_path, tool):
    """`trl dpo --config` and `llamafactory-cli dpo` take files in which nothing says DPO."""
    low = {"learning_rate": 5e-6, "completion_only_loss": None}
    report, codes = checked(tmp_path, tool, low)
    assert (report.settings.objective, "learning-rate" in codes) == (None, False)
    assert "learning-rate" in report.not_applicable
    assert "learning-rate" in checked(tmp_path, tool, low, {"task": "generation"})[1]


def test_other_adapters_are_not_called_full_fine_tuning(tmp_path):
    report, codes = checked(tmp_path, "llama-factory", {"finetuning_type": "oft", "quantization_bit": 4})
    assert codes == {"no-adapter"}
    assert report.findings[0].message == "no LoRA adapter is trained"


def test_the_shortest_file_of_trl_is_read(tmp_path):
    path = tmp_path / "dpo_config.yaml"
    path.write_text("model_name_or_path: Qwen/Qwen2.5-0.5B\ndataset_name: anthropic/hh-rlhf\n")
    report = check_configs(path)
    assert (report.files[0].dialect, report.findings) == ("trl", ())


def test_what_is_trained_for_is_shown(tmp_path):
    report, _ = checked(tmp_path, "llama-factory", {"stage": "ppo"})
    assert "objective rl (ppo)" in settings_sentence(report)
    report, _ = checked(tmp_path, "trl", {}, {"task": "rl"})
    assert settings_sentence(report).endswith("1 epoch · task rl")


def test_where_the_method_was_read_is_told(tmp_path):
    report, _ = checked(tmp_path, "trl", {"learning_rate": 1e-3} | POLICY_GRADIENT["trl"])
    finding = next(f for f in report.findings if f.code == "rl-learning-rate")
    assert finding.advised == "about 1e-05"
    assert "reinforcement learning" in finding.message


# ------------------------------------------------------------ what is trained at all


@pytest.mark.parametrize(
    ("tool", "off"),
    [
        ("trl", {"use_peft": False}),
        ("axolotl", {"adapter": None}),
        ("llama-factory", {"finetuning_type": "full"}),
        ("llama-factory-v1", {"peft_config": None}),
        ("unsloth", {"training.training_type": "full"}),
    ],
    ids=SOUND,
)
def test_the_rules_on_lora_keep_away_from_full_fine_tuning(tmp_path, tool, off):
    rate = {"training.learning_rate" if tool == "unsloth" else "learning_rate": 1e-5}
    report, codes = checked(tmp_path, tool, off | rate)
    assert codes == {"no-adapter"}
    assert report.settings.adapter is False
    assert report.settings.r is None


@pytest.mark.parametrize(
    ("values", "heeded"),
    [
        ({"assistant_only_loss": True}, False),
        ({"assistant_only_loss": True, "completion_only_loss": False}, False),
        ({"assistant_only_loss": False, "completion_only_loss": False}, True),
        ({"assistant_only_loss": False}, None),
        ({"completion_only_loss": True}, False),
    ],
    ids=str,
)
def test_which_tokens_trl_trains(tmp_path, values, heeded):
    report, codes = checked(tmp_path, "trl", {"completion_only_loss": None} | values)
    assert ("prompt-loss" in codes) is (heeded is True)
    assert ("prompt-loss" in report.not_applicable) is (heeded is None)


def test_a_dump_of_trl_arguments_without_lora_gets_no_default_rank(tmp_path):
    path = tmp_path / "training_args.json"
    path.write_text(
        json.dumps({"learning_rate": 1e-6, "num_generations": 8, "per_device_train_batch_size": 8})
    )
    report = check_configs(training=path)
    assert report.files[0].dialect == "trl"
    assert (report.settings.r, report.settings.adapter, report.settings.objective) == (None, None, "rl")


def test_lora_target_linear_adds_every_linear_layer(tmp_path):
    report, _ = checked(tmp_path, "axolotl", {"lora_target_modules": ["q_proj"]})
    assert report.settings.target_modules == "all-linear"


def test_unsloths_defaults_are_filled_in(tmp_path):
    report, _ = checked(tmp_path, "unsloth", {"lora": None, "training.train_on_completions": None})
    assert (report.settings.r, report.settings.alpha) == (64, 16)
    assert report.settings.target_modules == tuple(SEVEN)


def test_unsloths_vision_files_name_no_module(tmp_path):
    report, codes = checked(tmp_path, "unsloth", {"lora.target_modules": "", "lora.vision_all_linear": True})
    assert report.settings.target_modules == "all-linear"
    assert codes == set()
