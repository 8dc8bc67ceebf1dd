"""The config: typed, strict, exact; the predecessor's words; nothing ignored without a word."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
import yaml

from gradience.bench.config.legacy import NO_EFFECT, RENAMED
from gradience.bench.config.load import OTHER_KEYS, BenchConfig, load_config
from gradience.config_errors import known_keys, nearest
from gradience.errors import InputError, UsageError

MINIMAL = """
model: {name: embedded:minilm}
task: {profile: reviews}
lora: {probe_r: 16, alpha: 32}
train: {max_steps: 300, lr: 5e-4}
"""

PREDECESSOR = """
model:
  name: mistralai/Mistral-7B-v0.1
  type: causal_lm
  torch_dtype: bf16
  gradient_checkpointing: true
  use_cache: false
task:
  dataset: gsm8k
  subset: main
  profile: gsm8k_causal_lm
  eval_max_samples: 500
  generation: {max_new_tokens: 128, do_sample: false, temperature: 0.0, num_beams: 1}
  probe_gate: {metric: exact_match, min_value: 0.15}
lora: {probe_r: 32, alpha: 64, dropout: 0.05, target_modules: [q_proj, v_proj]}
compression: {allowed_ranks: [2, 4, 8, 16, 20, 24, 32], acc_tolerance: 0.025}
runtime: {device: cuda, smoke_max_steps: 20, keep_adapter_weights: false, keep_checkpoints: true}
audit: {compute_udr: true, enable_composition_analysis: true}
run_type: mistral_gsm8k_certifiable_v0.1_seed42
bench_version: "0.1"
seed: 42
train:
  max_steps: 1500
  per_device_train_batch_size: 1
  gradient_accumulation_steps: 16
  learning_rate: 0.0001
  warmup_ratio: 0.03
  eval_steps: 500
  save_strategy: 'no'
  report_to: none
  seed: 42
