"""The screen: golden files, its size, and the order of its answers."""

from __future__ import annotations

from pathlib import Path

import pytest
from audit_sample import mistral_rows, power_law, report, row
from golden import assert_golden
from rich.cells import cell_len

from gradience.audit.findings import AdapterFacts, find
from gradience.reports.audit import TensorNote, incompleteness
from gradience.reports.base.finding import Finding

GOLDEN = Path(__file__).parent / "golden"

SATURATED = Finding(
    code="saturated",
    severity="warning",
    module="model.layers.31.mlp.down_proj",
    message="2 of 224 modules with nearly all of the rank in use (k@90 near r): model.layers.31.mlp.down_proj, "
    "model.layers.30.mlp.down_proj",
    hint="the rank may be too small here; try a larger one",
)


def mistral():
    return report(mistral_rows(), findings=[SATURATED])


def small():
    """Everything unusual at once: ranks that differ, a head, saved modules, an untrained module, knife edges, fp8."""
    fp8 = {"dtype": "F8_E4M3", "storage_error": 2e-3}
    rows = [
        row(
            f"bert.encoder.layer.{i}.attention.self.{kind}",
            power_law(r, 0.5 + 0.2 * i),
            r=r,
            shape=(384, 384),
            layer=f"bert.encoder.layer.{i}",
            index=i,
            alpha=16.0,
            scale=16.0 / r,
            borderline=i == 1,
            tau=0.95,
            **fp8,
        )
        for i in range(6)
        for kind, r in (("query", 8), ("value", 16))
    ]
    name = "bert.encoder.layer.5.output.dense"
    rows.append(
        row(
            name,
            None,
            r=8,
            shape=(384, 1536),
            status="untrained",
            layer="bert.encoder.layer.5",
            index=5,
            scale=2.0,
        )
    )
    rows.append(
        row("classifier", power_law(2, 0.3), r=2, shape=(2, 384), alpha=16.0, scale=8.0, tau=0.95, **fp8)
    )
    head = [
        TensorNote(
            tensor="classifier.modules_to_save.weight",
            reason="full-weight module (modules_to_save)",
            params=768,
        ),
        TensorNote(
            tensor="classifier.modules_to_save.bias", reason="full-weight module (modules_to_save)", params=2
        ),
        TensorNote(tensor="bert.pooler.dense.bias", reason="LoRA bias", params=384),
    ]
    findings = [
        Finding(code="untrained", severity="warning", module=name, message=f"1 module is untrained: {name}"),
        Finding(
            code="coarse-storage",
            severity="info",
            message="stored as F8_E4M3",
            hint="two digits mean something",
        ),
    ]
    words = {"path": "runs/sst2/adapter", "base_model": None, "lora_alpha": 16.0, "dtypes": ("F8_E4M3",)}
    return report(rows, findings=findings, other=head, adapter=words, grid=(4, 8, 12, 16), tau=0.95)


def refused():
    """Nothing may be suggested: B·A is not the update, and part of it is not even numbers."""
    shape = {"r": 4, "shape": (96, 32), "alpha": None, "scale": None}
    rows = [row(f"h.{i}.attn.c_attn", power_law(4, 0.1), layer=f"h.{i}", index=i, **shape) for i in range(3)]
    rows.append(row("h.3.attn.c_attn", None, layer="h.3", index=3, status="nonfinite", **shape))
    lost = [TensorNote(tensor="h.3.mlp.lora_E", reason="unknown tensor", params=4)]
    findings = [
        Finding(
            code="init-not-update",
            severity="error",
            message="initialized with pissa: B·A contains the change of the base weights",
            hint="save it with path_initial_model_for_weight_conversion and audit that",
        ),
        Finding(
            code="non-finite", severity="error", module="h.3.attn.c_attn", message="12 of 384 values are NaN"
        ),
    ]
    return report(
        rows,
        unaudited=lost,
        findings=findings,
        suggest=False,
        adapter={"format": "safetensors", "bytes": 4096},
    )


CASES = {"mistral-7b": mistral, "small-mixed": small, "refused": refused}
EACH = pytest.mark.parametrize("make", list(CASES.values()), ids=list(CASES))


@EACH
def test_golden_screen(make):
    name = next(name for name, case in CASES.items() if case is make)
    assert_golden(GOLDEN / f"{name}.txt", make().to_text(width=80))


@EACH
def test_golden_layers(make):
    name = next(name for name, case in CASES.items() if case is make)
    if make is not mistral:
        assert_golden(GOLDEN / f"{name}-layers.txt", make().to_text(width=80, layers=True))
    else:
        assert len(modules(make())) == 224


def modules(report):
    """The rows of the table of modules, as words."""
    table = report.to_text(layers=True).partition("\nAll modules\n")[2].partition("\n  Next: ")[0]
    return [line.split() for line in table.splitlines()[1:] if not line.startswith("  ±")]


