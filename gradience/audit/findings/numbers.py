"""What the spectra and norms say: untrained, random, saturated, diverged, unlike the rest of the family."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from statistics import median

from gradience.audit.findings.facts import Facts, ModuleRule, many
from gradience.reports.audit import LayerAudit
from gradience.reports.base.finding import Finding
from gradience.words import counted

RANDOM_POSITION = 0.85
"""null_position above which factors look random. Trained adapters of strangers: median 0.02 to 0.2."""
RANDOM_MIN_RANK = 4
"""Below this rank a trained and a random spectrum cannot be told apart."""
RANDOM_MIN_SIDE = 2
"""Nor can they where the smaller side of ΔW has fewer than this many times r rows: a head of six labels that was
trained well spreads over all of its few directions."""
NEARLY_ALL = 0.85
"""k@90 / r from which a module uses nearly all of its rank (random factors: 0.88 to 1)."""
COARSE_BOUND = 1e-3
"""error_bound from which a reader must know: the printed digits are no longer true."""
DEAD_RATIO = 1e-3
"""‖ΔW‖_F below this fraction of the family's median: the module hardly moved."""
DIVERGED_NORM = 1e3
"""‖ΔW‖_F above this is larger than any weight matrix of a language model; strangers' diverged runs had 1.9e4."""
SPIKE_SHARE = 0.99
SPIKE_RATIO = 3.0
"""A rank-one spike: σ₁ holds 99 % of the energy, at three times the family's median norm."""
OUTLIER_DEVIATIONS = 8.0
OUTLIER_MIN_FAMILY = 6


def nonfinite(facts: Facts) -> Iterator[Finding]:
    if facts.nonfinite:
        more = (
            f" (and {counted(len(facts.nonfinite) - 1, 'more factor')})" if len(facts.nonfinite) > 1 else ""
        )
        yield Finding(
            code="non-finite",
            severity="error",
            message=facts.nonfinite[0] + more,
            hint="use an earlier checkpoint: the training diverged, or the save overflowed fp16",
        )


cancelled = ModuleRule(
    "cancelled",
    "error",
    lambda layer: layer.status == "unsupported",
    "cannot be measured: A and B cancel, and what is left of B·A is below their rounding",
    "two opposite adapters concatenated? the update of such a module is too small to measure",
)


def imprecise(facts: Facts) -> Iterator[Finding]:
    """Factors that nearly cancel: ‖A‖·‖B‖ is so much larger than ‖BA‖ that their rounding shows."""
    coarse = [layer for layer in facts.layers if COARSE_BOUND < (layer.error_bound or 0.0) < 1]
    worst = max((layer.error_bound or 0.0 for layer in coarse), default=0.0)
    yield from many(
        "imprecise",
        "warning",
        [layer.label for layer in coarse],
        f"accurate only to about {100 * worst:.2g} %, because A and B nearly cancel",
        "--json lists error_bound and eta of each module",
        total=len(facts.layers),
    )


def untrained(facts: Facts) -> Iterator[Finding]:
    names = [layer.label for layer in facts.layers if layer.status == "untrained"]
    if not names:
        return
    if len(names) == len(facts.layers):
        everything = "the one module is" if len(names) == 1 else f"all {len(names)} modules are"
        yield Finding(
            code="untrained",
            severity="error",
            message=f"{everything} untrained: B·A = 0 exactly",
            hint="a fresh adapter? if it was trained, the trained weights were not saved",
        )
    else:
        yield from many(
            "dead-modules",
            "warning",
            names,
            "never trained (B·A = 0)",
            "the smallest rank is suggested there; check that gradients flow (frozen or unused modules)",
            total=len(facts.layers),
        )


def random(facts: Facts) -> Iterator[Finding]:
    able = [
        layer
        for layer in facts.layers
        if layer.null_position is not None
        and layer.r >= RANDOM_MIN_RANK
        and min(layer.shape) >= RANDOM_MIN_SIDE * layer.r
    ]
    names = [layer.label for layer in able if (layer.null_position or 0.0) >= RANDOM_POSITION]
    trained = sum(layer.status == "ok" for layer in facts.layers)
    if names and len(names) == len(able) and 2 * len(able) >= trained:
        who = "the one module" if len(names) == trained == 1 else f"{len(names)} of {trained} modules"
        yield Finding(
            code="looks-random",
            severity="error",
            message=f"{who}: spectra like those of random factors of these shapes, and no module looks trained",
            hint="a synthetic or hardly trained adapter? no rank is suggested from it",
        )
    else:
        yield from many(
            "random-modules",
            "warning",
            names,
            "with spectra like those of random factors",
            "hardly trained, or trained to use every direction: compare with the rest of the family",
            total=len(facts.layers),
        )


