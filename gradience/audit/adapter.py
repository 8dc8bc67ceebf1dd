"""The audit: an adapter on disk -> AuditReport. No base model, no torch, one module a worker in memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradience import ranks
from gradience.adapters.adapter import Adapter
from gradience.adapters.formats import open_adapter
from gradience.adapters.inventory import SkippedTensor
from gradience.adapters.memory import audit_bytes, limit_for, workers_within
from gradience.adapters.pairs import pairs_of
from gradience.arguments import integer_argument, number_argument, path_argument, ranks_argument
from gradience.audit.findings import Facts, find
from gradience.audit.in_memory import as_folder, is_peft_model
from gradience.audit.module import measure_pair
from gradience.audit.settings import settings_of
from gradience.audit.summary import gain_of, summary_by_type, summary_of
from gradience.blas import map_in_order, worker_threads
from gradience.errors import UsageError
from gradience.files.shared_names import path_text
from gradience.plan.grids import checked_ranks
from gradience.plan.suggestions import with_suggestions
from gradience.progress import Progress
from gradience.reports.audit import AdapterInfo, AuditReport, Coverage, LayerAudit, TensorNote
from gradience.reports.base.run import Stopwatch
from gradience.reports.base.source import hub_source, initial_of

if TYPE_CHECKING:
    from peft import PeftModel

    from gradience.reports.calibration import Calibration

DEFAULT_TAU = 0.90
SAVE_INITIAL = (
    'save it before training: set init_lora_weights=True in its config, then model.save_pretrained("initial")'
)


def audit_adapter(
    path: str | os.PathLike[str] | PeftModel,
    *,
    adapter: str | None = None,
    tau: float = DEFAULT_TAU,
    allowed_ranks: Iterable[int] | None = None,
    calibration: Calibration | str | os.PathLike[str] | None = None,
    allow_pickle: bool = False,
    pairs: tuple[str, str] | None = None,
    scale: float | None = None,
    initial_adapter: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    max_memory: int | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> AuditReport:
    """Measure how much of its rank an adapter uses, and return the report.

    >>> report = audit_adapter("my_adapter")
    >>> report.n_layers, report.energy_rank_90_p90, report.suggested_r_global_90
    (16, 5.0, 8)

    path: a PEFT folder, a Trainer checkpoint, a .safetensors file, a name on the hub, or a PeftModel in memory.
    adapter: which one, where a folder, a file or a model holds several.
    tau: energy threshold that the suggestions rest on, in (0, 1].
    allowed_ranks: ranks that may be suggested; powers of two by default.
    calibration: what `calibrate_adapter` returned or wrote for this adapter: adds what matters to the output.
    allow_pickle: read `.bin` and `.pt` as well, in a process of its own with limits (needs the extra `hf`).
    pairs: names of A and B in a home-made file, with {} for what differs: ("blocks.{}.w_a", "blocks.{}.w_b").
    scale: what B·A of such pairs is multiplied by; without it there are no norms.
    initial_adapter: the adapter before training, for one whose start changed the base (PiSSA, OLoRA, CorDA, LoRA-GA,
        LoftQ): what is measured is the difference s·(B·A − B₀·A₀), of rank 2r.
    workers: modules measured at a time; the processor count by default. The result does not depend on it.
    max_memory: bytes that the work may take; 500 MB by default, or eight times the file. More is refused beforehand.

    Raises InputError when there is nothing to audit, UsageError for a tau or ranks that make no sense, WrongType (a
    TypeError too) for an argument of another type.
    Modules that cannot be measured do not raise: they are rows with a status, findings, and coverage.
    """
    if not 0 < number_argument("tau", tau) <= 1:
        raise UsageError(
            f"tau is {tau}, not in (0, 1]", code="bad-tau", hint="a share of the energy such as 0.95"
        )
    given = ranks.DEFAULT_GRID if allowed_ranks is None else ranks_argument("allowed_ranks", allowed_ranks)
    allowed = checked_ranks(given)
    known = None
    if calibration is not None:  # imported only if it is needed
        from gradience.reports.calibration import calibration_argument

        known = calibration_argument(calibration)
    watch = Stopwatch(command)
    limit = None if max_memory is None else integer_argument("max_memory", max_memory)
    how: dict[str, Any] = {
        "pairs": pairs_of(pairs, scale),
        "allow_pickle": allow_pickle,
        "initial": None
        if initial_adapter is None
        else path_argument("initial_adapter", initial_adapter, hint=SAVE_INITIAL),
    }
    with _opened(path, adapter, **how) as opened:
        work = ((pair, audit_bytes(pair)) for pair in opened.pairs)
        fitting = workers_within(limit_for(limit, [opened]), [opened], work, workers)
        with worker_threads(fitting) as pool:
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
            no_scale=opened.no_scale,
            grouped=opened.packed("grouped_by_expert"),
            unordered=opened.packed(None),
            started=None if opened.initial is None else opened.init.lower(),
        )
        report = with_suggestions(_assemble(opened, digest.result(), facts, tau, watch), allowed)
    if known is None:
        return report
    from gradience.plan.effects import with_effects

    return with_effects(report, known)


@contextmanager
def _opened(
    source: str | os.PathLike[str] | PeftModel,
    adapter: str | None,
    **how: Any,
) -> Iterator[Adapter]:
    """The adapter, open; of a model, from a copy on disk that is there only within."""
    if is_peft_model(source):
        with as_folder(source, adapter) as folder, open_adapter(folder, initial=how["initial"]) as opened:
            # The rest of the path is random.
            opened.location = replace(opened.location, path=Path(folder.name))
            yield opened
    else:
        path = path_argument("path", source, "a path or a PeftModel")
        with open_adapter(path, adapter=adapter, **how) as opened:
            yield opened


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
        "source": hub_source(opened.source),
        "pickle": opened.pickle is not None,
        "initial": initial_of(opened),
    }
    if config is None:
        return AdapterInfo(**common)
    return AdapterInfo(
        base_model=None if config.base_model is None else path_text(config.base_model),
        r=config.r,
        lora_alpha=config.lora_alpha,
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
        init=config.init if opened.initial is None else opened.init,
        task_type=config.task_type,
        peft_type=config.peft_type,
        peft_version=config.peft_version,
        settings=settings_of(config),
        **common,
    )


def _coverage(opened: Adapter) -> Coverage:
    entries = list(opened.entries())
    audited = sum(pair.params for pair in opened.pairs)
    return Coverage(
        tensors=len(entries),
        params=sum(entry.params for _, entry in entries),
        audited_params=audited if opened.initial is None else audited // 2,  # half of them are the other's
        other_params=sum(note.params for note in opened.other),
        unaudited_params=sum(note.params for note in opened.unaudited),
        other=_notes(opened.other),
        unaudited=_notes(opened.unaudited),
    )


def _notes(notes: Iterable[SkippedTensor]) -> tuple[TensorNote, ...]:
    return tuple(
        TensorNote(tensor=note.tensor, reason=note.reason, params=note.params) for note in sorted(notes)
    )
