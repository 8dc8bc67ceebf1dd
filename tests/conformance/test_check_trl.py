"""check against TRL itself: its arguments as TRL writes them, and the keys that give its trainers away."""

import dataclasses
import importlib

import pytest

from gradience.check import check_config, dialects

pytestmark = pytest.mark.conformance

OBJECTIVES = {
    "SFTConfig": "sft",
    "GRPOConfig": "rl",
    "RLOOConfig": "rl",
    "DPOConfig": "preference",
    "KTOConfig": "preference",
    "RewardConfig": "reward",
}


@pytest.fixture(scope="module")
def trl():
    return importlib.import_module("trl")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "objective"), OBJECTIVES.items(), ids=OBJECTIVES)
def test_a_dump_of_the_arguments_is_recognized(tmp_path, trl, name, objective):
    args = getattr(trl, name)(
        output_dir=str(tmp_path), bf16=False, use_cpu=True, per_device_train_batch_size=8
    )
    path = tmp_path / "training_args.json"
    path.write_text(args.to_json_string())
    report = check_config(training_dir=tmp_path)
    assert report.files[0].dialect == "trl"
    assert report.settings.objective == objective
    assert report.settings.r is None
    assert [finding.code for finding in report.findings if finding.severity == "error"] == []


def test_the_keys_are_trls(trl):
    scripts = importlib.import_module("trl.scripts.grpo").GRPOScriptArguments
    configs = [getattr(trl, name) for name in OBJECTIVES] + [trl.DistillationConfig, trl.ModelConfig, scripts]
    known = {field.name for config in configs for field in dataclasses.fields(config)}
    assert set(dialects.TRL_KEYS) <= known
    assert {key for keys in dialects.AIM_KEYS.values() for key in keys} <= known
    supervised = {field.name for field in dataclasses.fields(trl.SFTConfig)}
    for objective, keys in dialects.AIM_KEYS.items():
        assert supervised & set(keys) == (set(keys) if objective == "sft" else set())
