"""The config: typed, strict, exact; nothing ignored without a word."""

import json
import re
from fractions import Fraction
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from bench_process import NO_GATE
from data_files import small_gsm8k
from raising import raises
from scaled_down import scaled_down
from tiny_bench import gsm8k_values

from gradience.bench.config import INSTEAD, BenchConfig, load_config
from gradience.bench.plan import asked_for
from gradience.bench.settings import find_config, shipped_configs
from gradience.cli.app import run
from gradience.errors import InputError, UsageError
from gradience.reports.bench import Bench, BenchAggregate
from gradience.reports.forecast import BenchForecast
from gradience.tasks import find

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
        ("train.lrate=1", "unknown key `train.lrate`", "did you mean `train.lr`?"),
        ("trian.lr=1", "unknown key `trian`", "did you mean `train`?"),
        ("task.probe_gate.minimum_value=.5", "unknown key", "did you mean `task.probe_gate.min_value`?"),
        ("zzz=1", "unknown key `zzz`", "docs/reference/configs.md lists all keys"),
        ("train.lr=-1", "`train.lr`: must be greater than 0", ""),
        ("train.lr=fast", "`train.lr`: must be a valid number", ""),
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
        (MINIMAL + "seed: 1\n", "unknown key `seed`"),
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


DISTILLS = {"arms": ["truncate", "distill"], "controls": ["probe_distilled"], "distillation": {"steps": 1}}
CALIBRATES = {"variants": ["calibrated_r1"], "calibration": {"rows": 16}}
GUARDED = {
    "model": {"name": "base", "type": "causal_lm"},
    "guards": {"general": {"source": "x", "margin": 1}},
}


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"ladder": {"steps": [4, 8]}}, "in descending order"),
        ({"ladder": {"steps": [8, 8]}}, "without duplicates"),
        ({"ladder": {"steps": [8, 0]}}, "greater than or equal to 1"),
        ({"ladder": {"steps": [0.9, 0.5]}}, "steps.0"),
        ({"ladder": {"steps": []}}, "at least 1 item"),
        (DISTILLS | {"controls": ["rewrite_control"]}, "the arm distill needs the control probe_distilled"),
        ({"controls": ["probe_distilled"]}, "the control probe_distilled needs the arm distill"),
        (DISTILLS | {"arms": ["truncate"], "controls": []}, "`arms` has no `distill`"),
        (DISTILLS | {"distillation": {"rows": 15}}, "greater than or equal to 16"),
        (DISTILLS | {"distillation": {"steps": 0}}, "greater than 0"),
        (CALIBRATES | {"variants": ["uniform_r1"]}, "`variants` has no `calibrated`"),
        (CALIBRATES | {"calibration": {"rows": 3}}, "greater than or equal to 4"),
        (CALIBRATES | {"variants": ["calibrated_r0"]}, "'calibrated_r0' is not a variant"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_compressions_that_make_no_sense(sections, said):
    values = yaml.safe_load(MINIMAL) | {"compression": sections}
    with pytest.raises(ValueError, match=said):
        BenchConfig.model_validate(values)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": {"name": "base", "type": "seqcls"}}, "causal_lm"),
        ({"compression": {"ladder": {"steps": [4, 2]}}}, "compression.ladder"),
    ],
)
def test_what_guards_cannot_test_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        BenchConfig.model_validate(yaml.safe_load(MINIMAL) | GUARDED | changes)


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


# ---------------------------------------------------------------- The configs that come with Gradience: each


CONFIGS = sorted(Path(str(files("gradience.bench"))).glob("configs/*.yaml"))
SEEDS = (42, 123, 456)


def named(name: str) -> Path:
    return next(path for path in CONFIGS if path.stem == name)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_it_loads_and_nothing_in_it_is_without_effect(path):
    config = load_config(path)
    assert config.smoke == path.stem.endswith("smoke")
    assert asked_for(config.compression)
    find(config.task.profile)


@pytest.mark.parametrize("name", ["mistral_gsm8k_certifiable", "distilbert_sst2_certifiable"])
def test_the_files_of_one_seed_are_the_plan_of_all(name):
    whole, *three = (load_config(named(stem)) for stem in (name, *(f"{name}_seed{seed}" for seed in SEEDS)))
    assert (whole.seeds, whole.due) == (SEEDS, SEEDS)
    assert [config.seeds for config in three] == [SEEDS] * 3
    assert [config.due for config in three] == [(seed,) for seed in SEEDS]
    assert {config.digest() for config in three} == {whole.digest()}
    assert {config.protocol_digest() for config in three} == {whole.protocol_digest()}
    bodies = {
        re.sub(r"seed(?:: )?\d+|seed \d+", "seed", named(f"{name}_seed{seed}").read_text(encoding="utf-8"))
        for seed in SEEDS
    }
    assert len(bodies) == 1


