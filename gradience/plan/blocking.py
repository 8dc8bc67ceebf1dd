"""All rules for what must not be truncated: whole adapters, fixed ranks, modules that must stay. Pure.

An adapter is refused if no smaller one can be equivalent; a suggestion is refused if the energies are
meaningless.
"""

import os
from collections.abc import Iterable, Sequence

import numpy as np

from gradience.adapters.adapter import LoraPair, SkippedTensor
from gradience.adapters.keys import ends_with, is_split_expert, parse_key
from gradience.errors import InputError, UsageError
from gradience.files.shared_names import given_text
from gradience.reports.audit import AuditReport, LayerAudit, TensorNote
from gradience.reports.base.finding import Finding
from gradience.words import noun

NOT_THE_UPDATE = frozenset(("init-not-update", "variant-not-update", "expert-order-unknown", "non-finite"))
"""Findings with which nothing is compressed or suggested: B·A is not the learned update, or holds NaN or infinity."""
UNCONVINCING = frozenset(("looks-random", "init-noise"))
"""Findings with which no rank is suggested: the spectra say nothing about a smaller one. Truncating is allowed."""

SMALLEST_NORM = 1e-290
"""Smallest norm of an update that can be truncated, so that the remainder keeps full precision."""

# ---------------------------------------------------------------- the adapter


def blocks_suggestions(findings: Iterable[Finding]) -> bool:
    """Return True if a finding rules out suggesting a rank."""
    return any(finding.code in NOT_THE_UPDATE | UNCONVINCING for finding in findings)


def refuse_uncompressible(report: AuditReport, *, path: str | os.PathLike[str] | None = None) -> None:
    """Raise InputError if no smaller adapter can be equivalent. path: for messages, by default the report's.

    Codes: those of NOT_THE_UPDATE, unaudited, no-lora-tensors, untrained, overflow.
    """
    path = report.adapter.path if path is None else given_text(path)
    finding = next((finding for finding in report.findings if finding.code in NOT_THE_UPDATE), None)
    if finding is not None:
        raise InputError(
            f"{path}: cannot be compressed: {finding.message}", code=finding.code, hint=finding.hint
        )
    refuse_unread(path, report.coverage.unaudited)
    if not report.layers:
        raise InputError(
            f"{path}: has no LoRA modules to compress", code="no-lora-tensors", hint="check the path"
        )
    if all(layer.status == "untrained" for layer in report.layers):
        raise InputError(
            f"{path}: untrained: B·A = 0 in every module, so there is no update to compress",
            code="untrained",
            hint="check that the trained weights were saved",
        )
    trained = (row for row in report.layers if row.status == "ok" and row.scale)  # None: there is no config
    for row in trained:
        if not row.singular_values or (row.fro_norm is not None and row.fro_norm < SMALLEST_NORM):
            raise norm_overflow(path, row.name)


def norm_overflow(path: object, module: str) -> InputError:
    """The error (overflow) for a module whose ‖ΔW‖ float64 does not hold."""
    return InputError(
        f"{path}: the norm of {module} overflows double precision",
        code="overflow",
        hint="divide its factors by a power of two and multiply lora_alpha by the same",
    )


def non_finite(*pairs: LoraPair) -> InputError:
    """The error (non-finite) for modules with NaN or infinity in a factor: it names the first such file."""
    broken = [
        factor.file.path
        for pair in pairs
        for factor in pair.factors.values()
        if not np.isfinite(factor.read()).all()
    ]
    return InputError(
        f"{[*broken, pairs[0].a.file.path][0]}: {pairs[0].module} contains NaN or infinity",
        code="non-finite",
        hint="use an earlier checkpoint; `gradience audit` lists such modules",
    )


def refuse_unread(path: object, unread: Sequence[SkippedTensor | TensorNote]) -> None:
    """Raise InputError (unaudited) for tensors that were not understood, whose meaning at another rank is
    unknown.
    """
    if unread:
        were = noun(len(unread), "tensor was", "tensors were")
        raise InputError(
            f"{path}: cannot be compressed: {len(unread)} {were} not understood, the first is {unread[0].tensor} "
            f"({unread[0].reason})",
            code="unaudited",
            hint="`gradience audit` lists all of them",
        )


def refuse_empty(ranks: Iterable[int]) -> None:
    """Raise UsageError (empty-plan) if no module keeps a component."""
    if not any(ranks):
        raise UsageError(
            "this plan removes every module",
            code="empty-plan",
            hint="allow more parameters or bytes, or a smaller error or KL divergence",
        )


# ---------------------------------------------------------------- one module


def why_fixed(rows: Sequence[LayerAudit]) -> str:
    """Return the reason why a module (the rows of its experts) must keep its rank; empty if it need not.

    PEFT needs a multiple of a grouped convolution's groups, and an energy rank says nothing about the rank of
    each.
    """
    if rows[0].groups > 1:
        return "block-diagonal B of a grouped convolution"
    if any(row.status == "unsupported" for row in rows):
        return "cannot be measured: its factors cancel"
    if any(row.status == "nonfinite" for row in rows):
        return "cannot be measured: its factors contain NaN or infinity"
    return ""


def must_stay(report: AuditReport, row: LayerAudit, owners: set[str]) -> bool:
    """Return True if a module may not get rank 0. owners: `modules_with_other_tensors` of the same report.

    Without its factors, a bias, a magnitude or a base weight saved with them would be lost as well. The
    wrapper of an expert, or of any other parameter, cannot be left out separately: `target_parameters` may
    match many.
    """
    if report.adapter.use_dora or row.name in owners or row.kind == "expert" or is_split_expert(row.name):
        return True
    wrapped = report.adapter.settings.get("target_parameters")
    return isinstance(wrapped, list) and ends_with(row.name, map(str, wrapped))


def modules_with_other_tensors(report: AuditReport) -> set[str]:
    """Modules with other tensors of their own (copies of a module that PEFT once kept are not written)."""
    owners: set[str] = set()
    for note in report.coverage.other:
        key = parse_key(note.tensor)
        if key.ghost or key.adapter not in (None, report.adapter.adapter_name):
            continue
        parts = key.module.split(".")
        owners.update(".".join(parts[:end]) for end in range(1, len(parts) + 1))
    return owners
