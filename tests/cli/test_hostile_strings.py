"""A hostile text in each field of each file: whatever a verb says of it, no character of it steers the terminal."""

from __future__ import annotations

import copy
import itertools
import json
import shutil
from pathlib import Path

import pytest
import yaml
from bench_sample import three_seeds
from data_files import small_gsm8k
from tiny_bench import gsm8k_values, llama

from gradience.cli.app import run
from gradience.cli.demo import example_adapter

TESTS = Path(__file__).parent.parent
HOSTILE = "x\x1b[2J\x1b]0;y\x07\x9b31m\u202e\r\nerror: PASS"


def with_hostile_text(value):
    """Copies of `value`, each with one text in it replaced by HOSTILE, and the place of it; one with it as a key."""
    for place in places(value):
        changed = holder = copy.deepcopy(value)
        for key in place[:-1]:
            holder = holder[key]
        holder[place[-1]] = HOSTILE
        yield changed, ".".join(map(str, place))
    yield value | {HOSTILE: 1}, "a key"


def places(value, before=()):
    """Where texts stand."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(item, (dict, list)):
            yield from places(item, (*before, key))
        elif isinstance(item, str):
            yield (*before, key)


@pytest.fixture
def steers(capsys):
    """What steers a terminal in all that a verb says."""

    def look(*words):
        run([str(word) for word in words])
        said = "".join(capsys.readouterr())
        lines = said.split("\n")
        return [line for line in lines if not line.isprintable() or line.startswith("error: PASS")]

    return look


@pytest.fixture
def adapter(tmp_path):
    return Path(shutil.copytree(example_adapter(), tmp_path / "adapter"))


def test_each_field_of_an_adapter_config(adapter, steers):
    path = adapter / "adapter_config.json"
    for changed, place in with_hostile_text(json.loads(path.read_text())):
        path.write_text(json.dumps(changed))
        assert steers("audit", adapter) == [], place
        assert steers("check", path, "-v") == [], place


@pytest.mark.parametrize("field", ["base_model_name_or_path", "task_type"])
def test_a_field_of_an_adapter_config_in_the_other_verbs(adapter, steers, tmp_path, field):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: HOSTILE}))
    assert steers("audit", adapter, "--json") == []
    assert steers("compare", adapter, example_adapter()) == []
    assert steers("compress", adapter, "--rank", "2", "--dry-run") == []
    assert steers("compress", adapter, "--rank", "2", "--output", tmp_path / "smaller") == []


@pytest.mark.parametrize("name", ["axolotl", "llama_factory", "trl", "unsloth"])
def test_each_field_of_a_training_config(tmp_path, steers, name):
    given = yaml.safe_load((TESTS / "check" / "configs" / f"{name}.yaml").read_text())
    path = tmp_path / "config.yaml"
    for changed, place in with_hostile_text(given):
        path.write_text(yaml.safe_dump(changed))
        assert steers("check", path, "--verbose") == [], place


def test_each_field_of_each_event_of_a_run(tmp_path, steers):
    path = tmp_path / "run.jsonl"
    records = [
        json.loads(line) for line in (TESTS / "monitor" / "runs" / "grpo.jsonl").read_text().splitlines()
    ]
    kinds = {(record["event"], record.get("kind")): record for record in reversed(records)}
    for kind, record in kinds.items():
        for changed, place in with_hostile_text(record):
            lines = [changed if other is record else other for other in records[:8]]
            path.write_text("".join(json.dumps(line) + "\n" for line in [*lines, changed]))
            assert steers("monitor", path, "--verbose") == [], (kind, place)


def test_each_field_of_a_plan(adapter, tmp_path, steers, capsys):
    run(["compress", str(adapter), "--rank", "2", "--dry-run", "--json"])
    plan = json.loads(capsys.readouterr().out)
    plan["modules"] = plan["modules"][:1]
    path = tmp_path / "plan.json"
    for changed, place in itertools.islice(with_hostile_text(plan), 12):
        path.write_text(json.dumps(changed))
        assert steers("compress", adapter, "--plan", path, "--dry-run") == [], place


@pytest.mark.parametrize(
    "verb", [["audit"], ["monitor"], ["check"], ["bench", "summary"], ["compress", "--plan"]]
)
def test_the_name_of_a_file(tmp_path, steers, verb):
    assert steers(*verb, tmp_path / HOSTILE) == []
    (tmp_path / HOSTILE).write_text("{")
    assert steers(*verb, tmp_path / HOSTILE) == []


# ---------------------------------------------------------------- Bench


@pytest.fixture(scope="module")
def results():
    """bench.json of three seeds, as mappings."""
    return [json.loads(bench.to_json()) for bench in three_seeds()]


def kinds_of_places(value):
    """One place of each kind: rows of a list are alike."""
    kinds = {}
    for place in places(value):
        kinds.setdefault(tuple("row" if isinstance(key, int) else key for key in place), place)
    return set(kinds.values())


def test_each_field_of_a_result(tmp_path, steers, results):
    folders = [tmp_path / f"seed_{number}" for number in range(3)]
    for folder, result in zip(folders, results, strict=True):
        folder.mkdir()
        (folder / "bench.json").write_text(json.dumps(result))
    kinds = {".".join(map(str, place)) for place in kinds_of_places(results[0])} | {"a key"}
    for changed, place in with_hostile_text(results[0]):
        if place in kinds:
            (folders[0] / "bench.json").write_text(json.dumps(changed))
            assert steers("bench", "summary", *folders) == [], place
            assert steers("bench", "aggregate", *folders) == [], place


def test_a_text_that_all_results_share(tmp_path, steers, results):
    """Such results are counted together, so that the aggregate shows the text."""
    folders = [tmp_path / f"seed_{number}" for number in range(3)]
    hostile = [list(with_hostile_text(result)) for result in results]
    places_of_all = [{place: changed for changed, place in each} for each in hostile]
    for place in (".".join(map(str, keys)) for keys in kinds_of_places(results[0])):
        for folder, changed in zip(folders, places_of_all, strict=True):
            folder.mkdir(exist_ok=True)
            (folder / "bench.json").write_text(json.dumps(changed.get(place, {})))
        assert steers("bench", "aggregate", *folders) == [], place


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    """A config of Bench with a text in most of its fields, whose forecast can be made."""
    folder = tmp_path_factory.mktemp("inputs")
    values = gsm8k_values(llama(folder / "base"))
    values["task"]["options"] = small_gsm8k(folder)
    values["lora"] |= {"target_modules": ["q_proj", "v_proj"], "modules_to_save": ["lm_head"]}
    values["compression"]["controls"] = ["aa"]
    values["model"] |= {"revision": "main"}
    return values


def test_each_field_of_a_config_of_bench(tmp_path, steers, values):
    path = tmp_path / "config.yaml"
    for changed, place in with_hostile_text(copy.deepcopy(values)):
        path.write_text(yaml.safe_dump(changed))
        assert steers("bench", "run", "--config", path, "--dry-run") == [], place


def test_a_hostile_setting_on_the_command_line(tmp_path, steers, values):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    assert steers("bench", "run", "-c", path, "--dry-run", "model.name=\x1b[2Jx") == []
    assert steers("bench", "run", "-c", path, "--dry-run", "\x1b[2Jx=1") == []
