"""Original and compressed adapters in PEFT: equal outputs at full rank, and below it just the loss that is reported."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from compressing import ENCODINGS, compress
from peft_cases import (
    CASES,
    Case,
    best_errors,
    fresh,
    load,
    outputs,
    relative_errors,
    unexpected,
)
from peft_models import peft_updates, save, stored_tensors

from gradience import audit_adapter
from gradience.errors import InputError
from gradience.plan.compression import plan_compression
from gradience.plan.criteria import ToBudget, ToOwnRanks, ToRank
from gradience.reports.compression import CompressionReport


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Name -> (case, folder, model as PEFT loads it, warnings, ΔW, outputs), made when first asked for."""
    loaded = {}

    def original(name: str):
        if name not in loaded:
            case = CASES[name]
            folder = tmp_path_factory.mktemp(name)
            save(fresh(case), case.config, folder, prepare=case.prepare, dtype=torch.float64)
            model, messages = load(case, folder)
            loaded[name] = case, folder, messages, peft_updates(model), outputs(model)
        return loaded[name]

    return original


written = [
    (name, encoding)
    for name, case in CASES.items()
    for encoding in ENCODINGS
    if encoding not in (case.refused or {})
]


@pytest.mark.parametrize(("name", "encoding"), written)
def test_full_rank_means_the_same(name, encoding, originals, tmp_path):
    case, folder, known, updates, expected = originals(name)
    report = compress(folder, tmp_path / "out", ToRank(64), encoding=encoding)
    model, messages = load(case, tmp_path / "out")
    assert unexpected(messages, known, report) == []
    assert torch.allclose(outputs(model), expected, rtol=1e-10, atol=1e-12)
    errors = relative_errors(updates, peft_updates(model))
    assert max(errors.values()) < 1e-14
    for row in report.modules:
        assert row.predicted_error == 0.0
        assert row.measured_error < 1e-15


@pytest.mark.parametrize(("name", "encoding"), written)
def test_smaller_ranks_lose_what_the_report_says_and_no_more_than_they_must(
    name, encoding, originals, tmp_path
):
    case, folder, known, updates, expected = originals(name)
    report = compress(folder, tmp_path / "out", ToRank(2), encoding=encoding)
    check(case, report, tmp_path / "out", known, updates)
    model, _ = load(case, tmp_path / "out")
    assert not torch.allclose(outputs(model), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "encoding"), written)
def test_strength_multiplies_the_update_that_peft_applies(name, encoding, originals, tmp_path):
    case, folder, _, updates, _ = originals(name)
    for criterion, folder_out in ((ToOwnRanks(), "whole"), (ToRank(2), "cut")):
        report = compress(folder, tmp_path / folder_out, criterion, encoding=encoding, strength=0.7)
        after = peft_updates(load(case, tmp_path / folder_out)[0])
        assert report.strength == 0.7
        errors = relative_errors(updates, after)
        for row in report.modules:
            assert row.measured_error == pytest.approx(errors[row.name], rel=1e-8, abs=1e-14)
            assert row.predicted_error == pytest.approx(errors[row.name], rel=1e-8, abs=1e-8)
        assert report.measured_error == pytest.approx(total_error(updates, after), rel=1e-8)
        if folder_out == "whole":
            assert max(relative_errors({k: 0.7 * v for k, v in updates.items()}, after).values()) < 1e-13


@pytest.mark.parametrize("encoding", ["patterns", "padded"])
@pytest.mark.parametrize("name", [name for name in CASES if "bias" not in name])
def test_modules_left_out_are_not_missed(name, encoding, originals, tmp_path):
    case, folder, known, updates, _ = originals(name)
    full = plan_compression(audit_adapter(folder), ToRank(64))
    # Room for what has to stay (what target_parameters wraps, an embedding saved with its base weight), and one
    # component more.
    costs = {row.name: row.old_params // row.old_rank for row in full.modules}
    stay = {name for name in costs if re.search(r"experts|mlp\.gate\.|wte", name)}
    others = [cost for name, cost in costs.items() if name not in stay]
    budget = sum(costs[name] for name in stay) + min(others)
    report = compress(folder, tmp_path / "out", ToBudget(max_params=budget), encoding=encoding)
    check(case, report, tmp_path / "out", known, updates)
    assert len(report.dropped) >= len(others) - 1
    assert not stay.intersection(report.dropped)


def check(case: Case, report: CompressionReport, folder: Path, known: list[str], updates: dict) -> None:
    model, messages = load(case, folder)
    assert unexpected(messages, known, report) == []
    after = peft_updates(model)
    written = {module for module, _ in after}
    assert written == {row.name for row in report.modules if row.stored_rank}
    assert set(report.dropped) == {module for module, _ in updates} - written
    errors = relative_errors(updates, after)
    ranks = {row.name: row.new_rank for row in report.modules}
    best = best_errors(updates, ranks)
    for row in report.modules:
        assert row.measured_error == pytest.approx(errors[row.name], rel=1e-8, abs=1e-14)
        assert errors[row.name] == pytest.approx(best[row.name], rel=1e-8, abs=1e-14)
        assert row.predicted_error == pytest.approx(best[row.name], rel=1e-8, abs=1e-8)
        assert row.stored_rank >= row.new_rank
    assert report.measured_error == pytest.approx(total_error(updates, after), rel=1e-8)
    assert report.kept_energy + report.predicted_error**2 == pytest.approx(1.0, abs=1e-11)
    on_disk = stored_tensors(folder)
    assert sum(
        tensor.size for name, tensor in on_disk.items() if ".lora_" in name and "bias" not in name
    ) == (report.new_params)


def total_error(before: dict, after: dict) -> float:
    lost = sum(float(np.square(update - after.get(key, 0.0)).sum()) for key, update in before.items())
    return math.sqrt(lost / sum(float(np.square(update).sum()) for update in before.values()))


@pytest.mark.parametrize(
    ("name", "encoding", "code"),
    [
        (name, encoding, code)
        for name, case in CASES.items()
        for encoding, code in (case.refused or {}).items()
    ],
)
def test_encodings_that_cannot_say_it_are_refused(name, encoding, code, originals, tmp_path):
    with pytest.raises(InputError) as refusal:
        compress(originals(name)[1], tmp_path / "out", ToRank(2), encoding=encoding)
    assert refusal.value.code == code
    assert "--encoding patterns" in refusal.value.hint
    assert list(tmp_path.iterdir()) == []
