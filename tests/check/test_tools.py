"""Every rule on the files of every tool: where it speaks, where it must not, and where the file cannot ask for it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from gradience.check import check_config
from gradience.check.dialects import OF_ALGORITHM
from tests.check.tool_cases import SOUND, SPEAKS

BASES = {
    "llama": {"model_type": "llama", "hidden_size": 2048},
    "phi3": {"model_type": "phi3"},
    "qwen2": {"model_type": "qwen2"},
}  # fmt: skip

SFT_ADVICE = {"learning-rate", "attention-only", "large-batch"}


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
    "trl, GRPO by its generations": ("trl", {"num_generations": 8, "max_completion_length": 256}, "rl"),
    "trl, GRPO by its reward": ("trl", {"reward_funcs": ["accuracy_reward"]}, "rl"),
    "trl, RLOO": ("trl", {"normalize_advantages": True}, "rl"),
    "trl, DPO": ("trl", {"beta": 0.1}, "preference"),
    "trl, KTO": ("trl", {"desirable_weight": 1.0}, "preference"),
    "trl, reward model": ("trl", {"center_rewards_coefficient": 0.01}, "reward"),
    "trl, distillation": ("trl", {"teacher_model_name_or_path": "x"}, "distillation"),
    **{
        f"axolotl, {name}": ("axolotl", {"rl": name}, objective)
        for name, objective in OF_ALGORITHM.items()
        if name in ("dpo", "gdpo", "grpo", "ipo", "orpo", "kto", "simpo", "ebft")
    },
    "axolotl, a method of tomorrow": ("axolotl", {"rl": "xpo"}, "rl"),
    "axolotl, reward model": ("axolotl", {"reward_model": True}, "reward"),
    "axolotl, process reward model": ("axolotl", {"process_reward_model": True}, "reward"),
    **{
        f"llama-factory, {stage}": ("llama-factory", {"stage": stage}, objective)
        for stage, objective in (("rm", "reward"), ("ppo", "rl"), ("dpo", "preference"), ("kto", "preference"))
    },
}  # fmt: skip


@pytest.mark.parametrize(("tool", "changes", "objective"), ELSEWHERE.values(), ids=ELSEWHERE)
def test_other_methods_are_recognized_and_get_no_advice_on_supervised_tuning(
    tmp_path, tool, changes, objective
):
    targets = {"axolotl": {"lora_target_linear": None, "lora_target_modules": ["q_proj"]}}
    rate = {"learning_rate": 1e-6, "gradient_accumulation_steps": 1024, "completion_only_loss": None}
    asked = rate | targets.get(tool, {}) | changes
    report, codes = checked(tmp_path, tool, asked, {"base": "llama"})
    assert report.settings.objective == objective
    assert codes & SFT_ADVICE == set()


@pytest.mark.parametrize("tool", SOUND)
def test_the_users_word_counts_where_the_file_names_no_other_method(tmp_path, tool):
    report, codes = checked(tmp_path, tool, {}, {"task": "rl"})
    assert report.settings.objective == "rl"
    assert codes & SFT_ADVICE == set()


def test_a_low_rate_is_left_alone_if_the_command_line_names_the_method(tmp_path):
    """`trl dpo --config` takes files in which nothing says DPO."""
    low = {"learning_rate": 5e-6, "completion_only_loss": None}
    report, codes = checked(tmp_path, "trl", low)
    assert (report.settings.objective, "learning-rate" in codes) == (None, False)
    assert "learning-rate" in report.not_applicable
    assert "learning-rate" in checked(tmp_path, "trl", low, {"task": "generation"})[1]


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
    ],
    ids=SOUND,
)
def test_the_rules_on_lora_keep_away_from_full_fine_tuning(tmp_path, tool, off):
    report, codes = checked(tmp_path, tool, off | {"learning_rate": 1e-5})
    assert codes == {"no-adapter"}
    assert report.settings.adapter is False
    assert report.settings.r is None


def test_a_dump_of_trl_arguments_without_lora_gets_no_default_rank(tmp_path):
    path = tmp_path / "training_args.json"
    path.write_text(
        json.dumps({"learning_rate": 1e-6, "num_generations": 8, "per_device_train_batch_size": 8})
    )
    report = check_config(training=path)
    assert report.files[0].dialect == "trl"
    assert (report.settings.r, report.settings.adapter, report.settings.objective) == (None, None, "rl")
