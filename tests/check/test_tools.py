"""Every rule on the files of every tool: where it speaks, where it must not, and where the file cannot ask for it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from gradience.check import check_config
from gradience.check.dialects import OF_ALGORITHM
from tests.check.tool_cases import SEVEN, SOUND, SPEAKS

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
    report = check_config(training=path, **options)
    assert report.files[0].dialect == tool
    return report, {finding.code for finding in report.findings}


@pytest.mark.parametrize("tool", SOUND)
def test_a_sound_file_has_no_finding(tmp_path, tool):
    _, codes = checked(tmp_path, tool, {})
    assert codes == set()


@pytest.mark.parametrize(
    ("tool", "code", "changes"),
    [(tool, code, changes) for tool, rules in SPEAKS.items() for code, changes in rules.items()],
)
def test_the_rule_speaks(tmp_path, tool, code, changes):
    assert code in checked(tmp_path, tool, changes)[1]


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
def test_other_methods_are_recognized_and_get_no_advice_on_supervised_tuning(
    tmp_path, tool, changes, objective, algorithm
):
    targets = {"axolotl": {"lora_target_linear": None, "lora_target_modules": ["q_proj"]}}
    rate = {"learning_rate": 1e-6, "gradient_accumulation_steps": 1024, "completion_only_loss": None}
    asked = rate | targets.get(tool, {}) | changes
    report, codes = checked(tmp_path, tool, asked, {"base": "llama", "completion_tokens": 10**10})
    assert (report.settings.objective, report.settings.algorithm) == (objective, algorithm)
    assert codes & SFT_ADVICE == set()


@pytest.mark.parametrize("tool", SOUND)
def test_the_users_word_counts_where_the_file_names_no_other_method(tmp_path, tool):
    report, codes = checked(tmp_path, tool, {}, {"task": "rl"})
    assert report.settings.objective == "rl"
    assert codes & SFT_ADVICE == set()


@pytest.mark.parametrize("tool", ["trl", "llama-factory-v1"])
def test_a_low_rate_is_left_alone_where_the_command_line_names_the_method(tmp_path, tool):
    """`trl dpo --config` and `llamafactory-cli dpo` take files in which nothing says DPO."""
    low = {"learning_rate": 5e-6, "completion_only_loss": None}
    report, codes = checked(tmp_path, tool, low)
    assert (report.settings.objective, "learning-rate" in codes) == (None, False)
    assert "learning-rate" in report.not_applicable
    assert "learning-rate" in checked(tmp_path, tool, low, {"task": "generation"})[1]


def test_the_shortest_file_of_trl_is_read(tmp_path):
    path = tmp_path / "dpo_config.yaml"
    path.write_text("model_name_or_path: Qwen/Qwen2.5-0.5B\ndataset_name: anthropic/hh-rlhf\n")
    report = check_config(path)
    assert (report.files[0].dialect, report.findings) == ("trl", ())


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
    report = check_config(training=path)
    assert report.files[0].dialect == "trl"
    assert (report.settings.r, report.settings.adapter, report.settings.objective) == (None, None, "rl")


def test_unsloths_defaults_are_filled_in(tmp_path):
    report, _ = checked(tmp_path, "unsloth", {"lora": None, "training.train_on_completions": None})
    assert (report.settings.r, report.settings.alpha) == (64, 16)
    assert report.settings.target_modules == tuple(SEVEN)
