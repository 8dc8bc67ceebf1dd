"""A page shows the examples that flipped, counted here by hand from the records, and only from the report's own."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
from bench_sample import bench, three_seeds

from gradience.bench.verdict.aggregate import aggregate
from gradience.files.records import ExamplesRun, GenerationRecord, write_records
from gradience.reports.evaluation import EvaluationReport, RecordsFile
from gradience.reports.page.flips import flip_blocks
from gradience.reports.page.render import to_page
from gradience.reports.shrink import ShrinkReport
from gradience.sources import Source, read_sources

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
SECRET = "forty-two, said the patient"
OLD = {"e1": "4", "e2": "5", "e3": "6", "e4": SECRET}
NEW = {"e1": "4", "e2": "7", "e3": "8", "e4": "none"}
GOLD = {"e1": "4", "e2": "7", "e3": "6", "e4": SECRET}


def records(path, answers, **changes):
    """A file of records in which `answers` were given; what the report says of the file."""
    run = ExamplesRun(
        kind="generation", adapter="a", adapter_sha256=None, adapter_config_sha256=None, base="b",
        base_sha256="0" * 64, tokenizer_sha256="0" * 64, dtype="float32", attention=None, device="cpu", threads=1,
        versions={}, batch_size=1, max_length=None, examples_sha256="0" * 64, n=len(answers),
    )  # fmt: skip
    rows = [
        GenerationRecord(
            id=key, prompt_sha256="0" * 64, answer=GOLD[key], output=text, n_tokens=1, stopped_by="eos",
            answers={"last": text}, extracted=text, correct=text == GOLD[key], truncated=False,
        )
        for key, text in answers.items()
    ]  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    write_records(path, run, rows)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return RecordsFile(**{"path": f"records/{path.name}", "sha256": digest} | changes)


@pytest.fixture
def folder(tmp_path):
    """An evaluation with the records of its first two adapters beside it."""
    report = EvaluationReport.read(RESULTS / "minilm_evaluation" / "evaluation.json")
    files = [records(tmp_path / "records" / f"{n}.jsonl", answers) for n, answers in enumerate((OLD, NEW))]
    rows = [row.model_copy(update={"records": ()}) for row in report.adapters]
    for place, file in enumerate(files):
        rows[place] = rows[place].model_copy(update={"records": (file,)})
    report.model_copy(update={"adapters": tuple(rows)}).save(tmp_path / "evaluation.json")
    return tmp_path


def section(page):
    start = page.rfind("Which examples flipped?")  # behind the table of contents
    return page[start : page.find("</section>", start)] if start >= 0 else ""


def test_the_page_of_an_evaluation_names_what_only_one_has_correct(folder):
    shown = section(to_page(read_sources([folder])))
    assert "2 that only the original has correct" in shown
    assert "1 that only this one has correct" in shown
    assert [key for key in OLD if f">{key}<" in shown] == ["e2", "e3", "e4"]
    assert SECRET in shown


def test_answers_of_private_data_are_left_out(folder):
    page = to_page(read_sources([folder]), texts=False)
    assert SECRET not in page
    assert [key for key in OLD if f">{key}<" in section(page)] == ["e2", "e3", "e4"]


def test_a_search_shows_the_flips_of_its_candidates(tmp_path):
    report = ShrinkReport.read(RESULTS / "minilm_shrink" / "shrink.json")
    reference = report.reference.model_copy(
        update={"records": (records(tmp_path / "records" / "r.jsonl", OLD),)}
    )
    result = report.candidates[0].result.model_copy(
        update={"records": (records(tmp_path / "records" / "s.jsonl", NEW),)}
    )
    candidate = report.candidates[0].model_copy(update={"result": result})
    report = report.model_copy(update={"reference": reference, "candidates": (candidate,)})
    assert "2 that only the original has correct" in section(to_page([Source("", report, folder=tmp_path)]))


def test_a_seed_of_bench_shows_the_flips_of_its_variants(tmp_path):
    report = bench(42)
    probe, variant = (
        records(tmp_path / f"{name}.jsonl", answers) for name, answers in (("p", OLD), ("v", NEW))
    )
    first = next(row for row in report.variants if row.measures is not None)
    measures = first.measures.model_copy(update={"records": "v.jsonl", "records_sha256": variant.sha256})
    changed = report.model_copy(
        update={
            "probe": report.probe.model_copy(update={"records": "p.jsonl", "records_sha256": probe.sha256}),
            "variants": (first.model_copy(update={"measures": measures}),),
        }
    )
    assert "2 that only the original has correct" in section(to_page([Source("", changed, folder=tmp_path)]))


def test_records_of_something_else_are_not_shown(folder):
    (folder / "records" / "1.jsonl").write_bytes((folder / "records" / "0.jsonl").read_bytes())
    shown = section(to_page(read_sources([folder])))
    assert "not the records that the report was made from" in shown
    assert ">e3<" not in shown


@pytest.mark.parametrize("way", ["above", "link", "gone"])
def test_no_name_of_a_report_leads_out_of_its_folder(folder, tmp_path_factory, way):
    outside = tmp_path_factory.mktemp("outside") / "0.jsonl"
    inside = folder / "records" / "0.jsonl"
    inside.rename(outside)
    report = read_sources([folder])[0].report
    if way == "link":
        inside.symlink_to(outside)
    elif way == "above":
        (row, *others) = report.adapters
        away = row.records[0].model_copy(update={"path": f"../{outside.parent.name}/0.jsonl"})
        assert (folder / away.path).is_file()
        report = report.model_copy(
            update={"adapters": (row.model_copy(update={"records": (away,)}), *others)}
        )
    assert flip_blocks(report, folder) == []


LATER = {"e1": "4", "e2": "5", "e3": "8", "e4": SECRET}
"""What the variant answers in one of three seeds: e3 flips in each of them, e4 and e2 in two."""
COUNTS = {42: (NEW, 2, 1), 123: (LATER, 1, 0), 456: (NEW, 2, 1)}


@pytest.fixture
def seeds(tmp_path):
    """Three seeds of Bench with the records of the probe and of one variant, and their aggregate."""
    benches = three_seeds()
    whole = aggregate(benches, [f"seed_{one.seed}/bench.json" for one in benches])
    name = next(row.name for row in whole.candidates if all(seed.n for seed in row.seeds))
    for one in benches:
        folder = tmp_path / f"seed_{one.seed}"
        probe, variant = (
            records(folder / f"{file}.jsonl", answers)
            for file, answers in (("p", OLD), ("v", COUNTS[one.seed][0]))
        )
        row = next(row for row in one.variants if row.name == name)
        measures = row.measures.model_copy(update={"records": "v.jsonl", "records_sha256": variant.sha256})
        changed = {
            "probe": one.probe.model_copy(update={"records": "p.jsonl", "records_sha256": probe.sha256}),
            "variants": (row.model_copy(update={"measures": measures}),),
        }
        one.model_copy(update=changed).save(folder / "bench.json")
    (row,) = (row for row in whole.variants if row.name == name)
    counted = [
        seed.model_copy(
            update={
                "only_probe_correct": COUNTS[seed.seed][1],
                "only_variant_correct": COUNTS[seed.seed][2],
            }
        )
        for seed in row.seeds
    ]
    row = row.model_copy(update={"seeds": tuple(counted)})
    whole.model_copy(update={"variants": (row,)}).save(tmp_path / "bench_aggregate.json")
    return tmp_path


def rows_of(shown):
    rows = re.findall(r"<tr>(.*?)</tr>", shown)
    return [re.sub(r"<[^>]*>", "|", row).replace("||", "|").strip("|").split("|") for row in rows[1:]]


def test_over_seeds_what_flips_in_most_of_them_comes_first(seeds):
    shown = section(to_page(read_sources([seeds / "bench_aggregate.json"])))
    assert "3 examples flip over 3 seeds, 1 in each seed and in the same direction" in shown
    cells = [[cell for cell in row if cell] for row in rows_of(shown)]
    assert [row[0] for row in cells] == ["e3", "e2", "e4"]
    assert cells[0][-1] == "3"
    assert SECRET in shown
    assert SECRET not in to_page(read_sources([seeds / "bench_aggregate.json"]), texts=False)


def test_records_that_the_aggregate_has_not_counted_are_not_shown(seeds):
    path = seeds / "bench_aggregate.json"
    text = path.read_text(encoding="utf-8")
    assert '"only_probe_correct": 1,' in text
    path.write_text(text.replace('"only_probe_correct": 1,', '"only_probe_correct": 3,'), encoding="utf-8")
    shown = section(to_page(read_sources([path])))
    assert "seed 123" in shown
    assert "other than in the report" in shown
    assert ">e3<" not in shown