def test_the_next_step_finds_a_size_on_examples_and_no_rank_is_recommended():
    shown = mistral().to_text(width=None)
    assert "Next: gradience shrink ./my-adapter --data rows.jsonl · " in shown
    assert "No rank is recommended from weights." in shown
    assert "gradience compress" not in shown
    assert "gradience shrink" not in refused().to_text(width=None), "nothing is suggested"


def test_more_findings_than_fit_are_counted_and_shown_with_layers():
    findings = [
        Finding(code=f"code-{i}", severity="warning", message=f"trouble {i}", hint=f"way {i}")
        for i in range(12)
    ]
    audited = report(mistral_rows(2), findings=findings)
    assert "8 more findings: --layers or --json" in audited.to_text()
    assert all(f"trouble {i}" in audited.to_text(layers=True) for i in range(12))
    assert all(f"way {i}" in audited.to_text(layers=True) for i in range(12))


def test_top_wasteful_lists_the_modules_with_most_spare_parameters():
    audited = mistral()
    lines = audited.to_text(top_wasteful=20).splitlines()
    listed = [line.split()[1] for line in lines if line.startswith("  most ")]
    spare = {layer.name: (layer.r - layer.energy_rank_90) * sum(layer.shape) for layer in audited.layers}
    assert len(listed) == 20
    assert [spare[name] for name in listed] == sorted(spare.values(), reverse=True)[:20]
    assert "\n  most " not in audited.to_text(top_wasteful=0)


@pytest.mark.parametrize(
    ("status", "others", "words"),
    [
        ("ok", 1, None),
        ("untrained", 1, None),
        ("untrained", 0, "the only module is untrained"),
        ("nonfinite", 1, "NaN or infinity in 1 of 2 modules"),
        ("unsupported", 1, "1 of 2 modules could not be measured"),
    ],
)
def test_incompleteness(status, others, words):
    rows = [row("a", power_law(4, 1.0) if status == "ok" else None, r=4, shape=(8, 8), status=status)]
    rows += [row("b", power_law(4, 1.0), r=4, shape=(8, 8))] * others
    reason = incompleteness(report(rows))
    assert reason is None if words is None else words in reason


def test_an_adapter_of_one_module_of_rank_one():
    text = report([row("lm_head", power_law(1, 1.0), r=1, shape=(10, 4))]).to_text()
    assert "k@90 1 of 1" in text
    assert max(map(cell_len, text.splitlines())) <= 80


def test_the_threshold_is_known_where_no_rank_is_suggested():
    rows = [row("a", power_law(8, 0.5), r=8, shape=(32, 16), tau=0.6)]
    text = report(rows, suggest=False, tau=0.6).to_text()
    assert "k@60: directions with 60 % of the energy" in text
    assert "k@60 3 of 8" in text


def test_a_sign_that_stands_for_several_modules_says_so():
    experts = [
        row(f"layers.{i}.mlp.{j}.up", power_law(8, 1.0), r=8, shape=(32, 32), layer=f"layers.{i}", index=i)
        for i in range(2)
        for j in range(5)
    ]
    assert "each cell: median of up to 5 modules" in report(experts).to_text()
    deep = [
        row(f"layers.{i}.up", power_law(8, 1.0), r=8, shape=(32, 32), layer=f"layers.{i}", index=i)
        for i in range(90)
    ]
    assert "3 layers per column, each cell: median of up to 3 modules" in report(deep).to_text(width=80)
    assert "median of" not in report(deep).to_text(width=160)


def test_errors_of_the_computation_are_bounds_and_contradict_nothing():
    good = row("a", power_law(8, 1.0), r=8, shape=(32, 32))
    coarse = row("b", power_law(8, 1.0), r=8, shape=(32, 32), error_bound=0.072)
    (finding,) = [
        finding
        for finding in find(AdapterFacts([good, coarse], None, (), (), (), ()))
        if finding.code == "imprecise"
    ]
    text = report([good, coarse], findings=[finding]).to_text()
    assert "1 of 2 modules accurate only to about 7.2 %" in " ".join(text.split())
    assert "! numerical error ≤ 4e-13; numerical error up to 0.08 in 1 other module" in text
    assert "✓ numerical" not in text
    digits = [row[5] for row in modules(report([good, coarse]))]
    assert [len(number) for number in digits] == [4, 1]  # 1.53 and 2
    assert "✓ numerical error ≤ 4e-13" in report([good]).to_text()


def test_modules_stand_in_the_order_of_their_layers():
    rows = [
        row(f"h.{i}.q", power_law(8, 1.0), r=8, shape=(64, 64), layer=f"h.{i}", index=i)
        for i in (0, 1, 10, 2)
    ]
    names = [row[0] for row in modules(report(rows))]
    assert names == ["h.0.q", "h.1.q", "h.2.q", "h.10.q"]
