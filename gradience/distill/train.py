"""Distillation: both adapters on one base, KL(teacher ‖ student) as the loss, the best step by rows apart.

The loss of a batch is the sum over all scored tokens of its rows, in evaluation mode: neither is averaged, and there is
no dropout. Its gradient for the student's logits is softmax(student) − softmax(teacher), so that autograd holds no
copy of the logits in float32. The factors are written among the stored tensors: same names, same types.
"""

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from gradience.adapters.locate import CONFIG, WEIGHTS
from gradience.calibrate.measure import Batch, EncodedRow, batches_of, counter, encoded_rows, prompt_fields
from gradience.calibrate.settings import DistillSettings
from gradience.compress import carry
from gradience.digests import sha256_file
from gradience.distill.verb import DistillInputs, Parts, mean_kl, p_closer, split
from gradience.errors import InputError
from gradience.evaluate.engines.transformers.engine import TransformersEngine
from gradience.evaluate.engines.transformers.forward import logit_blocks, measure
from gradience.files.card import write_card
from gradience.files.shared_names import path_text
from gradience.files.whole import whole_folder
from gradience.reports.base.report import Stopwatch
from gradience.reports.distill import DistillCheck, DistillReport, HeldOutRow
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
"""Stream of random numbers, beside those of `calibrate/measure.py` and of the split."""


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
    parts: Parts[EncodedRow],
    request: DistillSettings,
    on_step: Callable[[], None],
) -> tuple[tuple[DistillCheck, ...], int]:
    """Train the student's factors, leave the best of them in it, and return the checks and the number of steps.

    AdamW without weight decay. Its rate rises to `request.lr` over the first steps and falls in a straight line to 0.
    on_step: called after each step.
    """
    steps, batch_size = request.steps, request.batch_size
    with engine.using(STUDENT) as model:
        factors = factors_of(model)
    optimizer = torch.optim.AdamW(factors.values(), lr=request.lr, weight_decay=0.0)
    stopping = batches_of(engine.tokenizer, parts.stopping, batch_size, engine.base.device)
    tokens = sum(row.scored for row in parts.stopping)

    def check(step: int) -> DistillCheck:
        return DistillCheck(
            step=step, kl_per_token=float(divergences(engine, stopping, parts.stopping).sum() / tokens)
        )

    checks = [check(0)]
    best = checks[0]
    kept = {name: factor.detach().clone() for name, factor in factors.items()}
    step = 0
    for rows in _few(parts.training, steps, batch_size, request.seed):
        for group in optimizer.param_groups:
            group["lr"] = request.lr * min((step + 1) / max(1, steps // WARM), 1 - step / steps)
        _step(engine, factors, optimizer, batches_of(engine.tokenizer, rows, batch_size, engine.base.device))
        step += 1
        on_step()
        if step % max(1, steps // CHECKS) and step < steps:
            continue
        checks.append(check(step))
        if checks[-1].kl_per_token < best.kl_per_token:
            best = checks[-1]
            kept = {name: factor.detach().clone() for name, factor in factors.items()}
        elif step >= steps / 2 and len(checks) - checks.index(best) > PATIENCE:
            break
    with torch.no_grad():
        for name, factor in factors.items():
            factor.copy_(kept[name])
    return tuple(checks), step


def _few(rows: Sequence[EncodedRow], steps: int, batch_size: int, seed: int) -> Iterator[list[EncodedRow]]:
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
    for few in logit_blocks(logits):
        difference = logits[few].float().softmax(dim=-1) - teacher[few].float().softmax(dim=-1)
        gradient[few] = difference.to(gradient.dtype)
    return gradient


def divergences(
    engine: TransformersEngine,
    batches: Sequence[Batch],
    rows: Sequence[EncodedRow],
    on_batch: Callable[[], None] = lambda: None,
) -> FloatArray:
    """Return KL(teacher ‖ student) of each row, summed over its scored tokens. batches: of these rows, in any order."""
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
    return np.array([sums[row.id] for row in rows])


def write_distilled(inputs: DistillInputs, output: Path) -> DistillReport:
    """Distill the adapter, and write it with its report to the folder `output`: weights, config, its other files."""
    request, student, watch = inputs.request, inputs.student, Stopwatch(inputs.request.command)
    source = student.adapter.folder
    with safe_open(str(source / WEIGHTS), framework="pt") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata() or {}
    engine = TransformersEngine.load(student.model, labels=student.labels, device=request.device)
    engine.add(TEACHER, inputs.teacher.folder)
    engine.add(STUDENT, source)
    with engine.using(STUDENT) as model:
        factors = factors_of(model)
    named = {name for name in stored if any(part in FACTORS for part in name.split("."))}
    if unlike := sorted(named ^ set(factors)):
        raise InputError(
            f"{source}: PEFT loads it, but under different tensor names: {unlike[0]}",
            code="other-names",
            hint="load it with PEFT, save it with save_pretrained(), and distill the saved adapter",
        )
    with engine.using(TEACHER) as model:
        sizes = student.to_sample, *[len(split(student.rows.all, request.seed).held_out)] * 2
        batches = sum(-(-size // request.batch_size) for size in sizes)
        advance = counter(request.progress, batches + request.steps)
        rows = encoded_rows(student, engine, model, advance)
        parts = split(rows, request.seed)
    held_out = batches_of(engine.tokenizer, parts.held_out, request.batch_size, engine.base.device)
    before = divergences(engine, held_out, parts.held_out, advance)
    checks, steps = train(engine, parts, request, advance)
    best = min(checks, key=lambda check: (check.kl_per_token, check.step))
    improved = best.step > 0
    after, weights = before, (source / WEIGHTS).read_bytes()
    if improved:
        with torch.no_grad():  # rounded as the file stores them, so that what is measured is what is written
            for name, factor in factors.items():
                factor.copy_(factor.to(stored[name].dtype).to(factor.dtype))
        after = divergences(engine, held_out, parts.held_out, advance)
        for name, factor in factors.items():
            stored[name] = factor.detach().cpu().to(stored[name].dtype).contiguous()
        weights = save(stored, metadata)
    tokens = np.array([row.scored for row in parts.held_out], dtype=np.int64)
    with whole_folder(output, force=request.force) as folder:
        (folder / WEIGHTS).write_bytes(weights)
        (folder / CONFIG).write_bytes((source / CONFIG).read_bytes())
        carried, left_out = carry.carry_files(student.adapter.location, folder)
        if improved:
            carry.annotate(folder, carry.distilled_opening(best.step))
        report = DistillReport(
            **prompt_fields(student, engine, rows),
            adapter_sha256=inputs.student_sha256,
            teacher_path=path_text(request.teacher),
            teacher_sha256=inputs.teacher_sha256,
            teacher_params=inputs.teacher.lora_params,
            trained_params=student.adapter.lora_params,
            lr=request.lr,
            training_rows=len(parts.training),
            stopping_rows=len(parts.stopping),
            held_out_rows=len(parts.held_out),
            planned_steps=request.steps,
            steps=steps,
            best_step=best.step,
            improved=improved,
            checks=checks,
            before=mean_kl(before, tokens),
            after=mean_kl(after, tokens),
            change=mean_kl(after - before, tokens, least=-math.inf),
            p_closer=p_closer(before, after, request.seed) if improved else None,
            by_row=tuple(
                HeldOutRow(
                    id=row.id,
                    tokens=row.scored,
                    kl_per_example_before=float(old),
                    kl_per_example_after=float(new),
                )
                for row, old, new in zip(parts.held_out, before, after, strict=True)
            ),
            scored_tokens=int(tokens.sum()),
            output_path=path_text(output),
            output_sha256=sha256_file(folder / WEIGHTS),
            carried_files=tuple(carried),
            left_out_files=tuple(left_out),
            run=watch.run_info(),
        )
        report.save(folder / carry.DISTILL_REPORT)
        if request.card is not None:
            write_card(folder, request.card(folder))
        carry.refuse_foreign_files(output, os.listdir(folder))
    return report
