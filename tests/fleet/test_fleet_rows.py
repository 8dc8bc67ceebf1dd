"""Rows of a fleet: the figures of the audit, energies against a dense SVD."""

import numpy as np
import pytest
from factory import adapter, config, stored
from fleets import MODULES, random_factors, save

from gradience import audit_adapter
from gradience.adapters.formats import open_adapter
from gradience.cli.demo import example_adapter
from gradience.fleet.measure import measure


def test_the_figures_are_those_of_the_audit():
    row, report = measure(example_adapter(), "it"), audit_adapter(example_adapter())
    assert (row.path, row.status, row.sha256, row.bytes) == (
        "it",
        "ok",
        report.adapter.sha256,
        report.adapter.bytes,
    )
    assert (row.modules, row.trained, row.params) == (
        report.n_layers,
        report.n_trained,
        report.total_lora_params,
    )
    assert row.stable_rank_median == report.stable_rank_median
    assert (row.energy_rank_90_p50, row.energy_rank_90_p90) == (
        report.energy_rank_90_p50,
        report.energy_rank_90_p90,
    )
    assert row.fro_norm == pytest.approx(report.gain.fro_norm_total, rel=1e-9)
    assert row.base_model == report.adapter.base_model


def test_each_expert_counts(tmp_path):
    """Two experts in one tensor of PEFT: rank 2, not 4."""
    generator = np.random.default_rng(0)
    a, b = generator.standard_normal((4, 6)), generator.standard_normal((5, 4))
    tensors = {
        "base_model.model.m.experts.lora_A.weight": stored(a.astype(np.float32)),
        "base_model.model.m.experts.lora_B.weight": stored(b.astype(np.float32)),
    }
    folder = adapter(
        tmp_path / "a",
        tensors,
        config(r=2, lora_alpha=2, target_parameters=["experts.w"], target_modules=[]),
    )
    row = measure(folder, "a")
    with open_adapter(folder) as opened:
        assert [pair.experts for pair in opened.pairs] == [2]
    stacked = np.einsum("ore,eri->eoi", b.reshape(5, 2, 2), a.reshape(2, 2, 6))
    assert (row.rank, row.modules, row.width) == (2, 2, 2 * 11)
    assert row.fro_norm == pytest.approx(np.linalg.norm(stacked), rel=1e-6)


# ---------------------------------------------------------------- what cannot be measured


def test_a_refusal_is_a_row_with_its_code(tmp_path):
    row = measure(tmp_path / "nothing", "nothing")
    assert (row.status, row.error, row.rank) == ("failed", "not-found", None)
    assert "no such file" in row.message


def test_untrained_and_nan_are_told_apart(tmp_path):
    zero = {name: (a, 0 * b) for name, (a, b) in random_factors(0, 4).items()}
    row = measure(save(tmp_path / "zero", zero), "zero")
    assert (row.status, row.trained, row.lost_energy_at) == ("untrained", 0, {})
    broken = random_factors(0, 4)
    broken[MODULES[0]][0][0, 0] = np.nan
    row = measure(save(tmp_path / "nan", broken), "nan")
    assert (row.status, row.trained, row.unmeasured) == ("incomplete", 3, 1)
