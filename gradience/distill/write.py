"""Inputs -> the distilled adapter's folder and its report: load, measure, distill, measure again, write."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gradience.adapters.formats import open_adapter
from gradience.adapters.locate import CONFIG, WEIGHTS
from gradience.calibrate.batches import Encoded, batches_of
from gradience.calibrate.measure import counter, encoded_rows, length_of
from gradience.compress.carry import (
    DISTILL_REPORT,
    annotate,
    carry_files,
    distilled_opening,
    refuse_foreign_files,
)
from gradience.digests import sha256_file
from gradience.distill.factors import check_names, distilled_bytes, read_stored, round_as_stored
from gradience.distill.inputs import DistillInputs, Parts, split
from gradience.distill.intervals import mean_kl, p_closer
from gradience.distill.train import (
    STUDENT,
    TEACHER,
    Trained,
    as_rows,
    divergences,
    factors_of,
    train,
)
from gradience.evaluate.engines.transformers import TransformersEngine
from gradience.files.card import CardOf, write_block
from gradience.files.shared_names import path_text
from gradience.files.whole import whole_folder
from gradience.progress import Progress
from gradience.reports.base.run import Stopwatch
from gradience.reports.distill import DistillReport, HeldOutRow


def write_distilled(
    inputs: DistillInputs,
    output: Path,
    watch: Stopwatch,
    progress: Progress | None,
    *,
    force: bool,
    card: CardOf | None = None,
) -> DistillReport:
    """Distill the adapter, and write it with its report to the folder `output`."""
    request, student = inputs.request, inputs.student
    asked = student.request
    stored = read_stored(student.folder)
    engine = TransformersEngine.load(student.model, labels=student.labels, device=asked.device)
    engine.add(TEACHER, inputs.teacher)
    engine.add(STUDENT, student.folder)
    with engine.using(STUDENT) as model:
        factors = factors_of(model)
    check_names(stored, factors, student.folder)
    with engine.using(TEACHER) as model:
        sizes = student.to_sample, *[len(split(student.rows.all, asked.seed).held_out)] * 2
        batches = sum(-(-size // asked.batch_size) for size in sizes)
        advance = counter(progress, batches + request.steps)
        parts = split(encoded_rows(student, engine, model, advance), asked.seed)
    held_out = batches_of(engine.tokenizer, parts.held_out, asked.batch_size, engine.base.device)
    before = as_rows(divergences(engine, held_out, advance), parts.held_out)
    done = train(
        engine,
        parts,
        steps=request.steps,
        lr=request.lr,
        batch_size=asked.batch_size,
        seed=asked.seed,
        on_step=advance,
    )
    improved = done.best.step > 0
    if improved:
        round_as_stored(stored, factors)
    after = as_rows(divergences(engine, held_out, advance), parts.held_out) if improved else before
    weights = distilled_bytes(stored, factors) if improved else (student.folder / WEIGHTS).read_bytes()
    tokens = np.array([row.scored for row in parts.held_out], dtype=np.int64)
    measured = {
        "before": mean_kl(before, tokens),
        "after": mean_kl(after, tokens),
        "change": mean_kl(after - before, tokens, least=-math.inf),
        "p_closer": p_closer(before, after, asked.seed) if improved else None,
        "by_row": tuple(
            HeldOutRow(id=row.id, tokens=row.scored, before=float(old), after=float(new))
            for row, old, new in zip(parts.held_out, before, after, strict=True)
        ),
        "scored_tokens": int(tokens.sum()),
        **_outcome(parts, done, request.steps),
        **_facts(inputs, engine),
    }
    return _write(inputs, output, weights, measured, watch, force=force, card=card)


def _write(
    inputs: DistillInputs,
    output: Path,
    weights: bytes,
    measured: Mapping[str, Any],
    watch: Stopwatch,
    *,
    force: bool,
    card: CardOf | None,
) -> DistillReport:
    """The folder: weights, config, the other files of the adapter, and the report."""
    source = inputs.student.folder
    with open_adapter(source) as opened, whole_folder(output, force=force) as folder:
        (folder / WEIGHTS).write_bytes(weights)
        (folder / CONFIG).write_bytes((source / CONFIG).read_bytes())
        carried, left_out = carry_files(opened.location, folder)
        if measured["improved"]:
            annotate(folder, distilled_opening(measured["best_step"]))
        with open_adapter(folder) as written:
            digest = written.sha256()
        report = DistillReport(
            output_path=path_text(output),
            output_sha256=digest,
            carried_files=tuple(carried),
            left_out_files=tuple(left_out),
            **measured,
            run=watch.run_info(),
        )
        report.save(folder / DISTILL_REPORT)
        if card is not None:
            write_block(folder, card(folder))
        refuse_foreign_files(output, os.listdir(folder))
    return report


def _outcome(parts: Parts[Encoded], done: Trained, planned: int) -> dict[str, Any]:
    every = (*parts.training, *parts.stopping, *parts.held_out)
    return {
        "rows": len(every),
        "training_rows": len(parts.training),
        "stopping_rows": len(parts.stopping),
        "held_out_rows": len(parts.held_out),
        "truncated": sum(row.truncated for row in every),
        "planned_steps": planned,
        "steps": done.steps,
        "best_step": done.best.step,
        "improved": done.best.step > 0,
        "checks": done.checks,
    }


def _facts(inputs: DistillInputs, engine: TransformersEngine) -> dict[str, Any]:
    student, facts = inputs.student, engine.facts
    asked, rows = student.request, student.rows
    writes = student.kind != "sequence_classification"
    return {
        **{name: facts[name] for name in ("base", "base_sha256", "quantization", "dtype", "device")},
        "adapter_path": path_text(asked.adapter),
        "adapter_sha256": inputs.student_sha256,
        "teacher_path": path_text(inputs.request.teacher),
        "teacher_sha256": inputs.teacher_sha256,
        "teacher_params": inputs.teacher_params,
        "trained_params": inputs.student_params,
        "kind": student.kind,
        "notes": student.notes,
        "prompts": path_text(asked.prompts),
        "prompts_sha256": sha256_file(Path(asked.prompts)),
        "duplicates": rows.duplicates,
        "given_completions": len(rows.all) - student.to_sample if writes else 0,
        "sampled_completions": student.to_sample,
        "completion_tokens": asked.completion_tokens if writes else None,
        "seed": asked.seed,
        "batch_size": asked.batch_size,
        "max_length": length_of(student, engine),
        "lr": inputs.request.lr,
    }
