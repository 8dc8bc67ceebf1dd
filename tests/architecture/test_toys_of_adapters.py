"""What is added to the verbs on adapters: a toy of each, seen wherever its kind is seen."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from shutil import copytree
from types import SimpleNamespace

import pytest

from gradience.cli.demo import example_adapter
from gradience.reports.base import html

EXAMPLE = example_adapter()


def test_a_toy_measure_is_one_function_one_field_and_one_line(add):

    from gradience import audit_adapter
    from gradience.files.artifact import artifact_row
    from gradience.reports.audit import LayerAudit

    @artifact_row
    class WiderRow(LayerAudit):
        crest: float | None = None

    def crest(update):
        return float(update.values[0] / update.values.mean())

    add("measure", crest, name="crest", LayerAudit=WiderRow)
    report = audit_adapter(EXAMPLE)
    assert all(1 < row.crest <= row.r for row in report.layers if row.status == "ok")


def test_a_toy_finding_of_the_audit_is_one_function_and_one_line(add, command, artifact):
    from gradience.audit.findings import AdapterFacts
    from gradience.reports.base.report import Finding

    def crowd(facts: AdapterFacts) -> Iterator[Finding]:
        if len(facts.layers) > 2:
            yield Finding(code="crowd", severity="error", message=f"{len(facts.layers)} are a crowd")

    add("finding", crowd)
    assert "are a crowd" in command("audit", EXAMPLE).out
    assert artifact("audit", EXAMPLE)["findings"][0]["code"] == "crowd"


def test_a_toy_criterion_is_one_class(tmp_path):
    """The plan says what it follows, and what is written has its ranks."""
    from gradience import audit_adapter, compress_adapter, plan_compression
    from gradience.plan.modules import EVERY_RANK

    class ByStableRank:
        words = "the stable rank of every module"

        def choose(self, report, modules, grid=EVERY_RANK):
            needed = {row.name: round(row.stable_rank or 1) for row in report.layers}
            return {module.name: grid.up(needed[module.name], module.rank) for module in modules}

    report = audit_adapter(EXAMPLE)
    plan = plan_compression(report, ByStableRank(), allowed_ranks=[1, 2, 4])
    assert plan.criterion == "the stable rank of every module, ranks from 1, 2, 4"
    compress_adapter(EXAMPLE, tmp_path / "smaller", plan=plan)
    written = {row.name: row.r for row in audit_adapter(tmp_path / "smaller").layers}
    assert written == {module.name: module.new_rank for module in plan.modules}


def test_a_toy_format_of_adapters_is_one_file_and_one_line(tmp_path, add, command, artifact):
    """It is audited, compared and made smaller as an adapter of PEFT is."""
    import numpy as np
    from safetensors.numpy import save_file

    from gradience.adapters.adapter import Adapter, Factor, LoraPair
    from gradience.adapters.config import PeftConfig
    from gradience.adapters.formats import AdapterFormat
    from gradience.adapters.locate import Location
    from gradience.adapters.tensors import TensorFile

    def open_toy(path: Path, adapter: str | None, stack: ExitStack) -> Adapter:
        """`toy.json` holds the scale, `toy.safetensors` the factors `NAME/down` and `NAME/up`."""
        scale = json.loads((path / "toy.json").read_bytes())["scale"]
        file = stack.enter_context(TensorFile.open(path / "toy.safetensors", root=path))
        pairs = []
        for name in sorted(
            tensor.removesuffix("/down") for tensor in file.entries if tensor.endswith("/down")
        ):
            a, b = (Factor(f"{name}/{side}", file, file.entries[f"{name}/{side}"]) for side in ("down", "up"))
            (rank, columns), (rows, _) = a.entry.shape, b.entry.shape
            alpha = scale * rank
            pairs.append(LoraPair(name, "linear", a, b, rank, rows, columns, alpha=alpha, scale=scale))
        fields = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "target_modules": ["q_proj"]}
        config = PeftConfig(path / "toy.json", fields, r=rank, lora_alpha=alpha)
        where = Location(path, path, (file.path,), path / "toy.json")
        return Adapter("toy", where, config, [file], None, pairs)

    toy = AdapterFormat(lambda path: (path / "toy.json").is_file(), open_toy, {"toy": "A toy of a LoRA"})
    add("format of adapters", toy, name="toy", first=True)

    rng = np.random.default_rng(0)
    A, B = rng.standard_normal((4, 12)), rng.standard_normal((9, 4))
    folder = tmp_path / "adapter"
    folder.mkdir()
    save_file({"layers.0.q_proj/down": A, "layers.0.q_proj/up": B}, folder / "toy.safetensors")
    (folder / "toy.json").write_text('{"scale": 0.5}')
    report = artifact("audit", folder)
    (layer,) = report["layers"]
    assert (report["adapter"]["format"], layer["name"], layer["scale"]) == ("toy", "layers.0.q_proj", 0.5)
    expected = np.linalg.svd(0.5 * B @ A, compute_uv=False)[:4]
    np.testing.assert_allclose(layer["singular_values"], expected, rtol=1e-9)

    assert "A toy of a LoRA, rank 4" in command("audit", folder).out

    twice = copytree(folder, tmp_path / "twice")
    (twice / "toy.json").write_text('{"scale": 1.0}')
    (row,) = artifact("compare", folder, twice)["modules"]
    assert row["norm_b"] == pytest.approx(2 * row["norm_a"])
    assert row["cosine"] == pytest.approx(1)

    smaller = tmp_path / "smaller"  # which is an adapter of PEFT
    command("compress", folder, "--rank", 2, "--output", smaller)
    assert sorted(path.name for path in smaller.glob("adapter*")) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    (row,) = artifact("compare", folder, smaller)["modules"]
    lost = np.linalg.norm(expected[2:]) / np.linalg.norm(expected)
    assert row["relative_difference"] == pytest.approx(lost)


def test_a_toy_format_that_is_written_is_one_file_and_one_line(tmp_path, add, command):
    from gradience.convert.verb import PeftForm

    class ToyForm(PeftForm):
        def write(self, path, tensors, settings):
            (path.parent / "toy.txt").write_text(f"{len(self.opened.pairs)} toys")
            return super().write(path, tensors, settings)

    add("format that is written", ToyForm, name="toy")
    assert " to toy" in command("convert", EXAMPLE, tmp_path / "toy", "--to", "toy").out
    assert (tmp_path / "toy" / "toy.txt").read_text() == "16 toys"
    assert (
        "one of: peft, mlx, gguf, diffusers, toy"
        in command("convert", EXAMPLE, tmp_path / "no", "--to", "none", code=2).err
    )


def test_a_toy_encoding_is_one_function_one_name_and_one_line(tmp_path, add, command, artifact):
    """Written, read back, explained in the report, and named in the schema, and where another one is unknown."""
    from gradience.compress.layout import EncodingRule, Target, Written
    from gradience.reports.base.encodings import ENCODING_NAMES
    from gradience.reports.compression import CompressionReport

    def doubled(targets: list[Target]) -> list[Written]:
        """Return rank and α of each module for twice its scale; what writes it then halves B."""
        return [(target.rank, 2 * target.scale * target.rank) for target in targets]

    rule, names = EncodingRule("every scale is doubled", doubled), (*ENCODING_NAMES, "doubled")
    add("encoding", rule, name="doubled", ENCODING_NAMES=names)
    assert CompressionReport.model_json_schema()["properties"]["encoding"]["enum"] == [*names]
    plain, toy = tmp_path / "plain", tmp_path / "toy"
    compress = ("compress", EXAMPLE, "--rank", 4, "--output")
    command(*compress, plain)
    assert "every scale is doubled" in command(*compress, toy, "--encoding", "doubled").out
    configs = [json.loads((folder / "adapter_config.json").read_bytes()) for folder in (plain, toy)]
    assert configs[1]["lora_alpha"] == 2 * configs[0]["lora_alpha"]
    assert json.loads((toy / "compression_report.json").read_bytes())["encoding"] == "doubled"
    assert artifact("compare", plain, toy)["relative_difference"] < 1e-6
    refused = command(*compress, tmp_path / "no", "--encoding", "tripled", code=2)
    assert "one of uniform, patterns, padded, folded, doubled" in refused.err


def test_a_toy_runtime_is_one_entry_and_its_runs(tmp_path, add, artifact):
    from gradience.runtimes.verdict import LoadedAdapter, Runs, Runtime, RuntimeRecord, peft_scale, read_runs

    def doubled(adapter: LoadedAdapter, module: str) -> float:
        return 2 * peft_scale(adapter, module)

    architecture = "BertForSequenceClassification"
    peft = next(record for record in read_runs() if record.runtime == "PEFT")
    runs = {architecture: Runs(peft.architectures[architecture].loads, (), ())}
    records = [RuntimeRecord(name, "1.0", "2026-11-26", "docs/toy.md", runs) for name in ("kind", "rude")]
    entries = {"kind": Runtime(peft_scale, lambda adapter: "with patience"), "rude": Runtime(doubled)}
    shipped = read_runs()
    for number, (name, entry) in enumerate(entries.items(), 1):
        add("runtime", entry, name=name, read_runs=lambda number=number: (*shipped, *records[:number]))
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    report = artifact("compress", EXAMPLE, "--rank", 4, "-o", tmp_path / "out", "--base-model", base)
    verdicts = {row["runtime"]: row for row in report["runtimes"]}
    assert (verdicts["kind"]["verdict"], verdicts["kind"]["why"]) == ("loads", "with patience")
    assert verdicts["rude"]["verdict"] == "wrong scale"


def test_a_toy_section_of_an_audit_is_one_function_and_one_line(add, command):
    """Seen on the screen, in Markdown and in a notebook; a stranger's name in it is no markup anywhere."""
    from gradience import audit_adapter
    from gradience.reports.audit import AuditReport
    from gradience.reports.base.blocks import Block, Column, Heading, Span, Table, View

    def letter_blocks(report: AuditReport, view: View) -> list[Block]:
        """Which module has the longest name?"""
        longest = max((layer.name for layer in report.layers), key=len)
        table = Table([Column("module"), Column("letters", ">")], [[Span(f"<{longest}>", "name"), "41"]])
        return [Heading("Which name is long?"), table]

    add("section of an audit", letter_blocks)
    shown = command("audit", EXAMPLE).out
    assert "\nWhich name is long?\n  module " in shown
    assert "\n  <bert.encoder.layer." in shown
    report = audit_adapter(EXAMPLE)
    assert (
        "\n## Which name is long?\n\n| module | letters |\n| --- | ---: |\n| &#60;bert."
        in report.to_markdown()
    )
    assert "<h4>Which name is long?</h4>" in html.render(report.blocks())
    assert "<bdi>&lt;bert." in html.render(report.blocks())


