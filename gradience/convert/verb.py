"""`convert_adapter`: what `gradience convert` does, as one function: open, write, read again."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from gradience.adapters.adapter import BLOCK_ELEMENTS, Adapter, LoraPair, word_blocks
from gradience.adapters.base import base_folder
from gradience.adapters.formats import open_adapter, require_order, words_of
from gradience.compress.carry import carry_files, names_beside, refuse_foreign_files
from gradience.convert.forms import DiffusersForm, Form, GgufForm, MlxForm, PeftForm
from gradience.convert.settings import ConvertSettings
from gradience.errors import InputError, UsageError, VerificationError, did_you_mean
from gradience.files.shared_names import path_text
from gradience.files.whole import check_output, whole_folder
from gradience.reports.audit import TensorNote
from gradience.reports.base.report import Stopwatch, hub_source
from gradience.reports.conversion import ConversionReport
from gradience.settings import public

GGUF = "gguf"
TARGETS: dict[str, type[Form]] = {
    "peft": PeftForm,
    "mlx": MlxForm,
    GGUF: GgufForm,
    "diffusers": DiffusersForm,
}


@public(ConvertSettings)
def convert_adapter(settings: ConvertSettings) -> ConversionReport:
    """Write the adapter at `path` in another format to the folder `output`, and return a report.

    >>> report = convert_adapter("my_adapter", "as_peft")
    >>> report.to, report.modules, report.renamed
    ('peft', 16, 0)

    Weights and scales do not change. Keywords, named like the flags of
    `gradience convert`:

    Raises InputError for an adapter that cannot be read or that the format cannot hold; UsageError (`unknown-target`,
    `output-name`, and for an existing output); VerificationError if the written file reads back differently;
    OutputError if the folder cannot be written. No partial output is left behind.
    """
    source, target = Path(settings.path), Path(settings.output)
    if settings.to not in TARGETS:
        raise UsageError(
            f"{settings.to!r} is not a format that convert can write",
            code="unknown-target",
            hint=did_you_mean(settings.to, TARGETS, f"one of: {', '.join(TARGETS)}"),
        )
    if settings.base_model is not None and settings.to != GGUF:
        raise UsageError(
            f"--base-model has no effect with --to {settings.to}",
            code="base-not-used",
            hint="leave --base-model out (Python: base_model=)",
        )
    if target.suffix == f".{GGUF}" and settings.to != GGUF:
        raise UsageError(
            f"{target} looks like a GGUF file, but the format to write is {settings.to}",
            code="output-name",
            hint="add --to gguf; the output is a folder with the file in it",
        )
    base = None if settings.base_model is None else base_folder(settings.base_model)
    watch = Stopwatch(settings.command)
    check_output(target, source, force=settings.force)
    refuse_foreign_files(target, names_beside(source))
    with (
        open_adapter(source, adapter=settings.adapter, allow_pickle=settings.allow_pickle) as opened,
        whole_folder(target, force=settings.force) as folder,
    ):
        require_order(opened)
        _refuse_nonfinite(opened)
        written = TARGETS[settings.to](opened, base).written_in(folder)
        carried, left = carry_files(opened.location, folder, opened.pickle)
        _check(opened, folder, written.modules)
        refuse_foreign_files(target, os.listdir(folder))
        return ConversionReport(
            source_path=path_text(opened.location.path),
            source_format=words_of(opened.format),
            source_sha256=opened.sha256(),
            source=hub_source(opened.source),
            pickle=opened.pickle is not None,
            output_path=path_text(target),
            output_sha256=written.sha256,
            to=settings.to,
            modules=len(opened.pairs),
            lora_params=opened.lora_params,
            bytes=written.bytes,
            tensors=written.tensors,
            renamed=written.renamed,
            left_out=tuple(TensorNote(**note._asdict()) for note in written.left_out),
            carried_files=tuple(carried),
            left_out_files=tuple(left),
            run=watch.run_info(),
        )


def _refuse_nonfinite(opened: Adapter) -> None:
    """Raise InputError (non-finite) for factors with NaN or infinity: no format makes an update of them."""
    for pair in opened.pairs:
        for factor in (pair.a, pair.b):
            blocks = word_blocks(factor.read().reshape(-1, 1), BLOCK_ELEMENTS)
            if not all(np.isfinite(block).all() for block in blocks()):
                raise InputError(
                    f"{opened.location.path}: {factor.tensor} holds NaN or infinity",
                    code="non-finite",
                    hint="use an earlier checkpoint: the training diverged, or the save overflowed fp16",
                )


def _check(opened: Adapter, folder: Path, names: Mapping[str, str]) -> None:
    """Read what was written. Raises VerificationError (conversion-differs) unless ranks and scales are the same."""

    def shape_of(pair: LoraPair) -> tuple[object, ...]:
        # Six digits of the scale: GGUF keeps α in single precision.
        scale = None if pair.scale is None else f"{pair.scale:.6g}"
        return pair.rank, pair.rows, pair.columns, pair.experts, scale

    before = {names.get(pair.module, pair.module): shape_of(pair) for pair in opened.pairs}
    with open_adapter(folder) as again:
        after = {pair.module: shape_of(pair) for pair in again.pairs}
    wrong = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    if wrong:
        raise VerificationError(
            f"{opened.location.path}: nothing was written: {wrong[0][:120]} would not be read back unchanged",
            code="conversion-differs",
            hint="please report this, with the adapter's config",
        )