"""
"""In the keys of the public predecessor."""


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


def test_a_config_of_the_predecessor(write):
    config = load_config(write(PREDECESSOR))
    assert config.model.dtype == "bfloat16"
    assert config.task.profile == "gsm8k"
    assert config.task.options == {"subset": "main"}
    assert config.task.eval_samples == 500
    assert config.task.generation.max_new_tokens == 128
    assert config.gate() == Fraction(15, 100)
    assert config.train.lr == 1e-4
    assert config.seeds == (42,)
    assert config.runtime.keep_adapters == "none"
    assert config.runtime.smoke.max_steps == 20
    assert config.policy.tolerance == Fraction(1, 40)
    silent = [
        key for key in NO_EFFECT if mentions(PREDECESSOR, key) and not any(key in n for n in config.notes)
    ]
    assert silent == []
    assert "`train.eval_steps: 500` has no effect: an adapter is evaluated once" in " ".join(config.notes)


def mentions(text: str, key: str) -> bool:
    value = yaml.safe_load(text)
    for name in key.split("."):
        if not isinstance(value, dict) or name not in value:
            return False
        value = value[name]
    return True


def test_the_glue_profile_of_the_predecessor_is_inferred_from_its_data_set(write):
    text = MINIMAL.replace("{profile: reviews}", "{dataset: glue, subset: sst2, metric: accuracy}")
    config = load_config(write(text))
    assert (config.task.profile, config.task.options) == ("glue", {"subset": "sst2"})
    assert config.gate() == Fraction(3, 4)
    assert load_config(write(text), ["task.subset=rte"]).gate() == Fraction(3, 5)
    assert load_config(write(text), ["task.options.subset=ax"]).gate() == Fraction(7, 10)
    assert load_config(write(text), ["task.probe_gate.min_value=0.9"]).gate() == Fraction(9, 10)


@pytest.mark.parametrize(
    ("line", "said", "hint"),
    [
        ("train.learnig_rate=1", "unknown key `train.learnig_rate`", "did you mean `train.learning_rate`?"),
        ("train.batch_size=8", "unknown key", "did you mean `train.per_device_train_batch_size`?"),
        ("model.bf16=true", "unknown key `model.bf16`", "did you mean `train.bf16`?"),
        ("trian.lr=1", "unknown key `trian`", "did you mean `train`?"),
        ("task.probe_gate.minimum_value=.5", "unknown key", "did you mean `task.probe_gate.min_value`?"),
        ("zzz=1", "unknown key `zzz`", "docs/reference/configs.md lists all keys"),
        ("train.lr=-1", "`train.lr`: Input should be greater than 0", ""),
        ("train.lr=fast", "`train.lr`: Input should be a valid number", ""),
        ("train.epochs=2", None, ""),  # takes the place of max_steps
        ("task.generation.do_sample=true", "`task.generation.do_sample: true` is refused: decoding", ""),
        ("task.generation.temperature=0.7", "is refused: decoding is greedy", ""),
        ("train.load_best_model_at_end=true", "is refused: what is audited", ""),
        ("compression.variants=[uniform_best]", "is not a variant", ""),
        ("compression.variants=[uniform_r0]", "is not a variant", ""),
        ("compression.variants=[per_layer, per_layer]", "lists a name twice", ""),
        ("compression.retrain=[uniform_r4]", "which is not among `variants`", ""),
        ("compression.seeds=99", "does not say which seeds", "seeds: [42"),
        ("seeds=[1, 1]", "lists a seed twice", ""),
        ("seeds=[]", "`seeds`", ""),
        ("runtime.device=tpu", "`runtime.device`", ""),
        ("policy.tolerance=abc", "`policy.tolerance`: 'abc' is not a number such as 0.025", ""),
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


def test_an_unknown_key_is_named_before_what_it_left_missing(write):
    with pytest.raises(InputError, match=r"unknown key `lora\.probe_rank`") as caught:
        load_config(write(MINIMAL.replace("probe_r", "probe_rank")))
    assert caught.value.hint == "did you mean `lora.probe_r`?"
    assert "(and 1 more)" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (MINIMAL + "seed: 1\nseeds: [2, 3]\n", "`seed: 1` is not among `seeds`"),
        (MINIMAL.replace("lr: 5e-4", "lr: 5e-4, learning_rate: 1e-4"), "two names of one setting"),
        (MINIMAL + "train: {}\n", "occurs twice"),
        (MINIMAL.replace("max_steps: 300, ", ""), "give exactly one of `max_steps` and `epochs`"),
        (MINIMAL.replace("lr: 5e-4", ""), "`train.lr` is missing"),
        ("- a\n", "contains no settings"),
        (MINIMAL + HEAD_ONLY, None),
        (MINIMAL.replace("minilm", "minilm, type: causal_lm") + HEAD_ONLY, "needs a classifier head"),
        (MINIMAL.replace("reviews", "reviews, dataset: glue"), "belongs to the profile glue"),
        (MINIMAL + "compression: {variants: [uniform_p90], controls: [per_layer_shuffled]}\n", "needs the variant"),
        (MINIMAL + "compression: {arms: [truncate], retrain: [per_layer]}\n", "`arms` has no `retrain`"),
        (MINIMAL + "compression: {variants: [per_layer, per_layer_shuffled], controls: 3}\n", "controls"),
    ],
    ids=range(12),
)  # fmt: skip
def test_settings_that_do_not_fit_together(write, text, said):
    if said is None:
        load_config(write(text))
        return
    with pytest.raises(InputError) as caught:
        load_config(write(text))
    assert said in str(caught.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_config(tmp_path / "none.yaml")


def test_seeds_in_all_their_forms(write):
    assert load_config(write(MINIMAL), ["seed=7"]).seeds == (7,)
    assert load_config(write(MINIMAL), ["seeds=[7, 8]"]).seeds == (7, 8)
    assert load_config(write(MINIMAL + "seed: 7\n"), ["seeds=[8, 9]"]).seeds == (8, 9)
    several = load_config(write(MINIMAL + "compression: {seeds: 3}\n"))
    assert several.seeds == (42, 123, 456)
    assert "is read as the seeds 42, 123, 456" in several.notes[0]
    assert load_config(write(MINIMAL + "compression: {seeds: [5, 6]}\n")).seeds == (5, 6)


def test_controls_among_the_variants_are_controls(write):
    config = load_config(write(MINIMAL), ["compression.variants_to_test=[per_layer, per_layer_shuffled]"])
    assert config.compression.variants == ("per_layer",)
    assert config.compression.controls == ("per_layer_shuffled",)
    assert "is a control" in config.notes[0]


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


def test_every_other_name_leads_to_a_setting_that_exists():
    known = {*known_keys(BenchConfig), *OTHER_KEYS}
    assert {new for new in RENAMED.values() if not new.startswith("task.options.")} <= known | {"seed"}
    ours = [key for key in known_keys(BenchConfig) if key not in {*RENAMED, *NO_EFFECT}]
    assert not {*RENAMED, *NO_EFFECT} & set(ours)
    assert nearest("train.lrr", sorted(known)) == "train.lr"
