"""A Bench run on a user's own rows: from files beside the config to a verdict, and again from the run's own config."""

from __future__ import annotations

import pytest
import yaml
from data_files import write_jsonl
from tiny_bench import bert, gsm8k_values, llama

from gradience.artifacts.bench import Bench
from gradience.artifacts.records import read_records
from gradience.cli.app import run

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
        write_jsonl(folder / "data" / "rows.jsonl", ROWS[profile])
        values = gsm8k_values(base)
        values["task"] |= {"profile": profile, "options": {"file": "data/rows.jsonl", **options}}
        values["lora"]["target_modules"] = ["query", "value"] if labels else ["q_proj", "v_proj"]
        values["model"]["type"] = "seqcls" if labels else "causal_lm"
        (folder / "config.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
        return folder / "config.yaml"

    return write


@pytest.mark.parametrize("profile", ROWS)
def test_rows_beside_the_config_go_to_a_verdict(config, tmp_path, profile):
    path, out = config(profile), tmp_path / "out"
    code = run(["bench", "run", "--config", str(path), "--output", str(out), "--quiet"])
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
