"""linear and svd against dense algebra on PEFT's own ΔW: every kind of module, and the cases of peft#3761."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from merging import pair_of, parent, updates_of, weighted, with_config
from peft_cases import CASES, LINEAR, best_errors, fresh, load, outputs, relative_errors
from safetensors.torch import load_file

from gradience import compare_adapters, merge_adapters
from gradience.merge.module import Kept, kept_in_all

MERGED = [name for name in CASES if name not in ("modules-to-save", "bert-head", "biases", "all-biases", "endings",
                                                 "all-but-the-head", "token-rows", "experts", "experts-unswapped",
                                                 "experts-all-linear", "router")]  # fmt: skip


@pytest.mark.parametrize("name", MERGED)
def test_linear_is_the_weighted_sum(name, tmp_path):
    case = CASES[name]
    a, b = pair_of(tmp_path, case, dtype=torch.float64)
    report = merge_adapters([a, b], tmp_path / "out", weights=[1, 0.5])
    expected = weighted([updates_of(case, a), updates_of(case, b)], [1, 0.5])
    errors = relative_errors(expected, updates_of(case, tmp_path / "out"))
    assert max(errors.values()) < 1e-13
    assert report.error < 1e-13


@pytest.mark.parametrize("name", ["llama", "patterns-rslora", "embedding", "convolutions", "gpt2"])
def test_svd_loses_what_the_report_says_and_no_more_than_it_must(name, tmp_path):
    case = CASES[name]
    a, b = pair_of(tmp_path, case, dtype=torch.float64)
    report = merge_adapters([a, b], tmp_path / "out", weights=[0.7, 0.3], method="svd", rank=3)
    expected = weighted([updates_of(case, a), updates_of(case, b)], [0.7, 0.3])
    errors = relative_errors(expected, updates_of(case, tmp_path / "out"))
    best = best_errors(expected, {row.name: row.rank for row in report.modules})
    for row in report.modules:
        assert row.error == pytest.approx(errors[row.name], rel=1e-7)
        assert row.error == pytest.approx(best[row.name], rel=1e-7)
    energy = {
        name: math.fsum(np.square(u).sum() for key, u in expected.items() if key[0] == name)
        for name in errors
    }
    whole = math.sqrt(sum(errors[name] ** 2 * energy[name] for name in errors) / sum(energy.values()))
    assert report.error == pytest.approx(whole, rel=1e-7)


def test_what_is_left_of_each_parent(tmp_path):
    case = CASES["llama"]
    a, b = pair_of(tmp_path, case, dtype=torch.float64)
    report = merge_adapters([a, b], tmp_path / "out", weights=[1, -0.4], method="svd", rank=4)
    merged = updates_of(case, tmp_path / "out")
    for place, folder in enumerate((a, b)):
        updates = updates_of(case, folder)
        inner = {key: float((update * merged[key]).sum()) for key, update in updates.items()}
        energy = {key: float(np.square(update).sum()) for key, update in updates.items()}
        size = {key: float(np.square(update).sum()) for key, update in merged.items()}
        parent = report.parents[place]
        total = sum(inner.values())
        assert parent.projection == pytest.approx(total / sum(energy.values()), rel=1e-9)
        assert parent.cosine == pytest.approx(
            total / math.sqrt(sum(energy.values()) * sum(size.values())), rel=1e-9
        )


def test_bytes_are_joined_as_they_are_if_all_scales_agree(tmp_path):
    case = CASES["llama"]
    a, b = pair_of(tmp_path, case, dtype=torch.bfloat16)
    report = merge_adapters([a, b], tmp_path / "out")
    assert (report.error, report.dtype, report.encoding, report.largest_rank) == (0, "BF16", "uniform", 12)
    first, second, merged = (
        load_file(folder / "adapter_model.safetensors") for folder in (a, b, tmp_path / "out")
    )
    for name, tensor in merged.items():
        assert torch.equal(tensor, torch.cat([first[name], second[name]], dim=int("lora_B" in name)))


def test_other_ranks_scales_and_modules(tmp_path):
    """One parent has more modules, the other larger ranks: a module that is missing counts as 0."""
    first = with_config("llama", r=4, lora_alpha=4, target_modules=LINEAR)
    second = with_config("llama", r=7, lora_alpha=3, use_rslora=True, target_modules=["q_proj", "o_proj"])
    a, b = pair_of(tmp_path, first, second)
    report = merge_adapters([a, b], tmp_path / "out", weights=[1, 2])
    updates = [updates_of(first, a), updates_of(second, b)]
    merged = updates_of(first, tmp_path / "out")
    assert merged.keys() == {*updates[0], *updates[1]}
    assert max(relative_errors(weighted(updates, [1, 2]), merged).values()) < 1e-6
    ranks = {row.name.rpartition(".")[2]: (row.parent_ranks, row.rank) for row in report.modules}
    assert ranks["q_proj"] == ((4, 7), 11)
    assert ranks["o_proj"] == ((None, 7), 7)
    assert ranks["v_proj"] == ((4, None), 4)


def test_the_outputs_are_those_of_both_updates_on_one_base(tmp_path):
    case = CASES["llama"]
    a, b = pair_of(tmp_path, case, dtype=torch.float64)
    merge_adapters([a, b], tmp_path / "out", weights=[1, 0.5])
    base = fresh(case).double().eval()
    for folder, weight in ((a, 1.0), (b, 0.5)):
        modules = dict(base.named_modules())
        for (name, _), update in updates_of(case, folder).items():
            modules[name].weight.data += weight * torch.from_numpy(update)
    tokens = torch.randint(0, 32, (2, 9), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = base(input_ids=tokens).logits
    model, _ = load(case, tmp_path / "out")
    assert torch.allclose(outputs(model), expected, rtol=1e-9, atol=1e-11)


def test_three_parents(tmp_path):
    case = CASES["llama"]
    folders = [parent(case, tmp_path / str(seed), seed, dtype=torch.float64) for seed in (1, 2, 3)]
    merge_adapters(folders, tmp_path / "out", method="svd", rank=64)
    expected = weighted([updates_of(case, folder) for folder in folders], [1, 1, 1])
    assert max(relative_errors(expected, updates_of(case, tmp_path / "out")).values()) < 1e-13


def test_merging_with_a_weight_is_scaling(tmp_path):
    """compare sees what a merge with a much heavier parent is: that parent, scaled."""
    a, b = pair_of(tmp_path, CASES["llama"])
    merge_adapters([a, b], tmp_path / "out", weights=[1, 1e-9], method="svd", rank=6)
    assert compare_adapters(a, tmp_path / "out").relative_difference < 1e-5


def test_an_energy_that_cancels_is_not_negative():
    """Of A and −A, tr(AAᵀ·BᵀB) of the merge is 0 up to rounding, of either sign."""
    assert kept_in_all([Kept(-1e-17, 0.0)]) == Kept(0.0, 0.0)
