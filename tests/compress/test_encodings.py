"""Encodings: whatever is written, PEFT's rule reads the rank on disk, and fold times scale is the scale that was."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gradience.compress.encodings import ENCODINGS, Target, alpha_for, encode_modules

scales = st.one_of(
    st.sampled_from(
        [2.0, 1.0, 0.5, 0.25, 32.0, 16 / 7, 9 / 6, 16 / math.sqrt(8), 0.031, -2.0, 0.0, 1e-30, 1e30]
    ),
    # A config with an α below 1e-30 is refused, so no scale is smaller than this but 0.
    st.floats(1e-36, 1e3).flatmap(lambda size: st.sampled_from([size, -size])),
)
names = st.from_regex(r"\Amodel\.layers\.[0-9]{1,2}\.(self_attn\.)?[a-z]_proj(-[x+*])?\Z")


@st.composite
def target_lists(draw):
    drawn = draw(st.lists(names, min_size=1, max_size=7, unique=True))
    ranks = draw(st.sampled_from([st.just(4), st.integers(1, 600)]))
    shared = draw(st.sampled_from([st.just(draw(scales)), scales]))
    return [Target(name, draw(ranks), draw(shared)) for name in drawn]


def peft_reads(fields: dict, name: str) -> tuple[int, float]:
    """Rank and scale by PEFT's own rule, spelled out: the first key that matches wins, then the global value."""
    values = {}
    for field, default in (("rank_pattern", "r"), ("alpha_pattern", "lora_alpha")):
        hits = (value for key, value in fields[field].items() if re.match(rf"(.*\.)?({key})$", name))
        values[default] = next(hits, fields[default])
    assert fields["use_rslora"] is False
    return values["r"], values["lora_alpha"] / values["r"]


@given(target_lists(), st.sampled_from([None, *ENCODINGS]))
@example(
    [Target("a", 4, 2.3e-308), Target("b", 4, 2.0), Target("c", 4, 32.0)], "uniform"
)  # 32 / 2.3e-308 is infinite
def test_rank_and_scale_are_kept(targets, encoding):
    encoded = encode_modules(targets, encoding)
    for name, rank, scale in targets:
        read_rank, read_scale = peft_reads(dict(encoded.fields), name)
        assert read_rank == encoded.stored_rank[name] >= rank
        assert read_scale == encoded.scale[name]
        assert encoded.fold[name] * read_scale == pytest.approx(scale, rel=1e-12, abs=0)


@given(target_lists(), st.sampled_from([None, *ENCODINGS]))
def test_what_an_encoding_is(targets, encoding):
    encoded = encode_modules(targets, encoding)
    fields = encoded.fields
    largest = max(target.rank for target in targets)
    assert fields["r"] == largest
    equal_ranks = len({target.rank for target in targets}) == 1
    match encoded.encoding:
        case "uniform" | "padded":
            assert not fields["rank_pattern"]
            assert not fields["alpha_pattern"]
            assert set(encoded.stored_rank.values()) == {largest}
            assert equal_ranks or encoded.encoding == "padded"
        case "patterns":
            assert set(encoded.fold.values()) == {1.0}
            assert encoded.stored_rank == {target.name: target.rank for target in targets}
        case "folded":
            assert set(encoded.scale.values()) == {1.0}
            assert encoded.stored_rank == {target.name: target.rank for target in targets}
            assert fields["alpha_pattern"] == fields["rank_pattern"]
    if encoding is not None:
        assert encoded.encoding == encoding or (encoding, encoded.encoding) == ("uniform", "padded")
    elif not equal_ranks:
        assert encoded.encoding == "patterns"
    assert encoded.reason


@given(st.integers(1, 512), st.integers(1, 512), st.integers(1, 4096))
def test_alpha_is_an_integer_where_it_can_be(old, new, alpha):
    """s = α/r is a rounded quotient, so s·r′ misses integers by a bit or two."""
    new_alpha = alpha_for(alpha / old, new)
    if (alpha * new) % old == 0:
        assert new_alpha == alpha * new // old
        assert isinstance(new_alpha, int)
    else:
        assert isinstance(new_alpha, float)
    assert new_alpha / new == pytest.approx(alpha / old, rel=1e-12)


def test_patterns_name_what_differs_and_nothing_else():
    targets = [
        Target("m.0.q", 16, 2.0),
        Target("m.1.q", 16, 2.0),
        Target("m.10.q", 4, 2.0),
        Target("m.2.q", 16, 1.0),
    ]
    encoded = encode_modules(targets, None)
    assert encoded.encoding == "patterns"
    assert encoded.fields == {
        "r": 16,
        "lora_alpha": 32,
        "use_rslora": False,
        "rank_pattern": {r"^m\.10\.q": 4},
        "alpha_pattern": {r"^m\.10\.q": 8, r"^m\.2\.q": 16},
    }
    assert encoded.reason == "ranks and scales differ between modules"


def test_uniform_with_different_ranks_is_padded_and_says_so():
    encoded = encode_modules([Target("a", 4, 1.0), Target("b", 2, 1.0)], "uniform")
    assert encoded.encoding == "padded"
    assert "zeros" in encoded.reason
