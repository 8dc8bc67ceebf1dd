"""A hostile text in each field of each file: whatever a verb says of it, no character of it steers the terminal."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import yaml

from gradience.cli.app import run

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


def test_each_field_of_an_adapter_config(adapter, steers):
    path = adapter / "adapter_config.json"
    for changed, place in with_hostile_text(json.loads(path.read_text())):
        path.write_text(json.dumps(changed))
        assert steers("audit", adapter) == [], place
        assert steers("check", path, "-v") == [], place


@pytest.mark.parametrize("name", ["axolotl", "llama_factory", "trl"])
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


@pytest.mark.parametrize("verb", [["audit"], ["monitor"], ["check"], ["compress", "--plan"]])
def test_the_name_of_a_file(tmp_path, steers, verb):
    assert steers(*verb, tmp_path / HOSTILE) == []
    (tmp_path / HOSTILE).write_text("{")
    assert steers(*verb, tmp_path / HOSTILE) == []


# ---------------------------------------------------------------- Bench
