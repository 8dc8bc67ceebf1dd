"""One adapter -> its row: what an audit measures, as far as a table of thousands needs it, in a fraction of the time.

The figures are those of `gradience audit` for the same adapter; rows of modules, findings and suggestions are left out.
"""

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from gradience import ranks
from gradience.adapters.adapter import Adapter, LoraPair
from gradience.adapters.formats import open_adapter
from gradience.adapters.locate import CONFIG
from gradience.adapters.memory import measure_bytes, workers_within
from gradience.adapters.tensors import type_names
from gradience.audit.measures import spectrum_of
from gradience.errors import GradienceError
from gradience.files.shared_names import path_text, sentence_text
from gradience.reading import cannot_open
from gradience.reports.fleet import FleetRow
from gradience.runtimes.verdict import not_served
from gradience.spectra import (
    FloatArray,
    NonFiniteFactor,
    Spectrum,
    cumulative_energy,
    lost_energy,
    rank_that_holds,
    stable_rank,
)

_PARTS = (".safetensors", ".json", ".bin", ".pt", ".pth", ".gguf")
"""Ends of the names of files that may be part of an adapter: weights, an index, a config."""


def measure(path: Path, name: str, *, max_memory: int | None = None, allow_pickle: bool = False) -> FleetRow:
    """Return the row of the adapter at `path`; of one that cannot be measured the row that says why.

    name: what the row calls it, the path relative to the root.
    max_memory: bytes that the work may take; as for `audit_adapter`.
    allow_pickle: read pickles as well, in a process with limits.
    """
    try:
        with open_adapter(path, allow_pickle=allow_pickle) as opened:
            work = ((pair, measure_bytes(pair)) for pair in opened.pairs)
            workers_within(max_memory, [opened], work, 1)
            return _row(opened, name)
    except (GradienceError, OSError) as error:
        refusal = cannot_open(path, error) if isinstance(error, OSError) else error
        return failed(name, refusal.code, str(refusal), stamp_of(stamped_files(path)))


def failed(name: str, code: str, message: str, stamp: dict[str, tuple[int, int]] | None = None) -> FleetRow:
    """Return the row of an adapter that could not be measured."""
    return FleetRow(path=name, status="failed", error=code, message=sentence_text(message), stamp=stamp or {})


# ---------------------------------------------------------------- what a row was measured from


def stamp_of(files: Sequence[Path]) -> dict[str, tuple[int, int]]:
    """Return size and time of the last change of each file, by its name. A file that is not there has none."""
    stamp = {}
    for file in files:
        try:
            facts = os.stat(file)
        except OSError:
            continue
        stamp[file.name] = (facts.st_size, facts.st_mtime_ns)
    return stamp


def stamped_files(path: Path) -> list[Path]:
    """Return the files that a row rests on: those of a folder (not of the folders in it), or the file itself and the
    config beside it."""
    try:
        with os.scandir(path) as entries:
            return sorted(
                Path(entry.path) for entry in entries if entry.name.endswith(_PARTS) and entry.is_file()
            )
    except NotADirectoryError:
        return [path, path.with_name(CONFIG)]
    except OSError:  # not there, or not to be read: its row says so
        return []


# ---------------------------------------------------------------- the measures


def _row(opened: Adapter, name: str) -> FleetRow:
    config = opened.config
    spectra = [spectrum for pair in opened.pairs for spectrum in _spectra(pair)]
    measured = [(values, scale) for values, scale in spectra if values is not None]
    trained = [(values, scale) for values, scale in measured if values.values[0] > 0]
    unmeasured = len(spectra) - len(measured)
    missing = unmeasured + len(opened.unaudited)
    common: dict[str, Any] = {}
    if config is not None:
        common = {
            "base_model": None if config.base_model is None else path_text(config.base_model),
            "init": config.init,
            "use_rslora": config.use_rslora,
            "use_dora": config.use_dora,
            "declared_r": config.r,
        }
    if trained:
        common |= _use_of_rank([spectrum.values for spectrum, _ in trained])
        scaled = [spectrum.scaled(scale) for spectrum, scale in trained if scale is not None]
        if not unmeasured and all(scale is not None for _, scale in measured):
            common |= _norms(scaled)
    return FleetRow(
        path=name,
        status="incomplete" if missing else "ok" if trained else "untrained",
        stamp=stamp_of(stamped_files(opened.location.path)),
        sha256=opened.sha256(),
        bytes=opened.bytes,
        format=opened.format,
        dtypes=tuple(sorted({type_names(pair.a.entry.dtype, pair.b.entry.dtype) for pair in opened.pairs})),
        rank=max((pair.rank for pair in opened.pairs), default=None),
        modules=len(spectra),
        trained=len(trained),
        unmeasured=missing,
        params=opened.lora_params,
        width=sum(pair.params / pair.rank for pair in opened.pairs),
        not_served=sentence_text(not_served(opened)),
        **common,
    )


def _spectra(pair: LoraPair) -> Iterator[tuple[Spectrum | None, float | None]]:
    """Yield (spectrum, scale) of each expert; None for a spectrum that cannot be measured."""
    loaded = pair.load()
    for expert in range(pair.experts):
        try:
            measured: Spectrum | None = spectrum_of(loaded, expert)
        except NonFiniteFactor:
            measured = None
        yield None if measured is None or measured.error_bound >= 1 else measured, pair.scale


def _use_of_rank(spectra: Sequence[FloatArray]) -> dict[str, float]:
    needed = [rank_that_holds(cumulative_energy(values), 0.90) for values in spectra]
    return {
        "stable_rank_median": median(map(stable_rank, spectra)),
        "energy_rank_90_p50": float(ranks.percentile(needed, 50)),
        "energy_rank_90_p90": float(ranks.percentile(needed, 90)),
    }


def _norms(spectra: Sequence[FloatArray]) -> dict[str, Any]:
    """Return the fields computed from scaled singular values; empty if they overflow or are all 0."""
    peak = max(float(values[0]) for values in spectra)
    if not 0 < peak < math.inf:
        return {}
    # Relative to the largest: squares of norms beyond 1e154 would overflow.
    energies = [np.square(values / peak) for values in spectra]
    total = sum(float(energy.sum()) for energy in energies)
    largest = max(map(len, energies))
    steps = [step for step in ranks.VLLM_MAX_LORA_RANKS if step < largest]
    norm = peak * math.sqrt(total)
    return {
        "lost_energy_at": {
            step: sum(lost_energy(energy, step) for energy in energies) / total for step in steps
        },
        "fro_norm": norm if math.isfinite(norm) else None,
    }
