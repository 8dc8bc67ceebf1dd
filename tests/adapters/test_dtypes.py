"""Every code of every storage type decodes to the value that ml_dtypes (an independent implementation) gives it."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from gradience.adapters.dtypes import DTYPES, decode

REFERENCE = {
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
    "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
}


def all_codes(name):
    words = np.arange(2 ** DTYPES[name].bits, dtype=f"<u{DTYPES[name].bits // 8}")
    return words.view(DTYPES[name].raw), words.view(REFERENCE[name])


@pytest.mark.parametrize("name", REFERENCE)
def test_every_code_is_decoded_bit_for_bit(name):
    raw, reference = all_codes(name)
    found = decode(raw, DTYPES[name])
    with np.errstate(invalid="ignore"):  # the signalling NaNs; decode() must not warn by itself
        expected = reference.astype(np.float64)
    assert found.dtype == np.float64
    assert len(found) == 2 ** DTYPES[name].bits
    # Two NaNs need not have the same payload; everything else, signed zeros included, has the same bits.
    nan = np.isnan(expected)
    assert (np.isnan(found) == nan).all()
    assert (found[~nan].view(np.uint64) == expected[~nan].view(np.uint64)).all()


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
    found = decode(all_codes(name)[0], DTYPES[name])
    assert int(np.isnan(found).sum()) == nans
    assert int(np.isinf(found).sum()) == infinities
    assert found[np.isfinite(found)].max() == largest


@pytest.mark.parametrize("name", ["F32", "F64"])
def test_native_floats_are_exact(name):
    bits = DTYPES[name].bits
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2**bits, 4096, dtype=f"u{bits // 8}").view(DTYPES[name].raw)
    values = np.append(values, np.array([0.0, -0.0, np.inf, -np.inf, np.nan], values.dtype))
    with np.errstate(invalid="ignore"):  # signalling NaNs among the random bits
        assert np.array_equal(decode(values, DTYPES[name]), values.astype(np.float64), equal_nan=True)


@pytest.mark.parametrize("name", REFERENCE)
def test_the_unit_roundoff_is_that_of_the_type(name):
    """Half the relative distance of the normal numbers 1 and its successor."""
    found = decode(all_codes(name)[0], DTYPES[name])
    successor = found[found > 1].min()
    assert DTYPES[name].unit_roundoff == (successor - 1) / 2
    assert DTYPES[name].smallest == found[found > 0].min()


@pytest.mark.parametrize("shape", [(256,), (16, 16), (4, 8, 8)])
def test_any_shape_and_any_order(shape):
    raw = np.arange(256, dtype=np.uint8).reshape(shape)
    for words in (raw, raw.T, raw[..., ::2]):
        found = decode(words, DTYPES["F8_E4M3"])
        expected = np.ascontiguousarray(words).view(ml_dtypes.float8_e4m3fn).astype(np.float64)
        assert np.array_equal(found, expected, equal_nan=True)


@pytest.mark.parametrize("name", [name for name, dtype in DTYPES.items() if dtype.raw is None])
def test_other_types_are_known_and_not_decoded(name):
    with pytest.raises(KeyError):
        decode(np.zeros(1, np.uint8), DTYPES[name])
