"""Every report shows itself: printed, in a notebook, as Markdown, as a DataFrame, and from its file the same."""

import re
import subprocess
import sys
from pathlib import Path
from pkgutil import resolve_name

import merge_sample
import pytest
import sets_sample
from bench_sample import bench, three_seeds
from compression_sample import conversion
from fleet_sample import fleet_compression, fleet_report
from prompt_samples import calibration_report, distill_report
from rich.cells import cell_len
from test_audit_text import mistral
from test_compression_text import budget_plan, padded_report, two_logs, unlike
from test_names import parsed

from gradience.bench.verdict.aggregate import aggregate
from gradience.check import check_config
from gradience.errors import MissingExtra
from gradience.monitor import monitor_runs
from gradience.reports.base import html
from gradience.reports.base.blocks import SCREEN, View
from gradience.reports.base.report import Report
from gradience.reports.evaluation import EvaluationReport
from gradience.reports.plots.plot import plots_of
from gradience.reports.registry import reports
from gradience.reports.shrink import ShrinkReport

RUNS = Path(__file__).parents[1] / "monitor" / "runs"
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
SAMPLES = {
    "AuditReport": mistral,
    "Bench": lambda: bench(42),
    "BenchAggregate": lambda: aggregate(three_seeds(), ["a", "b", "c"]),
    "CalibrationReport": calibration_report,
    "CheckReport": lambda: check_config(r=16, alpha=16, lr=0.5),
    "ComparisonReport": unlike,
    "CompressionPlan": budget_plan,
    "CompressionReport": padded_report,
    "ConversionReport": conversion,
    "EvaluationSetsReport": sets_sample.sets_report,
    "EvaluationReport": lambda: EvaluationReport.read(RESULTS / "minilm_evaluation" / "evaluation.json"),
    "EvidenceReport": two_logs,
    "FleetCompression": fleet_compression,
    "FleetReport": fleet_report,
    "DistillReport": distill_report,
    "ShrinkReport": lambda: ShrinkReport.read(RESULTS / "minilm_shrink" / "shrink.json"),
    "MergeReport": merge_sample.merge_report,
    "MonitorReport": lambda: monitor_runs(sorted(RUNS.glob("*.jsonl"))),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_a_notebook_shows_a_table_and_a_picture_that_hold_all_of_themselves(name):
    pytest.importorskip("matplotlib")
    report = SAMPLES[name]()
    shown = report._repr_html_()
    shown, pictures = re.subn(
        r'<img alt="[^"<>]+" style="[^"]+" src="data:image/svg\+xml;base64,[A-Za-z0-9+/=]+">', "", shown
    )
    assert pictures == bool(plots_of(report))
    read = parsed(shown)
    assert read.open == []
    assert read.text
    assert not re.search(r"<(script|style|img|link|iframe)|src=|href=|on\w+=|url\(", shown)
    assert ("tr", []) in read.tags or name in ("CheckReport", "ConversionReport")
    assert shown.startswith(html.render(report.screen(SCREEN)))


def test_a_notebook_names_what_a_picture_needs(monkeypatch):
    for module in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    shown = SAMPLES["AuditReport"]()._repr_html_()
    assert "<img" not in shown
    assert ".[plots]" in shown


@pytest.mark.parametrize("name", SAMPLES)
def test_what_is_printed_is_the_screen(name):
    report = SAMPLES[name]()
    assert repr(report) == str(report)
    assert f"{report}\n" == report.to_text()


@pytest.mark.parametrize("name", SAMPLES)
def test_a_screen_fits_its_width_and_color_adds_nothing_else(name):
    report = SAMPLES[name]()
    view = View(full=True)
    for width in (20, 60, 80, 100, 250):
        text = report.to_text(width=width, view=view)
        assert max(map(cell_len, text.splitlines())) <= max(100 if name == "FleetReport" else 60, width)
        assert not re.search(r"[ \t]+$", text, flags=re.MULTILINE)
    colored = report.to_text(color=True, view=view)
    assert re.sub(r"\x1b\[[0-9;]*m", "", colored) == report.to_text(view=view) != colored


@pytest.mark.parametrize("name", SAMPLES)
def test_a_data_frame_has_a_row_for_each_and_what_is_saved_shows_the_same(name, tmp_path):
    report = SAMPLES[name]()
    rows = getattr(report, report.row_field)
    frame = report.to_dataframe()
    assert len(frame) == len(rows) > 0
    fields = {column.partition(".")[0] for column in frame.columns}
    assert fields <= set(getattr(rows[0], "__dataclass_fields__", None) or type(rows[0]).model_fields)
    assert len(fields) >= 3
    read = type(report).read(report.save(tmp_path / "report.json"))
    assert (read.to_markdown(), str(read)) == (report.to_markdown(), str(report))


def test_no_findings_are_no_rows_of_the_same_columns():
    report = check_config(r=16, alpha=16, lr=2e-4)
    assert report.findings == ()
    assert list(report.to_dataframe()) == list(SAMPLES["CheckReport"]().to_dataframe())
    assert report.to_markdown().startswith("# Check before training\n\n**No known mistake found")


def leaves(kind):
    """The classes below `kind` that have none below them."""
    below = kind.__subclasses__()
    return [kind] if not below else [leaf for each in below for leaf in leaves(each)]


def test_every_report_is_registered_and_has_rows():
    registered = reports()
    written = {kind for kind in leaves(Report) if kind.__module__.startswith("gradience.")}
    assert written == set(registered.values())
    assert set(registered) == {*SAMPLES, "Verification"}
    assert all(kind.row_field in kind.model_fields for kind in written)
    makers = {maker for kind in written for maker in kind.plots.values()}
    assert all(callable(resolve_name(f"gradience.reports.{maker}")) for maker in makers)


def test_reports_are_public_and_show_themselves_from_their_file(tmp_path):
    """In a process that has seen nothing but the files: nothing heavy is loaded for them."""
    shown = []
    for name, sample in SAMPLES.items():
        report = sample()
        report.save(tmp_path / f"{name}.json")
        shown.append(str(report))
    code = (
        f"import gradience, sys\nfor name in {list(SAMPLES)}:\n"
        f" report = getattr(gradience, name).read(f'{tmp_path}/{{name}}.json'); report.to_markdown(); print(report)\n"
        "assert not {'torch', 'transformers', 'peft', 'pandas'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "".join(f"{text}\n" for text in shown)


def test_without_pandas_a_sentence_says_what_brings_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtra, match="pandas is not installed") as refusal:
        mistral().to_dataframe()
    assert "[pandas]" in refusal.value.hint
