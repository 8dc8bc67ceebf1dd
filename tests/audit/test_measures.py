"""Measures of one module by hand: a hundred equal directions, and one alone."""

import json

import numpy as np
import pytest
from audit_sample import power_law, row
from factor_samples import write
from factory import adapter, config, factors, safetensors, stored

from gradience import audit_adapter
from gradience.adapters.adapter import Adapter
from gradience.audit.adapter import MEASURES, Update
from gradience.audit.findings import AdapterFacts, find
from gradience.errors import InputError
from gradience.plan.criteria import blocks_suggestions
from gradience.reports.audit import AuditReport


def measures(values, rank):
    update = Update(np.asarray(values, float), rank, (200, 300), 0.5)
    return {name: measure(update) for name, measure in MEASURES.items()}


def test_a_hundred_equal_directions_of_two_hundred():
    row = measures(np.ones(100), 200)
    assert row["stable_rank"] == pytest.approx(100)
    assert row["effective_rank"] == pytest.approx(100)
    assert row["utilization"] == pytest.approx(0.5)
    assert row["rank_use"] == pytest.approx(99 / 199)
    assert [row[f"energy_rank_{share}"] for share in (90, 95, 99, "tau")] == [90, 95, 99, 50]
    assert row["null_position"] == pytest.approx(99 / (row["null_stable_rank"] - 1))
    assert 1 < row["null_stable_rank"] < 200


@pytest.mark.parametrize("share", [0.90, 0.95, 0.99, 0.5])
def test_the_margin_is_that_of_the_nearest_share(share):
    beyond = measures([np.sqrt(share + 1e-6), np.sqrt(1 - share - 1e-6)], 2)
    assert beyond["energy_margin"] == pytest.approx(1e-6, rel=1e-3)


# ---------------------------------------------------------------- `storage_error`


TYPES = ["F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"]


def audited(folder, modules, dtype):
    factors = {f"layers.{index}.proj": pair for index, pair in enumerate(modules)}
    return audit_adapter(write(folder, factors, dtype=dtype, target_modules=["proj"]))


def trained_like(size):
    """64 modules of different shapes, ranks and decays; `size` is the largest entry, or None for that of training."""
    rng = np.random.default_rng(5)
    for index in range(64):
        m, n = rng.choice([16, 64, 200, 512], 2)
        rank = int(rng.choice([2, 4, 8, 16]))
        A = rng.uniform(-1, 1, (rank, n)) / np.sqrt(n)
        turn = np.linalg.qr(rng.standard_normal((rank, rank)))[0]
        decay = (0.7 ** np.arange(rank), np.arange(1, rank + 1.0) ** -1, np.ones(rank))[index % 3]
        B = 2e-3 * (rng.standard_normal((m, rank)) * decay) @ turn
        yield (A, B) if size is None else (A * size / np.abs(A).max(), B * size / np.abs(B).max())


@pytest.mark.parametrize("size", [None, 1.0, 100.0], ids=["as-trained", "one", "hundred"])
@pytest.mark.parametrize("name", TYPES)
def test_what_rounding_does_is_covered(name, size, tmp_path):
    modules = list(trained_like(size))
    exact = audited(tmp_path / "exact", modules, "F64").layers
    rounded = audited(tmp_path / "rounded", modules, name).layers
    shares = []
    for before, after in zip(exact, rounded, strict=True):
        assert after.dtype == name
        if after.status == "untrained":
            assert name == "F8_E4M3"
            continue
        change = abs(after.stable_rank / before.stable_rank - 1)
        # Undone, the change is relative to the rounded value; near 1 the two differ.
        assert change <= after.storage_error or after.storage_error == 1
        shares.append(change / after.storage_error)
        ranks = [(row.energy_rank_90, row.energy_rank_95, row.energy_rank_99) for row in (before, after)]
        assert ranks[0] == ranks[1] or after.borderline
    # It is no fig leaf either: the worst module comes within a factor of six.
    assert max(shares) > 1 / 6


