"""An audit -> the modules of an adapter, with what their components are worth: a plan allocates ranks over these."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gradience.adapters.keys import is_split_expert, parse_key
from gradience.artifacts.audit import AuditReport, LayerAudit
from gradience.artifacts.finding import BLOCKING
from gradience.errors import InputError
from gradience.spectra import FloatArray


@dataclass(frozen=True, slots=True)
class Module:
    """One module. Experts of a stacked tensor share one rank; params and bytes are those of all of them.

    spectra: per expert, the σ of its components, in units of the largest σ of the adapter.
    energies: (rank,) σ² of its components, summed over experts.
    stays: it may not get rank 0.   fixed: why it must keep its rank, or nothing.
    """

    name: str
    rank: int
    params: int
    bytes: int
    energies: FloatArray
    spectra: tuple[FloatArray, ...]
    stays: bool
    fixed: str
    scale: float | None

    @property
    def cost(self) -> int:
        """Parameters of one component, over all experts."""
        return self.params // self.rank

    @property
    def stored_cost(self) -> int:
        """Bytes of one component."""
        return self.bytes // self.rank


def refuse_uncompressible(report: AuditReport, *, allow_untrained: bool = False) -> None:
    """Raise InputError where no smaller adapter can mean the same: codes of BLOCKING, unaudited, untrained, …"""
    path = report.adapter.path
    blocking = next((finding for finding in report.findings if finding.code in BLOCKING), None)
    if blocking is not None:
        raise InputError(
            f"{path}: cannot be compressed: {blocking.message}", code=blocking.code, hint=blocking.hint
        )
    if report.coverage.unaudited:
        first = report.coverage.unaudited[0]
        raise InputError(
            f"{path}: cannot be compressed: {len(report.coverage.unaudited)} tensors were not understood, "
            f"the first is {first.tensor} ({first.reason})",
            code="unaudited",
            hint="see `gradience audit` for all of them",
        )
    if not report.layers:
        raise InputError(f"{path}: has no LoRA modules", code="no-lora-tensors", hint="nothing to compress")
    if not allow_untrained and all(layer.status == "untrained" for layer in report.layers):
        raise InputError(
            f"{report.adapter.path}: untrained: B·A = 0 in every module, so there is no update to make smaller",
            code="untrained",
            hint="was the trained adapter saved? --allow-untrained writes a smaller one that does nothing either",
        )


def modules_of(report: AuditReport, peak: float) -> list[Module]:
    """The rows of the audit, grouped: experts of a stacked tensor share one rank. peak: the unit of σ.

    Raises InputError (overflow).
    """
    grouped: dict[str, list[LayerAudit]] = defaultdict(list)
    for layer in report.layers:
        grouped[layer.name].append(layer)
    owners = _owners(report)
    modules = []
    for name, rows in grouped.items():
        # Without its factors, a bias, a magnitude or a base weight that was saved with them would be lost as well,
        # and an expert's wrapper cannot be left out alone.
        stays = report.adapter.use_dora or name in owners or rows[0].kind == "expert" or is_split_expert(name)
        modules.append(_module(report, rows, peak, stays=stays))
    return modules


def _owners(report: AuditReport) -> set[str]:
    """Modules with other tensors of their own (copies of a module that PEFT once kept are not written)."""
    owners: set[str] = set()
    for note in report.coverage.other:
        key = parse_key(note.tensor)
        if key.ghost or key.adapter not in (None, report.adapter.adapter_name):
            continue
        parts = key.module.split(".")
        owners.update(".".join(parts[:end]) for end in range(1, len(parts) + 1))
    return owners


def _module(report: AuditReport, rows: Sequence[LayerAudit], peak: float, *, stays: bool) -> Module:
    first = rows[0]
    fixed = ""
    if first.groups > 1:
        fixed = "block-diagonal B of a grouped convolution"
    elif any(row.status == "unsupported" for row in rows):
        fixed = "cannot be measured: its factors cancel"
    energies = np.zeros(first.r)
    spectra = []
    for row in rows:
        if row.status == "ok" and not row.singular_values:
            raise InputError(
                f"{report.adapter.path}: cannot be compressed: the norm of {row.name} is beyond double precision",
                code="overflow",
                hint="divide its factors by a power of two and multiply alpha by it",
            )
        values = np.asarray(row.singular_values, dtype=np.float64) / peak
        energies[: len(values)] += np.square(values)
        spectra.append(values)
    return Module(
        name=first.name,
        rank=first.r,
        params=sum(row.params for row in rows),
        bytes=sum(row.bytes for row in rows),
        energies=energies,
        spectra=tuple(spectra),
        stays=stays,
        fixed=fixed,
        scale=first.scale,
    )
