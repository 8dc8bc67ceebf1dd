"""Find the LoRA factors in a model, and measure their singular values: only r x r matrices leave the device."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self, cast

import numpy as np
import torch
from torch import Tensor, nn

from gradience import spectra
from gradience.adapters.config import initialization_of
from gradience.adapters.keys import module_type, parse_key
from gradience.errors import InputError
from gradience.ranks import percentile

if TYPE_CHECKING:
    from peft.tuners.lora.layer import LoraLayer


@dataclass(frozen=True, slots=True)
class LivePair:
    """One LoRA module's tensors on their device. A: (r, n …), B: (m, r …); the update is scale·B·A."""

    name: str
    A: Tensor
    B: Tensor
    scale: float

    @property
    def rank(self) -> int:
        return int(self.A.shape[0])


def find_pairs(model: nn.Module, adapter: str | None = None) -> tuple[list[LivePair], dict[str, str]]:
    """Return PEFT's LoRA factors inside `model`, and name -> reason of the modules that cannot be measured."""
    from peft.tuners.adalora.layer import AdaLoraLayer
    from peft.tuners.lora.layer import LoraLayer, ParamWrapper

    pairs: list[LivePair] = []
    unmeasured: dict[str, str] = {}
    for path, layer in model.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        name = parse_key(f"{path.replace('_orig_mod.', '')}.lora_A.weight").module
        if isinstance(layer, AdaLoraLayer):
            unmeasured[name] = "AdaLoRA"
        elif isinstance(layer, ParamWrapper):
            unmeasured[name] = "stacked experts"
        else:
            active = [adapter] if adapter else layer.active_adapters
            factors = {candidate: pair for candidate in active if (pair := _factors(layer, candidate))}
            training = (key for key, (A, B) in factors.items() if A.requires_grad or B.requires_grad)
            chosen = next(training, next(iter(factors), None))
            if chosen is None:
                continue
            if reason := _unmeasurable(*factors[chosen]):
                unmeasured[name] = reason
            else:
                pairs.append(LivePair(name, *factors[chosen], scale=float(layer.scaling[chosen])))
    return pairs, unmeasured


def _factors(layer: LoraLayer, adapter: str) -> tuple[Tensor, Tensor] | None:
    if adapter in layer.lora_embedding_A:
        return layer.lora_embedding_A[adapter], layer.lora_embedding_B[adapter]
    if adapter in layer.lora_A:
        return cast("Tensor", layer.lora_A[adapter].weight), cast("Tensor", layer.lora_B[adapter].weight)
    return None


def _unmeasurable(A: Tensor, B: Tensor) -> str | None:
    from torch.distributed.tensor import DTensor

    if isinstance(A, DTensor) or isinstance(B, DTensor) or A.numel() == 0 or B.numel() == 0:
        return "sharded over devices"
    if A.is_meta or B.is_meta:
        return "on the meta device"
    if A.shape[0] != B.shape[1]:
        return "not a plain product of two factors"
    return None


