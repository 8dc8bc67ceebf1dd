"""Compression: an adapter and a plan -> a smaller adapter that means the same, and a report of what was lost.

Training-free and exact: every module gets the best approximation of its rank (Eckart–Young), found in r-space, one
module at a time, without the base model. The error reported is the one of the factors as they are stored.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from gradience import ranks
from gradience.adapters.config import PeftConfig
from gradience.adapters.dtypes import DTYPES, DType, FloatArray, Raw, decode, encode
from gradience.adapters.encodings import Encoded, Target, encode_modules
from gradience.adapters.inventory import DORA_REASON, LORA_BIAS_REASON
from gradience.adapters.keys import parse_key
from gradience.adapters.locate import CONFIG, WEIGHTS
from gradience.adapters.peft import Adapter, Factor, LoadedPair, LoraPair, open_adapter, word_blocks
from gradience.adapters.tensors import NewTensor
from gradience.adapters.writer import (
    WeightsWriter,
    carry_files,
    changed_fields,
    check_output,
    require_config,
    whole_folder,
    write_config,
)
from gradience.artifacts.base import write_whole
from gradience.artifacts.compression import (
    CompressionPlan,
    CompressionReport,
    Encoding,
    ModulePlan,
    ModuleResult,
)
from gradience.blas import one_blas_thread, processors
from gradience.dora import BaseWeights, output_error, stacked
from gradience.errors import InputError, UsageError
from gradience.provenance import Stopwatch
from gradience.runtimes import verdicts
from gradience.spectra import Blocks, Core, gram, triangle
from gradience.truncate import Truncation, frobenius, joined, truncation

Progress = Callable[[int, int], None]
REPORT = "compression_report.json"
TINY_ERROR = 1e-6
"""Below this relative error the Gram products of a difference cancel too much: it is measured again by QR."""


@dataclass(frozen=True, slots=True)
class Job:
    """One module to be written."""

    pair: LoraPair
    plan: ModulePlan
    stored_rank: int
    fold: float
    dtype_A: DType
    dtype_B: DType
    magnitude: Factor | None = None
    """DoRA only."""
    base: BaseWeights | None = None
    transposed: bool = False

    @property
    def unchanged(self) -> bool:
        """True where the stored bytes can be copied."""
        return (
            self.plan.new_rank == self.stored_rank == self.pair.rank
            and self.fold == 1.0
            and self.dtype_A == self.pair.a.entry.dtype
            and self.dtype_B == self.pair.b.entry.dtype
        )

    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of A and B on disk."""
        inner = self.stored_rank * self.pair.experts
        old_A, old_B = self.pair.a.entry.shape, self.pair.b.entry.shape
        if self.pair.groups > 1:
            return old_A, old_B
        return (inner, *old_A[1:]), (old_B[0], inner, *old_B[2:])


class Written(NamedTuple):
    """The bytes of one module and what they lost."""

    data_A: bytes
    data_B: bytes
    error: float | None
    """‖ΔW − ΔW′‖_F/‖ΔW‖_F over all experts."""
    norm: float
    """‖ΔW‖_F."""
    method: Literal["gram", "qr", "copy"]
    output_error: float | None = None
    """DoRA only: see `dora.output_error`."""


