"""The scores in examples/evidence/ are those of the kept run of Bench that the page says they are."""

from __future__ import annotations

import csv
import json
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "benchmarks" / "results" / "minilm_reviews" / "everything.tar.xz"


@pytest.mark.parametrize(
    ("file", "variant"), [("probe.csv", "probe"), ("truncated.csv", "per_layer.truncate")]
)
def test_the_scores_are_those_of_the_kept_run(file, variant):
    with tarfile.open(KEPT) as archive:
        records = archive.extractfile(f"seed_42/{variant}/eval/answers.records.jsonl").read().splitlines()[1:]
    kept = {record["id"]: int(record["correct"]) for record in map(json.loads, records)}
    with (ROOT / "examples" / "evidence" / file).open(encoding="utf-8", newline="") as rows:
        assert {row["id"]: int(row["score"]) for row in csv.DictReader(rows)} == kept
