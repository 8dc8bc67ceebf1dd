"""One measurement of all modules: the numbers, their summary, and how they are written to run.jsonl."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from gradience.adapters.families import family_of
from gradience.ranks import percentile
from gradience.telemetry.rank_series import RankPoint


@dataclass(frozen=True, slots=True)
class ModuleSpectrum:
    """What one module's update looks like now. The measures are None unless status is `ok`."""

    name: str
    r: int
    status: Literal["ok", "untrained", "nonfinite"]
    stable_rank: float | None = None
    energy_rank_90: int | None = None
    fro_norm: float | None = None
    """‖ΔW‖_F, with the scale."""
    sigma_max: float | None = None

    @property
    def utilization(self) -> float | None:
        """stable rank / r."""
        return None if self.stable_rank is None else self.stable_rank / self.r


@dataclass(frozen=True, slots=True)
class Signal:
    """Something that a measurement shows for the first time."""

    code: Literal["rank-settled", "rank-too-small", "rank-too-large", "nonfinite-weights"]
    severity: Literal["info", "warning", "error"]
    message: str
    context: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All modules at one step."""

    step: int
    modules: tuple[ModuleSpectrum, ...]
    seconds: float
    """Wall time of the measurement, the wait for the device included."""
    moved: int | None
    """Modules whose k@90 differs from the measurement before; None for the first."""

    def point(self) -> RankPoint:
        return RankPoint(
            self.step,
            tuple(module.r for module in self.modules),
            tuple(module.energy_rank_90 for module in self.modules),
        )

    def summary(self) -> dict[str, float | int | None]:
        """Return one number each, for a tracker's chart."""
        return summarise(self.modules) | {"k90_moved": self.moved, "seconds": round(self.seconds, 4)}

    def to_metrics(self) -> dict[str, object]:
        """Return the `lora_spectra` record of run.jsonl: a summary, by family, and one column per measure.

        The columns follow the order of names in the `lora_modules` record before it.
        """
        families: dict[str, list[ModuleSpectrum]] = {}
        for module in self.modules:
            families.setdefault(family_of(module.name), []).append(module)
        return {
            "summary": self.summary(),
            "by_family": {name: summarise(group) for name, group in families.items()},
            "stable_rank": [digits(module.stable_rank) for module in self.modules],
            "energy_rank_90": [module.energy_rank_90 for module in self.modules],
            "utilization": [digits(module.utilization, 4) for module in self.modules],
            "fro_norm": [digits(module.fro_norm) for module in self.modules],
            "status": {m.name: m.status for m in self.modules if m.status != "ok"},
        }


def summarise(modules: Sequence[ModuleSpectrum]) -> dict[str, float | int | None]:
    """Return counts, means and percentiles over the modules that could be measured."""
    measured = [module for module in modules if module.status == "ok"]
    stable = [module.stable_rank for module in measured if module.stable_rank is not None]
    needed = [module.energy_rank_90 for module in measured if module.energy_rank_90 is not None]
    used = [module.utilization for module in measured if module.utilization is not None]
    norms = [module.fro_norm for module in measured if module.fro_norm is not None]
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
