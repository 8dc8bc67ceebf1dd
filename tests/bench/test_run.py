"""One seed from training to bench.json, with real training and evaluation of tiny models."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from bench_process import CONFIG, NO_GATE, RUNTIME, SMALL, finished, timeless, write_inputs
from bench_process import edit as edit_json
from bench_sample import LARGE, SEEDS, bench, ladder, save_seeds, three_seeds
from bench_sample import config as sample_config
from data_files import write_jsonl
from safetensors.torch import load_file
from tiny_bench import Watcher, bert, counted_loads, gsm8k_values, llama, sentences, sums, tokenizer

from gradience.bench import arms
from gradience.bench.config import BenchConfig, load_config
from gradience.bench.plan import bench_plan
from gradience.bench.run.bench import _resumable, run_bench
from gradience.bench.run.seed import SeedRun
from gradience.bench.verdict.aggregate import aggregate
from gradience.bench.verdict.assemble import assemble, data_of
from gradience.bench.verdict.facts import ANSWERS, SeedFacts
from gradience.cli.app import run
from gradience.cli.bench import ended
from gradience.errors import InputError, NetworkError, UsageError
from gradience.evaluate.engines.transformers import engine
from gradience.files.records import read_records
from gradience.models.load import fingerprint_of
from gradience.models.settings import ModelSettings
from gradience.reports.base.report import Stopwatch
from gradience.reports.bench import Bench, BenchAggregate
from gradience.reports.bench_plan import BenchPlan, DataSplit
from gradience.reports.training import REPORT, TrainingReport
from gradience.tasks import user_code
from gradience.tasks.base import Task

CLASSIFY: dict[str, Any] = CONFIG | {
    "model": {"name": "", "type": "seqcls"},
    "task": {"profile": "sentences", "probe_gate": {"min_value": 0.5}},
    "train": CONFIG["train"] | {"max_steps": 40, "save_steps": None},
    "compression": {"controls": ["per_layer_shuffled", "random_directions", "head_only", "rewrite_control"]},
}
ANSWER: dict[str, Any] = CLASSIFY | {
    "model": {"name": "", "type": "causal_lm"},
    "task": {"profile": "sums", "probe_gate": NO_GATE},
    "lora": {"probe_r": 8, "alpha": 16, "target_modules": ["q_proj", "v_proj", "down_proj"]},
    "compression": {"controls": ["rewrite_control"], "retrain": ["per_layer"]},
}


def with_base(values: dict[str, Any], folder: Path, **sections: Any) -> BenchConfig:
    model = values["model"] | {"name": str(folder)}
    return BenchConfig.model_validate(values | {"model": model} | sections)


def plan_of(config: BenchConfig, task: Task) -> BenchPlan:
    splits = [
        DataSplit(role=role, n=len(task.examples.of(role)), sha256=task.examples.fingerprint(role))
        for role in ("train", "confirm")
    ]
    return bench_plan(config, task.name, splits)


def bench_of(facts: SeedFacts, task: Task) -> Bench:
    plan = plan_of(facts.config, task)
    data = data_of(plan, task.source, task.examples.counts)
    return assemble(facts, task, data, plan, Stopwatch().run_info())


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def classified(classifier, tmp_path_factory):
    folder, watcher = tmp_path_factory.mktemp("classified"), Watcher()
    config = with_base(CLASSIFY, classifier)
    facts = SeedRun(config, sentences(), 42, folder, watcher).run()
    return folder, bench_of(facts, sentences()), watcher


@pytest.fixture(scope="module")
def answered(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("answered")
    with counted_loads() as loads:
        facts = SeedRun(with_base(ANSWER, base), sums(), 42, folder).run()
    return folder, bench_of(facts, sums()), len(loads)


def test_the_same_configuration_is_trained_once(classified):
    _, bench, watcher = classified
    assert all(variant.status != "ERROR" for variant in bench.variants)
    trained = [name for name in watcher.stages if name.endswith("/train")]
    evaluated = [variant for variant in bench.variants if variant.measures and not variant.same_as]
    ranks = [variant.name for variant in evaluated if variant.made_by in ("retrain", "head")]
    assert trained == ["probe/train", *(f"{name}/train" for name in ranks)]
    assert len(set(watcher.stages)) == len(watcher.stages)
    for variant in bench.variants:
        if variant.same_as and variant.same_as != "probe":
            other = bench.variant(variant.same_as)
            assert (variant.pairs, variant.measures) == (other.pairs, other.measures)


def test_the_head_alone_is_trained_as_the_probe_is(classified):
    """A head with the probe's LoRA switched off was at chance, and said nothing of what a head can learn."""
    folder, bench, _ = classified
    head = bench.variant("head_only")
    assert head.measures.lora_params == 0
    assert head.measures.other_params == bench.probe.other_params > 0
    alone, probe = (TrainingReport.read(folder / name / "train" / REPORT) for name in ("head_only", "probe"))
    assert (alone.trained, probe.trained) == ("head", "lora")
    assert (alone.recipe, alone.steps, alone.lora) == (probe.recipe, probe.steps, probe.lora)
    assert alone.start.streams == probe.start.streams
    assert alone.start.first_batch_sha256 == probe.start.first_batch_sha256
    weights = "train/adapter/adapter_model.safetensors"
    before, after = load_file(folder / "probe" / weights), load_file(folder / "head_only" / weights)
    for key, value in after.items():
        if "lora_B" in key:
            assert not value.any()
        elif "lora_" not in key:
            assert not torch.equal(value, before[key])


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a card the base makes room for a training")
def test_everybody_is_evaluated_on_one_base_that_is_loaded_once(answered):
    _, bench, loads = answered
    assert sum(variant.measures is not None for variant in bench.variants) > 3
    assert loads == 1


