"""Measurements of all modules on request: their numbers as run.jsonl has them, and what the last few show."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from torch import nn

from gradience.adapters.families import family_of, module_type
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
from gradience.telemetry.rank_series import SETTLED_INTERVALS, RankPoint, settled_since, too_large, too_small
from gradience.words import counted, listed


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

    def to_metrics(self) -> dict[str, object]:
        """Return the `lora_spectra` record of run.jsonl: a summary, by family, and one column per measure.

        The columns follow the order of names in the `lora_modules` record before it.
        """
        families: dict[str, list[ModuleSpectrum]] = {}
        for module in self.modules:
            families.setdefault(family_of(module.name), []).append(module)
        return {
            "summary": summarize(self.modules) | {"k90_moved": self.moved, "seconds": round(self.seconds, 4)},
            "by_family": {name: summarize(group) for name, group in families.items()},
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
    """Measures the LoRA modules of a model, and says when the picture settles or the rank looks wrong.

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
        """Return a tracker of LoRA that is not PEFT's: name the factors yourself."""
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
        """Module name -> why it is not measured."""
        self.starts_at_zero = zero
        self._last: Snapshot | None = None
        self._points: deque[RankPoint] = deque(maxlen=SETTLED_INTERVALS + 1)
        self._said: set[str] = set()

    def modules(self) -> dict[str, object]:
        """Return the `lora_modules` record of run.jsonl: what the columns of `lora_spectra` mean."""
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
        needed = tuple(module.energy_rank_90 for module in modules)
        self._points.append(RankPoint(step, tuple(module.r for module in modules), needed))
        return self._last

    def new_signals(self) -> list[Signal]:
        """Return what the last measurement shows that was not said before."""
        fresh = [signal for signal in self._signals() if signal.code not in self._said]
        self._said.update(signal.code for signal in fresh)
        return fresh

    def _signals(self) -> Iterator[Signal]:
        if self._last is None:
            return
        broken = [module.name for module in self._last.modules if module.status == "nonfinite"]
        if broken:
            yield Signal(
                "nonfinite-weights",
                "error",
                f"NaN or infinity in {counted(len(broken), 'LoRA module')}: {listed(broken)}",
                {"modules": len(broken)},
            )
        since = settled_since(self._points)
        if since is None or not self.starts_at_zero:
            return
        point = self._points[-1]
        facts = {
            "since_step": since,
            "energy_rank_90_p50": point.needed_percentile(50),
            "energy_rank_90_p90": point.needed_percentile(90),
            "max_rank": max(point.ranks),
        }
        yield Signal("rank-settled", "info", f"k@90 has not moved since step {since}", facts)
        if too_small(point):
            count = len(point.saturated())
            yield Signal(
                "rank-too-small",
                "warning",
                f"{count} of {counted(len(point.measured), 'module')} at nearly full rank",
                facts | {"saturated": count},
            )
        if too_large(point):
            yield Signal(
                "rank-too-large",
                "info",
                f"nine modules in ten have 90 % of their energy in {facts['energy_rank_90_p90']:g}"
                f" of {max(point.ranks)} directions",
                facts,
            )
