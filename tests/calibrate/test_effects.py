"""What the passes say of each row: autograd's own gradient, whatever the batch; and what it means for the KL."""

import numpy as np
import pytest
import torch
from toys import (
    MODELS,
    along,
    at_labels,
    batches,
    drawn_direction,
    effects,
    factors,
    jacobians,
    layers_of,
    logits_of,
    moments,
    rows,
    some_bases,
    toy,
)

from gradience.calibrate.measure import EncodedRow, direction, draw
from gradience.spectra import Components

EVERY = pytest.mark.parametrize("kind", MODELS)
SINGLE = 2e-5
"""h and t are made single precision where they arrive."""


@EVERY
def test_effects_are_those_of_autograd_on_single_rows(kind):
    model, encoded = toy(kind), rows(kind)
    bases = some_bases(model)
    gathered = effects(model, encoded, bases, size=3)
    for place, row in enumerate(encoded):
        J = jacobians(model, row, along(drawn_direction(model, row)))
        for name, arrays in gathered.items():
            for basis, array in zip(bases[name], arrays, strict=True):
                expected = np.einsum("ik,ij,jk->k", basis.p, J[name], basis.q)
                np.testing.assert_allclose(array[place], expected, atol=SINGLE * np.abs(J[name]).max() + 1e-9)
    assert len(gathered) >= 4


@EVERY
def test_batches_and_the_order_of_rows_change_nothing_beyond_rounding(kind):
    model, encoded = toy(kind), rows(kind)
    bases = some_bases(model)
    alone = effects(model, encoded, bases, size=1)
    shuffled = [encoded[place] for place in (4, 1, 6, 0, 3, 5, 2)]
    together = effects(model, shuffled, bases, size=7)
    for name, arrays in alone.items():
        for one, other in zip(arrays, together[name], strict=True):
            np.testing.assert_allclose(other[[3, 1, 6, 4, 0, 5, 2]], one, rtol=1e-4, atol=1e-5)
    first, second = moments(model, encoded, size=1), moments(model, shuffled, size=4)
    for name, each in first.items():
        assert second[name].tokens == each.tokens
        for side in ("moment_in", "moment_out"):
            one, other = getattr(each, side), getattr(second[name], side)
            np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5 * np.abs(one).max())


def test_padding_is_in_no_moment():
    model, encoded = toy("llama"), rows("llama")
    hidden = moments(model, encoded, size=7)["model.embed_tokens"]
    A = factors(layers_of(model)["model.embed_tokens"])[0].numpy()
    h = np.concatenate([A[:, row.ids].T for row in encoded])
    np.testing.assert_allclose(hidden.moment_in, h.T @ h / len(h), rtol=1e-5)
    assert hidden.tokens == len(h)


def test_the_model_is_left_as_it_was():
    model, encoded = toy("llama"), rows("llama")
    before = logits_of(model, encoded[0])
    effects(model, encoded, some_bases(model), size=4)
    assert not any("_embed" in vars(layer) for layer in layers_of(model).values())
    assert torch.equal(logits_of(model, encoded[0]), before)
    assert all(weight.grad is None for weight in model.parameters())


# ---------------------------------------------------------------- what an effect means


def scaled(model, name: str, basis: Components, component: int, by: float):
    """While this lasts, one component of one module is multiplied by `by`."""
    B = factors(layers_of(model)[name])[1]
    p, q = torch.from_numpy(basis.p[:, component]), torch.from_numpy(basis.q[:, component])
    return B @ (torch.eye(len(p)) - (1 - by) * torch.outer(p, q)).double()


def kl_of(model, row, name, basis, component, epsilon) -> float:
    with torch.no_grad():
        whole = logits_of(model, row).log_softmax(dim=-1)
        B = factors(layers_of(model)[name])[1]
        kept = B.clone()
        B.copy_(scaled(model, name, basis, component, 1 - epsilon))
        smaller = logits_of(model, row).log_softmax(dim=-1)
        B.copy_(kept)
        return float((whole.exp() * (whole - smaller)).sum())


