"""Each kind of thing is added in one file and one line: a toy of each, seen everywhere where its kind is seen."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree
from types import MappingProxyType, ModuleType

import pytest

from gradience.cli.app import run
from gradience.cli.demo import example_adapter
from gradience.evaluate.engines.base import AdapterIdentity, Output, Score
from gradience.tasks.base import GenerationTask
from gradience.tasks.examples import PromptExample, content_id, prepare

EXAMPLE = example_adapter()


@pytest.fixture
def command(capsys):
    """`gradience ARGUMENTS`, which must end with `code`: what it prints to stdout, and what to stderr."""

    def call(*arguments, code=0):
        assert run([*map(str, arguments)]) == code
        return capsys.readouterr()

    return call


@pytest.fixture
def artifact(command):
    """What `gradience ARGUMENTS --json` prints."""
    return lambda *arguments, code=0: json.loads(command(*arguments, "--json", code=code).out)


def test_a_toy_control_a_toy_arm_and_a_toy_variant_are_one_object_and_one_line_each(tmp_path, monkeypatch):
    """Seen in the config, the plan, a run, its verdict, and the pages."""
    from bench.tiny_bench import bert, sentences

    from gradience.artifacts.run import Stopwatch
    from gradience.bench.arms import ranks, registry
    from gradience.bench.arms.arm import Control, Derived
    from gradience.bench.config.load import BenchConfig
    from gradience.bench.plan.preregister import bench_plan
    from gradience.bench.run.assemble import assemble
    from gradience.bench.run.seed import SeedRun
    from gradience.bench.verdict.aggregate import aggregate
    from gradience.plan.criteria import ToRank
    from gradience.report.faces import to_markdown

    values = {
        "model": {"name": str(bert(tmp_path / "base")), "type": "seqcls"},
        "task": {"profile": "sentences", "probe_gate": {"min_value": 0}},
        "lora": {"probe_r": 4, "alpha": 8, "target_modules": ["query", "value"]},
        "train": {"lr": 3e-3, "max_steps": 2, "per_device_train_batch_size": 4, "max_length": 16},
        "compression": {"variants": ["narrow"], "arms": ["cut"], "controls": ["unharmed"]},
        "runtime": {"device": "cpu", "threads": 1},
    }
    with pytest.raises(ValueError, match="'unharmed' is none of per_layer_shuffled, random_directions"):
        BenchConfig.model_validate(values)

    narrow = ranks.Choice({}, "two of each module")
    monkeypatch.setitem(
        ranks.VARIANTS, "narrow", lambda probe: narrow._replace(ranks=probe.ranks_by(ToRank(2)))
    )
    cut = Derived("cut", registry.ARMS["truncate"].make)
    monkeypatch.setitem(registry.ARMS, "cut", cut)
    unharmed = Control(
        name="unharmed",
        words="the probe itself: must fail, which it cannot",
        ranks=lambda probe: ranks.Choice(probe.ranks, "all of it"),
        arm=Derived("copy", lambda source, _, target: copytree(source.probe, target)),
        expected="FAIL",
        otherwise="nothing was lost",
    )
    monkeypatch.setitem(registry.CONTROLS, "unharmed", unharmed)

    config, task = BenchConfig.model_validate(values), sentences()
    plan = bench_plan(config, "sentences", [])
    assert (plan.tests, plan.controls) == (("narrow.cut",), ("unharmed",))
    bench = assemble(SeedRun(config, task, 42, tmp_path / "run").run(), task, plan, Stopwatch())
    assert [(result.name, result.arm, result.made_by, result.evidence) for result in bench.variants] == [
        ("narrow.cut", "cut", "cut", "two of each module"),
        ("unharmed", "control", "copy", "all of it"),
    ]
    assert bench.variants[0].ranks.largest == 2
    assert bench.notes[-1].endswith("where it does on all seeds, nothing was lost")
    assert "- **unharmed**: the probe itself: must fail, which it cannot" in to_markdown(bench)
    assert "| `unharmed` | not as expected |" in to_markdown(bench)

    page = to_markdown(aggregate([bench]))
    assert "unharmed must fail, and passes on the one seed there is" in page
    assert "controls: unharmed is PASS and must be FAIL" in page


def test_a_toy_rule_of_check_is_one_function_and_one_line(tmp_path, monkeypatch, command, artifact):
    from gradience.check import rules
    from gradience.check.context import Context, Problem, Problems
    from gradience.rules import need, rule

    @rule("odd-rank", "error", "arithmetic")
    def odd_rank(context: Context) -> Problems:
        """A rank that cannot be halved."""
        r = need(context.settings.r)
        if r % 2:
            yield Problem("r", str(r), str(r + 1), f"rank {r} is odd", "half of it is no rank")

    monkeypatch.setattr(rules, "RULES", (*rules.RULES, odd_rank))
    config = tmp_path / "adapter_config.json"
    seen = {}
    for r in (None, 8, 7):
        config.write_text(json.dumps({"peft_type": "LORA", "target_modules": "all-linear", "r": r}))
        seen[r] = artifact("check", config, code=1 if r == 7 else 0)
    assert seen[7]["findings"][0]["code"] == "odd-rank"  # errors come first
    assert seen[8]["passed"][-1] == seen[None]["not_applicable"][-1] == "odd-rank"
    shown = command("check", config, "--verbose", code=1).out
    assert "rank 7 is odd" in shown
    assert "half of it is no rank" in shown
    assert "arithmetic" in shown


def test_a_toy_dialect_of_check_is_one_object_and_one_line(tmp_path, monkeypatch, command, artifact):
    from gradience.check import dialects
    from gradience.check.dialects.dialect import Dialect, switched

    keys = {"size": "r", "strength": "alpha", "speed": "learning_rate", "shy": "prompt_loss"}
    toy = Dialect(
        "toy",
        lambda values: "toy" in values,
        keys,
        lora=switched("toy", lambda kind: kind == "lora"),
        switch="toy: lora",
        defaults={"r": 4},
        hold_out="test: true",
    )
    monkeypatch.setattr(dialects, "DIALECTS", (toy, *dialects.DIALECTS))
    config = tmp_path / "config.yaml"
    config.write_text("toy: lora\nstrength: 8\nspeed: fast\n")
    report = artifact("check", config, code=1)
    assert report["files"][0]["dialect"] == "toy"
    assert (report["settings"]["r"], report["settings"]["scale"]) == (4, 2)
    findings = {finding["code"]: finding for finding in report["findings"]}
    assert findings["unreadable-value"]["where"] == "config.yaml: speed"
    config.write_text("toy: full\nspeed: 2e-4\n")
    shown = command("check", config).out
    assert "toy: lora, if LoRA is meant" in shown
    assert "test: true" in shown


def test_a_toy_rule_of_monitor_is_one_function_and_one_line(tmp_path, monkeypatch, command, artifact):
    from gradience.monitor import rules
    from gradience.monitor.run import Observation, Observations, Run, evidence, need_method
    from gradience.rules import rule
    from gradience.telemetry import TelemetryWriter

    @rule("long-run", "error", "patience")
    def long_run(run: Run) -> Observations:
        """More than two steps."""
        need_method(run, "supervised")
        if (run.facts.last_step or 0) > 2:
            step = run.facts.last_step
            yield Observation(f"{step} steps are many", evidence("steps", step), "high", "stop", "it is late")

    monkeypatch.setattr(rules, "RULES", (*rules.RULES, long_run))
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
    assert report["recommendations"][-1]["because"] == "long-run"


def test_a_toy_finding_of_the_audit_is_one_function_and_one_line(monkeypatch, command, artifact):
    from gradience.artifacts.finding import Finding
    from gradience.audit import findings
    from gradience.audit.findings.facts import Facts

    def crowd(facts: Facts) -> Iterator[Finding]:
        if len(facts.layers) > 2:
            yield Finding(code="crowd", severity="error", message=f"{len(facts.layers)} are a crowd")

    monkeypatch.setattr(findings, "RULES", (*findings.RULES, crowd))
    assert "are a crowd" in command("audit", EXAMPLE).out
    assert artifact("audit", EXAMPLE)["findings"][0]["code"] == "crowd"


def test_a_toy_measure_is_one_function_one_field_and_one_line(monkeypatch):
    from pydantic.dataclasses import dataclass

    from gradience import audit_adapter
    from gradience.artifacts.audit import LayerAudit
    from gradience.artifacts.base import ROW_CONFIG
    from gradience.audit import measures, module

    @dataclass(frozen=True, slots=True, config=ROW_CONFIG, kw_only=True)
    class WiderRow(LayerAudit):
        crest: float | None = None

    monkeypatch.setattr(module, "LayerAudit", WiderRow)
    crest = {"crest": lambda update: float(update.values[0] / update.values.mean())}
    monkeypatch.setattr(module, "MEASURES", {**measures.MEASURES, **crest})
    report = audit_adapter(EXAMPLE)
    assert all(1 < row.crest <= row.r for row in report.layers if row.status == "ok")


def test_a_toy_criterion_is_one_class(tmp_path):
    """The plan says what it follows, and what is written has its ranks."""
    from gradience import audit_adapter, compress_adapter, plan_compression
    from gradience.plan.grids import EVERY_RANK

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


class TableEngine:
    """Answers from a table; the base alone says nothing."""

    name = "table"
    classifies = False
    max_length = None
    table = MappingProxyType({"two and two": "4", "two and three": "5"})

    def __init__(self, base: str) -> None:
        self.base, self.adapters = base, {}

    @classmethod
    def load(cls, model, *, labels=None, device="auto"):
        assert labels is None
        return cls(model.name)

    @classmethod
    def numerics(cls, device="auto"):
        return {"device": device, "threads": 1, "versions": {"table": "1"}}

    @property
    def facts(self):
        made_of = {"base_sha256": "0", "tokenizer_sha256": "0", "dtype": "float32", "attention": None}
        return {"engine": self.name, "base": self.base, **made_of, **self.numerics()}

    def add(self, name, folder):
        self.adapters[name] = AdapterIdentity.of(folder)

    def remove(self, name):
        del self.adapters[name]

    def generate(self, name, prompts, *, max_new_tokens, stop=(), max_length=None):
        return [Output(self.table.get(prompt, "") if name else "", 1, "eos", False) for prompt in prompts]

    def score(self, names, pairs, *, reference=None, max_length=None):
        return [[Score(0.0 if name else -1.0, 1, True, None, None, False) for _ in pairs] for name in names]

    def close(self):
        self.adapters.clear()


def additions(*, answers: tuple[str, ...] = ("4", "5", "6")) -> GenerationTask:
    texts = ("two and two", "two and three", "two and four")
    return GenerationTask(
        name="additions",
        examples=prepare(
            PromptExample(content_id(f"{role} {text}"), text, f" {answer}", answer, role)
            for role in ("train", "confirm")
            for text, answer in zip(texts, answers, strict=True)
        ),
        filters={"all": lambda output: output or None},
        same=str.__eq__,
        max_new_tokens=4,
    )


def test_a_toy_engine_and_a_toy_task_are_one_file_and_one_line_each(tmp_path, monkeypatch):
    """Seen in the answers, the header of the records, the key of the evaluation, and what may be compared."""
    from gradience import tasks
    from gradience.artifacts.records import count, read_records
    from gradience.errors import UsageError
    from gradience.evaluate import diverge, engine
    from gradience.evaluate.engines import ENGINES
    from gradience.evaluate.evaluator import Evaluator
    from gradience.models.settings import ModelSettings

    toy = ModuleType("gradience.tasks.additions")
    toy.load = additions
    monkeypatch.setitem(sys.modules, toy.__name__, toy)
    with pytest.raises(UsageError, match="no engine `table`"):
        engine("table")

    monkeypatch.setattr(tasks, "PROFILES", (*tasks.PROFILES, "additions"))
    monkeypatch.setitem(ENGINES, "table", f"{__name__}:TableEngine")

    task = tasks.load("additions", {"answers": ["4", "5", "6"]})
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (tmp_path / name).touch()
    examples, base = task.examples.of("confirm"), ModelSettings(name="nothing", type="causal_lm")
    evaluator = Evaluator(task, base, examples, batch_size=2, max_length=8, engine_name="table")
    assert evaluator.settings["engine"] == "table"
    assert evaluator.numerics["versions"] == {"table": "1"}
    answers = evaluator.answers("a", tmp_path, tmp_path / "a.records.jsonl")
    assert (count(answers.records).correct, count(answers.records).no_answer) == (2, 1)
    assert read_records(tmp_path / "a.records.jsonl") == answers
    assert (answers.run.engine, answers.run.scoring) == ("table", "additions 1")
    elsewhere = answers.run.model_copy(update={"engine": "transformers"})
    with pytest.raises(UsageError, match="their settings differ"):
        diverge(answers, (elsewhere, answers.records))
    evaluator.close()


def test_a_toy_metric_is_one_function_and_one_line(monkeypatch):
    from gradience.tasks import metrics

    monkeypatch.setitem(
        metrics.METRICS, "errors", lambda _, labels, predictions: float(labels != predictions)
    )
    assert metrics.score("errors", [0, 1], [0, 0]) == 1


def test_a_toy_format_of_adapters_is_one_file_and_one_line(tmp_path, monkeypatch, command, artifact):
    """It is audited, compared and made smaller as an adapter of PEFT is."""
    import numpy as np
    from safetensors.numpy import save_file

    from gradience.adapters import formats
    from gradience.adapters.adapter import Adapter, Factor, LoraPair
    from gradience.adapters.config import PeftConfig
    from gradience.adapters.locate import Location
    from gradience.adapters.tensors import TensorFile

    def open_toy(path: Path, adapter: str | None) -> Adapter:
        """`toy.json` holds the scale, `toy.safetensors` the factors `NAME/down` and `NAME/up`."""
        scale = json.loads((path / "toy.json").read_bytes())["scale"]
        file = TensorFile.open(path / "toy.safetensors", root=path)
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
        opened = Adapter("toy", where, config, [file], None, pairs)
        opened.stack.enter_context(file)
        return opened

    toy = formats.Format(lambda path: (path / "toy.json").is_file(), open_toy)
    monkeypatch.setattr(formats, "FORMATS", {"toy": toy, **formats.FORMATS})

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


def test_a_toy_section_of_a_report_is_one_function_and_one_line(monkeypatch, command):
    """Seen on the screen, in Markdown and in a notebook; a stranger's name in it is no markup anywhere."""
    from gradience import audit_adapter
    from gradience.artifacts.audit import AuditReport
    from gradience.report import audit
    from gradience.report.audit.view import View
    from gradience.report.blocks import Block, Column, Heading, Span, Table

    def letter_blocks(report: AuditReport, view: View) -> list[Block]:
        """Which module has the longest name?"""
        longest = max((layer.name for layer in report.layers), key=len)
        table = Table([Column("module"), Column("letters", ">")], [[Span(f"<{longest}>", "name"), "41"]])
        return [Heading("Which name is long?"), table]

    monkeypatch.setattr(audit, "SECTIONS", (*audit.SECTIONS, letter_blocks))
    shown = command("audit", EXAMPLE).out
    assert "\nWhich name is long?\n  module " in shown
    assert "\n  <bert.encoder.layer." in shown
    report = audit_adapter(EXAMPLE)
    assert (
        "\n## Which name is long?\n\n| module | letters |\n| --- | ---: |\n| &#60;bert."
        in report.to_markdown()
    )
    assert "<h4>Which name is long?</h4>" in str(report._repr_html_())
    assert "<bdi>&lt;bert." in str(report._repr_html_())