def test_fp8_says_how_coarse_it_is(tmp_path):
    """Entries around 1e-3 are below what e4m3 can hold."""
    report = audited(tmp_path / "small", trained_like(None), "F8_E4M3")
    (finding,) = [finding for finding in report.findings if finding.code == "coarse-storage"]
    assert "F8_E4M3" in finding.message
    assert "100.0%" in finding.message
    report = audited(tmp_path / "large", trained_like(100.0), "F8_E4M3")
    (finding,) = [finding for finding in report.findings if finding.code == "coarse-storage"]
    assert "100.0%" not in finding.message


# ---------------------------------------------------------------- Findings


def facts_of(rows):
    return AdapterFacts(rows, Adapter("peft", None, None, [], None))


def noise(name, shape=(64, 64)):
    """A row as random factors give it."""
    return row(name, np.ones(8), r=8, shape=shape)


def test_an_adapter_that_looks_random_is_an_error_and_gets_no_suggestion():
    findings = find(facts_of([noise(f"layers.{i}.q") for i in range(3)]))
    (error,) = [finding for finding in findings if finding.severity == "error"]
    assert error.code == "looks-random"
    assert blocks_suggestions(findings)


def test_some_random_modules_are_a_warning_and_the_suggestion_stands():
    rows = [
        noise("layers.0.q"),
        *(row(f"layers.{i}.q", power_law(8, 1.5), r=8, shape=(64, 64)) for i in range(1, 4)),
    ]
    findings = find(facts_of(rows))
    (warning,) = [finding for finding in findings if finding.code == "random-modules"]
    assert (warning.severity, warning.module) == ("warning", "layers.0.q")
    assert "looks-random" not in {finding.code for finding in findings}
    assert not blocks_suggestions(findings)


def test_a_head_of_few_labels_cannot_look_random():
    """It spreads over all of its few directions when it is trained well."""
    head = noise("classifier.out_proj", shape=(6, 64))
    rest = [row(f"layers.{i}.q", power_law(8, 1.5), r=8, shape=(64, 64)) for i in range(3)]
    assert not {"looks-random", "random-modules"} & {
        finding.code for finding in find(facts_of([head, *rest]))
    }


# ---------------------------------------------------------------- Updates beside the weights of a base


Q, V = "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj"


def weights(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def base(folder, tensors):
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_bytes(safetensors(tensors))
    return folder


def compared(folder, tensors, pairs=None, **settings):
    """The block of an adapter beside a base of these tensors; also its audit."""
    at = adapter(folder / "adapter", pairs or factors(Q) | factors(V), config(**settings))
    report = audit_adapter(at, base_model=base(folder / "base", tensors))
    return report.base, report


@pytest.mark.parametrize(
    ("name", "turn"),
    [
        ("model.layers.0.self_attn.q_proj.weight", False),
        ("layers.0.self_attn.q_proj.weight", False),
        ("language_model.model.layers.0.self_attn.q_proj.weight", False),
        ("model.layers.0.self_attn.q_proj.weight", True),
    ],
    ids=["the same", "without a prefix", "with another", "transposed"],
)
def test_names_and_orientations_map(tmp_path, name, turn):
    value = weights((12, 16))
    tensors = {name: stored(np.ascontiguousarray(value.T) if turn else value)}
    block, _ = compared(tmp_path, tensors, pairs=factors(Q))
    assert block.modules[0].weight_sigma_max == pytest.approx(np.linalg.norm(value, 2), rel=1e-5)


def test_a_folder_without_weights_is_an_error(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no base weights"):
        audit_adapter(adapter(tmp_path / "adapter"), base_model=tmp_path / "empty")


def test_the_command_shows_it_and_keeps_it_in_the_json(tmp_path, command):
    at = adapter(tmp_path / "adapter", factors(Q) | factors(V))
    folder = base(tmp_path / "base", {f"{Q}.weight": stored(weights((12, 16)))})
    printed = command("audit", at, "--base-model", folder, "--json").out
    report = AuditReport.model_validate_json(printed)
    assert report.base.base == "base"
    assert json.loads(printed)["base"]["modules"][0]["name"] == Q
    text = command("audit", at, "--base-model", folder).out
    for part in ("Size relative to the base", "‖ΔW‖₂/‖W‖₂", "1 module not compared"):
        assert part in text