def test_answers_are_generated_and_compared_with_the_probe_s(answered):
    folder, bench, _ = answered
    assert bench.status in ("PASS", "FAIL")
    for variant in bench.variants:
        if variant.measures is None:
            continue
        assert (folder / variant.measures.records).is_file()
        assert variant.divergence.kl_per_example >= 0
    again = bench.variant("rewrite_control")
    assert again.divergence.kl_per_example < 1e-6
    assert again.divergence.flips == 0
    truncated = bench.variant("uniform_median.truncate")
    assert truncated.divergence.kl_per_example > 10 * again.divergence.kl_per_example


# ------------------------------------------------------------------ what goes wrong


def sums_gate(share):
    return {"task": {"profile": "sums", "probe_gate": {"min_value": share}}}


UNDERTRAINED = {
    "below its gate": (sums_gate(0.99), ["probe/train", "probe/eval"], "its quality gate is 99 %"),
    "no better than its base": (sums_gate(0), ["probe/train", "probe/eval", "base/eval"], "the base model has "),
    "diverged": (
        {
            "train": ANSWER["train"] | {"lr": 1e30, "max_grad_norm": 0},
            "lora": ANSWER["lora"] | {"target_modules": "all-linear"},
        },
        ["probe/train"],
        "diverged at step",
    ),
}  # fmt: skip


@pytest.mark.parametrize("why", UNDERTRAINED)
def test_an_undertrained_probe_costs_nothing_more(why, base, tmp_path):
    """The base has no sum of the test right, and neither has a probe of a few steps."""
    sections, stages, words = UNDERTRAINED[why]
    watcher = Watcher()
    bench = bench_of(
        SeedRun(with_base(ANSWER, base, **sections), sums(), 42, tmp_path, watcher).run(), sums()
    )
    assert watcher.stages == stages
    assert {bench.status, *(variant.status for variant in bench.variants)} == {"UNDERTRAINED"}
    assert bench.audit is None
    assert words in bench.variants[0].reasons[0]
    assert (bench.probe is None) == (why == "diverged")
    if why == "no better than its base":
        gate = bench.probe.gate
        assert (gate.base, gate.base_correct) == ("without an adapter", bench.probe.correct)
        assert read_records(tmp_path / "base" / "eval" / "answers.records.jsonl")[0].adapter is None


