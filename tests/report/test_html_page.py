"""A report as one file: it carries all that it needs, fetches nothing, and nothing in it that a stranger wrote runs."""

import base64
import hashlib
import html
import json
import re
from collections import Counter

import pytest
from audit_sample import mistral_rows, report
from page_samples import PAGES
from test_compression_text import two_logs
from test_faces import RESULTS, SAMPLES
from test_names import ATTRIBUTE, WORST, parsed, steering

from gradience.reports.bench import Bench, BenchAggregate
from gradience.reports.evaluation import EvaluationReport
from gradience.reports.page.render import BUNDLE, MARK, asset, is_page, json_text, parts_of, to_page
from gradience.reports.plots.plot import Image, plots_of
from gradience.reports.registry import reports
from gradience.sources import PageSource

KINDS = {name: report.plots for name, report in reports().items() if report.plots}
ENDING = "</script><img src=x onerror=alert(1)>"


def page_of(name, **options):
    return to_page([PageSource(f"{name}.json", SAMPLES[name]())], **options)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_page_has_every_plot_and_runs_only_our_scripts(name):
    page = page_of(name)
    plots = plots_of(SAMPLES[name]())
    anchors = re.findall(r'<figure id="plot-([^"]+)"', page)
    anchors = [anchor.removeprefix("1-") for anchor in anchors]  # all runs together
    assert anchors == [plot.name for plot in plots.values()]
    assert (asset(BUNDLE) in page) == bool(plots)
    assert page.encode().startswith(MARK)
    outside = page.partition("<script")[0]
    anchors = re.findall(r'\bid="([^"]+)"', outside)
    assert len(anchors) == len(set(anchors))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(anchors)
    assert not re.search(r"<(img|link|iframe|object|embed|base)\b|\bsrc=|\son\w+=|url\(|https?://", outside)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1].replace("&#39;", "'")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert (rules["default-src"], rules["img-src"]) == ("'none'", "data:")
    ours = [text for kind, text in re.findall(r"<script([^>]*)>(.*?)</script>", page, re.DOTALL) if not kind]
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in ours]
    assert rules["script-src"].split() == [f"'sha256-{digest}'" for digest in digests]


def in_the_box(page):
    """Text of what stands first."""
    box = re.search(r'<div class="answer"[^>]*>(.*?)</div></div>', page, re.DOTALL)
    return None if box is None else html.unescape(re.sub(r"<[^>]+>", "", box[1]))


def kept(kind, path):
    return lambda: kind.read(RESULTS / path)


FIRST = {
    "shrink": (SAMPLES["ShrinkReport"], [SAMPLES["ShrinkReport"]().sentence, "another training run"]),
    "evaluation": (SAMPLES["EvaluationReport"], ["rank4: B, shown for these ", "rank1: B, shown for these "]),
    "evidence": (SAMPLES["EvidenceReport"], [SAMPLES["EvidenceReport"]().verdict]),
    "one seed": (SAMPLES["Bench"], ["passes"]),
    "several seeds": (SAMPLES["BenchAggregate"], ["passes", "uniform_median: C, inconclusive"]),
    "a reference that does harm": (
        kept(EvaluationReport, "smollm2_lm_eval/read.json"),
        ["is worse than the base model: NLL"],
    ),
    "a ladder": (
        kept(BenchAggregate, "smollm2_arithmetic/bench_aggregate.json"),
        [
            "Rank ladder: rank 4 is the smallest truncation shown to stay within the margin",
            "It has 87.5 % fewer LoRA parameters.",
            "not A: the next training may be up to",
        ],
    ),
}


@pytest.mark.parametrize("name", FIRST)
def test_a_verdict_and_what_it_rests_on_stand_first(name):
    report, words = FIRST[name]
    box = in_the_box(to_page([PageSource("a", report())]))
    assert [word for word in words if word not in box] == []


def test_a_control_that_is_not_as_expected_is_said_first():
    seed = Bench.read(RESULTS / "minilm_reviews" / "seed_42" / "bench.json")
    passes = {"random_directions": {"status": "PASS"}}
    variants = [row.model_copy(update=passes.get(row.name, {})) for row in seed.variants]
    box = in_the_box(to_page([PageSource("a", seed.model_copy(update={"variants": tuple(variants)}))]))
    assert "random_directions is not as expected" in box


def test_a_smoke_run_has_no_verdict_to_put_first():
    smoke = Bench.read(RESULTS / "smollm2_gsm8k_smoke" / "bench.json")
    assert smoke.smoke
    page = to_page([PageSource("a", smoke)])
    assert "smoke run" in in_the_box(page).casefold()
    assert "Smallest variant that passes" not in page


def test_an_audit_answers_in_the_order_of_its_questions():
    assert set(KINDS) <= set(PAGES)
    page = page_of("AuditReport")
    order = [
        "Half of the",
        'id="plot-heatmap"',
        'id="plot-energy"',
        "Use of rank</h2>",
        "Suggested ranks</h2>",
    ]
    places = [page.index(text) for text in order]
    assert places == sorted(places)


