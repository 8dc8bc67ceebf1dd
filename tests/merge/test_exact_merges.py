"""linear and svd against dense algebra on PEFT's own ΔW: every kind of module, and the cases of peft#3761."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from compressing import SLIPS, slipping
from factor_samples import random_factors, updates, write
from merging import pair_of, parent, updates_of, weighted, with_config, write_updates
from numpy.typing import NDArray
from peft import PeftModel
from peft_cases import CASES, LINEAR, Case, best_errors, fresh, load, outputs, relative_errors
from peft_models import Updates, bert, peft_updates
from raising import raises
from safetensors.torch import load_file

from gradience import InputError, merge_adapters
from gradience.adapters.formats import open_adapter
from gradience.adapters.tensors import decode
from gradience.compress import module as truncated
from gradience.compress.adapter import WrittenWrong
from gradience.merge import plan

MERGED = [name for name in CASES if name not in ("modules-to-save", "bert-head", "biases", "all-biases", "endings",
                                                 "all-but-the-head", "token-rows", "experts", "experts-unswapped",
                                                 "experts-all-linear", "router", "replicated")]  # fmt: skip


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


@pytest.mark.parametrize(("rank", "single"), [(6, True), (20, True), (44, False), (47, False)])
def test_float32_shows_in_no_digit_of_the_report(rank, single, tmp_path, monkeypatch):
    """Large 16-bit modules are truncated in float32, unless the error is so small that rounding would affect it."""
    folders = [
        write(tmp_path / name, random_factors(seed, (24, 900, 700), decay=0.9), dtype="BF16", lora_alpha=30)
        for seed, name in enumerate("AB")
    ]
    in_float32, taken = truncated._in_float32, []

    def watched(*asked):
        taken.append(in_float32(*asked))
        return taken[-1]

    monkeypatch.setattr(truncated, "LARGE", 1)
    monkeypatch.setattr(truncated, "_in_float32", watched)
    report = merge_adapters(folders, tmp_path / "out", method="svd", rank=rank)
    assert [one is not None for one in taken] == [single]
    (whole,) = weighted([updates(folder) for folder in folders], [1, 1]).values()
    (merged,) = updates(tmp_path / "out").values()
    size, lost = np.linalg.norm(whole), np.linalg.norm(whole - merged)
    assert report.error == pytest.approx(lost / size, rel=1e-6)
    values = np.linalg.svd(whole, compute_uv=False)
    least = np.square(values[rank:]).sum()
    rounding = (2**-8 * size) ** 2
    assert least * (1 - 1e-9) <= lost**2 < least + rounding
    for row, folder in zip(report.parents, folders, strict=True):
        (update,) = updates(folder).values()
        inner, energy = float((update * merged).sum()), float(np.square(update).sum())
        assert row.projection == pytest.approx(inner / energy, rel=1e-6)
        assert row.cosine == pytest.approx(inner / math.sqrt(energy * np.square(merged).sum()), rel=1e-6)


def test_bytes_are_joined_as_they_are_if_all_scales_agree(tmp_path):
    case = CASES["llama"]
    a, b = pair_of(tmp_path, case, dtype=torch.bfloat16)
    report = merge_adapters([a, b], tmp_path / "out")
    assert (report.error, report.dtype, report.largest_rank) == (0, "BF16", 12)
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


# ---------------------------------------------------------------- ties, dare and knots against the formulas


RNG = np.random.default_rng(5)
FIRST, SECOND = (RNG.standard_normal((14, 9)) for _ in range(2))


def merged(tmp_path, updates, **options) -> NDArray[np.float64]:
    folders = [write_updates(tmp_path / str(place), {"layer": one}) for place, one in enumerate(updates)]
    merge_adapters(folders, tmp_path / "out", **options)
    with open_adapter(tmp_path / "out") as opened:
        (pair,) = opened.pairs
        loaded = pair.load()
        return pair.scale * decode(loaded.words_B()) @ decode(loaded.words_A()).T


def trimmed(update: NDArray[np.float64], density: float) -> NDArray[np.float64]:
    kept = np.argsort(-np.abs(update), axis=None)[: int(density * update.size)]
    mask = np.zeros(update.size, bool)
    mask[kept] = True
    return update * mask.reshape(update.shape)


def paper_ties(updates, weights, density) -> NDArray[np.float64]:
    """Trim, elect, disjoint mean, entry by entry (Yadav et al., algorithm 1)."""
    small = [trimmed(update, density) for update in updates]
    result = np.zeros_like(small[0])
    for index in np.ndindex(result.shape):
        values = [update[index] for update in small]
        sign = 1 if sum(values) >= 0 else -1
        agreeing = [w * v for w, v in zip(weights, values, strict=True) if v * sign > 0]
        result[index] = np.mean(agreeing) if agreeing else 0.0
    return result


@pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("weights", [[1, 1], [0.5, 2]])
def test_ties(density, weights, tmp_path):
    updates = [np.float32(FIRST).astype(float), np.float32(SECOND).astype(float)]
    result = merged(tmp_path, updates, method="ties", weights=weights, density=density, rank=9)
    np.testing.assert_allclose(result, paper_ties(updates, weights, density), atol=2e-6)


def test_dare_drops_at_random_and_scales_what_stays(tmp_path):
    rng = np.random.default_rng(0)
    updates = [np.float32(rng.standard_normal((90, 70))).astype(float) for _ in range(2)]
    result = merged(tmp_path, updates, method="dare", density=0.4, rank=70)
    choices = np.stack([a * updates[0] + b * updates[1] for a in (0, 2.5) for b in (0, 2.5)])
    nearest = np.abs(choices - result).argmin(axis=0)
    assert np.abs(np.take_along_axis(choices, nearest[None], 0)[0] - result).max() < 1e-5
    shares = np.bincount(nearest.ravel(), minlength=4) / nearest.size
    np.testing.assert_allclose(shares, [0.36, 0.24, 0.24, 0.16], atol=0.02)  # independent for each parent


def test_dare_depends_on_its_seed_and_on_nothing_else(tmp_path):
    updates = [FIRST, SECOND]
    results = [
        merged(tmp_path / name, updates, method="dare", rank=9, seed=seed, workers=workers)
        for name, seed, workers in (("a", 1, 1), ("b", 1, 2), ("c", 2, 1))
    ]
    assert np.array_equal(results[0], results[1])
    assert not np.allclose(results[0], results[2])


@pytest.mark.parametrize("density", [0.3, 1.0])
def test_knots(density, tmp_path):
    """SVD of the joined updates, TIES on Σ·Vᵀ of each, and U on the left (Stoica et al., their code)."""
    updates = [np.float32(FIRST).astype(float), np.float32(SECOND).astype(float)]
    u, s, v = np.linalg.svd(np.hstack(updates), full_matrices=False)
    tasks = np.split(s[:, None] * v, 2, axis=1)
    result = merged(tmp_path, updates, method="knots", density=density, rank=9)
    expected = u @ paper_ties(tasks, [1, 1], density)
    best = np.linalg.svd(expected)
    expected = (best[0][:, :9] * best[1][:9]) @ best[2][:9]
    np.testing.assert_allclose(result, expected, atol=2e-6)


@pytest.mark.parametrize("method", ["ties", "dare", "knots"])
def test_the_error_is_that_of_the_stored_factors(method, tmp_path):
    whole = merged(tmp_path / "whole", [FIRST, SECOND], method=method, rank=14)
    folders = [tmp_path / "whole" / str(place) for place in range(2)]
    report = merge_adapters(folders, tmp_path / "small", method=method, rank=3)
    values = np.linalg.svd(whole, compute_uv=False)
    expected = np.sqrt(np.square(values[3:]).sum() / np.square(values).sum())
    assert report.error == pytest.approx(expected, rel=1e-4)
    assert report.modules[0].norm == pytest.approx(np.linalg.norm(whole), rel=1e-5)


def test_large_updates_are_truncated_almost_as_well_as_by_a_dense_svd(tmp_path, monkeypatch):
    """Beyond `SMALL`, subspace iteration: its error is stated, and within 1 % of the least."""
    rng = np.random.default_rng(1)
    updates = [
        np.float32(
            rng.standard_normal((150, 8)) @ np.diag(0.7 ** np.arange(8)) @ rng.standard_normal((8, 120))
        )
        for _ in range(2)
    ]
    folders = [write_updates(tmp_path / str(place), {"layer": one}) for place, one in enumerate(updates)]
    exact = merge_adapters(folders, tmp_path / "exact", method="ties", density=0.3, rank=12)
    monkeypatch.setattr(plan, "SMALL", 10)
    close = merge_adapters(folders, tmp_path / "close", method="ties", density=0.3, rank=12)
    assert exact.error <= close.error * (1 + 1e-6)
    assert close.error < 1.01 * exact.error


@pytest.mark.parametrize("slip", SLIPS)
@pytest.mark.parametrize("method", ["svd", "ties", "dare", "knots", "dora"])
def test_the_result_is_checked_before_it_is_put_in_place(method, slip, tmp_path, monkeypatch):
    """A bug in writing must not become somebody's adapter."""
    options = {"method": method, "rank": 3, "workers": 1}
    if method == "dora":
        case = with_config("llama", target_modules=["q_proj"], use_dora=True)
        folders = pair_of(tmp_path, case)
        fresh(case).save_pretrained(tmp_path / "base")
        options |= {"method": "svd", "base_model": tmp_path / "base"}
    else:
        updates = [{"one": FIRST, "two": SECOND}, {"one": SECOND, "two": 2 * SECOND}]
        folders = [write_updates(tmp_path / str(place), one) for place, one in enumerate(updates)]
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(plan, "write_merged", slipping(plan.write_merged, slip))
    with pytest.raises(WrittenWrong, match="has an error of"):
        merge_adapters(folders, tmp_path / "out", **options)
    assert sorted(tmp_path.iterdir()) == before