def test_a_variant_that_fails_is_a_result_and_the_others_go_on(base, tmp_path, monkeypatch, caplog):
    compress = arms.write_compressed

    def fail(adapter: Path, plan: Any, target: Path, *args: Any, **kwargs: Any) -> Any:
        if "uniform_median.truncate" in str(target):
            raise ZeroDivisionError("for the test")
        return compress(adapter, plan, target, *args, **kwargs)

    monkeypatch.setattr(arms, "write_compressed", fail)
    config = with_base(ANSWER, base, compression={"arms": ["truncate"], "controls": ["rewrite_control"]})
    bench = bench_of(SeedRun(config, sums(), 42, tmp_path).run(), sums())
    broken = bench.variant("uniform_median.truncate")
    assert broken.status == bench.status == "ERROR"
    assert broken.reasons == ("ZeroDivisionError: for the test",)
    assert "Traceback" in caplog.text
    per_layer = bench.variant("per_layer.truncate")
    assert per_layer.status in ("PASS", "FAIL")
    monkeypatch.undo()
    repaired = bench_of(SeedRun(config, sums(), 42, tmp_path).run(), sums())
    assert repaired.status in ("PASS", "FAIL")


def test_a_base_that_cannot_be_had_is_an_error_for_the_user_not_a_result(tmp_path):
    config = with_base(ANSWER, Path("no/such-model-anywhere"))
    with pytest.raises(NetworkError):
        SeedRun(config, sums(), 42, tmp_path).run()


# ---------------------------------------------------------------- A resumed run: what is unchanged is kept


SECTIONS: dict[str, Any] = {
    "lora": {"probe_r": 4, "alpha": 8, "target_modules": ["query", "value"]},
    "train": {"lr": 3e-3, "max_steps": 12, "per_device_train_batch_size": 4, "max_length": 16},
    "compression": {"arms": ["truncate"], "controls": ["rewrite_control"]},
}


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("inputs"), **SECTIONS)


@pytest.fixture(scope="module")
def whole(config_file, tmp_path_factory):
    """A finished run."""
    output = tmp_path_factory.mktemp("whole")
    run_bench(load_config(config_file), output, Watcher())
    return output


@pytest.fixture
def output(whole, tmp_path):
    """A copy of it, times of files included."""
    return Path(shutil.copytree(whole, tmp_path / "output"))


def again(config_file: Path, output: Path, *overrides: str) -> tuple[Bench, Watcher, set[str]]:
    """Take it up: the result, what was said, and the stages that were made again."""
    before = finished(output)
    watcher = Watcher()
    (bench,), _ = run_bench(load_config(config_file, overrides), output, watcher)
    return bench, watcher, {name for name, when in finished(output).items() if before.get(name) != when}


def evaluations(output: Path) -> set[str]:
    return {name for name in finished(output) if name.endswith("/eval")}


def results(bench: Bench) -> Any:
    return timeless(json.loads(bench.to_json()))


