"""The best smaller factors, against dense SVDs: optimal, balanced, whatever the scale and the conditioning."""

import json
import math
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from compressing import ENCODINGS, SLIPS, compress, slipping
from factor_samples import random_factors, read, tensor, updates, write
from factory import Stored
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raising import raises

from gradience import audit_adapter
from gradience.compress.adapter import WrittenWrong, written_adapter
from gradience.compress.module import cancellation, frobenius, norm_from_grams, truncation, write_module
from gradience.errors import InputError
from gradience.plan.criteria import ToBudget, ToEnergy, ToRank
from gradience.spectra import array_blocks, gram, joined, triangle


def factors(
    seed: int, rank: int, rows: int, columns: int, decay: float = 0.7
) -> tuple[np.ndarray, np.ndarray]:
    """A (r, n) and B (m, r), B's columns falling."""
    generator = np.random.default_rng(seed)
    a = generator.standard_normal((rank, columns))
    return a, generator.standard_normal((rows, rank)) * decay ** np.arange(rank)


def cut(a: np.ndarray, b: np.ndarray, rank: int, block: int = 64):
    """The truncation, and the new factors."""
    optimum = truncation(array_blocks(np.ascontiguousarray(a.T), block), array_blocks(b, block), rank)
    return optimum, optimum.map_A @ a, b @ optimum.map_B


def least(a: np.ndarray, b: np.ndarray, rank: int) -> float:
    """‖ΔW − ΔW_k‖ by a dense SVD."""
    return float(np.linalg.norm(np.linalg.svd(b @ a, compute_uv=False)[rank:]))


shapes = st.tuples(st.integers(1, 9), st.integers(1, 40), st.integers(1, 40))
seeds = st.integers(0, 2**32 - 1)


@given(seeds, shapes, st.data())
def test_optimal_and_balanced(seed, shape, data):
    a, b = factors(seed, *shape)
    rank = data.draw(st.integers(1, shape[0]))
    optimum, new_a, new_b = cut(a, b, rank)
    norm = np.linalg.norm(b @ a)
    assert new_a.shape == (rank, shape[2])
    assert new_b.shape == (shape[1], rank)
    assert np.linalg.norm(b @ a - new_b @ new_a) == pytest.approx(
        least(a, b, rank), rel=1e-7, abs=1e-7 * norm
    )
    dense = np.linalg.svd(b @ a, compute_uv=False)
    kept = np.diag(np.append(dense, np.zeros(rank))[:rank])
    assert np.allclose(new_a @ new_a.T, kept, atol=1e-6 * dense[0])
    assert np.allclose(new_b.T @ new_b, kept, atol=1e-6 * dense[0])
    values = np.ldexp(optimum.values, optimum.exponent)
    count = min(len(values), len(dense))
    assert values[:count] == pytest.approx(dense[:count], rel=1e-6, abs=1e-7 * dense[0])


@pytest.mark.parametrize("condition", [1e2, 1e4, 1e6, 1e9, 1e12])
@pytest.mark.parametrize("which", ["A", "B", "both"])
def test_ill_conditioned_factors(condition, which):
    """The route changes, the result does not: what is lost stays within 1e-7 of the least."""
    generator = np.random.default_rng(1)
    graded = condition ** -np.linspace(0, 1, 8)
    left, right = (np.linalg.qr(generator.standard_normal((8, 8)))[0] for _ in range(2))
    a, b = generator.standard_normal((8, 50)), generator.standard_normal((60, 8))
    if which != "B":
        a = left * graded @ right @ a
    if which != "A":
        b = b @ left * graded @ right
    for rank in range(1, 9):
        _, new_a, new_b = cut(a, b, rank)
        norm = np.linalg.norm(b @ a)
        lost = np.linalg.norm(b @ a - new_b @ new_a)
        assert lost <= least(a, b, rank) * (1 + 1e-7) + 1e-14 * norm


def test_gram_and_qr_routes_are_both_taken():
    a, b = factors(0, 6, 40, 30)
    assert cut(a, b, 3)[0].method == "gram"
    a[5] = a[4] + 1e-9 * a[5]
    assert cut(a, b, 3)[0].method == "qr"


# ---------------------------------------------------------------- norms


@given(seeds, shapes, st.integers(-300, 300))
def test_norms_of_products(seed, shape, exponent):
    a, b = factors(seed, *shape)
    b = np.ldexp(b, exponent)
    norm = np.linalg.norm(np.ldexp(b, -exponent) @ a)
    tall = array_blocks(np.ascontiguousarray(a.T), 16), array_blocks(b, 16)
    assert math.ldexp(frobenius(*map(triangle, tall)), -exponent) == pytest.approx(norm, rel=1e-12)
    assert math.ldexp(norm_from_grams(*map(gram, tall)), -exponent) == pytest.approx(norm, rel=1e-6)
    sizes = np.linalg.norm(a) * np.linalg.norm(np.ldexp(b, -exponent))
    canceled = cancellation(*map(gram, tall), math.ldexp(norm, exponent))
    assert canceled == pytest.approx(max(1.0, sizes / norm), rel=1e-6)