# ---------------------------------------------------------------- mergekit's task arithmetic, TIES and DARE


RECORD = json.loads(Path(__file__).with_name("mergekit.json").read_text(encoding="utf-8"))
OURS = {"task_arithmetic": "linear", "ties": "ties", "dare_linear": "dare"}


@pytest.mark.parametrize("merge", RECORD["merges"], ids=lambda merge: f"{merge['method']}-{merge['density']}")
def test_equal_to_mergekit(merge, tmp_path):
    updates = [np.array(update) for update in RECORD["updates"][: len(merge["weights"])]]
    folders = [
        write_updates(tmp_path / str(place), {"layer": update}) for place, update in enumerate(updates)
    ]
    method = OURS[merge["method"]]
    options = {} if method == "linear" else {"density": merge["density"], "rank": 7}
    merge_adapters(folders, tmp_path / "out", method=method, weights=merge["weights"], **options)
    with open_adapter(tmp_path / "out") as opened:
        (pair,) = opened.pairs
        loaded = pair.load()
        merged = pair.scale * decode(loaded.words_B()) @ decode(loaded.words_A()).T
    np.testing.assert_allclose(merged, merge["merged"], rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------- PEFT's add_weighted_adapter


WEIGHTS = [1.0, 0.5]


def by_peft(case: Case, a: Path, b: Path, kind: str, **options: object) -> tuple[PeftModel, Updates]:
    """PEFT's merge of two adapters as the adapter `merged`."""
    model = PeftModel.from_pretrained(fresh(case).double(), a, adapter_name="a")
    model.load_adapter(b, adapter_name="b")
    model.add_weighted_adapter(["a", "b"], WEIGHTS, "merged", combination_type=kind, **options)
    model.set_adapter("merged")
    return model.double().eval(), peft_updates(model, "merged")


@pytest.mark.parametrize(
    ("kind", "ours", "theirs"),
    [
        ("cat", {"method": "linear"}, {}),
        ("svd", {"method": "svd", "rank": 5}, {"svd_rank": 5}),
        ("ties_svd", {"method": "ties", "rank": 5, "density": 0.3}, {"svd_rank": 5, "density": 0.3}),
        ("ties_svd", {"method": "ties", "rank": 8, "density": 0.7}, {"svd_rank": 8, "density": 0.7}),
        ("dare_linear_svd", {"method": "dare", "rank": 5, "density": 1}, {"svd_rank": 5, "density": 1}),
    ],
    ids=["cat", "svd", "ties", "ties-full", "dare"],
)
@pytest.mark.filterwarnings("ignore:The density 1")
@pytest.mark.parametrize("name", ["plain", "embedding"])
def test_equal_where_peft_is_right(kind, ours, theirs, name, tmp_path):
    case = with_config("llama", target_modules=LINEAR)
    if name == "embedding":
        case = with_config("embedding", target_modules=["wte", "c_attn"], fan_in_fan_out=True)
        if kind != "cat":
            ours, theirs = ours | {"rank": 5}, theirs | {"svd_rank": 5}
    a, b = pair_of(tmp_path, case)
    merge_adapters([a, b], tmp_path / "out", weights=WEIGHTS, **ours)
    _, expected = by_peft(case, a, b, kind, **theirs)
    errors = relative_errors(expected, updates_of(case, tmp_path / "out"))
    assert max(errors.values()) < 2e-6


def test_rslora_where_peft_is_wrong(tmp_path):
    """PEFT keeps use_rslora of the first adapter with α = r, so its merge is √r times too large."""
    case = with_config("llama", target_modules=LINEAR, use_rslora=True)
    a, b = pair_of(tmp_path, case)
    merge_adapters([a, b], tmp_path / "out", weights=WEIGHTS)
    expected = weighted([updates_of(case, a), updates_of(case, b)], WEIGHTS)
    assert max(relative_errors(expected, updates_of(case, tmp_path / "out")).values()) < 1e-7
    _, theirs = by_peft(case, a, b, "cat")
    assert min(relative_errors(expected, theirs).values()) > 0.4


def test_dora_where_peft_is_wrong(tmp_path):
    """PEFT adds up s·B·A and gives the merge a magnitude of its own; the updates are m·(W + s·B·A)/‖W + s·B·A‖ − W."""
    case = with_config("llama", target_modules=LINEAR, use_dora=True)
    a, b = pair_of(tmp_path, case)
    fresh(case).save_pretrained(tmp_path / "base")
    merge_adapters(
        [a, b], tmp_path / "out", weights=WEIGHTS, method="svd", rank=24, base_model=tmp_path / "base"
    )
    base = {
        name: module.weight.detach()
        for name, module in fresh(case).double().named_modules()
        if name.endswith(tuple(LINEAR))
    }
    expected = {}
    for folder, weight in zip((a, b), WEIGHTS, strict=True):
        whole = dict(load(case, folder)[0].merge_and_unload().named_modules())
        for name, before in base.items():
            expected[name] = expected.get(name, 0.0) + weight * (whole[name].weight.detach() - before)
    merged = updates_of(replace(case, config=case.config), tmp_path / "out")
    for name, update in expected.items():
        difference = np.linalg.norm(merged[name, None] - update.numpy()) / np.linalg.norm(update)
        assert difference < 1e-6


def test_biases_of_lora_B_where_peft_is_wrong(tmp_path):
    """PEFT leaves them out of the merge; each adds s·b to the output."""
    case = with_config(Case(bert, None), target_modules=["query", "value"], lora_bias=True)
    a, b = pair_of(tmp_path, case)
    merge_adapters([a, b], tmp_path / "out", weights=WEIGHTS)

    def biases(folder: Path) -> dict[str, torch.Tensor]:
        layers = load(case, folder)[0].base_model.model.named_modules()
        return {
            name: layer.scaling["default"] * layer.lora_B["default"].bias.detach()
            for name, layer in layers
            if hasattr(layer, "lora_B")
        }

    first, second, merged = (biases(folder) for folder in (a, b, tmp_path / "out"))
    for name, bias in merged.items():
        assert torch.allclose(bias, first[name] + 0.5 * second[name], rtol=1e-6, atol=1e-7)
    model, _ = by_peft(case, a, b, "cat")
    ours, _ = load(case, tmp_path / "out")
    assert not torch.allclose(outputs(model), outputs(ours), atol=1e-3)


# ---------------------------------------------------------------- Heads, biases and embeddings


NAMES = {"bert-head": "classifier.weight", "all-biases": "bias", "modules-to-save": "lm_head.weight"}


def stored(folder) -> dict[str, torch.Tensor]:
    return {
        name: tensor
        for name, tensor in load_file(folder / "adapter_model.safetensors").items()
        if "lora_" not in name
    }


@pytest.fixture
def pair(request, tmp_path):
    case = CASES[request.param]
    return case, parent(case, tmp_path / "A", 1), parent(case, tmp_path / "B", 2)


@pytest.mark.parametrize("pair", NAMES, indirect=True)
def test_what_differs_is_refused_by_name_or_averaged(pair, tmp_path):
    case, a, b = pair
    with raises(InputError, "saved-differ", r"full weights do not add up") as caught:
        merge_adapters([a, b], tmp_path / "out")
    with raises(InputError, "saved-differ", "do not add up"):
        merge_adapters([a, b], tmp_path / "out", weights=[1, -1], saved="average")
    first, second = stored(a), stored(b)
    assert any(name.removeprefix("base_model.model.") in str(caught.value) for name in first)
    merge_adapters([a, b], tmp_path / "mean", weights=[3, 1], saved="average")
    for name, tensor in stored(tmp_path / "mean").items():
        assert torch.allclose(tensor, 0.75 * first[name] + 0.25 * second[name], atol=1e-6)
    expected = weighted([updates_of(case, a), updates_of(case, b)], [3, 1])
    assert max(relative_errors(expected, updates_of(case, tmp_path / "mean")).values()) < 1e-6


def test_what_only_one_has_is_no_average(tmp_path):
    bare = with_config("modules-to-save", target_modules=["q_proj", "v_proj", "down_proj"])
    a, b = parent(CASES["modules-to-save"], tmp_path / "A", 1), parent(bare, tmp_path / "B", 2)
    for saved in ("refuse", "average"):
        with raises(InputError, "saved-differ", "is trained only in"):
            merge_adapters([a, b], tmp_path / "out", saved=saved)


def test_trained_tokens_must_be_the_same_tokens(tmp_path):
    a = parent(CASES["token-rows"], tmp_path / "A", 1)
    b = parent(with_config("token-rows", target_modules=["q_proj", "v_proj", "down_proj"],
                           trainable_token_indices=[3, 7, 12]), tmp_path / "B", 2)  # fmt: skip
    with raises(InputError, "other-config"):
        merge_adapters([a, b], tmp_path / "out", saved="average")
