"""The audit of a probe -> the smaller adapters that are compared with it. Pure.

Every module gets an explicit rank, and the α that leaves its scale what the probe's was: rank and scale are never
changed together. Variants that come to the same thing are run once, and one that changes nothing is not run at all;
both stay in the list, which says so.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from gradience.adapters.patterns import anchored_key
from gradience.artifacts.audit import AuditReport, Suggestion, Suggestions
from gradience.artifacts.base import Part
from gradience.artifacts.bench_plan import Arm
from gradience.bench.config import BenchConfig
from gradience.bench.sections import CompressionSettings
from gradience.errors import UsageError
from gradience.suggest import ModuleEvidence, collect, cost, scaled_alpha, suggest

Making = Literal["retrain", "truncate", "random_directions", "head_only", "rewrite"]
"""How an adapter comes to be. `random_directions`: the probe's factors kept in directions drawn by lot.
`head_only`: ΔW = 0, the head trained alone. `rewrite`: truncation to the full rank, so that only rounding differs."""

PROBE = "probe"
NO_COMPRESSION = "no compression: every module keeps its rank"
NO_SUGGESTION = "the audit suggests no rank for this adapter"

Ranks = Mapping[str, int]


class PlannedVariant(Part):
    """One adapter that is to be compared with the probe, or the reason why it is not made."""

    name: str
    """`uniform_median` is retrained, `uniform_median.truncate` the probe cut down."""
    arm: Arm
    made_by: Making
    ranks: dict[str, int] = Field(default_factory=dict)
    """The rank of every module, by its path in the base model; 0 where the LoRA is left out of it."""
    alphas: dict[str, int | float] = Field(default_factory=dict)
    """The α that keeps the scale of every module whose rank is not 0; without those whose α is unknown."""
    lora_params: int = 0
    probe_params: int = 0
    evidence: str = ""
    """What the ranks rest on, before rounding."""
    same_as: str | None = None
    """The variant, or `probe`, that has the same ranks and is made in the same way: this one is not made again."""
    skipped: str = ""
    """Why it is not made; empty where it is."""

    @property
    def is_made(self) -> bool:
        """Whether there is anything to do for it."""
        return not self.skipped and self.same_as is None

    @property
    def reduction(self) -> float:
        """1 − parameters / the probe's (LoRA factors only)."""
        return 1 - self.lora_params / self.probe_params if self.probe_params else 0.0

    def lora_arguments(self) -> dict[str, Any]:
        """r, lora_alpha and the two patterns for PEFT's LoraConfig. Modules at rank 0 are not in them.

        Patterns name every module, so that none falls back on `r`; where all modules agree there are none.
        """
        kept = {name: rank for name, rank in self.ranks.items() if rank}
        widest = max(kept, key=lambda name: kept[name])
        uniform = len(set(kept.values())) == 1 and len(set(self.alphas.values())) == 1
        return {
            "r": kept[widest],
            "lora_alpha": self.alphas[widest],
            "rank_pattern": {} if uniform else {anchored_key(name): rank for name, rank in kept.items()},
            "alpha_pattern": {} if uniform else {anchored_key(name): self.alphas[name] for name in kept},
        }


def plan_variants(report: AuditReport, config: BenchConfig, seed: int) -> tuple[PlannedVariant, ...]:
    """Everything that the config asks for, in its order, the controls last.

    Raises UsageError (plan-mismatch) for an audit with another energy threshold than the config's.
    """
    if report.tau != config.compression.energy:
        raise UsageError(
            f"{report.adapter.path}: audited at an energy of {report.tau:g}, and the config says "
            f"{config.compression.energy:g}",
            code="plan-mismatch",
            hint="audit the probe again",
        )
    planner = _Planner(report, config.compression, has_head=config.model.type == "seqcls", seed=seed)
    return _once_each([*planner.variants(), *planner.controls()], planner.own)


def variant_names(compression: CompressionSettings) -> tuple[str, ...]:
    """The names of all variants that are compared, known before anything is trained."""
    return tuple(
        _named(variant, arm)
        for variant in compression.variants
        for arm in compression.arms
        if arm != "retrain" or compression.is_retrained(variant)
    )


def _named(variant: str, making: str) -> str:
    return variant if making == "retrain" else f"{variant}.{making}"


