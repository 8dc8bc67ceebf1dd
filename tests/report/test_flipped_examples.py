"""A page shows the examples that flipped, counted here by hand from the records, and only from the report's own."""

import hashlib
from pathlib import Path

import pytest
from bench_sample import bench
from data_files import write_jsonl
from records_sample import YES, labeled, run_of, written

from gradience.files.records import write_records
from gradience.reports.base import html
from gradience.reports.evaluation import EvaluationReport, RecordsFile
from gradience.reports.page.render import PromptTexts, answers_of, flip_blocks, to_page
from gradience.reports.shrink import ShrinkReport
from gradience.sources import PageSource, prompts_of, read_sources

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
SECRET = "forty-two, said the patient"
OLD = {"e1": "4", "e2": "5", "e3": "6", "e4": SECRET}
NEW = {"e1": "4", "e2": "7", "e3": "8", "e4": "none"}
GOLD = {"e1": "4", "e2": "7", "e3": "6", "e4": SECRET}


def records(path, answers):
    """A file of records in which `answers` were given; what the report says of the file."""
    rows = [written(key, text, GOLD[key], output=text) for key, text in answers.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_records(path, run_of("generation", n=len(rows)), rows)
    return RecordsFile(path=f"records/{path.name}", sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def with_records(row, *files):
    return row.model_copy(update={"records": files})


@pytest.fixture
def folder(tmp_path):
    """An evaluation with the records of its first two adapters beside it."""
    report = EvaluationReport.read(RESULTS / "minilm_evaluation" / "evaluation.json")
    old, new = (records(tmp_path / "records" / f"{n}.jsonl", answers) for n, answers in enumerate((OLD, NEW)))
    reference, candidate, *others = report.adapters
    rows = (with_records(reference, old), with_records(candidate, new), *map(with_records, others))
    report.model_copy(update={"adapters": rows}).save(tmp_path / "evaluation.json")
    return tmp_path


def section(page):
    start = page.rfind("Flipped examples")  # behind the table of contents
    return page[start : page.find("</section>", start)] if start >= 0 else ""


def test_the_page_of_an_evaluation_names_what_only_one_has_correct(folder):
    shown = section(to_page(read_sources([folder])))
    assert "2 correct answers, reference only" in shown
    assert "1 correct answer, candidate only" in shown
    assert SECRET in shown
    private = to_page(read_sources([folder]), texts=False)
    assert SECRET not in private
    for page in (shown, section(private)):
        assert [key for key in OLD if f">{key}<" in page] == ["e2", "e3", "e4"]


def test_a_search_shows_the_flips_of_its_candidates(tmp_path):
    report = ShrinkReport.read(RESULTS / "minilm_shrink" / "shrink.json")
    reference = with_records(report.reference, records(tmp_path / "records" / "r.jsonl", OLD))
    first = report.candidates[0]
    result = with_records(first.result, records(tmp_path / "records" / "s.jsonl", NEW))
    changed = {"reference": reference, "candidates": (first.model_copy(update={"result": result}),)}
    page = to_page([PageSource("", report.model_copy(update=changed), folder=tmp_path)])
    assert "2 correct answers, reference only" in section(page)


def with_variant(report, folder, name, answers):
    """A seed of Bench with the records of its probe and of one variant, and no other."""
    probe, variant = (
        records(folder / f"{file}.jsonl", given) for file, given in (("p", OLD), ("v", answers))
    )
    row = next(row for row in report.variants if row.name == name)
    measures = row.measures.model_copy(update={"records": "v.jsonl", "records_sha256": variant.sha256})
    changed = {
        "probe": report.probe.model_copy(update={"records": "p.jsonl", "records_sha256": probe.sha256}),
        "variants": (row.model_copy(update={"measures": measures}),),
    }
    return report.model_copy(update=changed)


def test_a_seed_of_bench_shows_the_flips_of_its_variants(tmp_path):
    report = bench(42)
    name = next(row.name for row in report.variants if row.measures is not None)
    page = to_page([PageSource("", with_variant(report, tmp_path, name, NEW), folder=tmp_path)])
    assert "2 correct answers, reference only" in section(page)


def test_records_of_something_else_are_not_shown(folder):
    (folder / "records" / "1.jsonl").write_bytes((folder / "records" / "0.jsonl").read_bytes())
    shown = section(to_page(read_sources([folder])))
    assert "sha256 differs from the one in the report" in shown
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
        report = report.model_copy(update={"adapters": (with_records(row, away), *others)})
    assert flip_blocks(report, folder) == []


def test_a_prompt_is_quoted_with_its_lines(folder):
    report = EvaluationReport.read(folder / "evaluation.json")
    prompts = PromptTexts({key: f"What is\n{key}?" for key in OLD})
    blocks = flip_blocks(report, folder, lambda: prompts)
    assert "<bdi>What is</bdi><br><bdi>e2?</bdi>" in html.render(blocks)


def test_prompts_are_read_back_from_the_data_of_the_recorded_digest(folder):
    """With the names of the labels and real line breaks; a file that has changed is not quoted."""
    lines = [{"prompt": f"What is\n{key}?", "answer": GOLD[key]} for key in OLD]
    data = write_jsonl(folder / "rows.jsonl", lines)
    report = EvaluationReport.read(folder / "evaluation.json")
    digest = hashlib.sha256(data.read_bytes()).hexdigest()
    changed = {"task": "jsonl", "source": {"all": f"rows.jsonl sha256:{digest}"}}
    prompts = prompts_of(report.model_copy(update=changed), folder)
    assert sorted(prompts.texts.values()) == sorted(line["prompt"] for line in lines)
    data.write_text("{}", encoding="utf-8")
    assert prompts_of(report.model_copy(update=changed), folder).texts == {}


def test_labels_have_their_names():
    record = labeled("a", 0, YES)
    assert answers_of(record, ("negative", "positive")) == ("negative", "positive")
    assert answers_of(record, ()) == ("0", "1")
