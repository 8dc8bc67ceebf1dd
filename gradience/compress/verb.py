"""`compress_adapter`: what `gradience compress` does, as one function: audit, plan, and write."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypedDict, Unpack, overload

from gradience.arguments import integer_argument, names_argument, path_argument, ranks_argument
from gradience.audit.adapter import SAVE_INITIAL, audit_adapter
from gradience.compress.adapter import rehearse_compression, write_compressed
from gradience.compress.encodings import rule_of
from gradience.compress.forms import PEFT, form_of
from gradience.compress.peft_check import require_peft
from gradience.errors import UsageError
from gradience.files.whole import check_output
from gradience.plan.compression import plan_compression
from gradience.plan.criteria import Suggested
from gradience.plan.sizes import criterion_of
from gradience.progress import Progress
from gradience.reports.calibration import Calibration, calibration_argument
from gradience.reports.compression import CompressionPlan, CompressionReport, Encoding

SAVE_FIRST = 'a model in memory is saved first: model.save_pretrained("my_adapter")'


class Options(TypedDict, total=False):
    """The keywords of `compress_adapter`, for its two types of result."""

    rank: int | None
    energy: float | None
    suggested: Suggested | None
    reduction: float | None
    max_params: int | None
    max_bytes: int | None
    max_error: float | None
    max_kl: float | None
    plan: CompressionPlan | str | os.PathLike[str] | None
    calibration: Calibration | str | os.PathLike[str] | None
    allow_routed: bool
    allowed_ranks: Iterable[int] | None
    multiple_of: int | None
    allow_untrained: bool
    encoding: Encoding | None
    dtype: str | None
    strip: Sequence[str]
    base_model: str | os.PathLike[str] | None
    adapter: str | None
    allow_pickle: bool
    initial_adapter: str | os.PathLike[str] | None
    to: str | None
    verify_peft: bool
    force: bool
    workers: int | None
    max_memory: int | None
    progress: Progress | None


@overload
def compress_adapter(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    dry_run: Literal[False] = False,
    **options: Unpack[Options],
) -> CompressionReport: ...
@overload
def compress_adapter(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    dry_run: Literal[True],
    **options: Unpack[Options],
) -> CompressionPlan: ...
def compress_adapter(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    rank: int | None = None,
    energy: float | None = None,
    suggested: Suggested | None = None,
    reduction: float | None = None,
    max_params: int | None = None,
    max_bytes: int | None = None,
    max_error: float | None = None,
    max_kl: float | None = None,
    plan: CompressionPlan | str | os.PathLike[str] | None = None,
    calibration: Calibration | str | os.PathLike[str] | None = None,
    allow_routed: bool = False,
    allowed_ranks: Iterable[int] | None = None,
    multiple_of: int | None = None,
    allow_untrained: bool = False,
    encoding: Encoding | None = None,
    dtype: str | None = None,
    strip: Sequence[str] = (),
    base_model: str | os.PathLike[str] | None = None,
    adapter: str | None = None,
    allow_pickle: bool = False,
    initial_adapter: str | os.PathLike[str] | None = None,
    to: str | None = None,
    verify_peft: bool = False,
    dry_run: bool = False,
    force: bool = False,
    workers: int | None = None,
    max_memory: int | None = None,
    progress: Progress | None = None,
) -> CompressionReport | CompressionPlan:
    """Write a smaller approximation of the adapter at `path` to the folder `output`, and return what was lost.

    >>> report = compress_adapter("my_adapter", rank=4, output="small")
    >>> report.old_params, report.new_params, f"{report.measured_error:.1%}"
    (135168, 67584, '12.6%')
    >>> compress_adapter("my_adapter", reduction=0.75, dry_run=True).new_params
    33792

    Every module gets the best approximation of its new rank, at the scale that it had; nothing is trained, no base
    model is read. The keywords are the flags of `gradience compress`. Exactly one of the first nine says how small:

    rank: every module to this rank.
    energy: every module to the smallest rank that holds this share of its energy.
    suggested: what the audit suggests: "uniform_median", "uniform_p90" or "per_layer".
    reduction: save this share of the LoRA parameters, allocated over modules.
    max_params: at most so many LoRA parameters, allocated over modules.
    max_bytes: at most so many bytes of LoRA factors, allocated over modules.
    max_error: relative error of the whole adapter at most this, allocated over modules.
    max_kl: predicted KL divergence per scored token at most this, in nats; needs a calibration.
    plan: an earlier plan or its file, whose ranks may have been edited.

    calibration: what `calibrate_adapter` returned or wrote: then directions and budgets follow the model's output.
    allow_routed: predict the KL, and accept max_kl, also if the base routes tokens to experts.
    allowed_ranks: every rank is one of these, or the module's own.
    multiple_of: every rank is a multiple of it, or the module's own.
    allow_untrained: compress an adapter whose every B·A is 0 as well.
    encoding: how ranks and scales are written, a name in compress/encodings.py; the simplest right one by default.
    dtype: storage type of the factors (BF16, F16, F32 …); each keeps its own by default.
    strip: parts of tensor names; tensors beside the factors that have one are dropped.
    base_model: folder of the base model, or its name on the hub. Its config.json names the architecture for the
        verdicts on runtimes; its safetensors are needed for DoRA alone.
    adapter: which one, where a folder or a file holds several.
    allow_pickle: read `.bin` and `.pt` as well, in a process of its own with limits (needs the extra `hf`).
    initial_adapter: the adapter before training, for one whose start changed the base (PiSSA, OLoRA, CorDA, LoRA-GA,
        LoftQ): written is the difference, a plain LoRA for the base as it was.
    to: the format to write: "peft", "mlx" or "diffusers"; by default the adapter's own where it is one of them, else
        PEFT's.
    verify_peft: let PEFT load the result before it is put in place (a child process; needs the extra `hf`).
    dry_run: return the plan, and write nothing.
    force: replace an adapter folder that is there.
    workers: modules at a time; the processor count by default. The result does not depend on it.
    max_memory: bytes that the work may take; 500 MB by default, or eight times the file. More is refused beforehand.

    Raises InputError where the adapter cannot be compressed, UsageError for arguments that make no sense (WrongType, a
    TypeError too, for those of a wrong type), VerificationError where PEFT does not load the result, OutputError when
    the disk refuses. Nothing is left half-written.
    """
    source = path_argument("path", path, hint=SAVE_FIRST)
    target = None if output is None else path_argument("output", output)
    sizes = {
        "rank": rank,
        "energy": energy,
        "suggested": suggested,
        "reduction": reduction,
        "max_params": max_params,
        "max_bytes": max_bytes,
        "max_error": max_error,
        "max_kl": max_kl,
        "plan": plan,
    }
    criterion = criterion_of(sizes)
    grid = None if allowed_ranks is None else ranks_argument("allowed_ranks", allowed_ranks)
    how: dict[str, Any] = {
        "encoding": encoding,
        "dtype": dtype,
        "strip": names_argument("strip", strip, "a list of parts of names, such as ['lm_head']"),
        "base_model": None if base_model is None else path_argument("base_model", base_model),
        "adapter_name": adapter,
        "allow_pickle": allow_pickle,
        "initial_adapter": None
        if initial_adapter is None
        else path_argument("initial_adapter", initial_adapter, hint=SAVE_INITIAL),
        "calibration": calibration_argument(calibration),
        "to": to,
    }
    if multiple_of is not None:
        multiple_of = integer_argument("multiple_of", multiple_of)
    if encoding is not None:
        rule_of(encoding)
    form_of(to, PEFT)
    if not dry_run:
        if target is None:
            raise UsageError(
                "no output given",
                code="no-output",
                hint="give output=FOLDER, or dry_run=True to see the plan",
            )
        check_output(target, source, force=force)
        if verify_peft:
            require_peft()
    machine: dict[str, Any] = {"workers": workers, "max_memory": max_memory, "progress": progress}
    which: dict[str, Any] = {name: how[name] for name in ("allow_pickle", "initial_adapter")}
    audited = audit_adapter(source, adapter=adapter, **which, **machine)
    planned = plan_compression(
        audited,
        criterion,
        allowed_ranks=grid,
        multiple_of=multiple_of,
        allow_untrained=allow_untrained,
        path=source,
        calibration=how["calibration"],
        allow_routed=allow_routed,
    )
    if dry_run or target is None:
        rehearse_compression(source, planned, **how)
        return planned
    return write_compressed(source, planned, target, **how, verify_peft=verify_peft, force=force, **machine)