def _uses_all(layer: LayerAudit) -> bool:
    return (
        layer.energy_rank_90 is not None
        and layer.r >= 2
        and layer.energy_rank_90 >= NEARLY_ALL * layer.r
        and (layer.null_position is None or layer.null_position < RANDOM_POSITION)
    )


saturated = ModuleRule(
    "saturated",
    "warning",
    _uses_all,
    "with nearly all of the rank in use (k@90 near r)",
    "the rank may be too small there; a larger probe would tell",
)

shape_ceiling = ModuleRule(
    "rank-above-shape",
    "warning",
    lambda layer: layer.r > min(layer.shape),
    "with a rank above what the shape can use (min(m, n))",
    "the surplus does nothing: lower the rank there (rank_pattern)",
    of_all=False,
)

diverged = ModuleRule(
    "diverged-norm",
    "warning",
    lambda layer: (layer.fro_norm or 0.0) >= DIVERGED_NORM,
    f"with ‖ΔW‖_F above {DIVERGED_NORM:g}",
    "larger than a weight matrix itself: did the training diverge? look at its loss (gradience monitor run.jsonl)",
    of_all=False,
)


def _families(layers: Sequence[LayerAudit]) -> dict[str, list[LayerAudit]]:
    families: dict[str, list[LayerAudit]] = defaultdict(list)
    for layer in layers:
        if layer.fro_norm:
            families[layer.family].append(layer)
    return families


def unlike_family(facts: Facts) -> Iterator[Finding]:
    """Norms far below those of the same module in other layers, and far above in one direction."""
    weak, spikes = [], []
    for members in _families(facts.layers).values():
        typical = median(layer.fro_norm or 0.0 for layer in members)
        for layer in members:
            norm = layer.fro_norm or 0.0
            if norm < DEAD_RATIO * typical:
                weak.append(layer.label)
            top_share = 1 / layer.stable_rank if layer.stable_rank else 0.0
            if layer.r > 1 and top_share >= SPIKE_SHARE and norm >= SPIKE_RATIO * typical:
                spikes.append(layer.label)
    yield from many(
        "nearly-dead",
        "warning",
        weak,
        "with a norm far below the same module's in other layers: hardly trained",
        "check that gradients reach every module: frozen for most of the training, or cut off from the loss?",
    )
    yield from many(
        "rank-one-spike",
        "warning",
        spikes,
        "with one dominant direction (a rank-one spike)",
        "a lower learning rate or α avoids it; such adapters combine badly with others",
    )


def outliers(facts: Facts) -> Iterator[Finding]:
    names = []
    for members in _families(facts.layers).values():
        if len(members) < OUTLIER_MIN_FAMILY:
            continue
        for measure in ("fro_norm", "stable_rank"):
            values = [math.log(getattr(layer, measure)) for layer in members]
            center = median(values)
            spread = median(abs(item - center) for item in values)
            # The spread is at least 5 %: in a family of near-equals a small difference is no outlier.
            limit = OUTLIER_DEVIATIONS * max(spread, 0.05)
            names += [
                layer.label for layer, item in zip(members, values, strict=True) if abs(item - center) > limit
            ]
    yield from many(
        "family-outlier",
        "info",
        list(dict.fromkeys(names)),
        "far from the same module in other layers in norm or stable rank",
        "--layers lists norm and stable rank of every module",
        total=len(facts.layers),
    )


def coarse_storage(facts: Facts) -> Iterator[Finding]:
    rows = [layer for layer in facts.layers if layer.dtype.startswith("F8")]
    coarse = sorted({layer.dtype for layer in rows})
    worst = max((layer.storage_error or 0.0 for layer in rows), default=0.0)
    if coarse:
        yield Finding(
            code="coarse-storage",
            severity="info",
            message=f"stored as {', '.join(coarse)}: rounding alone may move the stable rank by up to {worst:.1%}",
            hint="audit the adapter as it was before the conversion: small entries are lost in these types",
        )
