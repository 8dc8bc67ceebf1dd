"""The screen: golden files, its size, and the order of its answers."""

import re
from pathlib import Path

import pytest
from audit_sample import mistral_rows, power_law, report, row
from golden import assert_golden
from rich.cells import cell_len

from gradience.adapters.adapter import Adapter
from gradience.audit.adapter import audit_adapter
from gradience.audit.findings import AdapterFacts, find
from gradience.cli.demo import example_adapter
from gradience.reports.audit import (
    BESIDE_MAP,
    MAX_KINDS,
    TensorNote,
    incompleteness,
    lora_config_source,
    ruler,
    where_blocks,
)
from gradience.reports.base.blocks import Paragraph, Table, View
from gradience.reports.base.modules import short_labels
from gradience.reports.base.report import Finding

GOLDEN = Path(__file__).parent / "golden"

SATURATED = Finding(
    code="saturated",
    severity="warning",
    module="model.layers.31.mlp.down_proj",
    message="2 of 224 modules need at least 85 % of their directions for 90 % of their energy: "
    "model.layers.31.mlp.down_proj, model.layers.30.mlp.down_proj",
    hint="truncation loses most here",
)


def mistral():
    return report(mistral_rows(), findings=[SATURATED])


def small():
    """Everything unusual at once: ranks that differ, a head, saved modules, an untrained module, knife edges, fp8."""
    fp8 = {"dtype": "F8_E4M3", "storage_error": 2e-3}
    layer = "bert.encoder.layer"
    rows = [
        row(
            f"{layer}.{i}.attention.self.{kind}", power_law(r, 0.5 + 0.2 * i), r=r, shape=(384, 384), index=i,
            layer=f"{layer}.{i}", alpha=16.0, scale=16.0 / r, borderline=i == 1, tau=0.95, **fp8,
        )
        for i in range(6)
        for kind, r in (("query", 8), ("value", 16))
    ]  # fmt: skip
    name, place = f"{layer}.5.output.dense", {"layer": f"{layer}.5", "index": 5}
    rows.append(row(name, None, r=8, shape=(384, 1536), status="untrained", scale=2.0, **place))
    head = {"r": 2, "shape": (2, 384), "alpha": 16.0, "scale": 8.0, "tau": 0.95}
    rows.append(row("classifier", power_law(2, 0.3), **head, **fp8))
    saved = "full-weight module (modules_to_save)"
    head = [
        TensorNote(tensor="classifier.modules_to_save.weight", reason=saved, params=768),
        TensorNote(tensor="classifier.modules_to_save.bias", reason=saved, params=2),
        TensorNote(tensor="bert.pooler.dense.bias", reason="LoRA bias", params=384),
    ]
    coarse = {"message": "stored as F8_E4M3", "hint": "two digits mean something"}
    findings = [
        Finding(code="untrained", severity="warning", module=name, message=f"1 module is untrained: {name}"),
        Finding(code="coarse-storage", severity="info", **coarse),
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
EACH = pytest.mark.parametrize("name", CASES)


@EACH
def test_golden_screen_and_markdown(name):
    assert_golden(GOLDEN / f"{name}.txt", CASES[name]().to_text(width=80))
    assert_golden(GOLDEN / f"{name}.md", CASES[name]().to_markdown())


@pytest.mark.parametrize("name", ["small-mixed", "refused"])
def test_golden_layers(name):
    assert_golden(GOLDEN / f"{name}-layers.txt", CASES[name]().to_text(width=80, view=View(full=True)))


def modules(report):
    """The rows of the table of modules, as words."""
    table = report.to_text(view=View(full=True)).partition("\nAll modules\n")[2].partition("\n  Next: ")[0]
    return [line.split() for line in table.splitlines()[1:] if not line.startswith("  ±")]


def test_every_module_is_listed_on_request():
    assert len(modules(mistral())) == 224


def test_the_first_sentence_says_how_much_rank_is_used_and_what_follows():
    assert sentence_of(mistral()) == (
        "Half of the 224 modules keep 90 % of their update's energy in at most 8 of 64 directions. Rank 8 is"
        " worth testing, with 87.5 % fewer LoRA parameters."
    )
    one_direction = [one(f"m.layers.{i}.q", 1, index=i) for i in range(4)]
    assert "energy in 1 of 8 directions. Rank 1 is worth testing," in sentence_of(report(one_direction))
    full = [one(f"m.layers.{i}.q", 8, index=i) for i in range(4)]
    assert sentence_of(report(full)).endswith("at most 8 of 8 directions. No smaller rank is suggested.")
    some = [*full, *(one(f"m.layers.{i}.v", 2, index=i) for i in range(2))]
    assert "Ranks per module are worth testing, with 25.0 % fewer" in sentence_of(report(some))
    assert sentence_of(refused()).endswith("No smaller rank is suggested, for the reason below.")
    lost = row("m.q", None, r=8, shape=(32, 16), status="untrained")
    assert sentence_of(report([lost])) == "No module could be measured."
    assert sentence_of(report([lost, one("m.v", 3)])).startswith("The only measured module keeps 90 % of its")


def sentence_of(audited):
    """The first sentence of a report."""
    return audited.blocks()[1].text.text


def test_the_next_step_finds_a_size_on_examples_and_no_rank_is_recommended():
    shown = mistral().to_text(width=None)
    assert "Next: gradience shrink ./my-adapter --data rows.jsonl\n" in shown
    assert "16 of the 18 adapters that we tested" in " ".join(shown.split())
    assert "gradience compress" not in shown
    assert "gradience shrink" not in refused().to_text(width=None), "nothing is suggested"


def test_more_findings_than_fit_are_counted_and_shown_with_layers():
    findings = [
        Finding(code=f"code-{i}", severity="warning", message=f"trouble {i}", hint=f"way {i}")
        for i in range(12)
    ]
    audited = report(mistral_rows(2), findings=findings)
    assert "6 more findings: --layers or --json" in audited.to_text()
    assert all(f"trouble {i}" in audited.to_text(view=View(full=True)) for i in range(12))
    assert all(f"way {i}" in audited.to_text(view=View(full=True)) for i in range(12))


def test_top_wasteful_lists_the_modules_with_most_spare_parameters():
    audited = mistral()
    lines = audited.to_text(view=View(most=20)).splitlines()
    listed = [line.split()[0] for line in lines[lines.index("Most unused rank") + 2 :]][:20]
    spare = {layer.name: (layer.r - layer.energy_rank_90) * sum(layer.shape) for layer in audited.layers}
    assert [spare[name] for name in listed] == sorted(spare.values(), reverse=True)[:20]
    assert "Most unused rank" not in audited.to_text()


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
    assert "The only module keeps 90 % of its update's energy in 1 of 1 directions." in " ".join(text.split())
    assert "Modules by layer" not in text
    assert max(map(cell_len, text.splitlines())) <= 80


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
    findings = find(AdapterFacts([good, coarse], Adapter("peft", None, None, [], None)))
    imprecise = [finding for finding in findings if finding.code == "imprecise"]
    text = report([good, coarse], findings=imprecise).to_text()
    assert "1 of 2 modules is accurate only to about 7.2 %" in " ".join(text.split())
    digits = [row[5] for row in modules(report([good, coarse]))]
    assert [len(number) for number in digits] == [4, 1]  # 1.53 and 2


# ---------------------------------------------------------------- Markdown


def test_golden_markdown_of_the_bundled_adapter(monkeypatch):
    monkeypatch.chdir(example_adapter().parents[2])
    report = audit_adapter("gradience/examples/minilm-reviews-r8")
    assert_golden(GOLDEN / "minilm-reviews-r8.md", report.to_markdown())


# ---------------------------------------------------------------- The map of layers and kinds of modules


def one(name, k, *, r=8, index=0, layer="model.layers", **more):
    """A module whose k@90 is exactly k: k equal singular values."""
    sigma = power_law(r, 0.0)
    sigma[k:] = 0.0
    module = row(name, sigma, r=r, shape=(32, 16), layer=f"{layer}.{index}", index=index, **more)
    assert module.energy_rank_90 == k
    return module


def drawn(rows, width=40, **options):
    """The table of the map of these modules, and the sentences below it."""
    _, *blocks = where_blocks(report(rows, **options), View(width=width + BESIDE_MAP))
    (table,) = [block for block in blocks if isinstance(block, Table) and block.columns[1].drawing]
    return table, str([block.text for block in blocks if isinstance(block, Paragraph)])


def test_the_largest_stack_is_drawn_and_what_lies_outside_is_counted():
    rows = [one(f"encoder.block.{i}.q", 1, index=i, layer="encoder.block") for i in range(3)]
    rows += [one(f"decoder.block.{i}.q", 8, index=i, layer="decoder.block") for i in (0, 1, 9)]
    rows += [one("decoder.block.4.q", 4, index=4, layer="decoder.block")]
    rows += [row("lm_head", power_law(8, 1.0), r=8, shape=(100, 16))]
    table, _ = drawn(rows)
    assert "".join(span.text for span in table.rows[0][1]) == "████████▄▄▄▄████"
    assert table.columns[1].title.split() == ["0", "1", "4", "9"]
    shown = " ".join(report(rows).to_text().split())
    assert "4 modules outside these layers" in shown


def test_absurd_layer_numbers_and_many_kinds_do_not_make_it_large():
    rows = [one("model.layers.999999999999999999.q_proj", 1, index=999999999999999999)]
    rows += [one(f"model.layers.0.kind{i}", 1) for i in range(500)]
    rows += [one(f"stack{i}.0.q", 1, layer=f"stack{i}") for i in range(300)]
    table, words = drawn(rows, 38)
    assert len(table.rows) == MAX_KINDS
    assert f"{501 - MAX_KINDS} more kinds of modules" in words


@pytest.mark.parametrize(
    ("kinds", "labels"),
    [
        (["self_attn.q_proj", "mlp.up_proj"], ["q_proj", "up_proj"]),
        (["attn.c_proj", "mlp.c_proj", "attn.c_attn"], ["attn.c_proj", "mlp.c_proj", "c_attn"]),
        (["proj", "x.proj"], ["proj", "x.proj"]),
        (["q"], ["q"]),
    ],
)
def test_labels_are_the_shortest_ends_that_differ(kinds, labels):
    assert list(short_labels(kinds).values()) == labels


@pytest.mark.parametrize(
    ("number", "width"), [(32, 40), (80, 40), (6, 40), (1, 40), (2, 40), (126, 40), (48, 60)]
)
def test_ruler_numbers_never_touch_and_stand_over_their_columns(number, width):
    indices = list(range(number))[:: -(-number // width)]
    cell_width = max(1, min(4, 36 // len(indices)))
    text = ruler(indices, cell_width)
    numbers = text.split()
    assert numbers[-1] == str(indices[-1])
    assert [int(number) for number in numbers] == sorted({int(number) for number in numbers})
    for number in numbers[:-1]:
        position = f" {text} ".index(f" {number} ")
        assert indices[position // cell_width] == int(number)


# ---------------------------------------------------------------- The LoraConfig to copy


def test_an_unknown_alpha_is_left_to_the_reader():
    audited = report(mistral_rows(1))
    per = audited.suggestions.per_layer.model_copy(update={"lora_alpha": None, "alpha_pattern": {}})
    audited = audited.model_copy(
        update={"suggestions": audited.suggestions.model_copy(update={"per_layer": per})}
    )
    source = lora_config_source(audited)
    assert not re.search("^ *(lora_alpha|alpha_pattern)=", source, re.MULTILINE)
    assert "set lora_alpha" in source


def test_no_suggestion_no_config():
    assert lora_config_source(refused()) is None
