"""Compression: an adapter and a plan -> a smaller approximation with the same scale, and a report of what was lost.

Training-free and exact: every module gets the best approximation of its rank (Eckart–Young), found in r-space, one
module at a time, without the base model. The error reported is the one of the factors as they are stored.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from gradience.adapters.adapter import Adapter
from gradience.adapters.base_weights import BaseWeights
from gradience.adapters.config import PeftConfig
from gradience.adapters.formats import open_adapter
from gradience.adapters.locate import CONFIG
from gradience.adapters.memory import compress_bytes, limit_for, workers_within
from gradience.blas import worker_threads
from gradience.compress.base import base_folder
from gradience.compress.carry import (
    annotate,
    carry_files,
    compressed_opening,
    names_beside,
    refuse_foreign_files,
)
from gradience.compress.forms import PEFT, form_of
from gradience.compress.layout import Layout, lay_out
from gradience.compress.peft_check import check_with_peft, require_peft
from gradience.compress.readback import check_written
from gradience.compress.reconfigure import changed_fields, merged_fields, require_config, write_config
from gradience.compress.refusals import another_adapter, is_dora
from gradience.compress.results import results_of, warnings_of
from gradience.compress.weights import write_weights
from gradience.errors import UsageError
from gradience.files.card import CARD, write_block
from gradience.files.shared_names import path_text
from gradience.files.whole import check_output, whole_folder
from gradience.progress import Progress
from gradience.reports.base.run import Stopwatch
from gradience.reports.base.source import hub_source, initial_of
from gradience.reports.calibration import Calibration
from gradience.reports.compression import CompressionPlan, CompressionReport, Encoding
from gradience.runtimes import architecture_of, check_model_config, verdicts

REPORT = "compression_report.json"
Documents = Callable[[Path, CompressionReport], Mapping[str, str]]
"""The folder of a written adapter, its report -> further files, name -> text; of README.md the block of the card."""


def write_compressed(
    adapter: str | os.PathLike[str],
    plan: CompressionPlan,
    output: str | os.PathLike[str],
    *,
    encoding: Encoding | None = None,
    dtype: str | None = None,
    strip: Sequence[str] = (),
    base_model: str | os.PathLike[str] | None = None,
    calibration: Calibration | None = None,
    verify_peft: bool = False,
    force: bool = False,
    adapter_name: str | None = None,
    allow_pickle: bool = False,
    initial_adapter: Path | None = None,
    workers: int | None = None,
    max_memory: int | None = None,
    progress: Progress | None = None,
    to: str | None = None,
    documents: Documents | None = None,
    command: str = "",
) -> CompressionReport:
    """Write the adapter at `adapter`, at the ranks of `plan`, to the folder `output`.

    The other keywords are those of `compress_adapter`; a calibration is the one that the plan was made with.
    documents: makes further files of the folder from it and the report: its Markdown, the block of its card.

    Returns the report, which also lies in the folder. Raises InputError where the adapter cannot be compressed,
    UsageError for arguments that make no sense, VerificationError where PEFT does not load the result, OutputError
    when the disk refuses. Nothing is left half-written.
    """
    source, target = Path(adapter), Path(output)
    watch = Stopwatch(command)
    check_output(target, source, force=force)
    refuse_foreign_files(target, names_beside(source))
    if verify_peft:
        require_peft()
    given = (plan, base_model, adapter_name, allow_pickle, initial_adapter, to)
    how: dict[str, Any] = {"encoding": encoding, "dtype": dtype, "strip": strip, "calibration": calibration}
    with _prepared(source, *given, **how) as (opened, config, layout), ExitStack() as stack:
        fitting = _fitting(opened, layout, max_memory, workers)
        pool = stack.enter_context(worker_threads(fitting))
        digest = pool.submit(opened.sha256)
        fields, new_fields = _fields(config, layout)
        _refuse_check(layout, verify_peft=verify_peft)
        with whole_folder(target, force=force) as folder:
            weights = write_weights(folder / layout.weights, opened, layout, pool, 4 * fitting, progress)
            if plan.adapter_sha256 != digest.result():
                raise another_adapter(
                    opened, f"sha256 {plan.adapter_sha256[:12]}… there, {digest.result()[:12]}… here"
                )
            if layout.settings is None or layout.settings.config is not None:
                write_config(folder / CONFIG, new_fields)
            carried_files, left_out = carry_files(opened.location, folder)
            check_written(folder, layout, weights.modules, weights.size)
            loaded = check_with_peft(folder, opened, config, layout) if verify_peft else None
            results = results_of(opened, plan, layout, weights.modules)
            annotated = annotate(folder, compressed_opening(results["modules"], results["measured_error"]))
            report = CompressionReport(
                source_path=path_text(opened.location.path),
                source_sha256=digest.result(),
                source=hub_source(opened.source),
                output_path=path_text(target),
                output_sha256=weights.sha256,
                criterion=plan.criterion,
                initial=initial_of(opened),
                **_foreseen(plan),
                format=PEFT if layout.form is None else layout.form.name,
                encoding=layout.encoded.encoding,
                encoding_reason=layout.encoded.reason,
                **results,
                old_bytes=opened.bytes,
                new_bytes=weights.size,
                carried_tensors=len(layout.carried),
                stripped=tuple(layout.stripped),
                renamed=sum(name != tensor for tensor, name in layout.names.items()),
                carried_files=tuple(name for name in carried_files if name not in annotated),
                annotated_files=annotated,
                left_out_files=tuple(left_out),
                config_changes=changed_fields(fields, new_fields),
                peft_check=loaded,
                **_runtimes(folder, opened, config, base_model, layout),
                warnings=(*warnings_of(plan, layout, results), *_warnings_of_source(opened, config)),
                run=watch.run_info(),
            )
            report.save(folder / REPORT)
            if documents is not None:
                _add(folder, documents(folder, report))
            refuse_foreign_files(target, os.listdir(folder))
    return report


def _add(folder: Path, texts: Mapping[str, str]) -> None:
    for name, text in texts.items():
        if name == CARD:
            write_block(folder, text)
        else:
            (folder / name).write_bytes(text.encode())


def rehearse_compression(adapter: str | os.PathLike[str], plan: CompressionPlan, **choices: Any) -> None:
    """Raise what `write_compressed` would raise before it writes, for the same choices; reads the headers alone."""
    with _prepared(Path(adapter), plan, **choices):
        pass


def _fitting(opened: Adapter, layout: Layout, max_memory: int | None, workers: int | None) -> int:
    """Modules at a time. Raises InputError (memory-limit)."""
    work = (
        (
            job.pair,
            compress_bytes(job.pair, job.plan.new_rank, job.stored_bytes, dora=job.magnitude is not None),
        )
        for job in layout.jobs
    )
    return workers_within(limit_for(max_memory, [opened]), [opened], work, workers)


@contextmanager
def _prepared(
    source: Path,
    plan: CompressionPlan,
    base_model: str | os.PathLike[str] | None,
    adapter_name: str | None,
    allow_pickle: bool = False,
    initial_adapter: Path | None = None,
    to: str | None = None,
    **choices: Any,
) -> Iterator[tuple[Adapter, PeftConfig, Layout]]:
    """The adapter, open; its config; and what is to be written."""
    with ExitStack() as stack:
        opened = stack.enter_context(
            open_adapter(source, adapter=adapter_name, allow_pickle=allow_pickle, initial=initial_adapter)
        )
        config = require_config(opened)
        form = form_of(to, opened.format)
        base = None
        if base_model is not None:
            dora = is_dora(opened, config)
            where = base_folder(base_model, weights=dora)
            check_model_config(where, needed=not dora)
            base = stack.enter_context(BaseWeights.open(where)) if dora else None
        yield opened, config, lay_out(opened, config, plan, base=base, form=form, **choices)


def _warnings_of_source(opened: Adapter, config: PeftConfig) -> tuple[str, ...]:
    return (*_names_a_folder(config), *_needs_the_base(opened))


def _names_a_folder(config: PeftConfig) -> tuple[str, ...]:
    """What to know before the folder is shared: the base's own path stays, since PEFT loads the base by it."""
    if config.base_model is None or path_text(config.base_model) == config.base_model:
        return ()
    return (
        "adapter_config.json names the base model by an absolute path, by which PEFT loads it: before the adapter is"
        " shared, put the model's public name there (base_model_name_or_path)",
    )


