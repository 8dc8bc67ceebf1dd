"""Every code of every storage type has the value, and every value the code, that torch gives it: another library."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gradience.adapters.tensors import DTYPES, decode, encode

REFERENCE = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
}


def all_codes(name):
    """Every word of a type, and its value in torch."""
    words = np.arange(2 ** DTYPES[name].bits, dtype=f"<u{DTYPES[name].bits // 8}")
    values = torch.from_numpy(words.view(f"<i{DTYPES[name].bits // 8}")).view(REFERENCE[name])
    return words.view(DTYPES[name].numpy), values.to(torch.float64).numpy()


@pytest.mark.parametrize("name", REFERENCE)
def test_every_code_is_decoded_bit_for_bit(name):
    words, expected = all_codes(name)
    decoded = decode(words)
    assert decoded.dtype == np.float64
    assert len(decoded) == 2 ** DTYPES[name].bits
    # Two NaNs need not have the same payload; everything else, signed zeros included, has the same bits.
    nan = np.isnan(expected)
    assert (np.isnan(decoded) == nan).all()
    assert (decoded[~nan].view(np.uint64) == expected[~nan].view(np.uint64)).all()


@pytest.mark.parametrize(
    ("name", "nans", "infinities", "largest"),
    [
        ("F16", 2046, 2, 65504.0),
        ("BF16", 254, 2, 3.3895313892515355e38),
        ("F8_E4M3", 2, 0, 448.0),
        ("F8_E5M2", 6, 2, 57344.0),
        ("F8_E4M3FNUZ", 1, 0, 240.0),
        ("F8_E5M2FNUZ", 1, 0, 57344.0),
    ],
)
def test_where_each_type_ends(name, nans, infinities, largest):
    decoded = decode(all_codes(name)[0])
    assert int(np.isnan(decoded).sum()) == nans
    assert int(np.isinf(decoded).sum()) == infinities
    assert decoded[np.isfinite(decoded)].max() == largest


@pytest.mark.parametrize("name", REFERENCE)
def test_the_unit_roundoff_is_that_of_the_type(name):
    """Half the relative distance of the normal numbers 1 and its successor."""
    decoded = decode(all_codes(name)[0])
    successor = decoded[decoded > 1].min()
    assert DTYPES[name].unit_roundoff == (successor - 1) / 2
    assert DTYPES[name].smallest == decoded[decoded > 0].min()


@pytest.mark.parametrize("name", REFERENCE)
def test_every_value_is_rounded_to_the_nearest_word_and_ties_to_even(name):
    """Every finite value, every tie between two neighbors, and values between them."""
    _, values = all_codes(name)
    finite = np.unique(values[np.isfinite(values)])
    ties = (finite[1:] + finite[:-1]) / 2
    between = np.random.default_rng(0).uniform(finite[:-1], finite[1:]).astype(np.float32).astype(np.float64)
    for some in (finite, ties, between):
        nearest = torch.from_numpy(some).to(REFERENCE[name]).to(torch.float64).numpy()
        assert np.array_equal(decode(encode(some, DTYPES[name])), nearest)
    assert np.array_equal(decode(encode(finite, DTYPES[name])), finite)
    assert not np.isfinite(decode(encode(finite[[0, -1]] * 2, DTYPES[name]))).any()
