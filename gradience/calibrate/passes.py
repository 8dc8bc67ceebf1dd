"""Two passes over the rows: moments of h and t, then the effect of each component on each row.

A pass is a forward, and a backward from a random direction of the logits at every scored token: summed over the tokens
of a row, never averaged. Rows do not see each other, so that what arrives for a row is its own gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradience.calibrate.batches import Batch
from gradience.calibrate.capture import capturing
from gradience.calibrate.draws import signs_of
from gradience.components import Components
from gradience.evaluate.engines.transformers.scoring import CHUNK
from gradience.spectra import FloatArray

UNATTRIBUTED = "its inputs do not say which row they belong to"
UNREACHED = "no row reaches it"


@dataclass(slots=True)
class Moments:
    """Sums over tokens; r x r."""

    moment_in: FloatArray
    moment_out: FloatArray
    tokens: int = 0


def gather_moments(
    model: Any, layers: Mapping[str, Any], batches: Sequence[Batch], seed: int, on_batch: Callable[[], None]
) -> tuple[dict[str, Moments], dict[str, str]]:
    """E[hhᵀ] and E[ttᵀ] over the tokens of the batches, for each module; and why some modules have none."""
    sums: dict[str, Moments] = {}
    reasons: dict[str, str] = {}
    for batch in batches:

        def add(name: str, h: Tensor, t: Tensor, batch: Batch = batch) -> None:
            inputs, gradients = batch.by_row(h.float()), batch.by_row(t.float())
            if inputs is None or gradients is None:
                reasons[name] = UNATTRIBUTED
                return
            moments = sums.setdefault(name, Moments(*np.zeros((2, h.shape[-1], h.shape[-1]))))
            moments.moment_in += _outer(inputs)
            moments.moment_out += _outer(gradients)
            moments.tokens += batch.count(inputs)

        backward(model, layers, batch, seed, add)
        on_batch()
    for name in layers:
        if name not in sums:
            reasons.setdefault(name, UNREACHED)
    kept = {name: sums[name] for name in layers if name in sums and name not in reasons}
    for moments in kept.values():
        moments.moment_in /= moments.tokens
        moments.moment_out /= moments.tokens
    return kept, reasons


def gather_effects(
    model: Any,
    layers: Mapping[str, Any],
    batches: Sequence[Batch],
    bases: Mapping[str, Sequence[Components]],
    seed: int,
    on_batch: Callable[[], None],
) -> tuple[tuple[str, ...], dict[str, list[FloatArray]], dict[str, str]]:
    """⟨J, p·qᵀ⟩ = Σ over tokens of (tᵀp)(qᵀh), for each row, module, basis and component.

    Returns the identities of the rows in the order of the first axis, for each module an array (rows, k) a basis, and
    why some modules have none.
    """
    reasons: dict[str, str] = {}
    rows = tuple(row.id for batch in batches for row in batch.rows)
    effects = {name: [np.zeros((len(rows), basis.p.shape[1])) for basis in bases[name]] for name in layers}
    device = model.device
    maps = {
        name: [(_tensor(basis.p, device), _tensor(basis.q, device)) for basis in bases[name]]
        for name in layers
    }
    start = 0
    for batch in batches:
        here = slice(start, start + len(batch.rows))

        def add(name: str, h: Tensor, t: Tensor, batch: Batch = batch, here: slice = here) -> None:
            inputs, gradients = batch.by_row(h.float()), batch.by_row(t.float())
            if inputs is None or gradients is None:
                reasons[name] = UNATTRIBUTED
                return
            for target, (p, q) in zip(effects[name], maps[name], strict=True):
                target[here] += ((gradients @ p) * (inputs @ q)).sum(dim=1).cpu().double().numpy()

        backward(model, layers, batch, seed, add)
        start += len(batch.rows)
        on_batch()
    return rows, {name: effects[name] for name in effects if name not in reasons}, reasons


def backward(
    model: Any,
    layers: Mapping[str, Any],
    batch: Batch,
    seed: int,
    consumer: Callable[[str, Tensor, Tensor], None],
) -> None:
    """One forward and one backward pass of a batch, with signs drawn for its rows."""
    with torch.enable_grad(), capturing(model, layers, consumer):
        logits = batch.logits(model)
        if logits.requires_grad:  # some layer is reached
            drawn = signs_of(seed, [(row.id, row.scored) for row in batch.rows], logits.shape[1])
            logits.backward(direction(logits.detach(), torch.from_numpy(drawn)))  # type: ignore[no-untyped-call]


def direction(logits: Tensor, drawn: Tensor) -> Tensor:
    """A random direction z of the logits (labels, classes) for each label, with E[zzᵀ] = diag(p) − ppᵀ.

    That is the Fisher information of the softmax, so that ½·E(change of the logits · z)² is the KL to second order, as
    it is with the gradient of −log p(y) at a y drawn from p. With signs ε, as in Hutchinson's estimate of a trace,
    z = √p·ε − p·(√p·ε) speaks of all classes at once. A y drawn from a confident model is almost always the likeliest,
    and the few that are not would decide everything. A few rows at a time, for the memory.
    """
    gradient = torch.empty_like(logits)
    rows = max(1, CHUNK // logits.shape[1])
    for start in range(0, len(logits), rows):
        few = slice(start, start + rows)
        p = logits[few].float().softmax(dim=-1)
        mixed = p.sqrt() * drawn[few].to(p.device)
        gradient[few] = (mixed - p * mixed.sum(dim=-1, keepdim=True)).to(gradient.dtype)
    return gradient


def _outer(values: Tensor) -> FloatArray:
    flat = values.reshape(-1, values.shape[-1])
    product: FloatArray = (flat.T @ flat).cpu().double().numpy()
    return product


def _tensor(values: FloatArray, device: Any) -> Tensor:
    return torch.from_numpy(values).float().to(device)
