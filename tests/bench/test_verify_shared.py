"""Exports of a run: Every Eval Ever, the hub's YAML; names of a stranger lead nowhere."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from bench_process import KEPT, unpacked
from raising import raises

from gradience.bench.export import _row, export_eee, export_hub
from gradience.errors import InputError, UsageError
from gradience.files.digests import Digests, write_digests
from gradience.files.records import ChoiceRecord
from gradience.reports.bench import Bench
from gradience.reports.evaluation import KeptRecords
from gradience.reports.training import StageManifest
from gradience.statistics.paired import tango
from gradience.statistics.table import PairedTable

SCHEMAS = Path(__file__).with_name("every_eval_ever")
"""Of the wheel every-eval-ever 0.3.0, with its license."""


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    folder = unpacked("minilm_reviews_demo", tmp_path_factory.mktemp("labels"))
    write_digests(folder)
    return folder


@pytest.mark.parametrize("name", ["minilm_reviews_demo", "smollm2_arithmetic"])
def test_every_eval_ever_reads_what_is_exported(name, tmp_path):
    folder = unpacked(name, tmp_path / "run")
    written = export_eee(folder, tmp_path / "out")
    benches = [Bench.read(path) for path in sorted(folder.rglob("bench.json"))]
    measured = [
        one.measures
        for bench in benches
        for one in bench.variants
        if one.measures is not None and one.same_as is None
    ]
    documents = [path for path in written if path.suffix == ".json"]
    assert len(documents) == len(benches) + len(measured)
    of_run, of_example = (
        jsonschema.Draft7Validator(json.loads((SCHEMAS / f"{kind}.schema.json").read_text()))
        for kind in ("eval", "instance_level_eval")
    )
    for path in documents:
        document = json.loads(path.read_text(encoding="utf-8"))
        of_run.validate(document)
        details = document["detailed_evaluation_results"]
        lines = (tmp_path / "out" / details["file_path"]).read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        assert details["total_rows"] == len(rows)
        for row in rows[:20]:
            of_example.validate(row)
        assert {row["evaluation_id"] for row in rows} == {document["evaluation_id"]}
        [result] = document["evaluation_results"]
        assert sum(row["evaluation"]["is_correct"] for row in rows) == int(
            result["score_details"]["details"]["correct"]
        )


OUTSIDE = ("../../../outside", "/tmp/outside", "a/../../outside", "..", "")


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("field", ["probe.records", "variants.0.measures.records"])
def test_names_of_a_stranger_lead_out_of_no_folder(labels, tmp_path, field, name):
    """bench.json of somebody else's run, whose names become paths where it is exported."""
    folder, values = tmp_path / "in" / "run", json.loads((labels / "bench.json").read_text())
    section: Any = values
    *above, last = field.split(".")
    for key in above:
        section = section[int(key) if key.isdigit() else key]
    section[last] = name
    folder.mkdir(parents=True)
    (folder / "bench.json").write_text(json.dumps(values))
    (tmp_path / "a" / "b" / "out").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    for export in (export_eee, partial(export_hub, dataset="org/data")):
        with pytest.raises(InputError, match="is not a plain relative name"):
            export(folder, tmp_path / "a" / "b" / "out")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("kind", [Digests, StageManifest, KeptRecords])
def test_manifests_name_no_file_outside_their_folder(tmp_path, kind, name):
    content = {"sha256": "0" * 64, "bytes": 1} if kind is StageManifest else "0" * 64
    content = {"key": "", "sha256": None} if kind is KeptRecords else content
    stage = {"stage": "audit", "key": "", "seconds": 1, "peak_memory_bytes": None}
    values = {"schema": kind.schema_id, "files": {name: content}} | (stage if kind is StageManifest else {})
    (tmp_path / "file.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match="is not a plain relative name"):
        kind.read(tmp_path / "file.json")


def test_the_hubs_yaml_says_n_and_interval_in_its_notes(labels, tmp_path):
    with raises(UsageError, "no-dataset"):
        export_hub(labels, tmp_path)
    export_hub(labels, tmp_path, dataset="someone/reviews")
    [entry] = yaml.safe_load((tmp_path / "seed_42" / "uniform_median.yaml").read_text())
    assert entry.keys() == {"dataset", "value", "date", "notes"}
    assert entry["dataset"] == {"id": "someone/reviews", "task_id": "reviews"}
    result = Bench.read(labels / "bench.json").variant("uniform_median")
    pairs = result.pairs
    low, high = tango(PairedTable(n11=pairs.n11, n10=pairs.n10, n01=pairs.n01, n00=pairs.n00))
    assert f"{result.measures.correct:,} of {result.measures.n:,} correct" in entry["notes"]
    assert (
        f"{result.delta_exact}, 95 % interval {100 * low:+.2f} to {100 * high:+.2f} points" in entry["notes"]
    )


def test_a_choice_is_exported_by_its_index():
    choice = ChoiceRecord(
        id="q1", prompt_sha256="ab", choices_sha256="cd", label=1, loglikelihoods=(-2.0, -1.0), characters=(3, 4),
        predictions={"sum": 1, "per_character": 1}, predicted=1, correct=True, truncated=False,
    )  # fmt: skip
    row = _row(choice, "largest likelihood")
    assert (row["input"]["reference"], row["output"]["raw"], row["evaluation"]["is_correct"]) == (
        ["1"],
        ["1"],
        True,
    )
    assert row["answer_attribution"][0]["extracted_value"] == "1"


def test_nothing_is_exported_through_a_link(labels, tmp_path):
    for name in ("outside", "out"):
        (tmp_path / name).mkdir()
    for name in ("data", "seed_42"):
        (tmp_path / "out" / name).symlink_to(tmp_path / "outside")
    for export in (export_eee, export_hub):
        with pytest.raises(InputError, match="a symbolic link that leads out of the output"):
            export(labels, tmp_path / "out", **({"dataset": "a/b"} if export is export_hub else {}))
    assert list((tmp_path / "outside").iterdir()) == []


def test_a_smoke_run_is_not_exported(tmp_path):
    with raises(InputError, "bench-smoke"):
        export_eee(KEPT / "smollm2_gsm8k_smoke", tmp_path)
