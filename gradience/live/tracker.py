"""Measure all LoRA modules on request, rounded as in run.jsonl."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from torch import nn

from gradience.adapters.families import module_type
from gradience.errors import InputError
from gradience.live.pairs import (
    LivePair,
    ModuleSpectrum,
    find_pairs,
    gram_products,
    module_spectrum,
    starts_at_zero,
)
from gradience.ranks import percentile


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Spectra of all modules at one step."""

    step: int
    modules: tuple[ModuleSpectrum, ...]
    seconds: float
    """Wall time of the measurement, including the wait for the device."""
    moved: int | None
    """Number of modules whose k@90 differs from the last measurement; None for the first."""

    def to_metrics(self) -> dict[str, Any]:
        """Return the `lora_spectra` record of run.jsonl: a summary, and one column per measure.

        The columns follow the order of names in the `lora_modules` record before it.
        """
        return {
            "summary": summarize(self.modules) | {"k90_moved": self.moved, "seconds": round(self.seconds, 4)},
            "stable_rank": [digits(module.stable_rank) for module in self.modules],
            "energy_rank_90": [module.energy_rank_90 for module in self.modules],
            "utilization": [digits(module.utilization, 4) for module in self.modules],
            "fro_norm": [digits(module.fro_norm) for module in self.modules],
            "status": {m.name: m.status for m in self.modules if m.status != "ok"},
        }


def summarize(modules: Sequence[ModuleSpectrum]) -> dict[str, float | int | None]:
    """Return counts, means and percentiles over the modules that could be measured."""

    def measured(measure: str) -> list[Any]:
        return [getattr(module, measure) for module in modules if module.status == "ok"]

    stable, needed = measured("stable_rank"), measured("energy_rank_90")
    used, norms = measured("utilization"), measured("fro_norm")
    return {
        "modules": len(modules),
        "untrained": sum(module.status == "untrained" for module in modules),
        "nonfinite": sum(module.status == "nonfinite" for module in modules),
        "stable_rank_mean": digits(sum(stable) / len(stable)) if stable else None,
        "stable_rank_median": digits(float(percentile(stable, 50))) if stable else None,
        "energy_rank_90_p50": float(percentile(needed, 50)) if needed else None,
        "energy_rank_90_p90": float(percentile(needed, 90)) if needed else None,
        "utilization_median": digits(float(percentile(used, 50)), 4) if used else None,
        "fro_norm": digits(math.hypot(*norms)) if norms else None,
    }


def digits(value: float | None, digits: int = 7) -> float | None:
    """Return `value` with at most `digits` significant digits: shorter lines, and no false precision."""
    return None if value is None else float(f"{value:.{digits}g}")


class SpectralTracker:
    """Measures the LoRA modules of a model.

    >>> from peft import LoraConfig, get_peft_model
    >>> from torch import nn
    >>> model = get_peft_model(nn.Sequential(nn.Linear(16, 8)), LoraConfig(r=4, target_modules=["0"]))
    >>> tracker = SpectralTracker(model)
    >>> tracker.modules()["names"], tracker.measure(step=0).modules[0].r
    (['0'], 4)

    model    a PEFT model, or any module that contains PEFT's LoRA layers (DDP and compiled wrappers too)
    adapter  the adapter to measure; the active one when not given

    Raises InputError (`no-lora-modules`) when there is nothing to measure.
    """

    def __init__(self, model: nn.Module, adapter: str | None = None) -> None:
        pairs, unmeasured = find_pairs(model, adapter)
        self._prepare(pairs, unmeasured, zero=starts_at_zero(model, adapter))

    @classmethod
    def from_pairs(cls, pairs: Sequence[LivePair], *, starts_at_zero: bool = True) -> Self:
        """Return a tracker for LoRA without PEFT, from named factors."""
        tracker = cls.__new__(cls)
        tracker._prepare(list(pairs), {}, zero=starts_at_zero)
        return tracker

    def _prepare(self, pairs: list[LivePair], unmeasured: dict[str, str], *, zero: bool) -> None:
        if not pairs:
            reasons = ", ".join(sorted(set(unmeasured.values())))
            raise InputError(
                "no LoRA module to measure" + (f": {reasons}" if reasons else ""),
                code="no-lora-modules",
                hint="pass the model that get_peft_model returned",
            )
        self.pairs = tuple(pairs)
        self.unmeasured = unmeasured
        """Module name -> reason why it is not measured."""
        self.starts_at_zero = zero
        self._last: Snapshot | None = None

    def modules(self) -> dict[str, object]:
        """Return the `lora_modules` record of run.jsonl, which describes the columns of `lora_spectra`."""
        return {
            "names": [pair.name for pair in self.pairs],
            "r": [pair.rank for pair in self.pairs],
            "scale": [digits(pair.scale) for pair in self.pairs],
            "module_type": [module_type(pair.name) for pair in self.pairs],
            "params": sum(pair.A.numel() + pair.B.numel() for pair in self.pairs),
            "unmeasured": self.unmeasured,
            "starts_at_zero": self.starts_at_zero,
        }

    def measure(self, step: int) -> Snapshot:
        """Measure every module now. Waits for the device; changes no parameter and no random state."""
        started = time.perf_counter()
        modules = tuple(
            module_spectrum(pair, gram_A, gram_B)
            for pair, (gram_A, gram_B) in zip(self.pairs, gram_products(self.pairs), strict=True)
        )
        before = self._last.modules if self._last else None
        moved = None
        if before is not None:
            moved = sum(a.energy_rank_90 != b.energy_rank_90 for a, b in zip(before, modules, strict=True))
        self._last = Snapshot(step, modules, time.perf_counter() - started, moved)
        return self._last