def test_a_toy_section_of_a_comparison_and_one_of_a_compression(tmp_path, add, command):
    """Seen on the screen of both, of a plan too, and in the page beside the smaller adapter."""
    from gradience.reports.base.blocks import Heading, Paragraph

    def type_blocks(report, view):
        return [Heading(f"What is a {type(report).__name__}?"), Paragraph("A toy.")]

    add("section of a comparison", type_blocks)
    add("section of a compression", type_blocks)
    compress = ("compress", EXAMPLE, "--rank", 4)
    assert "\nWhat is a ComparisonReport?\n" in command("compare", EXAMPLE, EXAMPLE).out
    assert "\nWhat is a CompressionPlan?\n" in command(*compress, "--dry-run").out
    assert "\nWhat is a CompressionReport?\n" in command(*compress, "--output", tmp_path / "smaller").out
    page = (tmp_path / "smaller" / "compression_report.md").read_text(encoding="utf-8")
    assert "\n## What is a CompressionReport?\n" in page


TOY_REPORT = '''
"""How many letters a name has."""

from typing import ClassVar, Literal

from gradience.reports.base.blocks import Column, Document, Heading, Note, Notes, Span, table_of
from gradience.reports.base.report import Report


class LetterReport(Report):
    """Names and their letters."""

    row_field: ClassVar[str] = "names"

    schema_: Literal["gradience.letters/1"] = "gradience.letters/1"
    names: tuple[str, ...]
    """In alphabetical order."""

    def blocks(self) -> Document:
        table = table_of(
            self.names,
            (Column("name"), lambda name: Span(name, "name")),
            (Column("letters", ">"), lambda name: str(len(name))),
        )
        answer = Notes([Note("good", f"{len(self.names)} names")])
        return [Heading("Letters", level=1), answer, Heading("How many letters?"), table]
'''


