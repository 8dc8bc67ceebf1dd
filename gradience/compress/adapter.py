"""Compression: an adapter and a plan -> a smaller adapter that means the same, and a report of what was lost.

Training-free and exact: every module gets the best approximation of its rank (Eckart–Young), found in r-space, one
module at a time, without the base model. The error reported is the one of the factors as they are stored.
"""

from __future__ import annotations

import math
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradience import ranks
from gradience.adapters.config import PeftConfig
from gradience.adapters.files import pread
from gradience.adapters.locate import CONFIG, WEIGHTS
from gradience.adapters.patterns import anchored_key
from gradience.adapters.peft import Adapter, LoraPair, open_adapter
from gradience.adapters.tensors import NewTensor, TensorFile
from gradience.artifacts.compression import (
    CompressionPlan,
    CompressionReport,
    Encoding,
    ModulePlan,
    ModuleResult,
)
from gradience.artifacts.run import Stopwatch, path_text
from gradience.artifacts.whole import check_output, whole_folder
from gradience.blas import processors, worker_threads
from gradience.compress import card
from gradience.compress.dora import BaseWeights
from gradience.compress.encodings import Target, uneven_experts
from gradience.compress.layout import Recipe, another_adapter, is_dora, make_recipe
from gradience.compress.module import Job, Written, write_module
from gradience.compress.peft_check import check_with_peft, require_peft
from gradience.compress.readback import check_written
from gradience.compress.writer import (
    COPY_BLOCK,
    WeightsWriter,
    carry_files,
    changed_fields,
    merged_fields,
    require_config,
    write_config,
)
from gradience.progress import Progress
from gradience.runtimes import architecture_of, require_model_config, verdicts
from gradience.spectra import relative_error

REPORT = "compression_report.json"
ROUNDING_SHOWS = 0.01
"""Relative error from which a loss by rounding alone is worth a warning."""


def compress_adapter(
    adapter: str | os.PathLike[str],
    plan: CompressionPlan,
    output: str | os.PathLike[str],
    *,
    encoding: Encoding | None = None,
    dtype: str | None = None,
    strip: Sequence[str] = (),
    base_model: str | os.PathLike[str] | None = None,
    verify_peft: bool = False,
    force: bool = False,
    adapter_name: str | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    documents: Callable[[CompressionReport], Mapping[str, str]] | None = None,
    command: str = "",
) -> CompressionReport:
    """Write the adapter at `adapter`, at the ranks of `plan`, to the folder `output`.

    encoding: uniform, patterns, padded or folded (see adapters/encodings.py); the simplest right one by default.
    dtype: storage type of the factors (BF16, F16, F32 …); each keeps its own by default.
    base_model: folder of the base model. Its config.json names the architecture for the verdicts on runtimes; its
        safetensors are needed for DoRA alone.
    strip: parts of tensor names; tensors beside the factors that have one are dropped.
    verify_peft: let PEFT load the result before it is put in place (a child process; needs the extra `hf`).
    force: replace an adapter folder that is there.
    documents: makes further files of the folder (name -> text) from the report, such as its Markdown.

    Returns the report, which also lies in the folder. Raises InputError where the adapter cannot be compressed,
    UsageError for arguments that make no sense, VerificationError where PEFT does not load the result, OutputError
    when the disk refuses. Nothing is left half-written.
    """
    source, target = Path(adapter), Path(output)
    watch = Stopwatch(command)
    check_output(target, source, force=force)
    if verify_peft:
        require_peft()
    choices = {"encoding": encoding, "dtype": dtype, "strip": strip}
    with (
        _prepared(source, plan, base_model, adapter_name, **choices) as (opened, config, recipe),
        worker_threads(workers) as pool,
    ):
        digest = pool.submit(opened.sha256)
        fields = config.fields
        new_fields = merged_fields(fields, recipe.fields)
        with whole_folder(target, force=force) as folder:
            weights = _write_weights(folder / WEIGHTS, opened, recipe, pool, progress)
            if plan.adapter_sha256 != digest.result():
                raise another_adapter(
                    opened, f"sha256 {plan.adapter_sha256[:12]}… there, {digest.result()[:12]}… here"
                )
            write_config(folder / CONFIG, new_fields)
            carried_files, left_out = carry_files(opened.location, folder)
            check_written(folder, recipe, weights.modules, weights.size)
            loaded = check_with_peft(folder, opened, config, recipe) if verify_peft else None
            results = _results(opened, plan, recipe, weights.modules)
            annotated = card.annotate(folder, _card_line(results))
            report = CompressionReport(
                source_path=path_text(opened.location.path),
                source_sha256=digest.result(),
                output_path=path_text(target),
                output_sha256=weights.sha256,
                criterion=plan.criterion,
                encoding=recipe.encoded.encoding,
                encoding_reason=recipe.encoded.reason,
                **results,
                old_bytes=opened.bytes,
                new_bytes=weights.size,
                carried_tensors=len(recipe.carried),
                stripped=tuple(recipe.stripped),
                renamed=sum(name != tensor for tensor, name in recipe.names.items()),
                carried_files=tuple(name for name in carried_files if name not in annotated),
                annotated_files=annotated,
                left_out_files=tuple(left_out),
                config_changes=changed_fields(fields, new_fields),
                peft_check=loaded,
                **_runtimes(folder, opened, config, base_model),
                warnings=tuple(_warnings(plan, recipe, results)),
                run=watch.run_info(),
            )
            report.save(folder / REPORT)
            for name, text in (documents(report) if documents else {}).items():
                (folder / name).write_bytes(text.encode())
    return report