@given(seeds, st.integers(1, 6), st.sampled_from([1e-3, 1e-8, 1e-13]))
def test_small_differences_by_joining(seed, rank, size):
    """‖B·A − B′·A′‖ for factors that nearly agree: to 1e-16 of the norm, as the QR route promises."""
    a, b = factors(seed, rank, 30, 20)
    moved = b + size * np.random.default_rng(seed + 1).standard_normal(b.shape)
    tall = np.ascontiguousarray(a.T)
    left = joined(array_blocks(tall, 16), array_blocks(tall, 16))
    right = joined(array_blocks(b, 16), array_blocks(moved, 16), right_scale=-1.0)
    expected = np.linalg.norm((b - moved) @ a)
    assert frobenius(triangle(left), triangle(right)) == pytest.approx(
        expected, rel=1e-9, abs=3e-15 * np.linalg.norm(b) * np.linalg.norm(a)
    )


# ---------------------------------------------------------------- Properties of every compression


few = settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])


shape_lists = st.lists(
    st.tuples(st.integers(1, 9), st.integers(2, 30), st.integers(2, 30)), min_size=1, max_size=4
)


@few
@given(
    seeds,
    shape_lists,
    st.integers(1, 10),
    st.sampled_from(ENCODINGS),
    st.sampled_from(["F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"]),
)
def test_the_report_is_what_lies_on_the_disk(seed, shapes, rank, encoding, dtype):
    with TemporaryDirectory() as name:
        folder = write(Path(name) / "in", random_factors(seed, *shapes), dtype=dtype, lora_alpha=5)
        report = compress(folder, Path(name) / "out", ToRank(rank), encoding=encoding)
        before, after = updates(folder), updates(Path(name) / "out")
        lost = total = 0.0
        for row in report.modules:
            size = np.linalg.norm(before[row.name])
            error = np.linalg.norm(before[row.name] - after[row.name]) / size
            dense = np.linalg.svd(before[row.name], compute_uv=False)
            best = np.linalg.norm(dense[row.new_rank :]) / size
            assert row.measured_error == pytest.approx(error, rel=1e-6, abs=1e-13)
            assert row.predicted_error == pytest.approx(best, rel=1e-6, abs=2e-8)
            digits = {"F64": 1e-13, "F32": 1e-6, "F16": 4e-3, "BF16": 4e-2}.get(dtype, 1.0)
            assert best * (1 - 1e-9) - 1e-13 <= error <= best + digits
            lost, total = lost + (error * size) ** 2, total + size**2
        assert report.measured_error == pytest.approx(math.sqrt(lost / total), rel=1e-6, abs=1e-13)
        written = read(Path(name) / "out")
        assert report.new_params == sum(array.size for array in written.values())
        assert report.new_bytes == (Path(name) / "out" / "adapter_model.safetensors").stat().st_size


@few
@given(
    seeds,
    shape_lists,
    st.integers(1, 8),
    st.integers(1, 8),
    st.sampled_from(ENCODINGS),
    st.sampled_from(ENCODINGS),
)
def test_twice_is_once(seed, shapes, one, other, first, second):
    """To rank 8 and then to 3 is to 3."""
    small, large = sorted((one, other))
    with TemporaryDirectory() as name:
        root = Path(name)
        folder = write(root / "in", random_factors(seed, *shapes), dtype="F64", lora_alpha=7)
        compress(folder, root / "large", ToRank(large), encoding=first)
        compress(root / "large", root / "twice", ToRank(small), encoding=second)
        compress(folder, root / "once", ToRank(small), encoding=second)
        twice, once = updates(root / "twice"), updates(root / "once")
        dense = updates(folder)
        for module, update in once.items():
            values = np.linalg.svd(dense[module], compute_uv=False)
            # Where two singular values nearly agree, either direction may be kept.
            gap = values[small - 1] - values[small] if small < len(values) else values[0]
            tolerance = 1e-9 * values[0] ** 2 / max(gap, 1e-300)
            assert np.linalg.norm(update - twice[module]) <= tolerance + 1e-12 * values[0]


