"""The audit: an adapter on disk -> AuditReport. No base model, no torch, one module a worker in memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from gradience import ranks
from gradience.adapters.adapter import Adapter
from gradience.adapters.formats import open_adapter
from gradience.adapters.inventory import Note
from gradience.artifacts.audit import AdapterInfo, AuditReport, Coverage, LayerAudit, TensorNote
from gradience.artifacts.run import Stopwatch, path_text
from gradience.audit.findings import Facts, find
from gradience.audit.module import measure_pair
from gradience.audit.settings import settings_of
from gradience.audit.summary import gain_of, summary_by_type, summary_of
from gradience.blas import map_in_order, worker_threads
from gradience.errors import UsageError
from gradience.plan.grids import checked_ranks
from gradience.plan.suggestions import with_suggestions
from gradience.progress import Progress

DEFAULT_TAU = 0.90


def audit_adapter(
    path: str | os.PathLike[str],
    *,
    adapter: str | None = None,
    tau: float = DEFAULT_TAU,
    grid: Sequence[int] | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> AuditReport:
    """Measure how much of its rank the adapter at `path` uses.

    path: a PEFT folder, a Trainer checkpoint or a .safetensors file.
    adapter: which one, where a folder or a file holds several.
    tau: energy threshold that the suggestions rest on, in (0, 1].
    grid: allowed ranks; powers of two by default.
    workers: modules measured at a time; the processor count by default. The result does not depend on it.

    Raises InputError when there is nothing to audit, UsageError for a tau or grid that makes no sense.
    Modules that cannot be measured do not raise: they are rows with a status, findings, and coverage.
    """
    if not 0 < tau <= 1:
        raise UsageError(f"tau is {tau}, not in (0, 1]", code="bad-tau", hint="for instance --tau 0.95")
    allowed = checked_ranks(ranks.DEFAULT_GRID if grid is None else grid)
    watch = Stopwatch(command)
    with open_adapter(Path(path), adapter=adapter) as opened:
        with worker_threads(workers) as pool:
            digest = pool.submit(opened.sha256)
            measured = map_in_order(pool, partial(measure_pair, tau=tau), opened.pairs, progress)
        layers = tuple(row for item in measured for row in item.rows)
        facts = Facts(
            layers=layers,
            config=opened.config,
            other=opened.other,
            unaudited=opened.unaudited,
            ghosts=opened.ghosts,
            nonfinite=[sentence for item in measured for sentence in item.nonfinite],
            misnamed=opened.misnamed(),
        )
        return with_suggestions(_assemble(opened, digest.result(), facts, tau, watch), allowed)


def _assemble(opened: Adapter, digest: str, facts: Facts, tau: float, watch: Stopwatch) -> AuditReport:
    layers = facts.layers
    trained = [layer for layer in layers if layer.status == "ok"]
    return AuditReport(
        adapter=_adapter_info(opened, digest, layers),
        total_lora_params=sum(layer.params for layer in layers),
        coverage=_coverage(opened),
        n_layers=len(layers),
        n_trained=len(trained),
        tau=tau,
        **summary_of(trained),
        by_type=summary_by_type(layers),
        gain=gain_of(trained),
        evidence={},
        layers=tuple(layers),
        findings=find(facts),
        run=watch.run_info(),
    )


def _adapter_info(opened: Adapter, digest: str, layers: Sequence[LayerAudit]) -> AdapterInfo:
    config = opened.config
    common: dict[str, Any] = {
        "format": opened.format,
        "path": path_text(opened.location.path),
        "sha256": digest,
        "bytes": opened.bytes,
        "dtypes": tuple(sorted({layer.dtype for layer in layers})),
        "adapter_name": opened.adapter_name,
    }
    if config is None:
        return AdapterInfo(**common)
    return AdapterInfo(
        base_model=config.base_model,
        r=config.r,
        lora_alpha=config.lora_alpha,
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
        init=config.init,
        task_type=config.task_type,
        peft_type=config.peft_type,
        peft_version=config.peft_version,
        settings=settings_of(config),
        **common,
    )


def _coverage(opened: Adapter) -> Coverage:
    audited = sum(pair.params for pair in opened.pairs)
    other = sum(note.params for note in opened.other)
    unaudited = sum(note.params for note in opened.unaudited)
    entries = list(opened.entries())
    return Coverage(
        tensors=len(entries),
        params=sum(entry.params for _, entry in entries),
        audited_params=audited,
        other_params=other,
        unaudited_params=unaudited,
        other=_notes(opened.other),
        unaudited=_notes(opened.unaudited),
    )


def _notes(notes: Iterable[Note]) -> tuple[TensorNote, ...]:
    return tuple(
        TensorNote(tensor=note.tensor, reason=note.reason, params=note.params) for note in sorted(notes)
    )