def test_a_toy_report_is_one_file_and_one_line(tmp_path, add, new_file, command):
    """A schema, text, Markdown, HTML, a notebook, a page from its file; a stranger's name is no markup anywhere."""
    from gradience.reports.registry import model_of

    new_file("reports/letters.py", TOY_REPORT)
    add("report", "gradience.reports.letters:LetterReport", name="letters")
    report = model_of("letters")(names=("<b>",))
    file = report.save(tmp_path / "letters.json")
    assert "\nHow many letters?\n  name  letters\n  <b>         3\n" in report.to_text()
    assert "| &#60;b&#62; | 3 |" in report.to_markdown()
    assert "<bdi>&lt;b&gt;</bdi>" in report._repr_html_()
    assert str(type(report).read(file)) == str(report)
    command("report", file, "--output", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "1 names" in page
    assert "<bdi>&lt;b&gt;</bdi>" in page


TOY_PLOT = """
from gradience.reports.plots.plot import Axis, Plot, Points


def count_plot(report):
    return Plot("count", "Modules", Axis("r"), Axis("modules"), [Points("", [1], [report.n_layers])], "All.")
"""


def test_a_toy_plot(add, new_file):
    """Of an audit, which has others."""
    from gradience import audit_adapter
    from gradience.reports.plots.plot import plot_of

    new_file("reports/plots/toy.py", TOY_PLOT)
    add("plot", "plots.toy:count_plot", name="count")
    assert plot_of(audit_adapter(EXAMPLE), "count").series[0].y == [16]


TOY_VERB = '''
"""`gradience modules`: how many modules does an adapter have?"""

from typing import Annotated

import typer

from gradience.adapters.settings import NameSettings
from gradience.audit.options import AuditSettings
from gradience.cli.shared import ReportOutput


def modules(folder: Annotated[str, typer.Argument(metavar="ADAPTER")], name: NameSettings, out: ReportOutput) -> int:
    from gradience.audit.adapter import audit_adapter

    print(out.run(audit_adapter, AuditSettings(folder, adapter=name.adapter), folder).n_layers)
    return 8
'''


def test_a_toy_verb_is_one_file_and_one_line(add, new_file, command):
    """It has a line in the help and help of its own, its errors are shown as those of others are, its code counts."""
    new_file("cli/modules.py", TOY_VERB)
    add("verb", {"modules": "Print how many modules an adapter has."}, name="Toys")
    assert "Print how many modules an adapter has." in command("--help").out
    assert "--adapter NAME" in command("modules", "--help").out
    assert int(command("modules", EXAMPLE, code=8).out) > 0
    assert "error: absent: no such file or folder" in command("modules", "absent", code=3).err


# ---------------------------------------------------------------- Evidence


def test_a_toy_format_of_logs_is_one_file_and_one_line(tmp_path, add, command, artifact):
    from gradience.errors import InputError
    from gradience.evidence.base import Log, LogExample

    def read(path, wanted):
        marks = path.read_text(encoding="utf-8").strip()
        if not set(marks) <= {"+", "-"}:
            raise InputError(f"{path}: only + and -", code="toy", hint="write + or -")
        items = {
            str(place): LogExample(str(place), score=float(mark == "+")) for place, mark in enumerate(marks)
        }
        return Log(path, "marks", "right", items)

    module = SimpleNamespace(NAME="marks", fits=lambda path, _: path.suffix == ".marks", read=read)
    add("format of logs", module)
    for name, marks in (("a", "++--"), ("b", "+-+-"), ("broken", "+?")):
        (tmp_path / f"{name}.marks").write_text(marks)
    report = artifact("evidence", tmp_path / "a.marks", tmp_path / "b.marks", code=8)
    assert (report["a"]["format"], report["metric"], report["n_lost"], report["n_gained"]) == (
        "marks",
        "right",
        1,
        1,
    )
    assert ".marks (marks)" in command("evidence", tmp_path / "a.marks", tmp_path / "b.marks", code=8).out
    assert "only + and -" in command("evidence", tmp_path / "a.marks", tmp_path / "broken.marks", code=3).err
    (tmp_path / "other").touch()
    unknown = command("evidence", tmp_path / "a.marks", tmp_path / "other", code=3).err
    assert "marks" in unknown.partition("known are ")[2]


def test_a_toy_section_of_two_logs(tmp_path, add, command):
    from gradience.reports.base.blocks import Heading, Paragraph

    def guess_blocks(report):
        return [Heading(f"What was guessed of {report.n}?"), Paragraph("Nothing.")]

    add("section of two logs", guess_blocks)
    scores = tmp_path / "a.csv"
    scores.write_text("id,score\na,1\nb,0\n")
    assert "\nWhat was guessed of 2?\n" in command("evidence", scores, scores, code=8).out


# ---------------------------------------------------------------- Check and monitor


def test_a_toy_rule_of_check_is_one_function_and_one_line(tmp_path, add, command, artifact):
    from gradience.check.rules import Context, Problem, Problems
    from gradience.rules import need, rule

    @rule("odd-rank", "error", "arithmetic")
    def odd_rank(context: Context) -> Problems:
        """A rank that cannot be halved."""
        r = need(context.settings.r)
        if r % 2:
            yield Problem("r", str(r), str(r + 1), f"rank {r} is odd", "half of it is not a rank")

    add("rule of check", odd_rank)
    config = tmp_path / "adapter_config.json"
    seen = {}
    for r in (None, 8, 7):
        config.write_text(json.dumps({"peft_type": "LORA", "target_modules": "all-linear", "r": r}))
        seen[r] = artifact("check", config, code=1 if r == 7 else 0)
    assert seen[7]["findings"][0]["code"] == "odd-rank"  # errors come first
    assert seen[8]["passed"][-1] == seen[None]["not_applicable"][-1] == "odd-rank"
    shown = command("check", config, "--verbose", code=1).out
    assert "rank 7 is odd" in shown
    assert "half of it is not a rank" in shown
    assert "arithmetic" in shown


def test_a_toy_dialect_of_check_is_one_object_and_one_line(tmp_path, add, command, artifact):
    from gradience.check.dialects import Dialect, Said

    keys = {"size": "r", "strength": "alpha", "speed": "learning_rate"}
    toy = Dialect(
        "toy",
        lambda values: "toy" in values,
        keys,
        lora=lambda values: Said(values["toy"] == "lora", "toy"),
        switch="toy: lora",
        defaults={"r": 4},
    )
    add("dialect of check", toy, first=True)
    config = tmp_path / "config.yaml"
    config.write_text("toy: lora\nstrength: 8\nspeed: fast\n")
    report = artifact("check", config, code=1)
    assert report["files"][0]["dialect"] == "toy"
    assert (report["settings"]["r"], report["settings"]["scale"]) == (4, 2)
    findings = {finding["code"]: finding for finding in report["findings"]}
    assert findings["unreadable-value"]["where"] == "config.yaml: speed"
    config.write_text("toy: full\nspeed: 2e-4\n")
    shown = command("check", config).out
    assert "toy: lora, if you want LoRA" in shown
    assert "eval_strategy: steps" in shown


def test_a_toy_rule_of_monitor_is_one_function_and_one_line(tmp_path, add, command, artifact):
    from gradience.monitor.rules import MonitoredRun, Observation, Observations, evidence, need_method
    from gradience.rules import rule
    from gradience.telemetry import TelemetryWriter

    @rule("long-run", "error", "patience")
    def long_run(run: MonitoredRun) -> Observations:
        """More than two steps."""
        need_method(run, "supervised")
        if (run.facts.last_step or 0) > 2:
            step = run.facts.last_step
            yield Observation(f"{step} steps are many", evidence("steps", step), "high", "stop", "it is late")

    add("rule of monitor", long_run)
    for trainer, steps, code in (("Trainer", 1, 0), ("GRPOTrainer", 3, 0), ("Trainer", 3, 1)):
        path = tmp_path / f"{trainer}{steps}.jsonl"
        with TelemetryWriter(path) as log:
            log.start({"trainer": {"class": trainer}})
            for step in range(1, steps + 1):
                log.train_step(step, loss=1.0)
        shown = command("monitor", path, "--fail-on", "error", code=code).out
    assert "3 steps are many" in shown
    assert "stop" in shown
    (report,) = artifact("monitor", path)["runs"]
    assert (report["alerts"][-1]["code"], report["alerts"][-1]["source"]) == ("long-run", "patience")
    assert report["alerts"][-1]["action"] == "stop"
