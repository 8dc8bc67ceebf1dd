"""Runs of earlier versions, whose audit is not read any more, and runs without their calibration: which ranks were
planned is taken as it is recorded."""

from __future__ import annotations

from pathlib import Path

from gradience.bench.arms.arm import Arm, Derived, Source, Trained
from gradience.bench.arms.registry import ARMS, CONTROLS, control_of
from gradience.bench.plan.variants import PlannedVariant
from gradience.bench.verdict.facts import StoredAdapter
from gradience.plan.modules import Ranks
from gradience.reports.bench import Measures, RankSummary, VariantResult


def planned_as_recorded(result: VariantResult, probe_params: int) -> PlannedVariant:
    """Return what was planned of a variant, as its result says it."""
    return PlannedVariant(
        name=result.name,
        making=_arm(
            result.made_by, trained=result.measures is not None and result.measures.training is not None
        ),
        control=control_of(result.name) if result.is_control else None,
        ranks=_ranks(result.ranks),
        lora_params=result.planned_lora_params or 0,
        probe_params=probe_params,
        rank_basis=result.rank_basis,
        predicted=result.predicted,
        as_recorded=True,
        same_as=result.same_as,
        skipped=result.reasons[0] if result.status == "SKIPPED" and result.reasons else "",
    )


def adapter_as_recorded(name: str, measures: Measures, folder: Path) -> StoredAdapter:
    """Return an adapter that has no stage of its own: the probe's with its LoRA off."""
    return StoredAdapter(
        name,
        folder,
        measures.adapter_sha256,
        measures.bytes,
        measures.lora_params,
        measures.other_params,
        lora=False,
    )


def _arm(made_by: str, *, trained: bool) -> Arm:
    known = [*ARMS.values(), *(control.arm for control in CONTROLS.values() if control.arm is not None)]
    for arm in known:
        if arm.name == made_by:
            return arm
    return Trained(made_by, trains="head") if trained else Derived(made_by, _never)


def _never(_: Source, __: Ranks, ___: Path) -> None:
    raise AssertionError("what is verified is not made")


def _ranks(summary: RankSummary | None) -> Ranks:
    """Ranks with the same smallest, median and largest one, of as many modules; of which module each is, is lost."""
    if summary is None:
        return {}
    count = summary.modules
    ranks = [int(summary.median)] * count
    if summary.median != int(summary.median) and count > 1:  # the middle of two
        ranks = [int(summary.median)] * (count // 2) + [int(summary.median) + 1] * (count - count // 2)
    ranks[0], ranks[-1] = summary.smallest, summary.largest
    return {str(place): rank for place, rank in enumerate(ranks)}