def compress_adapter(
    adapter: str | os.PathLike[str],
    plan: CompressionPlan,
    output: str | os.PathLike[str],
    *,
    encoding: Encoding | None = None,
    dtype: str | None = None,
    strip: Sequence[str] = (),
    base_model: str | os.PathLike[str] | None = None,
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
    base_model: folder of the base model's safetensors, needed for DoRA alone.
    strip: parts of tensor names; tensors beside the factors that have one are dropped.
    force: replace an adapter folder that is there.
    documents: makes further files of the folder (name -> text) from the report, such as its Markdown.

    Returns the report, which also lies in the folder. Raises InputError where the adapter cannot be compressed,
    UsageError for arguments that make no sense, OutputError when the disk refuses. Nothing is left half-written.
    """
    source, target = Path(adapter), Path(output)
    watch = Stopwatch(command)
    check_output(target, source if source.is_dir() else source.parent, force=force)
    with (
        open_adapter(source, adapter=adapter_name) as opened,
        one_blas_thread(),
        ThreadPoolExecutor(workers or processors()) as pool,
        ExitStack() as stack,
    ):
        config = opened.config
        fields = require_config(config.fields if config else None, opened.location.path)
        assert config is not None
        base = stack.enter_context(BaseWeights.open(Path(base_model))) if base_model is not None else None
        _refuse(opened, config, base)
        digest = pool.submit(opened.sha256)
        _check_plan(plan, opened)
        encoded = encode_modules(_targets(opened, plan), encoding)
        jobs, dropped = _jobs(opened, plan, encoded, dtype)
        if base is not None:
            jobs = _with_magnitudes(opened, jobs, base, transposed=config.fan_in_fan_out)
        carried, stripped = _carried(opened, dropped, strip)
        new_fields = {**fields, **encoded.fields, **_target_fields(config, jobs, dropped)}
        with whole_folder(target) as folder:
            writer = WeightsWriter(folder / WEIGHTS, _tensors(opened, jobs, carried), _metadata(opened))
            try:
                written = _write_all(opened, jobs, writer, pool, progress)
            except BaseException:
                writer.abandon()
                raise
            output_digest = writer.close()
            _check_digest(plan, opened, digest.result())
            write_config(folder / CONFIG, new_fields)
            carried_files, left_out = carry_files(opened.location.root, folder)
            report = _report(
                opened=opened,
                plan=plan,
                encoded=encoded,
                jobs=jobs,
                written=written,
                dropped=dropped,
                source_digest=digest.result(),
                output=target,
                output_digest=output_digest,
                new_bytes=writer.size,
                carried=len(carried),
                stripped=stripped,
                carried_files=carried_files,
                left_out=left_out,
                changes=changed_fields(fields, new_fields),
                new_fields=new_fields,
                watch=watch,
            )
            _check_written(folder, jobs, output_digest)
            report.save(folder / REPORT)
            for name, text in (documents(report) if documents else {}).items():
                write_whole(folder / name, [text.encode()])
    return report


# ---------------------------------------------------------------- what may be compressed


def _refuse(opened: Adapter, config: PeftConfig, base: BaseWeights | None) -> None:
    path = opened.location.path
    is_dora = config.use_dora or any(note.reason == DORA_REASON for note in opened.other)
    if base is not None and not is_dora:
        raise UsageError(
            f"{path}: not a DoRA adapter, so the base model is not needed",
            code="base-unused",
            hint="leave --base-model out",
        )
    if is_dora and base is None:
        raise InputError(
            f"{path}: a DoRA adapter: its layers are m·(W + s·B·A)/‖W + s·B·A‖: what a smaller B·A does depends on W",
            code="dora",
            hint="give the folder of the base model's weights with --base-model",
        )
    if opened.unaudited:
        raise InputError(
            f"{path}: {len(opened.unaudited)} tensors were not understood, the first is {opened.unaudited[0].tensor} "
            f"({opened.unaudited[0].reason})",
            code="unaudited",
            hint="see `gradience audit` for all of them",
        )


def _check_plan(plan: CompressionPlan, opened: Adapter) -> None:
    if {module.name: module.old_rank for module in plan.modules} != {
        pair.module: pair.rank for pair in opened.pairs
    }:
        raise _another(opened, "its modules and ranks differ")


def _check_digest(plan: CompressionPlan, opened: Adapter, digest: str) -> None:
    if plan.adapter_sha256 != digest:
        raise _another(opened, f"sha256 {plan.adapter_sha256[:12]}… there, {digest[:12]}… here")


def _another(opened: Adapter, what: str) -> UsageError:
    return UsageError(
        f"{opened.location.path}: the plan was made for another adapter ({what})",
        code="plan-mismatch",
        hint="audit this adapter and plan again",
    )


def _targets(opened: Adapter, plan: CompressionPlan) -> list[Target]:
    rank_of = {module.name: module.new_rank for module in plan.modules}
    targets = []
    for pair in opened.pairs:
        if pair.scale is None:
            raise InputError(
                f"{opened.location.path}: the config has no lora_alpha, so the scale is unknown",
                code="no-alpha",
                hint="set lora_alpha in adapter_config.json",
            )
        if rank_of[pair.module]:
            targets.append(Target(pair.module, rank_of[pair.module], pair.scale))
    return targets


def _jobs(
    opened: Adapter, plan: CompressionPlan, encoded: Encoded, dtype: str | None
) -> tuple[list[Job], list[LoraPair]]:
    plans = {module.name: module for module in plan.modules}
    jobs, dropped = [], []
    for pair in opened.pairs:
        row = plans[pair.module]
        if row.new_rank == 0:
            dropped.append(pair)
            continue
        job = Job(
            pair,
            row,
            encoded.stored_rank[pair.module],
            encoded.fold[pair.module],
            _storage(pair.a.entry.dtype, dtype),
            _storage(pair.b.entry.dtype, dtype),
        )
        if pair.groups > 1 and not job.unchanged:
            raise InputError(
                f"{opened.location.path}: {pair.module} is a grouped convolution, whose block-diagonal B cannot be "
                f"rewritten in the encoding {encoded.encoding}",
                code="block-diagonal",
                hint="use --encoding patterns and leave --dtype out",
            )
        jobs.append(job)
    if any(job.fold != 1.0 for job in jobs) and any(note.reason == LORA_BIAS_REASON for note in opened.other):
        raise InputError(
            f"{opened.location.path}: has lora_bias tensors, multiplied by the same scale: it cannot be folded",
            code="lora-bias",
            hint="use --encoding patterns",
        )
    return jobs, dropped


def _with_magnitudes(
    opened: Adapter, jobs: Sequence[Job], base: BaseWeights, *, transposed: bool
) -> list[Job]:
    """The jobs of a DoRA adapter, each with its magnitude and the base weights."""
    files = {name: file for file in opened.files for name in file.entries}
    magnitudes = {
        parse_key(note.tensor).module: Factor(
            note.tensor, files[note.tensor], files[note.tensor].entries[note.tensor]
        )
        for note in opened.other
        if note.reason == DORA_REASON
    }
    found = []
    for job in jobs:
        magnitude = magnitudes.get(job.pair.module)
        if magnitude is None or job.pair.kind != "linear":
            what = "no magnitude" if magnitude is None else f"a {job.pair.kind} layer with DoRA"
            raise InputError(
                f"{opened.location.path}: {job.pair.module} has {what}: only linear DoRA layers are compressed",
                code="dora",
                hint="train a smaller adapter, or merge this one into its base model",
            )
        found.append(replace(job, magnitude=magnitude, base=base, transposed=transposed))
    return found


def _storage(current: DType, wanted: str | None) -> DType:
    if wanted is None:
        return current
    found = DTYPES.get(wanted.upper())
    if found is None or found.raw is None:
        known = ", ".join(name for name, item in DTYPES.items() if item.raw)
        raise UsageError(f"unknown storage type {wanted!r}", code="bad-dtype", hint=f"one of {known}")
    return found


def _target_fields(config: PeftConfig, jobs: Sequence[Job], dropped: Sequence[LoraPair]) -> dict[str, Any]:
    """Explicit targets where modules are left out, so that PEFT recreates nothing."""
    if not dropped:
        return {}
    plain = [job.pair.module for job in jobs if not _is_parameter(config, job.pair)]
    fields: dict[str, Any] = {"target_modules": plain, "exclude_modules": None}
    for name in ("layers_to_transform", "layers_pattern"):
        if config.fields.get(name) is not None:
            fields[name] = None
    return fields


def _is_parameter(config: PeftConfig, pair: LoraPair) -> bool:
    return any(pair.module == name or pair.module.endswith(f".{name}") for name in config.target_parameters)


def _carried(
    opened: Adapter, dropped: Sequence[LoraPair], strip: Sequence[str]
) -> tuple[list[str], tuple[str, ...]]:
    """Names of the tensors that are copied, and of those dropped on request."""
    gone = {pair.module for pair in dropped}
    carried, stripped = [], []
    for note in opened.other:
        if any(part in note.tensor for part in strip):
            stripped.append(note.tensor)
        elif not (note.reason == LORA_BIAS_REASON and parse_key(note.tensor).module in gone):
            carried.append(note.tensor)
    unused = [part for part in strip if not any(part in name for name in stripped)]
    if unused:
        raise UsageError(
            f"--strip {unused[0]!r} matches no tensor beside the LoRA factors",
            code="strip-unmatched",
            hint="`gradience audit --json` lists them under coverage.other",
        )
    return sorted(carried), tuple(sorted(stripped))


# ---------------------------------------------------------------- writing


def _tensors(opened: Adapter, jobs: Sequence[Job], carried: Sequence[str]) -> dict[str, NewTensor]:
    tensors: dict[str, NewTensor] = {}
    for job in jobs:
        shape_A, shape_B = job.shapes()
        tensors[job.pair.a.tensor] = NewTensor(job.dtype_A.name, shape_A)
        tensors[job.pair.b.tensor] = NewTensor(job.dtype_B.name, shape_B)
    entries = dict(opened.entries())
    for name in carried:
        tensors[name] = NewTensor(entries[name].dtype.name, entries[name].shape)
    return tensors


def _metadata(opened: Adapter) -> dict[str, str]:
    return dict(opened.files[0].metadata) or {"format": "pt"}


def _write_all(
    opened: Adapter,
    jobs: Sequence[Job],
    writer: WeightsWriter,
    pool: ThreadPoolExecutor,
    progress: Progress | None,
) -> dict[str, Written]:
    """Every tensor in the order of the file; the pool computes modules a little ahead of the writer."""
    job_of = {tensor: job for job in jobs for tensor in (job.pair.a.tensor, job.pair.b.tensor)}
    files = {name: file for file in opened.files for name in file.entries}
    ordered = dict.fromkeys(job_of[name].pair.module for name in writer.names if name in job_of)
    by_module = {job.pair.module: job for job in jobs}
    coming = _ahead(pool, [by_module[module] for module in ordered], window=4 * processors())
    results: dict[str, Written] = {}
    waiting: dict[str, bytes] = {}
    for name in writer.names:
        job = job_of.get(name)
        if job is None:
            writer.put(files[name].read_bytes(name))
            continue
        while name not in waiting:
            made_job, made = next(coming)
            waiting[made_job.pair.a.tensor], waiting[made_job.pair.b.tensor] = made.data_A, made.data_B
            results[made_job.pair.module] = made._replace(data_A=b"", data_B=b"")
            if progress:
                progress(len(results), len(jobs))
        writer.put(waiting.pop(name))
    return results


def _ahead(pool: ThreadPoolExecutor, jobs: Sequence[Job], window: int) -> Iterator[tuple[Job, Written]]:
    """Results in the order of `jobs`, with at most `window` modules in work or waiting: memory stays bounded."""
    pending: deque[tuple[Job, Future[Written]]] = deque()
    for job in jobs:
        pending.append((job, pool.submit(write_module, job)))
        if len(pending) >= window:
            first, future = pending.popleft()
            yield first, future.result()
    for first, future in pending:
        yield first, future.result()


def write_module(job: Job) -> Written:
    """The stored bytes of one module and the error they have. Raises InputError (code overflow)."""
    loaded = job.pair.load()
    if job.unchanged:
        return _copied(loaded)
    parts = [_write_expert(job, loaded, expert) for expert in range(job.pair.experts)]
    norm = math.hypot(*(part.norm for part in parts))
    lost = math.hypot(*(part.lost for part in parts))
    shape_A, shape_B = job.shapes()
    error = _dora_error(job, loaded, parts[0]) if job.magnitude else None
    data_A = np.concatenate([part.words_A for part in parts]).reshape(shape_A)
    # B of stacked experts: (m, r, E), the expert last.
    data_B = np.stack([part.words_B for part in parts], axis=-1).reshape(shape_B)
    return Written(
        np.ascontiguousarray(data_A).tobytes(),
        np.ascontiguousarray(data_B).tobytes(),
        lost / norm if norm else None,
        norm,
        "qr" if any(part.method == "qr" for part in parts) else "gram",
        error,
    )


def _dora_error(job: Job, loaded: LoadedPair, made: _Expert) -> float:
    assert job.magnitude is not None
    assert job.base is not None
    pair, scale = job.pair, job.pair.scale or 0.0
    weight = job.base.weight(pair.module, (pair.rows, pair.columns), transposed=job.transposed)
    magnitude = decode(job.magnitude.file.read_raw(job.magnitude.tensor), job.magnitude.entry.dtype).reshape(
        -1
    )
    old_A, old_B = stacked(loaded.blocks_A()()).T, stacked(loaded.blocks_B()())
    new_A, new_B = decode(made.words_A, job.dtype_A), decode(made.words_B, job.dtype_B)
    return output_error(weight, magnitude, (scale * old_B, old_A), (scale / job.fold * new_B, new_A))


def _copied(loaded: LoadedPair) -> Written:
    norms = [
        _product_norm(gram(loaded.blocks_A(expert)), gram(loaded.blocks_B(expert)))
        for expert in range(loaded.pair.experts)
    ]
    norm = abs(loaded.pair.scale or 0.0) * math.hypot(*norms)
    return Written(loaded.raw_A.tobytes(), loaded.raw_B.tobytes(), 0.0 if norm else None, norm, "copy")


def _product_norm(gram_A: Core, gram_B: Core) -> float:
    """‖B·A‖_F = √tr(AAᵀ·BᵀB)."""
    energy = max(0.0, float((gram_A.matrix * gram_B.matrix).sum()))
    return math.ldexp(math.sqrt(energy), gram_A.exponent + gram_B.exponent)


class _Expert(NamedTuple):
    words_A: Raw
    words_B: Raw
    lost: float
    norm: float
    method: Literal["gram", "qr"]


def _write_expert(job: Job, loaded: LoadedPair, expert: int) -> _Expert:
    blocks_A, blocks_B = loaded.blocks_A(expert), loaded.blocks_B(expert)
    found = truncation(blocks_A, blocks_B, job.plan.new_rank)
    new_A = _mapped(blocks_A, found.map_A.T, job.dtype_A)
    new_B = _mapped(blocks_B, found.map_B * job.fold, job.dtype_B)
    if not (np.isfinite(new_A.own).all() and np.isfinite(new_B.own).all()):
        raise InputError(
            f"{job.pair.a.file.path}: {job.pair.module}: the new factors do not fit into {job.dtype_A.name}",
            code="overflow",
            hint="store them in a wider type, e.g. --dtype BF16",
        )
    scale = abs(job.pair.scale or 0.0)
    norm = math.ldexp(float(np.linalg.norm(found.values)), found.exponent)
    lost = _distance(found, new_A, new_B, job.fold)
    if not lost > TINY_ERROR * norm:
        lost = _exact_distance(job, loaded, expert, new_A.words, new_B.words)
    pad = ((0, 0), (0, job.stored_rank - job.plan.new_rank))
    words_A, words_B = np.pad(new_A.words, pad), np.pad(new_B.words, pad)
    return _Expert(np.ascontiguousarray(words_A.T), words_B, scale * lost, scale * norm, found.method)


class _Mapped(NamedTuple):
    """A new factor X′ = X·map as stored words, (rows, k), with XᵀX′ and X′ᵀX′ of what was stored."""

    words: Raw
    cross: FloatArray
    own: FloatArray


def _mapped(blocks: Blocks, mapping: FloatArray, dtype: DType) -> _Mapped:
    words, cross, own = [], np.zeros(mapping.shape), np.zeros((mapping.shape[1],) * 2)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        for block in blocks():
            stored = encode(block @ mapping, dtype)
            back = decode(stored, dtype)
            words.append(stored)
            cross += block.T @ back
            own += back.T @ back
    return _Mapped(np.concatenate(words), cross, own)


def _distance(found: Truncation, new_A: _Mapped, new_B: _Mapped, fold: float) -> float:
    """‖B·A − B′·A′/fold‖_F from Gram products: ‖[B, −B′/fold]·[A; A′]‖² is the sum of their entrywise product.

    Good down to a relative error of about 1e-7, where the terms cancel; not for scales near the ends of float64.
    """
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        old = _product_norm(found.gram_A, found.gram_B) ** 2
        mixed = float((new_A.cross * new_B.cross).sum()) / fold
        new = float((new_A.own * new_B.own).sum()) / (fold * fold)
        return math.sqrt(max(0.0, old - 2 * mixed + new))


def _exact_distance(job: Job, loaded: LoadedPair, expert: int, words_A: Raw, words_B: Raw) -> float:
    """The same by QR of the joined factors, which does not cancel."""
    height = max(4 * (job.pair.rank + job.plan.new_rank), 1024)
    pair = job.pair
    joint_A = joined(
        word_blocks(loaded.words_A(expert), pair.a.entry.dtype, height),
        word_blocks(words_A, job.dtype_A, height),
    )
    joint_B = joined(
        word_blocks(loaded.words_B(expert), pair.b.entry.dtype, height),
        word_blocks(words_B, job.dtype_B, height),
        right_scale=-1 / job.fold,
    )
    return frobenius(triangle(joint_A), triangle(joint_B))


def _check_written(folder: Path, jobs: Sequence[Job], digest: str) -> None:
    """Read the result back as PEFT would: every module has its rank and its scale. A failure is a bug."""
    with open_adapter(folder) as written:
        assert written.sha256() == digest, "the written file is not what was meant"
        found = {pair.module: pair for pair in written.pairs}
        assert found.keys() == {job.pair.module for job in jobs}, (
            "the written modules are not those of the plan"
        )
        for job in jobs:
            pair = found[job.pair.module]
            assert pair.rank == job.stored_rank == (pair.declared_rank or pair.rank), (
                f"{pair.module}: wrong rank"
            )
            wanted = (job.pair.scale or 0.0) / job.fold
            assert math.isclose(pair.scale or 0.0, wanted, rel_tol=1e-12), f"{pair.module}: wrong scale"


# ---------------------------------------------------------------- the report


def _report(
    *,
    opened: Adapter,
    plan: CompressionPlan,
    encoded: Encoded,
    jobs: Sequence[Job],
    written: dict[str, Written],
    dropped: Sequence[LoraPair],
    source_digest: str,
    output: Path,
    output_digest: str,
    new_bytes: int,
    carried: int,
    stripped: tuple[str, ...],
    carried_files: list[str],
    left_out: list[str],
    changes: dict[str, str],
    new_fields: dict[str, Any],
    watch: Stopwatch,
) -> CompressionReport:
    plans = {module.name: module for module in plan.modules}
    rows = [_result(job, written[job.pair.module]) for job in jobs]
    rows += [_dropped(plans[pair.module], pair) for pair in dropped]
    order = {pair.module: index for index, pair in enumerate(opened.pairs)}
    rows.sort(key=lambda row: order[row.name])
    total = math.fsum(item.norm**2 for item in written.values()) + math.fsum(
        (plans[pair.module].norm or 0.0) ** 2 for pair in dropped
    )
    lost = math.fsum(((item.error or 0.0) * item.norm) ** 2 for item in written.values()) + math.fsum(
        (plans[pair.module].norm or 0.0) ** 2 for pair in dropped
    )
    old_params = sum(row.old_params for row in rows)
    new_params = sum(row.new_params for row in rows)
    largest = max(row.stored_rank for row in rows)
    stored = {row.name: row.stored_rank for row in rows if row.stored_rank}
    modules = [
        (pair.module, stored[pair.module], pair.rows, pair.columns, pair.kind)
        for pair in opened.pairs
        if pair.module in stored
    ]
    return CompressionReport(
        source_path=str(opened.location.path),
        source_sha256=source_digest,
        output_path=str(output),
        output_sha256=output_digest,
        criterion=plan.criterion,
        encoding=encoded.encoding,
        encoding_reason=encoded.reason,
        modules=tuple(rows),
        dropped=tuple(pair.module for pair in dropped),
        kept_energy=plan.kept_energy,
        predicted_error=plan.predicted_error,
        measured_error=math.sqrt(lost / total) if total else 0.0,
        old_params=old_params,
        new_params=new_params,
        reduction=1 - new_params / old_params,
        old_bytes=opened.bytes,
        new_bytes=new_bytes,
        old_max_lora_rank=plan.old_max_lora_rank,
        new_max_lora_rank=ranks.max_lora_rank_step(largest),
        carried_tensors=carried,
        stripped=stripped,
        carried_files=tuple(carried_files),
        left_out_files=tuple(left_out),
        config_changes=changes,
        runtimes=verdicts(new_fields, modules),
        run=watch.run_info(),
    )


def _result(job: Job, made: Written) -> ModuleResult:
    shape_A, shape_B = job.shapes()
    params_A, params_B = math.prod(shape_A), math.prod(shape_B)
    return ModuleResult(
        name=job.pair.module,
        old_rank=job.pair.rank,
        new_rank=job.plan.new_rank,
        stored_rank=job.stored_rank,
        scale=job.pair.scale or 0.0,
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
        dtype=pair.a.entry.dtype.name,
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