def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on this is another machine, with another torch."""
    real = engine.numerics_on

    def numerics_elsewhere(device: torch.device) -> dict[str, Any]:
        facts = real(device)
        return facts | {"device": "another card", "versions": facts["versions"] | {"torch": "9.9"}}

    monkeypatch.setattr(engine, "numerics_on", numerics_elsewhere)


# ------------------------------------------------------------------ another machine, other versions


def test_finished_it_is_told_again_on_any_machine(config_file, output, monkeypatch):
    again(config_file, output, "runtime.keep_adapters=none")
    elsewhere(monkeypatch)
    monkeypatch.setattr("gradience.__version__", "9.9")
    bench, watcher, remade = again(config_file, output, "runtime.threads=2")
    assert (remade, watcher.notes) == (set(), [])
    assert results(bench) == timeless(json.loads((output / "bench.json").read_text()))


def test_unfinished_it_evaluates_all_adapters_again_on_another_machine_and_trains_nothing(
    config_file, output, monkeypatch
):
    last = sorted(evaluations(output))[-1]
    (output / last / "manifest.json").unlink()
    elsewhere(monkeypatch)
    bench, watcher, remade = again(config_file, output)
    assert remade == evaluations(output)
    (note,) = watcher.notes
    assert note.startswith("all adapters are evaluated again, since answers are compared: device ")
    assert "here another card" in note
    assert "here 9.9" in note
    assert bench.status in ("PASS", "FAIL", "INCONCLUSIVE")
    assert all(variant.status != "ERROR" for variant in bench.variants)
    devices = {read_records(path).run.device for path in output.rglob(ANSWERS)}
    assert devices == {"another card"}


def test_another_config_is_refused_with_the_settings_that_differ(config_file, output):
    there = yaml.safe_load((output / "config.yaml").read_text())
    with pytest.raises(UsageError) as caught:
        again(config_file, output, "train.lr=0.5", "lora.probe_r=7", "runtime.threads=2")
    message, hint = str(caught.value), caught.value.hint
    assert (
        f"another config: `lora.probe_r` is {there['lora']['probe_r']} there, 7 here, `train.lr` is "
        in message
    )
    assert "threads" not in message
    assert caught.value.exit_code == 2
    assert str(output / "config.yaml") in hint
    bench, watcher, remade = again(output / "config.yaml", output)
    assert (remade, watcher.notes) == (set(), [])
    assert bench.plan_digest == Bench.read(output / "bench.json").plan_digest


def test_other_data_are_refused_by_the_name_of_the_split(config_file, output):
    edit_json(output / "plan.json", lambda plan: plan["splits"][0].update(sha256="0" * 64))
    with pytest.raises(UsageError, match="contains a run of other data: the train examples differ"):
        again(config_file, output)


def test_weights_that_were_removed_and_are_needed_again_are_asked_for(config_file, output):
    again(config_file, output, "runtime.keep_adapters=none")
    victim = sorted(evaluations(output) - {"probe/eval"})[0]
    (output / victim / ANSWERS).unlink()
    bench, _, _ = again(config_file, output)
    broken = bench.variant(victim.removesuffix("/eval"))
    assert broken.status == "ERROR"
    assert "its weights are needed again" in broken.reasons[0]


# ------------------------------------------------------------------ what was exchanged or edited


def edit(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))
    os.utime(path, ns=(1, 1))


def exchange_weights(output: Path) -> None:
    path = output / "probe/train/adapter/adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))


def mark_as_wrong(output: Path) -> None:
    edit(output / f"probe/eval/{ANSWERS}", b'"correct":true', b'"correct":false')


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "weights": (exchange_weights, "probe/train"),
    "records": (mark_as_wrong, "probe/eval"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_what_was_edited_is_made_again_with_the_same_result(what, config_file, output):
    before = timeless(json.loads((output / "bench.json").read_text()))
    damage, stage = DAMAGE[what]
    damage(output)
    bench, watcher, remade = again(config_file, output)
    assert remade == {stage}  # what depends on it has the same inputs again
    assert watcher.notes == [note for note in watcher.notes if note.startswith(f"{stage}: repeated: ")]
    assert len(watcher.notes) == 1
    assert results(bench) == before


# ------------------------------------------------------------------ scoring


TASK = """
from gradience.tasks.base import GenerationTask
from tiny_bench import sums
from dataclasses import replace

def load() -> GenerationTask:
    return replace(sums(), same=lambda extracted, gold: {same})
