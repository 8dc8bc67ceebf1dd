"""The training itself: both adapters on one base, KL(teacher ‖ student) as the loss, the best step by rows apart.

The loss of a batch is the sum over all scored tokens of its rows, in evaluation mode: neither is averaged, and there is
no dropout. Its gradient for the student's logits is softmax(student) − softmax(teacher), so that autograd holds no
copy of the logits in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradience.calibrate.batches import Batch, Encoded, batches_of
from gradience.distill.inputs import Parts
from gradience.evaluate.engines.transformers import TransformersEngine
from gradience.evaluate.engines.transformers.scoring import CHUNK, measure
from gradience.reports.distill import DistillCheck
from gradience.spectra import FloatArray

TEACHER, STUDENT = "teacher", "student"
FACTORS = ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B")
CHECKS = 10
"""Looks at the rows that decide when to stop, if all steps are taken."""
PATIENCE = 3
"""Checks in a row without anything better, after which it stops, if half of the steps are done."""
WARM = 5
"""The rate rises over a fifth of the steps: AdamW's first ones are as long as the rate, however small the gradient."""
_ORDER = 3
"""Stream of random numbers, beside those of `calibrate/draws.py` and of the split."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What the training came to. The student's factors are those of the best step."""

    checks: tuple[DistillCheck, ...]
    steps: int

    @property
    def best(self) -> DistillCheck:
        """The first of the lowest KL."""
        return min(self.checks, key=lambda check: (check.kl, check.step))


def factors_of(model: Any) -> dict[str, torch.nn.Parameter]:
    """LoRA factors of the active adapter, by the names that they have in PEFT's file."""
    key = f".{model.active_adapter}"
    return {
        name.replace(key, ""): weight
        for name, weight in model.named_parameters()
        if any(part in FACTORS for part in name.split(".")) and key in name
    }


def train(
    engine: TransformersEngine,
    parts: Parts[Encoded],
    *,
    steps: int,
    lr: float,
    batch_size: int,
    seed: int,
    on_step: Callable[[], None],
) -> Trained:
    """Train the student's factors, and leave the best of them in it.

    AdamW without weight decay, whose rate rises to `lr` over the first steps and falls in a straight line to 0.
    on_step: called after each step.
    """
    with engine.using(STUDENT) as model:
        factors = factors_of(model)
    optimizer = torch.optim.AdamW(factors.values(), lr=lr, weight_decay=0.0)
    stopping = batches_of(engine.tokenizer, parts.stopping, batch_size, engine.base.device)
    checks = [DistillCheck(step=0, kl=per_token(divergences(engine, stopping), parts.stopping))]
    best = checks[0]
    kept = copied(factors)
    step = 0
    for rows in _few(parts.training, steps, batch_size, seed):
        for group in optimizer.param_groups:
            group["lr"] = lr * min((step + 1) / max(1, steps // WARM), 1 - step / steps)
        _step(engine, factors, optimizer, batches_of(engine.tokenizer, rows, batch_size, engine.base.device))
        step += 1
        on_step()
        if step % max(1, steps // CHECKS) and step < steps:
            continue
        checks.append(DistillCheck(step=step, kl=per_token(divergences(engine, stopping), parts.stopping)))
        if checks[-1].kl < best.kl:
            best, kept = checks[-1], copied(factors)
        elif step >= steps / 2 and len(checks) - checks.index(best) > PATIENCE:
            break
    restore(factors, kept)
    return Trained(tuple(checks), step)


def _few(rows: Sequence[Encoded], steps: int, batch_size: int, seed: int) -> Iterator[list[Encoded]]:
    """The rows of each step: all of them once, in a seeded order, then in another; the last batch may be short."""
    draw = np.random.default_rng([seed, _ORDER])
    left = steps
    while left:
        order = draw.permutation(len(rows)).tolist()
        for start in range(0, len(rows), batch_size)[:left]:
            yield [rows[place] for place in order[start : start + batch_size]]
            left -= 1


def _step(
    engine: TransformersEngine,
    factors: Mapping[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    batches: Sequence[Batch],
) -> None:
    """One update from the sum over `batches`."""
    optimizer.zero_grad(set_to_none=True)
    for batch in batches:
        with torch.no_grad(), engine.using(TEACHER) as model:
            wanted = batch.logits(model)
        with engine.using(STUDENT) as model, torch.enable_grad():
            model.requires_grad_(False)  # choosing an adapter turns its head on as well
            for factor in factors.values():
                factor.requires_grad_(True)
            logits = batch.logits(model)
            logits.backward(residual(logits.detach(), wanted))  # type: ignore[no-untyped-call]
    optimizer.step()


def residual(logits: Tensor, teacher: Tensor) -> Tensor:
    """Gradient of Σ KL(teacher ‖ student) with respect to the student's logits (labels, classes)."""
    gradient = torch.empty_like(logits)
    rows = max(1, CHUNK // logits.shape[1])
    for start in range(0, len(logits), rows):
        few = slice(start, start + rows)
        difference = logits[few].float().softmax(dim=-1) - teacher[few].float().softmax(dim=-1)
        gradient[few] = difference.to(gradient.dtype)
    return gradient


def divergences(
    engine: TransformersEngine, batches: Sequence[Batch], on_batch: Callable[[], None] = lambda: None
) -> dict[str, float]:
    """KL(teacher ‖ student) of each row, summed over its scored tokens, by the row's identity."""
    sums: dict[str, float] = {}
    for batch in batches:
        with torch.inference_mode():
            with engine.using(TEACHER) as model:
                wanted = batch.logits(model)
            with engine.using(STUDENT) as model:
                logits = batch.logits(model)
            kl = measure(logits, wanted.argmax(dim=-1), wanted).kl
        counts = [row.scored for row in batch.rows]
        if kl is None or len(kl) != sum(counts):
            raise AssertionError("one divergence for each scored token")
        for row, part in zip(batch.rows, torch.split(kl, counts), strict=True):
            sums[row.id] = max(0.0, float(part.sum()))  # rounding may leave it below 0
        on_batch()
    return sums


def per_token(sums: Mapping[str, float], rows: Sequence[Encoded]) -> float:
    """KL per scored token of the rows."""
    return float(sum(sums[row.id] for row in rows) / sum(row.scored for row in rows))


def copied(factors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The factors as they are now."""
    return {name: factor.detach().clone() for name, factor in factors.items()}


def restore(factors: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> None:
    """Set the factors to what was kept."""
    with torch.no_grad():
        for name, factor in factors.items():
            factor.copy_(kept[name])


def as_rows(sums: Mapping[str, float], rows: Sequence[Encoded]) -> FloatArray:
    """The divergences in the order of the rows."""
    return np.array([sums[row.id] for row in rows])
