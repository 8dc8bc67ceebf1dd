"""The config: typed, strict, exact; nothing ignored without a word."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
import yaml

from gradience.bench.config.load import INSTEAD, load_config
from gradience.errors import InputError, UsageError

MINIMAL = """
model: {name: embedded:minilm}
task: {profile: reviews}
lora: {probe_r: 16, alpha: 32}
train: {max_steps: 300, lr: 5e-4}
"""

HEAD_ONLY = "compression: {controls: [head_only]}\n"


@pytest.fixture
def write(tmp_path):
    def write_config(text: str) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write_config


def test_defaults_and_numbers(write):
    config = load_config(write(MINIMAL))
    assert config.train.lr == 5e-4  # a string in YAML 1.1
    assert config.seeds == (42,)
    assert config.notes == ()
    assert (config.policy.tolerance, config.policy.pass_rate) == (Fraction(1, 40), Fraction(67, 100))
    assert config.compression.arms == ("retrain", "truncate")
    assert not config.smoke


@pytest.mark.parametrize("text", ["2e-4", "2E-4", "2.0e-4", "'2e-4'", "0.0002", ".2e-3"])
def test_a_learning_rate_is_a_number_however_it_is_written(write, text):
    assert load_config(write(MINIMAL.replace("5e-4", text))).train.lr == 2e-4


@pytest.mark.parametrize("key", INSTEAD)
def test_a_name_from_elsewhere_is_answered_with_ours(write, key):
    with pytest.raises(UsageError, match=f"unknown key `{key}`") as caught:
        load_config(write(MINIMAL), [f"{key}=1"])
    assert caught.value.hint == f"did you mean `{INSTEAD[key]}`?"


@pytest.mark.parametrize(
    ("line", "said", "hint"),
    [
        ("train.learnig_rate=1", "unknown key `train.learnig_rate`", "did you mean `train.lr`?"),
        ("train.batch_size=8", "unknown key", "did you mean `train.per_device_train_batch_size`?"),
        ("model.bf16=true", "unknown key `model.bf16`", "did you mean `train.bf16`?"),
        ("trian.lr=1", "unknown key `trian`", "did you mean `train`?"),
        ("task.probe_gate.minimum_value=.5", "unknown key", "did you mean `task.probe_gate.min_value`?"),
        ("zzz=1", "unknown key `zzz`", "docs/reference/configs.md lists all keys"),
        ("train.lr=-1", "`train.lr`: Input should be greater than 0", ""),
        ("train.lr=fast", "`train.lr`: Input should be a valid number", ""),
        ("train.epochs=2", None, ""),  # takes the place of max_steps
        ("compression.variants=[uniform_best]", "is not a variant", ""),
        ("compression.variants=[uniform_r0]", "is not a variant", ""),
        ("compression.variants=[per_layer, per_layer]", "lists a name twice", ""),
        ("compression.retrain=[uniform_r4]", "which is not among `variants`", ""),
        ("seeds=[1, 1]", "lists a seed twice", ""),
        ("seeds=[]", "`seeds`", ""),
        ("runtime.device=tpu", "`runtime.device`", ""),
        ("policy.tolerance=abc", "`policy.tolerance`: 'abc' is not a number such as 0.5", ""),
        ("model.type=causal_lm", None, ""),
        ("train", "is not a setting", "KEY=VALUE"),
        ("train..lr=1", "is not a setting", "KEY=VALUE"),
        ("train.lr=[", "cannot be read as YAML", ""),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_overrides_and_files_say_what_is_wrong_with_them(write, line, said, hint):
    """The same error in both places; it names the override, or the file."""
    path = write(MINIMAL.replace("{profile: reviews}", "{profile: gsm8k}"))
    if said is None:
        load_config(path, [line])
        return
    with pytest.raises((UsageError, InputError)) as caught:
        load_config(path, [line])
    assert str(caught.value).startswith(f"{line.partition('=')[0]}" if "not a setting" not in said else "'")
    assert said in str(caught.value)
    assert hint in caught.value.hint
    if "not a setting" in said or "YAML" in said:
        return
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    key, _, text = line.partition("=")
    section = values
    for name in key.split(".")[:-1]:
        section = section.setdefault(name, {})
    section[key.rpartition(".")[2]] = yaml.safe_load(text)
    with pytest.raises(InputError, match=r"config\.yaml: ") as in_file:
        load_config(write(yaml.safe_dump(values)))
    assert said in str(in_file.value)


def test_all_unknown_keys_are_named_at_once_each_with_what_was_meant(write):
    text = MINIMAL.replace("lr: 5e-4", "lr: 5e-4, batch_size: 4, zzz: 1") + "modle: {}\n"
    with pytest.raises(InputError, match="unknown keys") as caught:
        load_config(write(text))
    for key in ("`train.batch_size`", "`train.zzz`", "`modle`"):
        assert key in str(caught.value)
    assert (
        "`train.per_device_train_batch_size` for `train.batch_size`, `model` for `modle`" in caught.value.hint
    )
    assert "more)" not in str(caught.value)
    with pytest.raises(InputError, match=r"unknown key `train\.zzz`; train\.yyy=2: unknown key `train\.yyy`"):
        load_config(write(MINIMAL.replace("lr: 5e-4", "lr: 5e-4, zzz: 1")), ["train.yyy=2"])
    with pytest.raises(UsageError, match=r"^a=1: unknown key `a`; b\.c=2: unknown key `b`$"):
        load_config(write(MINIMAL), ["a=1", "b.c=2"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (MINIMAL + "seed: 1\nseeds: [2, 3]\n", "`seed: 1` is not among `seeds`"),
        (MINIMAL + "train: {}\n", "occurs twice"),
        (MINIMAL.replace("max_steps: 300, ", ""), "give exactly one of `max_steps` and `epochs`"),
        (MINIMAL.replace("lr: 5e-4", ""), "`train.lr` is missing"),
        ("- a\n", "contains no settings"),
        (MINIMAL + HEAD_ONLY, None),
        (MINIMAL.replace("minilm", "minilm, type: causal_lm") + HEAD_ONLY, "needs a classifier head"),
        (MINIMAL + "compression: {variants: [uniform_p90], controls: [per_layer_shuffled]}\n", "needs the variant"),
        (MINIMAL + "compression: {arms: [truncate], retrain: [per_layer]}\n", "`arms` has no `retrain`"),
        (MINIMAL + "compression: {controls: 3}\n", "controls"),
    ],
    ids=range(10),
)  # fmt: skip
def test_settings_that_do_not_fit_together(write, text, said):
    if said is None:
        load_config(write(text))
        return
    with pytest.raises(InputError) as caught:
        load_config(write(text))
    assert said in str(caught.value)


def test_smoke_shortens(write):
    config = load_config(write(MINIMAL), ["run_type=smoke", "train.warmup_steps=20"])
    assert config.smoke
    assert (config.train.max_steps, config.train.warmup_steps, config.train.train_samples) == (50, 5, 200)
    assert config.task.eval_samples == 200
    assert config.shortened() == config
    by_epochs = load_config(write(MINIMAL), ["train.epochs=3", "run_type=smoke"])
    assert (by_epochs.train.max_steps, by_epochs.train.epochs) == (50, None)
    assert load_config(write(MINIMAL), ["train.max_steps=5", "run_type=smoke"]).train.max_steps == 5


def test_digests(write):
    config = load_config(write(MINIMAL))
    same = load_config(write(MINIMAL.replace("5e-4", "0.0005") + "policy: {tolerance: '1/40'}\n"))
    assert same.digest() == config.digest()
    other_machine = load_config(write(MINIMAL), ["seeds=[1]", "runtime.threads=2", "run_type=seed1"])
    assert other_machine.digest() != config.digest()
    assert other_machine.protocol_digest() == config.protocol_digest()
    for change in ("train.lr=1e-4", "policy.floor=0.05", "task.eval_samples=200", "run_type=smoke"):
        assert load_config(write(MINIMAL), [change]).protocol_digest() != config.protocol_digest()