TITLES = {
    "ShrinkReport": "Shrink of my_adapter on reviews",
    "EvaluationReport": "Evaluation against my_adapter on reviews",
    "EvidenceReport": "Evidence: b.jsonl against a.jsonl",
    "ComparisonReport": "Comparison of runs/seed-42 and runs/seed-123",
    "AuditReport": "Audit of ./my-adapter",
    "FleetReport": "Fleet: 9 of 10 adapters measured",
    "run": "Training run good.jsonl",
    "thousand modules": "Audit of ./my-adapter",
}


@pytest.mark.parametrize("name", TITLES)
def test_a_page_is_called_by_what_it_is_about_and_stays_small(name):
    page = to_page(PAGES[name]())
    assert len(page.encode()) < 2_500_000
    assert f"<title>{TITLES[name]}</title>" in page
    (heading,) = re.findall(r"<h1[^>]*>(.*?)</h1>", page)
    assert re.sub("<[^>]*>", "", heading) == TITLES[name]


def test_the_bundle_is_the_one_that_its_readme_names():
    digest = hashlib.sha256(asset(BUNDLE).encode()).hexdigest()
    assert f"sha256 {digest}" in asset("README.md")
    assert "MIT" in asset("plotly-LICENSE") or "Permission is hereby granted" in asset("plotly-LICENSE")
    assert asset(BUNDLE).splitlines()[1].endswith("v4.1.1")
    assert "4.1.1" in asset("README.md")


def test_json_in_a_script_cannot_end_it():
    text = json_text({"name": ENDING + "<!--\u2028"})
    assert "<" not in text
    assert "\u2028" not in text
    assert json.loads(text) == {"name": ENDING + "<!--\u2028"}


def hostile_page(name):
    rows = mistral_rows(layers=2, r=4)
    named = report(rows).model_copy(update={"n_layers": len(rows)})
    adapter = named.adapter.model_copy(update={"path": name, "base_model": name})
    return to_page([PageSource(name, named.model_copy(update={"adapter": adapter}), "0" * 64)])


@pytest.mark.parametrize("name", [WORST, ENDING, ATTRIBUTE, "x" * 10_000], ids=lambda name: name[-4:])
def test_names_are_text(name):
    page = hostile_page(name)
    outside = page.partition('<script type="application/json"')[0]
    assert not steering(outside, allowed="\n")
    assert (
        parsed(outside).tags == parsed(hostile_page("plain").partition('<script type="application')[0]).tags
    )
    assert len(page) - len(hostile_page("plain")) < 5_000


def test_texts_of_examples_can_be_left_out():
    flips = [flip for flip in two_logs().flips if flip.excerpt]
    assert flips
    shown, hidden = page_of("EvidenceReport"), page_of("EvidenceReport", texts=False)
    for flip in flips:
        assert flip.id in hidden
        assert flip.excerpt[-20:] in shown.replace("&#x27;", "'").replace("&quot;", '"')
        assert flip.excerpt[-20:] not in hidden


def test_a_page_of_several_runs_says_so_and_has_a_part_for_each():
    report = SAMPLES["MonitorReport"]()
    page = page_of("MonitorReport")
    number = len(report.runs)
    assert f"<title>{number} runs</title>" in page
    assert len(re.findall("<article ", page)) == 1 + number
    for place, run in enumerate(report.runs, start=2):
        assert f'<a href="#report-{place}">Training run <bdi>{run.file}</bdi></a>' in page


def test_parts_of_several_reports_have_anchors_of_their_own():
    names = ("AuditReport", "AuditReport", "EvaluationReport")
    page = to_page([PageSource(name, SAMPLES[name]()) for name in names])
    assert "<title>2 adapters</title>" in page
    assert (page.count(asset(BUNDLE)), page.count("<h1")) == (1, 1)
    assert all(f'id="plot-{part}"' in page for part in ("2-energy", "3-energy", "4-forest"))


def test_only_a_page_of_ours_is_known_as_one(tmp_path):
    ours, other = tmp_path / "ours.html", tmp_path / "other.html"
    ours.write_bytes(MARK + b"...")
    other.write_bytes(b"<!doctype html>")
    assert is_page(ours)
    assert not is_page(other)
    assert not is_page(tmp_path)
    assert not is_page(tmp_path / "none.html")


@pytest.mark.parametrize("name", PAGES)
def test_no_chart_prints_the_same_label_three_times(name):
    """Of its title, its axes, its color bar and its legend."""
    for part in parts_of(PAGES[name](), texts=True):
        for section in part.sections:
            for plot in section.plots:
                labels = [plot.title, plot.x.title, plot.y.title]
                labels += [series.color.title for series in plot.series if isinstance(series, Image)]
                labels += [series.name for series in plot.series if len(plot.series) > 1]
                counts = Counter(label.casefold() for label in labels if label)
                assert max(counts.values()) < 3, (plot.name, counts.most_common(1))
