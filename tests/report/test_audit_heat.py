"""The map of layers and kinds of modules."""

from __future__ import annotations

import pytest
from audit_sample import power_law, report, row

from gradience.reports.audit import (
    BLOCKS,
    MAX_KINDS,
    block,
    layer_maps,
    short_labels,
)
from gradience.reports.base import terminal


def one(name, k, *, r=8, index=0, layer="model.layers", **more):
    """A module whose k@90 is exactly k: k equal singular values."""
    sigma = power_law(r, 0.0)
    sigma[k:] = 0.0
    module = row(name, sigma, r=r, shape=(32, 16), layer=f"{layer}.{index}", index=index, **more)
    assert module.energy_rank_90 == k
    return module


def kinds_of(layers):
    """The rows of a map that are kinds of modules: all but the energy."""
    return [row for row in layers.heat.rows if row.figures]


def signs(layers):
    return {kind.label.text: text_of(kind) for kind in kinds_of(layers)}


def text_of(row):
    return "".join(cell.text for cell in row.cells)


@pytest.mark.parametrize(
    ("share", "level"),
    [
        (1 / 64, 1),
        (1 / 8, 1),
        (1 / 8 + 1e-6, 2),
        (0.25, 2),
        (0.5, 4),
        (51 / 64, 7),
        (7 / 8, 7),
        (57 / 64, 8),
        (1.0, 8),
    ],
)
def test_a_block_is_the_first_eighth_that_covers(share, level):
    assert block(share).text == BLOCKS[level - 1]


def test_one_sign_a_layer_in_the_order_of_the_layers():
    rows = [one(f"model.layers.{i}.self_attn.q_proj", k, index=i) for i, k in ((10, 8), (2, 1), (9, 4))]
    (layers,), hidden = layer_maps(report(rows), 40)
    assert signs(layers) == {"q_proj": "▁······▄█"}
    assert list(layers.heat.indices) == list(range(2, 11))
    assert hidden == 0


def test_untrained_and_broken_modules_have_signs_of_their_own():
    rows = [one("model.layers.0.q_proj", 1)]
    for index, status in ((1, "untrained"), (2, "nonfinite")):
        layer = f"model.layers.{index}"
        rows.append(row(f"{layer}.q_proj", None, r=8, shape=(8, 8), layer=layer, index=index, status=status))
    (layers,), _ = layer_maps(report(rows), 40)
    assert signs(layers) == {"q_proj": "▁○✗"}


def test_experts_share_one_row_and_show_their_median():
    rows = [one(f"model.layers.0.mlp.experts.{e}.w1", k) for e, k in enumerate((1, 4, 8))]
    (layers,), _ = layer_maps(report(rows), 40)
    assert signs(layers) == {"w1": "▄"}
    assert kinds_of(layers)[0].figures == ("4", "8")


def test_more_layers_than_columns_share_columns():
    rows = [one(f"h.{i}.c_attn", 2, index=i, layer="h") for i in range(80)]
    (layers,), _ = layer_maps(report(rows), 38)
    assert layers.per_column == 3
    assert len(kinds_of(layers)[0].cells) == len(layers.heat.indices) == 27 <= 38
    assert list(layers.heat.indices[:3]) == [0, 3, 6]


def test_encoder_and_decoder_have_maps_of_their_own():
    rows = [one(f"encoder.block.{i}.q", 1, index=i, layer="encoder.block") for i in range(3)]
    rows += [one(f"decoder.block.{i}.q", 8, index=i, layer="decoder.block") for i in range(4)]
    maps, hidden = layer_maps(report(rows), 40)
    assert [layers.heat.title.text for layers in maps] == ["decoder.block", "encoder.block"]
    assert [signs(layers) for layers in maps] == [{"q": "████"}, {"q": "▁▁▁"}]
    assert hidden == 0


def test_what_lies_outside_the_layers_is_listed_apart():
    rows = [one("model.layers.0.q_proj", 1), row("lm_head", power_law(8, 1.0), r=8, shape=(100, 16))]
    assert "outside the layers: lm_head k@90" in report(rows).to_text()
    (layers,), _ = layer_maps(report(rows), 40)
    assert len(kinds_of(layers)) == 1


def test_absurd_layer_numbers_and_many_kinds_do_not_make_it_large():
    rows = [one("model.layers.999999999999999999.q_proj", 1, index=999999999999999999)]
    rows += [one(f"model.layers.0.kind{i}", 1) for i in range(500)]
    rows += [one(f"stack{i}.0.q", 1, layer=f"stack{i}") for i in range(300)]
    maps, hidden = layer_maps(report(rows), 38)
    assert sum(len(kinds_of(layers)) for layers in maps) <= MAX_KINDS
    assert all(len(layers.heat.indices) <= 38 for layers in maps)
    assert hidden == 301 - len(maps)
    assert maps[0].hidden == 501 - len(kinds_of(maps[0]))


def test_energy_row_is_relative_to_the_largest_layer():
    rows = [
        one(f"model.layers.{i}.q_proj", 1, index=i, fro_norm=norm) for i, norm in enumerate((1.0, 2.0, 0.1))
    ]
    (layers,), _ = layer_maps(report(rows), 40)
    assert text_of(layers.heat.rows[-1]) == "▂█▁"


def test_energy_row_survives_norms_whose_squares_overflow():
    rows = [
        one(f"model.layers.{i}.q_proj", 1, index=i, fro_norm=norm) for i, norm in enumerate((1e300, 1e299))
    ]
    (layers,), _ = layer_maps(report(rows, with_gain=False), 40)
    assert text_of(layers.heat.rows[-1])[0] == "█"


@pytest.mark.parametrize(
    ("kinds", "labels"),
    [
        (["self_attn.q_proj", "mlp.up_proj"], ["q_proj", "up_proj"]),
        (["attn.c_proj", "mlp.c_proj", "attn.c_attn"], ["attn.c_proj", "mlp.c_proj", "c_attn"]),
        (["proj", "x.proj"], ["proj", "x.proj"]),
        (["q"], ["q"]),
    ],
)
def test_labels_are_the_shortest_ends_that_differ(kinds, labels):
    assert list(short_labels(kinds).values()) == labels


@pytest.mark.parametrize(
    ("number", "width"), [(32, 40), (80, 40), (6, 40), (1, 40), (2, 40), (126, 40), (48, 60)]
)
def test_ruler_numbers_never_touch_and_stand_over_their_columns(number, width):
    rows = [one(f"h.{i}.q", 1, index=i, layer="h") for i in range(number)]
    (layers,), _ = layer_maps(report(rows), width)
    cell_width = terminal.heat_cell_width(len(layers.heat.indices))
    text = terminal.ruler(layers.heat.indices, cell_width)
    numbers = text.split()
    assert numbers[-1] == str(layers.heat.indices[-1])
    assert [int(number) for number in numbers] == sorted({int(number) for number in numbers})
    for number in numbers[:-1]:
        position = f" {text} ".index(f" {number} ")
        assert layers.heat.indices[position // cell_width] == int(number)
