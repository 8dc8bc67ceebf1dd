"""What cannot be written, although its spectra could be truncated: rules of PEFT and of the format. Beside
`plan.blocking`, which judges by the audit alone; here the file and its config are at hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from gradience.adapters.adapter import Adapter, LoraPair
from gradience.adapters.config import PeftConfig
from gradience.adapters.diffusers import SEVERAL
from gradience.adapters.experts import guessed_orders
from gradience.adapters.formats import words_of
from gradience.adapters.inventory import DORA_REASON, LORA_BIAS_REASON, SkippedTensor
from gradience.adapters.keys import ends_with, parse_key
from gradience.compress.forms.form import Form, not_held, refuse_meaning, refuse_tied_embedding
from gradience.compress.module import Job
from gradience.errors import InputError, UsageError
from gradience.files.artifact import round_significant
from gradience.plan.blocking import is_wrapped, refuse_empty, refuse_unread
from gradience.reports.calibration import Calibration
from gradience.reports.compression import CompressionPlan


def is_dora(opened: Adapter, config: PeftConfig) -> bool:
    """Whether the config or a magnitude in the file says so."""
    return config.use_dora or any(note.reason == DORA_REASON for note in opened.other)


def another_adapter(opened: Adapter, what: str) -> UsageError:
    """The error for a plan that does not belong to this adapter."""
    return UsageError(
        f"{opened.location.path}: the plan was made for another adapter ({what})",
        code="plan-mismatch",
        hint="audit this adapter and make a new plan",
    )


def refuse_adapter(opened: Adapter, config: PeftConfig, *, has_base: bool, form: Form | None = None) -> None:
    """Raise InputError for an adapter that cannot be written smaller, whatever the ranks.

    has_base: whether the weights of the base model are at hand, which DoRA needs.   form: the format to write, where
    it is not PEFT's.
    """
    path = opened.location.path
    unwritable = SEVERAL if opened.format == "diffusers" else opened.unwritable
    if unwritable is not None and form is None:
        raise InputError(
            f"{path}: {words_of(opened.format)} as PEFT LoRA: {unwritable}",
            code="read-only",
            hint="audit and compare it as it is; a smaller one must be made with its own library, or with PEFT",
        )
    if form is not None and is_dora(opened, config):
        raise not_held(
            opened, form.words, "it holds no DoRA adapter whose rank has changed", "PEFT's format holds it"
        )
    if form is not None:
        refuse_meaning(opened, form.words)
    elif opened.format == "mlx":
        refuse_tied_embedding(opened, "PEFT LoRA")
    if is_dora(opened, config) and not has_base:
        raise InputError(
            f"{path}: a DoRA adapter: what a smaller B·A does depends on the base weights W: m·(W + s·B·A)/‖W + s·B·A‖",
            code="dora",
            hint="give the folder of the base weights: --base-model DIR (Python: base_model=)",
        )
    if is_dora(opened, config) and config.fields.get("layer_replication"):
        raise InputError(
            f"{path}: DoRA on replicated layers: its modules are numbered differently from the base weights",
            code="dora",
            hint="merge this adapter into its base model instead",
        )
    refuse_unread(path, opened.unaudited)
    nested = next((pair.module for pair in opened.pairs if not _understood(pair.module)), None)
    if nested is not None:
        raise InputError(
            f"{path}: {nested} is inside another LoRA module (base_layer): PEFT 0.21 creates such modules only for the "
            "out_proj of nn.MultiheadAttention",
            code="nested-lora",
            hint="retrain with LoRA on only one of the two",
        )
    saved = next((pair.module for pair in opened.pairs if config.saved_whole(pair.module)), None)
    if saved is not None:
        raise InputError(
            f"{path}: {saved} has LoRA factors, and the config saves its full weights as well "
            f"({_saved_by(config, saved)}): PEFT 0.21 refuses that",
            code="saved-and-adapted",
            hint="retrain without LoRA on it, or without it in modules_to_save",
        )
    if config.fields.get("ensure_weight_tying") and any(pair.kind == "embedding" for pair in opened.pairs):
        raise InputError(
            f"{path}: embedding and head share their factors (ensure_weight_tying)",
            code="tied-factors",
            hint="retrain without ensure_weight_tying, or without LoRA on the embedding",
        )


def _understood(module: str) -> bool:
    return ".base_layer" not in module or module.endswith(".base_layer.out_proj")


def _saved_by(config: PeftConfig, module: str) -> str:
    _, entry = config.saved_whole(module) or ("", "")
    if entry in config.modules_to_save:
        return f"modules_to_save has {entry!r}, and PEFT compares the ends of names"
    return f"PEFT saves every {entry!r} for the task {config.task_type}"


def refuse_plan(opened: Adapter, plan: CompressionPlan, calibration: Calibration | None = None) -> None:
    """Raise UsageError for a plan that does not fit the adapter or the calibration, InputError (no-alpha) where a
    scale is unknown.
    """
    if plan.initial_sha256 != (None if opened.initial is None else opened.initial.sha256()):
        raise UsageError(
            "the plan was made without an initial adapter"
            if plan.initial_sha256 is None
            else f"the plan was made with the initial adapter of sha256 {plan.initial_sha256[:12]}…",
            code="plan-mismatch",
            hint="give the same --initial-adapter DIR as for the plan, or none (Python: initial_adapter=)",
        )
    if plan.calibration_sha256 != (None if calibration is None else calibration.sha256):
        raise UsageError(
            "the plan was made with another calibration"
            if calibration
            else "the plan was made with a calibration",
            code="plan-mismatch",
            hint="give the calibration that the plan was made with: --calibration FILE (Python: calibration=)",
        )
    planned = {module.name: module for module in plan.modules}
    if planned.keys() != {pair.module for pair in opened.pairs}:
        raise another_adapter(opened, "its modules differ")
    for pair in opened.pairs:
        scale = opened.scale_of(pair)
        module = planned[pair.module]
        if module.old_rank != pair.rank or not 0 <= module.new_rank <= pair.rank:
            raise another_adapter(opened, f"the rank of {pair.module} differs")
        if module.scale is not None and module.scale != round_significant(scale):
            raise another_adapter(opened, f"the scale of {pair.module} differs: the config was changed since")
    refuse_empty(module.new_rank for module in plan.modules)


def refuse_copy(opened: Adapter, jobs: Sequence[Job], names: Mapping[str, str]) -> None:
    """Raise InputError (nothing-smaller) where the result would be what is there already."""
    if (
        opened.initial is not None
        or any(not job.keeps_rank for job in jobs)
        or any(name != tensor for tensor, name in names.items())
    ):
        return
    largest = max(job.pair.rank for job in jobs)
    raise InputError(
        f"{opened.location.path}: no module would get smaller: none has a higher rank than requested (the largest "
        f"is {largest})",
        code="nothing-smaller",
        hint="request a smaller rank; with --encoding, --dtype or --strip it is rewritten at its current ranks",
    )


def refuse_jobs(
    opened: Adapter, config: PeftConfig, jobs: Sequence[Job], others: Iterable[SkippedTensor]
) -> None:
    """Raise InputError where the ranks or scales of some modules cannot be written so.

    others: the tensors that are carried beside the factors.
    """
    for job in jobs:
        if job.pair.groups > 1 and (not job.keeps_rank or job.stored_rank != job.pair.rank):
            raise InputError(
                f"{opened.location.path}: {job.pair.module} is a grouped convolution: its block-diagonal B keeps its "
                "rank, and cannot get another one on disk",
                code="block-diagonal",
                hint='use --encoding patterns (Python: encoding="patterns")',
            )
    _refuse_folded_bias(opened, jobs, others)
    _refuse_guesses(config, jobs)


def _refuse_folded_bias(opened: Adapter, jobs: Iterable[Job], others: Iterable[SkippedTensor]) -> None:
    biased = {parse_key(note.tensor).module for note in others if note.reason == LORA_BIAS_REASON}
    for job in jobs:
        if job.fold != 1.0 and job.pair.module in biased:
            raise InputError(
                f"{opened.location.path}: {job.pair.module} has a lora_bias, multiplied by the same scale: "
                "the scale cannot be folded into B alone",
                code="lora-bias",
                hint='use --encoding patterns (Python: encoding="patterns")',
            )


def _refuse_guesses(config: PeftConfig, jobs: Sequence[Job]) -> None:
    """Two parameters of one module that may be each other: only one rank and scale for both cannot mix them up."""
    guessed = tuple(guessed_orders(config))
    doubtful = [job for job in jobs if ends_with(job.pair.module, guessed)]
    if len({(job.stored_rank, job.written_scale) for job in doubtful}) > 1:
        raise InputError(
            f"{config.path}: which tensors belong to {' and which to '.join(guessed[:2])} is a guess, and they would "
            "get different ranks or scales",
            code="parameter-order",
            hint="give all of them the same rank: --rank K --encoding uniform (Python: rank=, encoding=)",
        )


def refuse_dropped(config: PeftConfig, dropped: Sequence[LoraPair]) -> None:
    """Raise InputError (parameter-dropped) where a parameter that `target_parameters` wraps would be left out."""
    parameter = next(
        (pair.module for pair in dropped if is_wrapped(pair.module, config.target_parameters)), None
    )
    if parameter is not None:
        raise InputError(
            f"{config.path}: the plan leaves out {parameter}, a parameter that target_parameters wraps",
            code="parameter-dropped",
            hint="use --rank or --energy (Python: rank=, energy=), which keep every module",
        )
