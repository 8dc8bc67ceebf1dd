"""The answers of the seeds, example by example: pooled differences, the noise floor, what failed. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from gradience.reports.base.graded import AnswerCounts, Noise, NoiseFloor
from gradience.reports.bench import Bench, Measures, VariantResult
from gradience.statistics import Pooled, noise_floor, pool

REWRITE = "aa"
Differences = NDArray[np.int8]


def differences(benches: Sequence[Bench], name: str) -> Differences | None:
    """Return variant − probe of every seed that compared them, (runs, examples): −1, 0 or 1.

    None where no seed did, and where a file does not say which examples are correct.
    """
    rows = []
    for bench in benches:
        result = bench.variant(name)
        if bench.probe is None or result is None or result.pairs is None or result.measures is None:
            continue
        probe, variant = bench.probe.answers(), result.measures.answers()
        if probe is None or variant is None:
            return None
        rows.append(np.array(variant, dtype=np.int8) - np.array(probe, dtype=np.int8))
    return np.stack(rows) if rows else None


def pooled_answers(rows: Differences | None) -> Pooled | None:
    """Return what the runs show together; None without answers to two examples or more."""
    return None if rows is None or rows.shape[1] < 2 else pool(rows)


def noise_of(benches: Sequence[Bench]) -> Noise:
    """Return how far the probes of the seeds differ from each other, and each from itself in other factors."""
    probes = [bench.probe.answers() for bench in benches if bench.probe is not None]
    known = [answers for answers in probes if answers is not None]
    rewrite = differences(benches, REWRITE)
    return Noise(
        probes=NoiseFloor.of(noise_floor(known)) if len(known) > 1 else None,
        rewrite=None if rewrite is None else _floor_of(rewrite),
    )


def _floor_of(rows: Differences) -> NoiseFloor:
    deltas = rows.mean(axis=1)
    return NoiseFloor(
        comparisons=len(rows),
        discordance=float(np.abs(rows).mean()),
        delta_sd=float(np.sqrt((deltas**2).mean())),
        largest_delta=float(np.abs(deltas).max()),
    )


def answer_counts(measures: Iterable[Measures | None]) -> AnswerCounts | None:
    """Add up what happened to the answers of one adapter over its seeds; None without any."""
    seen = [one for one in measures if one is not None]
    if not seen:
        return None
    return AnswerCounts(
        n=sum(one.n for one in seen),
        failed_extractions=sum(one.failed_extractions for one in seen),
        cut_off=sum(one.cut_off for one in seen),
        truncated=sum(one.truncated for one in seen),
    )


def results_of(benches: Sequence[Bench], name: str) -> dict[int, VariantResult]:
    """Return what each seed says of a variant."""
    return {bench.seed: result for bench in benches if (result := bench.variant(name)) is not None}