@pytest.mark.parametrize(
    "name",
    [
        "gradience/bench/configs/minilm_reviews.yaml",
        "/clone/of/it/gradience/bench/configs/minilm_reviews.yaml",
        "./gradience/bench/configs/minilm_reviews.yaml",
        "bench/configs/minilm_reviews.yaml",
        "configs/minilm_reviews",
        "minilm_reviews.yaml",
        "minilm_reviews",
    ],
)
def test_the_published_path_is_found_without_a_checkout(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config(name) == named("minilm_reviews")


@pytest.mark.parametrize(
    "name", ["mine/minilm_reviews.yaml", "other/bench/configs/minilm_reviews.yaml", "", "."]
)
def test_another_path_is_not_taken_for_a_shipped_config(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with raises(InputError, "config-not-found") as caught:
        find_config(name)
    assert "minilm_reviews" in caught.value.hint


# ---------------------------------------------------------------- `--dry-run`: what does not exist is


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return small_gsm8k(tmp_path_factory.mktemp("data"))


@pytest.fixture
def dry_run(base, tmp_path, capsys, monkeypatch):
    """`--dry-run` of a config with these sections: exit code, stdout, stderr."""
    monkeypatch.setattr("gradience.evaluate.checks.process_bytes", lambda device: 500_000_000)
    monkeypatch.setattr("gradience.bench.forecast.disk_usage", lambda path: SimpleNamespace(free=10**9))

    def call(*arguments, **changes):
        path = tmp_path / "config.yaml"
        path.write_text(json.dumps(gsm8k_values(base, **changes)), encoding="utf-8")
        code = run(["bench", "run", "--config", str(path), "--dry-run", *arguments])
        return int(code), *capsys.readouterr()

    return call


def task(**options):
    return {"profile": "gsm8k", "options": {"max_new_tokens": 8, **options}, "probe_gate": NO_GATE}


def test_the_first_test_examples_are_shown_as_the_model_sees_them(dry_run, data):
    code, out, err = dry_run(task=task(**data))
    assert code == 0, err
    assert "First test example" in out
    assert "a film" in out
    assert "very good [UNK]" in out  # the tokenizer has no word `####`: only the model's view shows that
    assert "[END]" in out
    assert "40 train, 0 dev, 10 confirm" in out
    parsed = BenchForecast.model_validate_json(dry_run("--json", task=task(**data))[1])
    assert parsed.to_text() == out
    unknown = BenchForecast.model_validate_json(dry_run("--json")[1])
    assert parsed.cost.activation_bytes < unknown.cost.activation_bytes / 10  # real lengths, not max_length
    assert len(parsed.scored) == 3


def test_requirements_of_the_flagship_name_files_memory_disk_and_settings(capsys):
    """The largest adapter of Mistral-7B at r = 64, counted by hand: layers times the sides of its seven projections."""
    assert run(["bench", "run", "-c", "mistral_gsm8k_certifiable_seed42", "--dry-run", "--json"]) == 0
    forecast = BenchForecast.model_validate_json(capsys.readouterr().out)
    needed = {requirement.what: requirement.needed for requirement in forecast.requirements}
    assert (
        "mistralai/Mistral-7B-v0.1 from the hub: config, tokenizer, weights (14.5 GB)" in needed["base files"]
    )
    params = 32 * 64 * (2 * (4096 + 4096) + 2 * (4096 + 1024) + 3 * (4096 + 14336))
    assert params == forecast.cost.probe_params
    disk = params * (4 * 11 + 12 * 3)  # 11 adapters, and three checkpoints with two moments
    assert f"at most {disk / 1e9:.1f} GB in the output folder: 11 adapters" in needed["disk"]
    assert (
        "r = 64, 1,200 steps of 4 × 4 sequences, lr 0.0001, max_length 512, dtype bfloat16"
        in needed["settings"]
    )
    here = {requirement.what: requirement.here for requirement in forecast.requirements}
    assert here["base files"] == "not in the hub's cache"


def test_what_is_too_long_is_counted(dry_run, tmp_path):
    options = small_gsm8k(tmp_path)
    rows = Path(options["train_file"]).read_text(encoding="utf-8").splitlines()
    longer = json.loads(rows[0])
    longer["question"] += " a film" * 5
    Path(options["train_file"]).write_text(
        "\n".join([*rows, rows[0], json.dumps(longer)]) + "\n", encoding="utf-8"
    )
    train = {"max_steps": 2, "lr": 1e-3, "max_length": 12}
    code, out, err = dry_run(task=task(**options), train=train)
    assert code == 0, err
    shown = " ".join(out.split())
    assert (
        "1 repeated row left out; 1 of 41 training examples exceed `train.max_length: 12` and are left out"
        in shown
    )
    code, _, err = dry_run(task=task(**options, max_new_tokens=64))
    assert code == 2
    assert "64 new tokens leave no room for a prompt: the base is limited to 64" in err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task": {"profile": "gsm9k"}}, "no task is called `gsm9k`"),
        ({"task": {"profile": "tasks/mine.py"}}, "tasks/mine.py: cannot read this task"),
        ({"task": task(train_file="no.jsonl", test_file="no.jsonl")}, "no.jsonl: no such file"),
        ({"task": task(annotation="keep")}, "has no option `annotation`"),
        ({"model": {"name": "./no/base", "type": "causal_lm"}}, "no/base: no such folder"),
        ({"model": {"name": "/no/base", "type": "causal_lm"}}, "/no/base: no such folder"),
        ({"lora": {"probe_r": 4, "alpha": 8, "target_modules": ["qq"]}}, "PEFT refuses it on this llama"),
        ({"model": {"name": "embedded:none", "type": "causal_lm"}}, "no such base model: embedded:none"),
    ],
    ids=["task", "task file", "data file", "option", "relative", "absolute", "modules", "embedded"],
)
def test_what_does_not_exist_is_refused(dry_run, changes, said):
    code, out, err = dry_run(**changes)
    assert code == (2 if "embedded" in said else 3)
    assert said in err
    assert out == ""