class _Planner:
    """One audit, and what was asked of it."""

    def __init__(self, report: AuditReport, asked: CompressionSettings, *, has_head: bool, seed: int) -> None:
        self.asked, self.has_head, self.seed = asked, has_head, seed
        self.modules = collect(report.layers)
        self.own = {module.name: module.size.rank for module in self.modules}
        self.rslora = report.adapter.use_rslora
        self.suggestions: Suggestions | None = None
        if report.suggestions is not None:  # where the audit made none, none is made here
            self.suggestions = suggest(
                report.layers, tau=report.tau, grid=asked.allowed_ranks, use_rslora=self.rslora
            )

    def variants(self) -> Iterator[PlannedVariant]:
        for variant in self.asked.variants:
            for arm in self.asked.arms:
                if arm == "truncate" or self.asked.is_retrained(variant):
                    yield self.variant(variant, arm)

    def variant(self, variant: str, making: Literal["retrain", "truncate"]) -> PlannedVariant:
        name = _named(variant, making)
        found = self.ranks_of(variant)
        if found is None:
            return PlannedVariant(name=name, arm=making, made_by=making, skipped=NO_SUGGESTION)
        return self.planned(name, making, making, *found)

    def ranks_of(self, variant: str) -> tuple[Ranks, str] | None:
        """The ranks, and what they rest on; None without a suggestion."""
        if variant.startswith("uniform_r"):
            return self.uniform(int(variant.removeprefix("uniform_r"))), "as asked for"
        if self.suggestions is None:
            return None
        tau = f"{self.suggestions.tau:g}"
        if variant == "per_layer":
            pattern = self.suggestions.per_layer.rank_pattern
            ranks = {name: pattern[anchored_key(name)] for name in self.own}
            return ranks, f"directions that hold {tau} of each module's energy, rounded up"
        median = variant == "uniform_median"
        chosen = self.suggestions.median if median else self.suggestions.p90
        return self.uniform(chosen.rank), _suggested("median" if median else "90th percentile", tau, chosen)

    def uniform(self, rank: int) -> Ranks:
        """`rank` everywhere; a module keeps its own where that is smaller, or where no other can be given."""
        return {
            module.name: module.size.rank if module.keeps_rank else min(rank, module.size.rank)
            for module in self.modules
        }

    def planned(self, name: str, arm: Arm, made_by: Making, ranks: Ranks, evidence: str) -> PlannedVariant:
        alphas = {
            module.name: scaled_alpha(
                module.alpha, module.size.rank, ranks[module.name], use_rslora=self.rslora
            )
            for module in self.modules
            if module.alpha is not None and ranks[module.name]
        }
        return PlannedVariant(
            name=name,
            arm=arm,
            made_by=made_by,
            ranks=dict(ranks),
            alphas=alphas,
            lora_params=cost(self.modules, dict(ranks))[0],
            probe_params=cost(self.modules, self.own)[0],
            evidence=evidence,
        )

    # ------------------------------------------------------------ controls

    def controls(self) -> Iterator[PlannedVariant]:
        for control in self.asked.controls:
            match control:
                case "per_layer_shuffled":
                    yield from self.shuffled()
                case "random_directions":
                    yield self.random_directions()
                case "head_only":
                    yield self.head_only()
                case "aa":
                    yield self.planned("aa", "control", "rewrite", self.own, "the probe, written again")

    def shuffled(self) -> Iterator[PlannedVariant]:
        """The ranks of per_layer on other modules: does it matter where they are?"""
        for making in self.asked.arms:
            if making == "retrain" and not self.asked.is_retrained("per_layer"):
                continue
            name = _named("per_layer_shuffled", making)
            found = self.ranks_of("per_layer")
            ranks = None if found is None else shuffled_ranks(self.modules, found[0], self.seed)
            if ranks is None:
                why = (
                    NO_SUGGESTION
                    if found is None
                    else "impossible: too few modules of one shape differ in rank"
                )
                yield PlannedVariant(name=name, arm="control", made_by=making, skipped=why)
            else:
                yield self.planned(name, "control", making, ranks, "the ranks of per_layer on other modules")

    def random_directions(self) -> PlannedVariant:
        """The size of a uniform variant without its directions: do the leading ones matter?"""
        uniform = [name for name in self.asked.variants if name.startswith("uniform")]
        variant = "uniform_median" if "uniform_median" in uniform or not uniform else uniform[0]
        found = self.ranks_of(variant)
        if found is None or found[0] == self.own:
            why = NO_SUGGESTION if found is None else NO_COMPRESSION
            return PlannedVariant(
                name="random_directions", arm="control", made_by="random_directions", skipped=why
            )
        return self.planned(
            "random_directions", "control", "random_directions", found[0], f"the ranks of {variant}"
        )

    def head_only(self) -> PlannedVariant:
        """How much of the probe's score is its head's?"""
        if not self.has_head:
            return PlannedVariant(
                name="head_only", arm="control", made_by="head_only", skipped="the model has no head to train"
            )
        return self.planned("head_only", "control", "head_only", dict.fromkeys(self.own, 0), "no LoRA")


def _suggested(word: str, tau: str, chosen: Suggestion) -> str:
    by = {"evidence": "", "grid": ", rounded up to an allowed rank", "cap": ", the probe's own rank"}
    return (
        f"{word} of the directions that hold {tau} of the energy: {chosen.unrounded:g}{by[chosen.decided_by]}"
    )


def shuffled_ranks(modules: Sequence[ModuleEvidence], ranks: Ranks, seed: int) -> Ranks | None:
    """`ranks` dealt out anew among modules of the same shape, so that the parameters are the same.

    As many modules as possible get another rank; None where that is less than half of them. Sorted by rank and
    shifted by the most frequent rank's count, nothing meets itself unless that rank has more than half of the places.
    """
    alike: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for module in modules:
        if not module.keeps_rank:
            alike[module.size, module.experts, module.alpha].append(module.name)
    lot = random.Random(f"{seed}/per_layer_shuffled")
    dealt = dict(ranks)
    for names in alike.values():
        order = sorted(names)
        lot.shuffle(order)
        order.sort(key=lambda name: ranks[name])
        shift = max(Counter(ranks[name] for name in order).values())
        for place, name in enumerate(order):
            dealt[name] = ranks[order[(place + shift) % len(order)]]
    changed = sum(dealt[name] != ranks[name] for name in dealt)
    return dealt if 2 * changed >= len(dealt) else None


def _once_each(planned: Sequence[PlannedVariant], own: Ranks) -> tuple[PlannedVariant, ...]:
    """The same list; what comes to the same as the probe or as an earlier one is marked."""
    first: dict[tuple[Any, ...], str] = {}
    marked = []
    for variant in planned:
        key = (variant.made_by, tuple(variant.ranks.items()))
        if variant.skipped:
            marked.append(variant)
        elif variant.arm != "control" and variant.ranks == own:
            marked.append(variant.model_copy(update={"same_as": PROBE, "skipped": NO_COMPRESSION}))
        elif key in first:
            marked.append(variant.model_copy(update={"same_as": first[key]}))
        else:
            first[key] = variant.name
            marked.append(variant)
    return tuple(marked)