"""


def own_task(folder: Path, same: str) -> Path:
    path = folder / "task.py"
    path.write_text(TASK.replace("{same}", same))
    return path


def test_a_corrected_task_gets_its_new_score_and_keeps_its_trainings(tmp_path):
    values: dict[str, Any] = SECTIONS | {
        "model": {"name": str(llama(tmp_path / "base")), "type": "causal_lm"},
        "task": {
            "profile": str(own_task(tmp_path, "False")),
            "probe_gate": NO_GATE,
        },
        "lora": SECTIONS["lora"] | {"target_modules": ["q_proj", "v_proj"]},
        "runtime": RUNTIME,
    }
    config, output, watcher = BenchConfig.model_validate(values), tmp_path / "output", Watcher()
    with user_code.allowing():
        (wrong,), _ = run_bench(config, output, watcher)
        first = finished(output)
        own_task(tmp_path, "True")
        (corrected,), _ = run_bench(config, output, watcher)
    assert (wrong.probe.correct, wrong.data) == (0, corrected.data)
    assert corrected.probe.correct == corrected.probe.n - corrected.probe.failed_extractions > 0
    assert {name for name, when in finished(output).items() if first[name] != when} == evaluations(output)
    assert (
        watcher.notes[0] == "the task's own code has changed: trainings are reused, evaluations are repeated"
    )
    assert wrong.plan_digest != corrected.plan_digest
    runs = [read_records(path).run.scoring for path in output.rglob(ANSWERS)]
    assert len(set(runs)) == 1


# ------------------------------------------------------------------ the base, by its content


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_base_in_a_folder_is_known_by_its_files(suffix, tmp_path):
    folder = llama(tmp_path / "base")
    weights = folder / "model.safetensors"
    if suffix == "bin":
        weights = weights.rename(folder / "pytorch_model.bin")
    settings = ModelSettings(name=str(folder), type="causal_lm")
    first = fingerprint_of(settings)
    copy = shutil.copytree(folder, tmp_path / "elsewhere")
    assert fingerprint_of(ModelSettings(name=str(copy), type="causal_lm")) == first
    (folder / "README.md").write_text("a card decides nothing")
    assert fingerprint_of(settings) == first
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(weights, ns=(1, 1))
    second = fingerprint_of(settings)
    assert second != first
    edit(folder / "tokenizer.json", b'"good"', b'"fine"')
    assert fingerprint_of(settings) not in (first, second)


# ---------------------------------------------------------------- A Bench run on a user's own rows: from


ROWS = {
    "jsonl": [{"id": f"row {n}", "prompt": f"{n % 7} {n // 7} is =", "answer": n % 3} for n in range(49)],
    "classification": [
        {"text": f"{('bad', 'good')[n % 2]} film" + " very" * (n // 2), "label": ("no", "yes")[n % 2]}
        for n in range(40)
    ],
}


@pytest.fixture
def config(tmp_path):
    """Writes a config of this profile and its rows into a folder, and returns the config's path."""

    def write(profile: str, **options):
        folder = tmp_path / "project"
        labels = profile == "classification"
        base = (bert if labels else llama)(folder / "base")
        write_jsonl(folder / "data" / "rows.jsonl", ROWS.get(profile, []))
        values = gsm8k_values(base)
        values["model"]["name"] = "base"  # beside the config
        values["task"] |= {"profile": profile, "options": {"file": "data/rows.jsonl", **options}}
        values["lora"]["target_modules"] = ["query", "value"] if labels else ["q_proj", "v_proj"]
        values["model"]["type"] = "seqcls" if labels else "causal_lm"
        (folder / "tasks").mkdir()
        (folder / "tasks" / "mine.py").write_text(
            "from pathlib import Path\n\nfrom gradience.tasks.jsonl import load as rows\n\n\n"
            "def load(file: Path):\n    return rows(file=file)\n"
        )
        (folder / "config.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
        return folder / "config.yaml"

    return write


@pytest.mark.parametrize("profile", ROWS)
def test_rows_beside_the_config_go_to_a_verdict(config, tmp_path, profile):
    path, out = config(profile), tmp_path / "out"
    page = tmp_path / "run.html"
    code = run(["bench", "run", "-c", str(path), "-o", str(out), "--quiet", "--html", str(page)])
    assert 'id="plot-forest"' in page.read_text(encoding="utf-8")
    assert code in (0, 1, 8)
    bench = Bench.read(out / "bench.json")
    assert bench.data.task == profile
    records = read_records(out / bench.probe.records)
    assert records.run.scoring == {"jsonl": "jsonl 1, exact", "classification": "classification 1"}[profile]
    if profile == "jsonl":
        assert {record.id for record in records.records} < {row["id"] for row in ROWS["jsonl"]}
    # The run's own config lies elsewhere, and still sees the rows.
    assert (
        run(["bench", "run", "--config", str(out / "config.yaml"), "--output", str(out), "--quiet"]) == code
    )
    assert Bench.read(out / "bench.json").data == bench.data


def test_code_and_base_beside_the_config_are_found_from_elsewhere(config, tmp_path, monkeypatch, capsys):
    path, out = config("tasks/mine.py"), tmp_path / "out"
    write_jsonl(path.parent / "data" / "rows.jsonl", ROWS["jsonl"])
    monkeypatch.setenv("GRADIENCE_ALLOW_CODE", "1")
    assert run(["bench", "run", "--config", str(path), "--dry-run"]) == 0
    assert "tasks/mine.py: found (the run executes it (allowed)" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(InputError, match=r"tasks/nobody\.py: cannot read this task: no such file"):
        load_config(path, ["task.profile=tasks/nobody.py"]).task.load()
    loaded = load_config(path)
    assert {len(example.answer) for example in loaded.task.load().examples.all} == {1}
    # What a run writes down is found from where it writes it, and says the same.
    (out / "deep").mkdir(parents=True)
    written = out / "deep" / "config.yaml"
    written.write_text(yaml.safe_dump(_resumable(loaded, out / "deep")), encoding="utf-8")
    again = load_config(written)
    assert again.task.load().code == loaded.task.load().code
    assert again.model.path.resolve() == path.parent / "base"
    assert again.digest() == loaded.digest()


def test_a_dry_run_shows_conversations_through_the_base_s_template(config, command):
    path = config("chat")
    rows = [{"messages": [{"role": "user", "content": str(n)}], "answer": "good"} for n in range(40)]
    write_jsonl(path.parent / "data" / "rows.jsonl", rows)
    reader = tokenizer()
    reader.chat_template = (
        "{% for m in messages %}{{ 'film' if m['role'] == 'user' else 'plot' }} : {{ m['content'] }} [END] {% endfor %}"
        "{% if add_generation_prompt %}plot : {% endif %}"
    )
    reader.save_pretrained(path.parent / "base")
    out = " ".join(command("bench", "run", "--config", path, "--dry-run").out.split())
    shown = out.partition("First test example")[2]
    assert "scored by exact" in shown
    assert shown.count("prompt ") == 1


# ---------------------------------------------------------------- `--require-grade`: a gate for scripts that


CONTROLLED = sample_config(
    compression={"variants": ["uniform_r4"], "arms": ["truncate"], "controls": ["random_directions"]}
)


def together(loss: tuple[int, int], *, verified: bool = True):
    changes = {"uniform_r4.truncate": loss, "random_directions": (900, 0)}
    runs = [bench(seed, changes, asked=CONTROLLED, **LARGE) for seed in SEEDS]
    return aggregate(runs, records_verified=verified)


CASES = {
    "A where A is required": (lambda: together((20, 15)), "A", 0),
    "A where B is required": (lambda: together((20, 15)), "B", 0),
    "B where B is required": (lambda: together((20, 15), verified=False), "B", 0),
    "B where A is required": (lambda: together((20, 15), verified=False), "A", 8),
    "C where B is required": (lambda: together((250, 202)), "B", 8),
    "X where B is required": (
        lambda: aggregate([unseeded(run) for run in ladder(*[(5, 5)] * 4)], records_verified=True), "B", 1,
    ),
    "a FAIL is a FAIL": (lambda: together((200, 20)), "B", 1),
    "a missing seed is an ERROR": (lambda: aggregate(three_seeds()[:2]), "B", 4),
    "a smoke run has no grade": (lambda: bench(42, asked=sample_config(run_type="smoke")), "B", 8),
    "no grade is required": (lambda: together((20, 15), verified=False), None, 0),
    "no grade is required of a FAIL": (lambda: together((200, 20)), None, 1),
    "no grade is required of an ERROR": (lambda: first_seed(probe_error="ValueError: x"), None, 4),
    "no grade is required of an undertrained probe": (lambda: first_seed(correct=10), None, 8),
}  # fmt: skip


def first_seed(**changes: Any) -> BenchAggregate:
    """Three seeds, of which the first is another."""
    return aggregate([bench(42, **changes), *three_seeds()[1:]])


def unseeded(run: Bench) -> Bench:
    """Every training of it saw the examples in another order than the probe; what is truncated is left out."""
    values = run.model_dump(by_alias=True)
    values["variants"] = [row for row in values["variants"] if row["arm"] == "retrain"]
    for row in values["variants"]:
        row["measures"]["training"]["first_batch_sha256"] = f"another order {run.seed}"
    return Bench.model_validate(values)


@pytest.mark.parametrize("case", CASES)
def test_the_code_says_whether_the_grade_is_reached(case, capsys):
    make, required, code = CASES[case]
    assert ended(make(), required) == code
    missed = required is not None and (code == 8 or case.startswith("X"))
    assert (f"required: grade {required}" in capsys.readouterr().err) == missed


def test_aggregate_takes_it(tmp_path, capsys):
    save_seeds(tmp_path)
    assert run(["bench", "aggregate", str(tmp_path), "--require-grade", "B"]) == 0
    assert run(["bench", "aggregate", str(tmp_path), "--require-grade", "A", "--quiet"]) == 8
    assert "required: grade A; the best of what passes is B: per_layer" in capsys.readouterr().err
    assert run(["bench", "aggregate", str(tmp_path), "--require-grade", "C"]) == 2


# ---------------------------------------------------------------- The results of a run are made to be


SHARED = SMALL | {
    "compression": {"arms": ["truncate"], "variants": ["uniform_r2"], "controls": []},
    "task": SMALL["task"] | {"probe_gate": {"min_value": 0}},
}
NOT_TO_BE_SHARED = {"adapter_config.json", "config.yaml", "run.log"}
"""The base's path, by which PEFT loads it; the config, by which the run is repeated; tracebacks."""


def bench_run(*words: str | Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """`gradience bench run`; its command line is that of the process, as a user has it."""
    arguments = ["bench", "run", "--quiet", *map(str, words)]
    monkeypatch.setattr(sys, "argv", ["gradience", *arguments])
    return run(arguments)


def test_a_run_in_a_home_folder_names_it_nowhere_and_resumes(tmp_path, monkeypatch, capsys):
    home = tmp_path / "home" / "alice"
    config, output = write_inputs(home / "inputs", **SHARED), home / "runs" / "mine"
    words = ("--config", config, "--output", output)
    assert bench_run(*words, monkeypatch=monkeypatch) in (0, 1, 8), capsys.readouterr().err
    aggregate = home / "together"
    run(["bench", "aggregate", *map(str, output.glob("seed_*")), "--output", str(aggregate), "--quiet"])

    written = [path for folder in (output, aggregate) for path in folder.rglob("*") if path.is_file()]
    names = {path.name for path in written}
    assert names >= {"plan.json", "bench.json", "bench.md", "bench_aggregate.json", "bench_aggregate.md"}
    assert names >= {"audit.json", "training.json", "manifest.json"}
    assert any(name.endswith(".records.jsonl") for name in names)
    naming = {path.name for path in written if b"alice" in path.read_bytes()}
    assert naming <= NOT_TO_BE_SHARED, naming - NOT_TO_BE_SHARED
    assert "adapter_config.json" in naming

    stages = finished(output)
    last = max(stages)
    shutil.rmtree(output / last)  # one stage, as if the run had died before it
    assert bench_run(*words, monkeypatch=monkeypatch) in (0, 1, 8), capsys.readouterr().err
    assert [name for name, when in finished(output).items() if stages.get(name) != when] == [last]

    # The plan holds the last part of the base's name alone: another base under the same last part is told apart.
    other = bert(tmp_path / "elsewhere" / "base")
    capsys.readouterr()
    assert bench_run(*words, f"model.name={other}", monkeypatch=monkeypatch) == 2
    assert "contains a run of another config: `model.name` is" in capsys.readouterr().err
    before = finished(output)
    weights = home / "inputs" / "base" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert bench_run(*words, monkeypatch=monkeypatch) in (0, 1, 8), capsys.readouterr().err
    after = finished(output)
    assert [name for name in before if before[name] == after[name]] == []  # nothing of two bases is mixed
