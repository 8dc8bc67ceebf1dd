"""linear and svd against dense algebra on PEFT's own ΔW: every kind of module, and the cases of peft#3761."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from merging import pair_of, parent, updates_of, weighted, with_config
from peft_cases import CASES, LINEAR, best_errors, fresh, load, outputs, relative_errors, warned
from peft_models import bert, llama, save

from gradience import compare_adapters, merge_adapters

MERGED = [name for name in CASES if name not in ("modules-to-save", "bert-head", "biases", "all-biases", "endings",
                                                 "all-but-the-head", "token-rows")]  # fmt: skip


@pytest.mark.parametrize("name", MERGED)
def test_linear_is_the_weighted_sum(name, tmp_path):
    case = CASES[name]
    a, b = pair_of(tmp_path, case, dtype=torch.float64)
    report = merge_adapters([a, b], tmp_path / "out", weights=[1, 0.5])
    expected = weighted([updates_of(case, a), updates_of(case, b)], [1, 0.5])
    errors = relative_errors(expected, updates_of(case, tmp_path / "out"))
    assert max(errors.values()) < 1e-13
    assert report.error < 1e-13