def test_a_toy_encoding_is_one_function_and_one_line(tmp_path, monkeypatch, command, artifact):
    """Written, read back, explained in the report, and named where another one is unknown."""
    from gradience.compress import encodings
    from gradience.compress.encodings import Encoded, EncodingRule, Target, config_fields

    def doubled(targets: list[Target], reason: str) -> Encoded:
        """One rank, and every scale twice what it was: B is halved."""
        rank, scale = targets[0].rank, 2 * targets[0].scale
        ranks, folds, scales = ({target.name: value for target in targets} for value in (rank, 0.5, scale))
        return Encoded("doubled", reason, config_fields(rank, scale * rank), ranks, folds, scales)

    monkeypatch.setitem(encodings.ENCODINGS, "doubled", EncodingRule("every scale is doubled", doubled))
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


TOY_VERB = '''
"""`gradience modules`: how many modules does an adapter have?"""

from __future__ import annotations

from typing import Annotated

import typer

from gradience.cli.options import AdapterName, Quiet
from gradience.cli.progress import ProgressBar


def modules(
    folder: Annotated[str, typer.Argument(metavar="ADAPTER")], name: AdapterName = None, quiet: Quiet = False
) -> int:
    """Print how many modules an adapter has."""
    from gradience.audit.adapter import audit_adapter

    with ProgressBar(folder, quiet=quiet) as progress:
        print(audit_adapter(folder, adapter=name, progress=progress).n_layers)
    return 8
'''