def _needs_the_base(opened: Adapter) -> tuple[str, ...]:
    """Which weights the written adapter belongs on, where those that it was trained on were changed."""
    if opened.initial is None:
        return ()
    quantized = "; what quantizing the base changed is not in it" if opened.init.lower() == "loftq" else ""
    return (
        f"it is a plain LoRA for the base as it was before {opened.init} changed it, and not for the residual that"
        f" was trained on: base_model_name_or_path must name the original{quantized}",
    )


def _fields(config: PeftConfig, layout: Layout) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """What the settings of the adapter were, and what they are in the written one."""
    if layout.settings is None:
        return config.fields, merged_fields(config.fields, layout.fields)
    return layout.settings.old, layout.settings.new


def _refuse_check(layout: Layout, *, verify_peft: bool) -> None:
    """Raise UsageError (not-peft-format) where PEFT is to load what it does not read."""
    if verify_peft and layout.form is not None:
        raise UsageError(
            f"{layout.form.words} is written, which PEFT does not load",
            code="not-peft-format",
            hint="leave out --verify-peft (Python: verify_peft=), or write PEFT's format: --to peft (Python: to=)",
        )


def _foreseen(plan: CompressionPlan) -> dict[str, Any]:
    """What a calibration said before, which the plan has."""
    return {
        name: getattr(plan, name)
        for name in ("calibration_sha256", "prediction", "prediction_withheld", "curve")
    }


def _runtimes(
    folder: Path,
    source: Adapter,
    config: PeftConfig,
    base_model: str | os.PathLike[str] | None,
    layout: Layout,
) -> dict[str, Any]:
    """The architecture, and which runtimes load the adapter that was written to `folder`."""
    base = None if base_model is None else base_folder(base_model)
    architecture = architecture_of(config, source.location.root, base)
    if layout.form is not None:  # the runtimes that were run read PEFT's format
        return {"architecture": architecture, "runtimes": ()}
    with open_adapter(folder) as written:
        return {"architecture": architecture, "runtimes": verdicts(written, architecture)}