def test_a_hub_that_cannot_be_reached_is_not_checked(dry_run, monkeypatch):
    from huggingface_hub.errors import LocalEntryNotFoundError

    def unreachable(*args, **kwargs):
        raise LocalEntryNotFoundError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    for name in ("somebody/model", "distilbert-base-uncased"):
        lora = {"probe_r": 4, "alpha": 8, "target_modules": ["q_lin"]}
        code, out, err = dry_run(model={"name": name, "type": "seqcls"}, lora=lora)
        out = " ".join(out.split())
        assert code == 0, err
        assert f"{name}: not checked (the hub cannot be reached)" in out
        assert "gsm8k: not checked (not here yet: openai/gsm8k" in out
        assert ("memory" in out and "about" in out) == name.startswith("distilbert")  # whose shape is known


@pytest.mark.parametrize("allowed", [False, True])
def test_code_of_one_s_own_is_named_and_not_run(dry_run, tmp_path, monkeypatch, allowed):
    monkeypatch.setenv("GRADIENCE_ALLOW_CODE", "1" if allowed else "")
    mine = tmp_path / "mine.py"
    mine.write_text("from pathlib import Path\nPath(__file__).with_name('ran').touch()\n", encoding="utf-8")
    code, out, err = dry_run(task={"profile": str(mine)})
    out = " ".join(out.split())  # it may be wrapped anywhere
    assert code == 0, err
    assert "the run executes it" in out
    assert ("needs --allow-code" in out) == (not allowed)
    assert not (tmp_path / "ran").exists()


# ---------------------------------------------------------------- Every shipped config from its YAML to a


SHIPPED = list(shipped_configs())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("scaled_down")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SHIPPED if not name.endswith(("seed123", "seed456"))])
def test_it_goes_from_the_config_to_a_verdict(name, folder, tmp_path, capsys):
    config = load_config(shipped_configs()[name])
    changes = [*scaled_down(config, folder), f"only_seed={config.due[0]}"]
    if "_seed" in name:  # the plan of the config with all seeds, which is run as it stands
        changes += [
            "compression.retrain=null",
            "compression.arms=[truncate]",
            "compression.controls=[rewrite_control]",
        ]
        config = load_config(shipped_configs()[name], changes)
    code = run(["bench", "run", "--config", name, "--output", str(tmp_path), *changes])
    said = capsys.readouterr()
    (path,) = tmp_path.rglob("bench.json")
    bench = Bench.read(path)
    assert {variant.name: variant.reasons for variant in bench.variants if variant.status == "ERROR"} == {}
    assert code in ((0, 1) if len(config.seeds) == 1 else (4,)), said.err  # 4: the other seeds are missing
    assert [variant.name for variant in bench.variants] == [one.name for one in asked_for(config.compression)]
    assert bench.smoke == config.smoke
    assert (bench.probe.rank, bench.probe.n) == (config.lora.probe_r, 4)
    assert all(variant.name in said.out for variant in bench.variants)


@pytest.mark.conformance
@pytest.mark.parametrize("name", [name for name in SHIPPED if "_seed" not in name])
def test_all_its_seeds_reach_an_aggregate(name, folder, tmp_path):
    """Three trainings of one protocol: nothing that a seed leaves behind may change the next one's."""
    config = load_config(shipped_configs()[name])
    changes = [
        *scaled_down(config, folder),
        f"seeds={list(config.seeds if len(config.seeds) > 1 else (1, 2, 3))}",
    ]
    changes += ["run_type=null"] if config.smoke else []  # smoke runs are never added up
    code = run(["bench", "run", "-c", name, "-o", str(tmp_path), "-q", *changes])
    report = BenchAggregate.read(tmp_path / "bench_aggregate.json")
    assert code in (0, 1, 8)
    assert len(report.seeds) == max(3, len(config.seeds))
    assert all(row.source is not None and row.status != "ERROR" for row in report.seeds)
    assert {variant.name for variant in report.variants} == {
        one.name for one in asked_for(config.compression)
    }