def rehearse_compression(
    adapter: str | os.PathLike[str],
    plan: CompressionPlan,
    *,
    encoding: Encoding | None = None,
    dtype: str | None = None,
    strip: Sequence[str] = (),
    base_model: str | os.PathLike[str] | None = None,
    adapter_name: str | None = None,
) -> None:
    """Raise what `compress_adapter` would raise before it writes; reads the headers alone."""
    choices = {"encoding": encoding, "dtype": dtype, "strip": strip}
    with _prepared(Path(adapter), plan, base_model, adapter_name, **choices):
        pass


@contextmanager
def _prepared(
    source: Path,
    plan: CompressionPlan,
    base_model: str | os.PathLike[str] | None,
    adapter_name: str | None,
    **choices: Any,
) -> Iterator[tuple[Adapter, PeftConfig, Recipe]]:
    """The adapter, open; its config; and what is to be written."""
    with ExitStack() as stack:
        opened = stack.enter_context(open_adapter(source, adapter=adapter_name))
        config = require_config(opened)
        base = None
        if base_model is not None and is_dora(opened, config):
            base = stack.enter_context(BaseWeights.open(Path(base_model)))
        elif base_model is not None:
            require_model_config(Path(base_model))
        yield opened, config, make_recipe(opened, config, plan, base=base, **choices)


# ---------------------------------------------------------------- writing


@dataclass(frozen=True, slots=True)
class _Weights:
    """The weights file as written, and what every module lost (its bytes taken out)."""

    sha256: str
    size: int
    modules: Mapping[str, Written]


def _write_weights(
    path: Path, opened: Adapter, recipe: Recipe, pool: ThreadPoolExecutor, progress: Progress | None
) -> _Weights:
    """Every tensor in the order of the file; the pool computes modules a little ahead of the writer."""
    name_of = recipe.names
    source_of = {name: tensor for tensor, name in name_of.items()}
    job_of = {name_of[factor.tensor]: job for job in recipe.jobs for factor in (job.pair.a, job.pair.b)}
    files = {name: file for file in opened.files for name in file.entries}
    metadata = dict(opened.files[0].metadata) or {"format": "pt"}
    with WeightsWriter(path, _tensors(opened, recipe), metadata) as writer:
        ordered = dict.fromkeys(job_of[name].pair.module for name in writer.names if name in job_of)
        by_module = {job.pair.module: job for job in recipe.jobs}
        coming = _ahead(pool, [by_module[module] for module in ordered], window=4 * processors())
        done: dict[str, Written] = {}
        waiting: dict[str, bytes] = {}
        for name in writer.names:
            job = job_of.get(name)
            if job is None:
                for piece in _pieces(files[source_of[name]], source_of[name]):
                    writer.put(piece)
                continue
            while name not in waiting:
                made_job, made = next(coming)
                pair = made_job.pair
                waiting[name_of[pair.a.tensor]], waiting[name_of[pair.b.tensor]] = made.data_A, made.data_B
                done[pair.module] = made._replace(data_A=b"", data_B=b"")
                if progress:
                    progress(len(done), len(recipe.jobs))
            writer.put(waiting.pop(name))
        return _Weights(writer.close(), writer.size, done)


