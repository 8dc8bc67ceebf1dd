"""A Bench run on a user's own rows: from files beside the config to a verdict, and again from the run's own config."""

from __future__ import annotations

import json

import pytest
import yaml
from data_files import write_jsonl
from tiny_bench import bert, gsm8k_values, llama, tokenizer

from gradience.bench.config.load import load_config
from gradience.bench.run.bench import _resumable
from gradience.cli.app import run
from gradience.errors import InputError
from gradience.files.records import read_records
from gradience.reports.bench import Bench

ROWS = {
    "jsonl": [{"id": f"row {n}", "prompt": f"{n % 7} {n // 7} is =", "answer": n % 3} for n in range(49)],
    "classification": [
        {"text": f"{('bad', 'good')[n % 2]} film" + " very" * (n // 2), "label": ("no", "yes")[n % 2]}
        for n in range(40)
    ],
}
LABELS = [{"text": f"a film {n}", "label": ("bad", "good")[n % 2]} for n in range(4)]


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
    assert "tasks/mine.py: found: the run executes it (allowed)" in " ".join(capsys.readouterr().out.split())
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


@pytest.mark.parametrize(
    ("profile", "options", "row", "shown"),
    [
        ("jsonl", {"scorer": "normalized"}, {"prompt": "{n} is", "answer": "{n}."}, ['prompt "12 is"', 'scored "12."']),
        ("jsonl", {"scorer": "multiple_choice"}, {"prompt": "{n} is", "choices": ["a", "bad"], "answer": "bad"},
         ["scored by multiple_choice sum", 'scored "a | *bad"']),
        ("chat", {}, {"messages": [{"role": "user", "content": "{n}"}], "answer": "good"},
         ["scored by exact", 'scored "good"']),
        ("classification", {}, {"text": "film {n}", "label": "good"}, ['prompt "film 12"', 'scored "good"']),
    ],
    ids=["jsonl", "choices", "chat", "labels"],
)  # fmt: skip
def test_a_dry_run_shows_three_prompts_and_what_is_scored(config, profile, options, row, shown, capsys):
    text = json.dumps(row)
    rows = [json.loads(text.replace("{n}", str(n))) for n in range(10, 16)]
    path = config(profile)
    data = path.parent / "data"
    write_jsonl(data / "test.jsonl", rows[2:5])
    write_jsonl(data / "train.jsonl", rows[:2] if profile != "classification" else LABELS)
    reader = tokenizer()
    reader.chat_template = (
        "{% for m in messages %}{{ 'film' if m['role'] == 'user' else 'plot' }} : {{ m['content'] }} [END] {% endfor %}"
        "{% if add_generation_prompt %}plot : {% endif %}"
    )
    reader.save_pretrained(path.parent / "base")
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    files = {"train_file": "data/train.jsonl", "confirm_file": "data/test.jsonl", "dev": 0}
    values["task"]["options"] = {**files, **options}
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    assert run(["bench", "run", "--config", str(path), "--dry-run"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert all(each in out for each in shown)
    assert out.partition("First test examples")[2].count("prompt ") == 3