def starts_at_zero(model: nn.Module, adapter: str | None) -> bool:
    """Return True if ΔW = 0 before the first step, and for a model without PEFT."""
    while not hasattr(model, "peft_config"):  # DistributedDataParallel and torch.compile wrap it
        inner = getattr(model, "module", None) or getattr(model, "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            return True
        model = inner
    configs: Any = model.peft_config
    if not configs:
        return True
    config = configs[adapter] if adapter in configs else next(iter(configs.values()))
    start = initialization_of(config.init_lora_weights)
    return start is not None and start.zero


# ---------------------------------------------------------------- from factors to singular values

MAX_ETA = 10.0
"""Float32 Gram products lose η²·6e-8. Above this η, the factors are copied to the CPU (float64, QR)."""
LOWEST, HIGHEST = 1e-30, 1e30
"""Outside this range, a float32 Gram product may have overflowed or underflowed. The factors are then copied, too."""


@dataclass(frozen=True, slots=True)
class ModuleSpectrum:
    """Current spectrum of one module's update. The measures are None unless status is `ok`."""

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


def gram_products(pairs: Sequence[LivePair]) -> list[tuple[spectra.FloatArray, spectra.FloatArray]]:
    """Return AAᵀ and BᵀB of every pair, (r, r) float64 each, in one copy per device."""
    products: list[Tensor] = []
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")  # IEEE float32: no TF32, no bfloat16 passes, no autocast
    try:
        with torch.no_grad(), torch.autocast(pairs[0].A.device.type, enabled=False):
            for pair in pairs:
                A, B = (factor.detach().flatten(1).float() for factor in (pair.A, pair.B))
                products += [A @ A.T, B.T @ B]
    finally:
        torch.set_float32_matmul_precision(precision)
    on_cpu = iter(_to_cpu(products))
    return [(next(on_cpu), next(on_cpu)) for _ in pairs]


def _to_cpu(tensors: Sequence[Tensor]) -> list[spectra.FloatArray]:
    """Return every tensor as float64 on the CPU, with one copy per device."""
    groups: dict[torch.device, list[int]] = {}
    for index, tensor in enumerate(tensors):
        groups.setdefault(tensor.device, []).append(index)
    arrays: dict[int, spectra.FloatArray] = {}
    for indices in groups.values():
        flat = torch.cat([tensors[i].reshape(-1) for i in indices]).cpu().numpy().astype(np.float64)
        ends = np.cumsum([tensors[i].numel() for i in indices])[:-1]
        for i, part in zip(indices, np.split(flat, ends), strict=True):
            arrays[i] = part.reshape(tensors[i].shape)
    return [arrays[i] for i in range(len(tensors))]


def module_spectrum(pair: LivePair, gram_A: spectra.FloatArray, gram_B: spectra.FloatArray) -> ModuleSpectrum:
    """Return the measures of one module from its Gram products, or from its factors if the products are too
    inexact.
    """
    try:
        spectrum = _from_grams(pair, gram_A, gram_B) or _from_factors(pair)
    except spectra.NonFiniteFactor:
        return ModuleSpectrum(pair.name, pair.rank, "nonfinite")
    if not spectrum.values.any():
        return ModuleSpectrum(pair.name, pair.rank, "untrained")
    scaled = spectrum.scaled(pair.scale)
    return ModuleSpectrum(
        pair.name,
        pair.rank,
        "ok",
        stable_rank=spectra.stable_rank(spectrum.values),
        energy_rank_90=spectra.energy_rank(spectrum.values, 0.90),
        fro_norm=float(np.linalg.norm(scaled)),
        sigma_max=float(scaled[0]),
    )


def _from_grams(
    pair: LivePair, gram_A: spectra.FloatArray, gram_B: spectra.FloatArray
) -> spectra.Spectrum | None:
    """Return the spectrum from float32 Gram products, or None if they are too inexact."""
    columns, rows = math.prod(pair.A.shape[1:]), int(pair.B.shape[0])
    for gram in (gram_A, gram_B):
        top = float(gram.diagonal().max())
        if not (gram.any() and LOWEST < top < HIGHEST):
            return None
    spectrum = spectra.spectrum_from_grams(spectra.Core(gram_A, 0, columns), spectra.Core(gram_B, 0, rows))
    return spectrum if spectrum is not None and spectrum.eta <= MAX_ETA else None


def _from_factors(pair: LivePair) -> spectra.Spectrum:
    """Return the spectrum from the factors in float64: slow and exact."""
    A, B = (factor.detach().flatten(1).cpu().double().numpy() for factor in (pair.A, pair.B))
    if not (np.isfinite(A).all() and np.isfinite(B).all()):
        raise spectra.NonFiniteFactor
    return spectra.spectrum(spectra.array_blocks(A.T), spectra.array_blocks(B))


# ---------------------------------------------------------------- all modules, on request


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
