"""Five kinds of files, one vocabulary. What each library calls a setting is asked of the library itself."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from peft import AdaLoraConfig, LoraConfig
from transformers import TrainingArguments

from gradience.check import check_config
from gradience.check.dialects import PEFT_KEYS, TRAINER_KEYS
from gradience.errors import InputError

CONFIGS = Path(__file__).parent / "configs"

READ = {
    "trl": {
        "r": 32, "alpha": 16, "target_modules": ("q_proj", "v_proj"), "learning_rate": 2e-4,
        "effective_batch_size": 16, "evaluation": "steps",
    },
    "axolotl": {
        "r": 32, "alpha": 16, "target_modules": "all-linear", "learning_rate": 2e-4,
        "effective_batch_size": 8, "evaluation": "steps", "optimizer": "adamw_bnb_8bit",
    },
    "llama_factory": {
        "r": 8, "alpha": 16, "target_modules": "all-linear", "learning_rate": 1e-4, "epochs": 3,
        "effective_batch_size": 8, "evaluation": "steps",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_what_each_tool_writes(name):
    report = check_config(training=CONFIGS / f"{name}.yaml")
    assert report.files[0].dialect == name.replace("_", "-")
    for key, value in READ[name].items():
        assert getattr(report.settings, key) == value, key


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
    for report in (check_config(path), check_config(peft=adapter, training=path)):
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
    given = {
        "use_peft": True,
        "lora_r": 8,
        "lora_alpha": 16,
        "learning_rate": 1e-4,
        "dataset_name": "d",
        key: number,
    }
    path.write_text(json.dumps(given))
    report = check_config(path, task="generation")
    json.loads(report.to_json(), parse_constant=pytest.fail)
    report.to_text(verbose=True)
    assert "unreadable-value" in [finding.code for finding in report.findings]


BAD = {
    "pickle": ("training_args.bin", b"\x80\x04", "config-pickle"),
    "missing": ("nowhere.yaml", None, "config-not-found"),
    "not a mapping": ("list.yaml", b"- 1\n- 2\n", "config-not-a-mapping"),
    "unknown": ("other.yaml", b"color: blue\n", "config-unknown"),
    "broken yaml": ("x.yaml", b"a: [1\n", "bad-yaml"),
    "code in yaml": ("x.yaml", b"learning_rate: !!python/object/apply:os.system ['true']\n", "bad-yaml"),
    "duplicate key in yaml": ("x.yaml", b"lora_r: 8\nlora_r: 16\n", "bad-yaml"),
    "duplicate key in json": ("x.json", b'{"r": 8, "r": 16}', "bad-json"),
    "nan in json": ("x.json", b'{"r": 8, "lora_alpha": NaN}', "bad-json"),
    "too large": ("x.yaml", b"#" * 1_000_001, "config-too-large"),
    "alias bomb": (
        "x.yaml",
        b"a: &a [x]\n" + b"b: [" + b"*a, " * 20_000 + b"]\n",
        "bad-yaml",
    ),
    "deep": ("x.json", b"[" * 100_000, "bad-json"),
}


@pytest.mark.parametrize(("name", "content", "code"), BAD.values(), ids=BAD)
def test_what_cannot_be_read_is_refused_with_a_code(tmp_path, name, content, code):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as error:
        check_config(training=path)
    assert error.value.code == code


def test_floats_of_yaml_1_1_are_numbers(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("use_peft: true\nlearning_rate: 1e-4\nweight_decay: '0.3'\n")
    report = check_config(training=path)
    assert report.settings.learning_rate == 1e-4
    assert not [f for f in report.findings if f.code == "unreadable-value"]


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
    codes = {finding.code for finding in check_config(peft=path).findings}
    assert "unreadable-value" in codes
