"""From factors on a device to singular values on the CPU: only r x r matrices travel."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from gradience import spectra
from gradience.live.pairs import LivePair
from gradience.live.snapshot import ModuleSpectrum

MAX_ETA = 10.0
"""Float32 Gram products lose η²·6e-8; beyond this η the factors themselves go to the CPU (float64, QR)."""
LOWEST, HIGHEST = 1e-30, 1e30
"""Outside this range a float32 Gram product may have left its own range: the same way out."""


def gram_products(pairs: Sequence[LivePair]) -> list[tuple[spectra.FloatArray, spectra.FloatArray]]:
    """Return AAᵀ and BᵀB of every pair, (r, r) float64 each, in one copy per device."""
    products: list[Tensor] = []
    with torch.no_grad(), _exact_float32(pairs):
        for pair in pairs:
            A = pair.A.detach().flatten(1).float()
            products.append(A @ A.T)
            B = pair.B.detach().flatten(1).float()
            products.append(B.T @ B)
    on_cpu = iter(_to_cpu(products))
    return [(next(on_cpu), next(on_cpu)) for _ in pairs]


def _to_cpu(tensors: Sequence[Tensor]) -> list[spectra.FloatArray]:
    """Every tensor as float64 on the CPU; one copy for each device that holds some of them."""
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


@contextmanager
def _exact_float32(pairs: Sequence[LivePair]) -> Iterator[None]:
    """Float32 products as IEEE has them: no TF32, no bfloat16 passes, no autocast. Restored afterwards."""
    before = torch.get_float32_matmul_precision()
    kind = pairs[0].A.device.type
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(kind, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def module_spectrum(pair: LivePair, gram_A: spectra.FloatArray, gram_B: spectra.FloatArray) -> ModuleSpectrum:
    """Return the measures of one module from its Gram products, or from its factors where those are too inexact."""
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
    """The spectrum from float32 Gram products, or None where they are not good enough."""
    columns, rows = math.prod(pair.A.shape[1:]), int(pair.B.shape[0])
    for gram in (gram_A, gram_B):
        top = float(gram.diagonal().max())
        if not (gram.any() and LOWEST < top < HIGHEST):
            return None
    spectrum = spectra.spectrum_from_grams(spectra.Core(gram_A, 0, columns), spectra.Core(gram_B, 0, rows))
    return spectrum if spectrum is not None and spectrum.eta <= MAX_ETA else None


def _from_factors(pair: LivePair) -> spectra.Spectrum:
    """The slow and exact way: the factors themselves, in float64."""
    A = pair.A.detach().flatten(1).cpu().double().numpy()
    B = pair.B.detach().flatten(1).cpu().double().numpy()
    if not (np.isfinite(A).all() and np.isfinite(B).all()):
        raise spectra.NonFiniteFactor
    return spectra.spectrum(spectra.array_blocks(A.T), spectra.array_blocks(B))