def _pieces(file: TensorFile, name: str) -> Iterator[bytearray]:
    """The stored bytes of a tensor, a few MB at a time: a head may be larger than all factors together."""
    entry = file.entries[name]
    for start in range(0, entry.size, COPY_BLOCK):
        yield pread(file.handle, min(COPY_BLOCK, entry.size - start), entry.start + start, file.path)


def _tensors(opened: Adapter, recipe: Recipe) -> dict[str, NewTensor]:
    tensors: dict[str, NewTensor] = {}
    for job in recipe.jobs:
        shape_A, shape_B = job.shapes()
        tensors[recipe.names[job.pair.a.tensor]] = NewTensor(job.dtype_A.name, shape_A)
        tensors[recipe.names[job.pair.b.tensor]] = NewTensor(job.dtype_B.name, shape_B)
    entries = dict(opened.entries())
    for name in recipe.carried:
        tensors[recipe.names[name]] = NewTensor(entries[name].dtype.name, entries[name].shape)
    return tensors


def _ahead(pool: ThreadPoolExecutor, jobs: Sequence[Job], window: int) -> Iterator[tuple[Job, Written]]:
    """Results in the order of `jobs`, with at most `window` modules in work or waiting: memory stays bounded."""
    pending: deque[tuple[Job, Future[Written]]] = deque()
    try:
        for job in jobs:
            pending.append((job, pool.submit(write_module, job)))
            if len(pending) >= window:
                first, future = pending.popleft()
                yield first, future.result()
        while pending:
            first, future = pending.popleft()
            yield first, future.result()
    finally:
        for _, future in pending:  # the writer has failed: do not finish what nobody reads
            future.cancel()


def _warnings(plan: CompressionPlan, recipe: Recipe, results: Mapping[str, Any]) -> list[str]:
    """What a reader of the report should know."""
    found = []
    kept = Counter(module.fixed for module in plan.modules if module.fixed)
    found += [f"{count} modules keep their rank: {reason}" for reason, count in kept.items()]
    keys = {**recipe.encoded.fields["rank_pattern"], **recipe.encoded.fields["alpha_pattern"]}
    if any(anchored_key(job.pair.module) in keys for job in recipe.jobs if job.parameter):
        found.append("PEFT 0.21 says that pattern keys of target_parameters match nothing, and applies them")
    rounding = math.sqrt(max(0.0, results["measured_error"] ** 2 - results["predicted_error"] ** 2))
    targets = [Target(job.pair.module, job.stored_rank, job.written_scale) for job in recipe.jobs]
    if uneven_experts(targets):
        found.append(
            "PEFT 0.21 with transformers 5 does not load experts of several ranks: --encoding padded does"
        )
    if not any(module.norm for module in plan.modules):
        found.append("untrained: B·A = 0, so the kept energy and the error say nothing")
    if rounding > max(results["predicted_error"], ROUNDING_SHOWS):
        found.append(
            f"rounding to the storage type loses more ({rounding:.2g}) than the smaller rank does: "
            "a wider --dtype keeps more"
        )
    return found


# ---------------------------------------------------------------- the report