def enumerated(model, row, name, basis, component) -> float:
    """E over all labels, by their probabilities, of the squared effect; tokens are independent given what is before."""
    p = logits_of(model, row).softmax(dim=-1)
    total = 0.0
    for token in range(len(p)):
        for label in range(p.shape[1]):
            only = torch.full((len(p),), label)
            effect = jacobian_at(model, row, token, only)[name]
            total += float(p[token, label]) * (basis.p[:, component] @ effect @ basis.q[:, component]) ** 2
    return total


def jacobian_at(model, row, token, labels):
    shorter = EncodedRow(
        row.id, row.prompt + row.completion[:token], row.completion[token : token + 1], 1, False
    )
    return jacobians(model, shorter if row.completion else row, at_labels(labels[:1]))


@pytest.mark.parametrize(
    ("kind", "module"), [("bert", "query"), ("bert", "word_embeddings"), ("llama", "down_proj")]
)
def test_half_the_enumerated_score_is_the_kl_of_shrinking_a_component(kind, module):
    model = toy(kind)
    row = rows(kind)[1]
    name = next(name for name in layers_of(model) if name.endswith(module))
    basis = Components(np.eye(3), np.eye(3), np.ones(3))
    score = enumerated(model, row, name, basis, 1)
    ratios = [kl_of(model, row, name, basis, 1, step) / (step**2 * score) for step in (1e-2, 1e-3)]
    assert ratios[1] == pytest.approx(0.5, abs=5e-3)
    assert abs(ratios[1] - 0.5) < max(abs(ratios[0] - 0.5) / 5, 1e-6)  # what is left is proportional to ε


def test_drawn_scores_converge_to_the_enumerated_one():
    model, kind = toy("bert"), "bert"
    row, name = rows(kind)[1], "bert.encoder.layer.0.attention.self.query"
    basis = Components(np.eye(3), np.eye(3), np.ones(3))
    count = 3000
    copies = [EncodedRow(f"{place:016x}", row.prompt, (), 1, False) for place in range(count)]
    bases = {each: [basis] for each in layers_of(model)}
    squares = np.square(effects(model, copies, bases, size=500)[name][0][:, 1])
    wanted = enumerated(model, row, name, basis, 1)
    assert abs(squares.mean() - wanted) < 4 * squares.std() / np.sqrt(count)
    assert squares.std() / np.sqrt(count) < wanted / 10


def test_directions_have_the_covariance_of_the_gradient_at_a_label_drawn_from_the_model():
    logits = torch.tensor([[2.0, -1.0, 0.5]], dtype=torch.float64)
    every = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3)  # all signs, each as likely
    z = direction(logits.expand(len(every), 3), every)
    p = logits.softmax(dim=-1)[0]
    torch.testing.assert_close(z.T @ z / len(every), torch.diag(p) - torch.outer(p, p), atol=1e-7, rtol=0)


def test_of_a_confident_model_directions_spread_less_than_drawn_labels():
    p = torch.tensor([0.98, 0.01, 0.01])
    change = torch.tensor([0.3, -0.2, 0.5])  # of the logits
    every = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3)
    directed = (direction(p.log().expand(len(every), 3), every) @ change).square()
    labeled = ((p - torch.eye(3)) @ change).square()
    exact = float(p @ change.square() - (p @ change) ** 2)
    assert float(directed.mean()) == pytest.approx(exact, rel=1e-4)
    assert float(p @ labeled) == pytest.approx(exact, rel=1e-4)
    assert float(directed.square().mean()) < float(p @ labeled.square()) / 5


def test_tokens_are_drawn_with_their_probabilities_and_the_ends_are_safe():
    p = torch.tensor([[0.2, 0.0, 0.5, 0.3]]).expand(1000, 4)
    drawn = draw(p, (np.arange(1000) + 0.5) / 1000)
    assert torch.bincount(drawn, minlength=4).tolist() == [200, 0, 500, 300]
    assert draw(p[:2], np.array([0.0, np.nextafter(1.0, 0.0)])).tolist() == [0, 3]


def test_a_batch_scores_what_belongs_to_the_completion():
    (batch,) = batches(rows("llama", 3), 3)
    for place, row in enumerate(batch.rows):
        positions = batch.wanted[place].nonzero()[:, 0].tolist()
        assert [batch.inputs["input_ids"][place, at + 1].item() for at in positions] == list(row.completion)