def test_a_toy_verb_is_one_file_and_one_line(tmp_path, monkeypatch, command):
    """It has a line in the help and help of its own, its errors are shown as those of others are, its code counts."""
    from gradience import cli
    from gradience.cli import app

    (tmp_path / "modules.py").write_text(TOY_VERB, encoding="utf-8")
    monkeypatch.setattr(cli, "__path__", [*cli.__path__, str(tmp_path)])
    monkeypatch.setattr(app, "VERBS", (*app.VERBS, "modules"))
    monkeypatch.setattr(app, "app", app.application())

    assert "Print how many modules an adapter has." in command("--help").out
    assert "--adapter NAME" in command("modules", "--help").out
    assert int(command("modules", EXAMPLE, code=8).out) > 0
    assert "error: absent: no such file or folder" in command("modules", "absent", code=3).err


def test_a_toy_runtime_is_one_entry_and_its_runs(tmp_path, monkeypatch, artifact):
    from gradience.runtimes import verdict
    from gradience.runtimes.record import Runs, RuntimeRecord, read_runs
    from gradience.runtimes.runtime import RUNTIMES, Runtime
    from gradience.runtimes.scales import LoadedAdapter, LoadedModule, peft_scale

    def doubled(adapter: LoadedAdapter, module: LoadedModule) -> float:
        return 2 * peft_scale(adapter, module)

    architecture = "BertForSequenceClassification"
    peft = next(record for record in read_runs() if record.runtime == "PEFT")
    runs = {architecture: Runs(peft.architectures[architecture].loads, (), ())}
    records = [RuntimeRecord(name, "1.0", "2026-11-26", "docs/toy.md", runs) for name in ("kind", "rude")]
    monkeypatch.setitem(RUNTIMES, "kind", Runtime(peft_scale, lambda adapter: "with patience"))
    monkeypatch.setitem(RUNTIMES, "rude", Runtime(doubled))
    monkeypatch.setattr(verdict, "read_runs", lambda: (*read_runs(), *records))
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    report = artifact("compress", EXAMPLE, "--rank", 4, "-o", tmp_path / "out", "--base-model", base)
    verdicts = {row["runtime"]: row for row in report["runtimes"]}
    assert (verdicts["kind"]["verdict"], verdicts["kind"]["why"]) == ("loads", "with patience")
    assert verdicts["rude"]["verdict"] == "wrong scale"