@few
@given(seeds, shape_lists, st.floats(0.3, 0.99), st.sampled_from(ENCODINGS))
def test_a_compressed_adapter_audits_to_the_spectrum_that_was_predicted(seed, shapes, tau, encoding):
    with TemporaryDirectory() as name:
        root = Path(name)
        folder = write(root / "in", random_factors(seed, *shapes), dtype="F64", lora_alpha=3)
        report = compress(folder, root / "out", ToEnergy(tau), encoding=encoding)
        before = {layer.name: layer for layer in audit_adapter(folder).layers}
        after = {layer.name: layer for layer in audit_adapter(root / "out").layers}
        assert after.keys() == before.keys()
        for row in report.modules:
            kept = before[row.name].singular_values[: row.new_rank]
            values = after[row.name].singular_values[: row.new_rank]
            assert values == pytest.approx(kept, rel=1e-9, abs=1e-7 * kept[0])
            assert after[row.name].scale * row.folded == pytest.approx(row.scale, rel=1e-11)
            assert after[row.name].r == row.stored_rank
            assert row.kept_energy >= tau - 1e-9
            assert row.kept_energy + row.predicted_error**2 == pytest.approx(1, abs=1e-11)


# ---------------------------------------------------------------- everything else, byte for byte


def test_other_tensors_are_copied(tmp_path):
    """Heads, biases, quantized leftovers: in their types, in the order of the reference implementation."""
    extra = {
        "base_model.model.score.weight": tensor(np.random.default_rng(0).standard_normal((3, 700)), "BF16"),
        "base_model.model.lm_head.weight": Stored("I8", (1500, 1000), bytes(range(250)) * 6000),
        "base_model.model.model.layers.0.mlp.bias": tensor(np.arange(5.0), "F64"),
        "base_model.model.embed_tokens.weight": tensor(np.arange(6.0).reshape(2, 3), "F8_E4M3"),
        "base_model.model.score.bias": Stored("F16", (0,), b""),
    }
    folder = write(tmp_path / "in", random_factors(0, (4, 10, 12), (4, 8, 9)), extra=extra)
    report = compress(folder, tmp_path / "out", ToBudget(reduction=0.7))
    data = (tmp_path / "out" / "adapter_model.safetensors").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    assert header.pop("__metadata__") == {"format": "pt"}
    assert start % 8 == 0
    for name, stored in extra.items():
        begin, end = header[name]["data_offsets"]
        assert data[start + begin : start + end] == stored.data
        assert (header[name]["dtype"], tuple(header[name]["shape"])) == (stored.dtype, tuple(stored.shape))
    assert report.carried_tensors == len(extra)
    widths = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2, "I8": 1, "F8_E4M3": 1}
    order = sorted(header, key=lambda name: (-widths[header[name]["dtype"]], name))
    assert order == list(header)


def test_the_config_keeps_its_fields_and_their_order(tmp_path):
    fields = {
        "zeta": {"nested": [1, 2.50, "ü", None]},
        "lora_dropout": 0.05,
        "use_rslora": False,
        "rank_pattern": None,
        "alpha": "unknown",
        "big": 12345678901234567890,
        "text": "snow ☃ and \x7f",
    }
    folder = write(tmp_path / "in", random_factors(0, (8, 10, 12)), **fields)
    before = json.loads((folder / "adapter_config.json").read_text())
    compress(folder, tmp_path / "out", ToRank(2))
    text = (tmp_path / "out" / "adapter_config.json").read_text()
    after = json.loads(text)
    assert list(after) == list(before)
    assert after == before | {"r": 2, "lora_alpha": 4}
    assert text.isascii()


@pytest.mark.parametrize("criterion", [ToRank(128), ToRank(4), ToEnergy(1.0)], ids=str)
def test_where_nothing_gets_smaller_nothing_is_written(criterion, tmp_path):
    folder = write(tmp_path / "in", random_factors(0, (4, 10, 12), (4, 8, 9)), lora_alpha=6.0)
    with raises(InputError, "nothing-smaller", "no module would get smaller") as refusal:
        compress(folder, tmp_path / "out", criterion)
    assert refusal.value.exit_code == 3
    assert [entry.name for entry in tmp_path.iterdir()] == ["in"]


# ---------------------------------------------------------------- the report


@pytest.mark.parametrize("strength", [None, 0.7])
@pytest.mark.parametrize("slip", SLIPS)
def test_the_result_is_checked_before_it_is_put_in_place(slip, strength, tmp_path, monkeypatch):
    """A bug in writing must not become somebody's adapter."""
    folder = write(tmp_path / "in", random_factors(0, (8, 10, 12), (8, 10, 12)))
    wrong = partial(written_adapter, make=slipping(write_module, slip))
    monkeypatch.setattr("gradience.compress.adapter.written_adapter", wrong)
    with pytest.raises(WrittenWrong, match="has an error of"):
        compress(folder, tmp_path / "out", ToRank(2), workers=1, strength=strength)
    assert [entry.name for entry in tmp_path.iterdir()] == ["in"]