def _card_line(results: Mapping[str, Any]) -> str:
    """What the carried model card must say first."""
    ranks_before, ranks_now = (
        sorted({getattr(row, name) for row in results["modules"]}) for name in ("old_rank", "new_rank")
    )
    before, now = (
        str(found[0]) if len(found) == 1 else f"{found[0]} to {found[-1]}"
        for found in (ranks_before, ranks_now)
    )
    return (
        f"{card.OPENING} Made from it with `gradience compress`, without training: LoRA rank {before} → {now}, "
        f"relative error of the update {results['measured_error']:.2g}. What follows, every figure in it included, is "
        "about the original."
    )


def _results(
    opened: Adapter, plan: CompressionPlan, recipe: Recipe, written: Mapping[str, Written]
) -> dict[str, Any]:
    """Every module as written or dropped, in the order of the adapter, and the sums over them."""
    plans = {module.name: module for module in plan.modules}
    jobs = {job.pair.module: job for job in recipe.jobs}
    rows = tuple(
        _result(jobs[pair.module], written[pair.module])
        if pair.module in jobs
        else _dropped(plans[pair.module], pair)
        for pair in opened.pairs
    )
    norms = {pair.module: plans[pair.module].norm or 0.0 for pair in recipe.dropped}
    norms |= {name: made.norm for name, made in written.items()}
    errors = {row.name: row.measured_error or 0.0 for row in rows}
    # Relative to the largest norm: squares of norms beyond 1e154 would overflow.
    peak = max(norms.values()) or 1.0
    total = math.fsum((norm / peak) ** 2 for norm in norms.values())
    lost = math.fsum((errors[name] * norm / peak) ** 2 for name, norm in norms.items())
    old_params, new_params = sum(row.old_params for row in rows), sum(row.new_params for row in rows)
    return {
        "modules": rows,
        "dropped": tuple(pair.module for pair in recipe.dropped),
        "kept_energy": plan.kept_energy,
        "predicted_error": plan.predicted_error,
        "measured_error": relative_error(lost, total) or 0.0,
        "old_params": old_params,
        "new_params": new_params,
        "reduction": 1 - new_params / old_params,
        "old_max_lora_rank": plan.old_max_lora_rank,
        "new_max_lora_rank": ranks.max_lora_rank_step(max(row.stored_rank for row in rows)),
    }


def _runtimes(
    folder: Path, source: Adapter, config: PeftConfig, base_model: str | os.PathLike[str] | None
) -> dict[str, Any]:
    """The architecture, and which runtimes load the adapter that was written to `folder`."""
    architecture = architecture_of(config, source.location.root, base_model)
    with open_adapter(folder) as written:
        return {"architecture": architecture, "runtimes": verdicts(written, architecture)}


def _result(job: Job, made: Written) -> ModuleResult:
    shape_A, shape_B = job.shapes()
    params_A, params_B = math.prod(shape_A), math.prod(shape_B)
    return ModuleResult(
        name=job.pair.module,
        old_rank=job.pair.rank,
        new_rank=job.plan.new_rank,
        stored_rank=job.stored_rank,
        scale=job.scale,
        folded=job.fold,
        dtype="+".join(sorted({job.dtype_A.name, job.dtype_B.name})),
        unchanged=job.unchanged,
        kept_energy=job.plan.kept_energy,
        predicted_error=job.plan.predicted_error,
        measured_error=made.error,
        output_error=made.output_error,
        old_params=job.pair.params,
        new_params=params_A + params_B,
        old_bytes=job.pair.bytes,
        new_bytes=round(params_A * job.dtype_A.itemsize + params_B * job.dtype_B.itemsize),
        method=made.method,
    )


def _dropped(plan: ModulePlan, pair: LoraPair) -> ModuleResult:
    return ModuleResult(
        name=pair.module,
        old_rank=pair.rank,
        new_rank=0,
        stored_rank=0,
        scale=pair.scale or 0.0,
        folded=1.0,
        dtype="+".join(sorted({pair.a.entry.dtype.name, pair.b.entry.dtype.name})),
        unchanged=False,
        kept_energy=plan.kept_energy,
        predicted_error=plan.predicted_error,
        measured_error=plan.predicted_error,
        old_params=pair.params,
        new_params=0,
        old_bytes=pair.bytes,
        new_bytes=0,
        method="dropped",
    )
