"""The runs that the documents speak of: every number of theirs, counted again from the records that came with them.

Counted with json alone, so that a mistake of our readers would show.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from bench_process import KEPT, unpacked

from gradience.reports.bench import Bench, BenchAggregate

ARCHIVES = sorted(KEPT.glob("*/everything.tar.xz"))
BENCHES = sorted(KEPT.rglob("bench.json"))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    for archive in ARCHIVES:
        unpacked(archive.parent.name, folder / archive.parent.name)
    return folder


def rows_of(path: Path) -> dict[str, dict[str, Any]]:
    _, *rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {row["id"]: row for row in rows}


def of(path: Path) -> str:
    return str(path.relative_to(KEPT).parent)


def test_the_page_counts_again_what_it_says(results, tmp_path, monkeypatch, capsys):
    page = (KEPT.parents[1] / "docs" / "results" / "bench.md").read_text(encoding="utf-8")
    [source] = re.findall(r"^```py\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    (tmp_path / "again").symlink_to(results / "minilm_reviews")
    monkeypatch.chdir(tmp_path)
    exec(source, {})  # our own page
    assert f"# {capsys.readouterr().out}" in source


@pytest.mark.parametrize("path", BENCHES, ids=of)
def test_its_counts_are_those_of_the_records(path, results):
    bench = json.loads(path.read_text(encoding="utf-8"))
    folder = results / path.parent.relative_to(KEPT)
    measured = [bench["probe"], *(row["measures"] for row in bench["variants"] if row["measures"])]
    probe = rows_of(folder / bench["probe"]["records"])
    for adapter in measured:
        file = folder / adapter["records"]
        assert hashlib.sha256(file.read_bytes()).hexdigest() == adapter["records_sha256"]
        rows = rows_of(file)
        assert rows.keys() == probe.keys()
        assert (len(rows), sum(row["correct"] for row in rows.values())) == (adapter["n"], adapter["correct"])
    for variant in bench["variants"]:
        if variant["measures"]:
            rows = rows_of(folder / variant["measures"]["records"])
            lost = sum(probe[key]["correct"] and not row["correct"] for key, row in rows.items())
            won = sum(row["correct"] and not probe[key]["correct"] for key, row in rows.items())
            assert (lost, won) == (variant["pairs"]["n10"], variant["pairs"]["n01"])
            assert variant["delta_exact"] == f"{won - lost}/{len(rows)}"
            assert variant["status"] == ("PASS" if 40 * (lost - won) <= len(rows) else "FAIL")  # 0.025


@pytest.mark.parametrize("path", [*BENCHES, *sorted(KEPT.rglob("bench_aggregate.json"))], ids=of)
def test_its_page_is_what_its_json_says(path):
    kind = Bench if path.name == "bench.json" else BenchAggregate
    assert path.with_suffix(".md").read_text(encoding="utf-8") == kind.read(path).to_markdown()


@pytest.mark.parametrize("name", ["minilm_reviews", "smollm2_arithmetic"])
def test_the_page_names_the_root_of_the_run_that_is_kept(name):
    """Whoever has it from there can see whether a folder is that run: `gradience verify DIR --root SHA256`."""
    page = (KEPT.parents[1] / "docs" / "results" / "bench.md").read_text(encoding="utf-8")
    root = hashlib.sha256((KEPT / name / "digests.json").read_bytes()).hexdigest()
    assert f"`{root}`" in page


PAGE_SECTIONS = {
    "minilm_reviews": "MiniLM-L6 on movie reviews",
    "smollm2_arithmetic": "SmolLM2-135M on arithmetic",
}


def in_points(delta: float | None) -> str:
    return "" if delta is None else f"{100 * delta:.2f}".replace("-", "−")


@pytest.mark.parametrize("name", PAGE_SECTIONS)
def test_each_row_of_the_pages_tables_is_in_the_kept_aggregate(name):
    page = (KEPT.parents[1] / "docs" / "results" / "bench.md").read_text(encoding="utf-8")
    [section] = re.findall(rf"^## {PAGE_SECTIONS[name]}\n(.*?)^## ", page, flags=re.MULTILINE | re.DOTALL)
    aggregate = json.loads((KEPT / name / "bench_aggregate.json").read_text(encoding="utf-8"))
    variants = {row["name"]: row for row in aggregate["variants"]}
    lines = [line.replace("*", "") for line in section.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    compared = []
    for first, *cells in rows:
        variant = variants.get(first.split("`")[1] if "`" in first else f"ladder.r{first}")
        if variant is None or not (pooled := variant["evidence"]["pooled"]):
            continue
        bounds = [
            in_points((pooled[kind] or {"low": None})["low"]) for kind in ("over_trainings", "next_training")
        ]
        saved = f"{100 * variant['mean_reduction']:.{int(0 < variant['mean_reduction'] < 1)}f} %"
        if "`" in first:
            assert cells[0] == (variant["evidence"]["grade"] or "")
            assert cells[2:6] == [in_points(variant["worst_delta"]), *bounds, saved], first
        else:
            assert cells[:4] == [saved, in_points(pooled["delta"]), *bounds], first
        compared.append(variant["name"])
    assert len(compared) == len(set(compared)) >= 10
    steps = {step["name"]: step for step in aggregate["ladder"]["steps"]}
    least = in_points(-steps[aggregate["ladder"]["smallest_safe"]]["low"])
    assert f"lowers accuracy by at most {least} points" in " ".join(section.split())
