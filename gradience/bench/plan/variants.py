"""The audit of a probe -> the smaller adapters that are compared with it. Pure.

Every module gets an explicit rank, and the α that leaves its scale what the probe's was: rank and scale are never
changed together. Variants that come to the same thing are run once, and one that changes nothing is not run at all;
both stay in the list, which says so.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from gradience.adapters.patterns import anchored_key
from gradience.artifacts.audit import AuditReport, Suggestion, Suggestions
from gradience.artifacts.base import Part
from gradience.artifacts.bench import Making
from gradience.artifacts.bench_plan import Arm
from gradience.bench.config.load import BenchConfig
from gradience.bench.config.sections import CompressionSettings, Control, MadeBy
from gradience.errors import UsageError
from gradience.plan.suggest import ModuleEvidence, collect, cost, scaled_alpha, suggest

PROBE = "probe"
TRAINED: tuple[Making, ...] = ("retrain", "head")
"""What is trained from scratch; everything else is made from the probe."""
QUARTER = 4
NO_COMPRESSION = "no compression: every module keeps its rank"

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
    planner = _Planner(report, config, seed)
    return _once_each([planner.planned(one) for one in asked_for(config.compression)], planner.own)


def asked_for(compression: CompressionSettings) -> tuple[PlannedVariant, ...]:
    """All that is going to be compared, as far as it is known before the audit: names, not ranks."""
    variants = [
        PlannedVariant(name=_named(variant, arm), arm=arm, made_by=arm)
        for variant in compression.variants
        for arm in _arms(compression, variant)
    ]
    shuffled = [
        PlannedVariant(name=_named("per_layer_shuffled", arm), arm="control", made_by=arm)
        for arm in _arms(compression, "per_layer")
    ]
    controls: dict[Control, list[PlannedVariant]] = {
        "per_layer_shuffled": shuffled,
        "random_directions": [
            PlannedVariant(name="random_directions", arm="control", made_by="random_directions")
        ],
        "head_only": [PlannedVariant(name="head_only", arm="control", made_by="head")],
        "aa": [PlannedVariant(name="aa", arm="control", made_by="rotate")],
    }
    return (*variants, *(one for name in compression.controls for one in controls[name]))


def _arms(compression: CompressionSettings, variant: str) -> list[MadeBy]:
    return [arm for arm in compression.arms if arm != "retrain" or compression.is_retrained(variant)]


def _named(variant: str, making: str) -> str:
    return variant if making == "retrain" else f"{variant}.{making}"


class _Planner:
    """One audit, and the ranks that it gives to whatever is asked for."""

    def __init__(self, report: AuditReport, config: BenchConfig, seed: int) -> None:
        self.config, self.seed = config, seed
        self.modules = collect(report.layers)
        self.own = {module.name: module.size.rank for module in self.modules}
        self.rslora = report.adapter.use_rslora
        self.suggestions: Suggestions | None = None
        if report.suggestions is not None:  # where the audit made none, none is made here
            self.suggestions = suggest(
                report.layers,
                tau=report.tau,
                grid=config.compression.allowed_ranks,
                use_rslora=self.rslora,
            )

    def planned(self, asked: PlannedVariant) -> PlannedVariant:
        """The same with its ranks, or with the reason why it is not made."""
        try:
            ranks, evidence = self.ranks_of(asked)
        except _NotMade as reason:
            return asked.model_copy(update={"skipped": str(reason)})
        alphas = {
            module.name: scaled_alpha(
                module.alpha, module.size.rank, ranks[module.name], use_rslora=self.rslora
            )
            for module in self.modules
            if module.alpha is not None and ranks[module.name]
        }
        return asked.model_copy(
            update={
                "ranks": dict(ranks),
                "alphas": alphas,
                "lora_params": cost(self.modules, dict(ranks))[0],
                "probe_params": cost(self.modules, self.own)[0],
                "evidence": evidence,
            }
        )

    def ranks_of(self, asked: PlannedVariant) -> tuple[Ranks, str]:
        """The ranks, and what they rest on. Raises _NotMade."""
        match asked.name.partition(".")[0]:
            case "aa":
                return self.own, "the probe, in other factors"
            case "head_only":
                if self.config.model.type != "seqcls":
                    raise _NotMade("the model has no head to train")
                return dict.fromkeys(self.own, 0), "no LoRA, a head trained alone"
            case "random_directions":
                variant = self.random_variant()
                return self.quartered(
                    self.variant_ranks(variant)[0]
                ), f"{variant}, at most a quarter of the probe"
            case "per_layer_shuffled":
                shuffled = shuffled_ranks(self.modules, self.variant_ranks("per_layer")[0], self.seed)
                if shuffled is None:
                    raise _NotMade("impossible: too few modules of one shape differ in rank")
                return shuffled, "the ranks of per_layer on other modules"
            case variant:
                return self.variant_ranks(variant)

    def variant_ranks(self, variant: str) -> tuple[Ranks, str]:
        """The same for what is not a control."""
        if variant.startswith("uniform_r"):
            return self.uniform(int(variant.removeprefix("uniform_r"))), "as asked for"
        if self.suggestions is None:
            raise _NotMade("the audit suggests no rank for this adapter")
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

    def quartered(self, ranks: Ranks) -> Ranks:
        """The same, but nowhere more than a quarter of the probe's rank. Raises _NotMade where there is no quarter.

        Half of the directions of a probe that uses few of them are nearly all that it has, however they are drawn.
        """
        if max(self.own.values()) < QUARTER:
            raise _NotMade("impossible: a quarter of the probe's rank is less than one direction")
        return {
            module.name: ranks[module.name]
            if module.keeps_rank
            else max(1, min(ranks[module.name], module.size.rank // QUARTER))
            for module in self.modules
        }

    def random_variant(self) -> str:
        """The uniform variant whose size random directions get, at most."""
        uniform = [name for name in self.config.compression.variants if name.startswith("uniform")]
        return "uniform_median" if "uniform_median" in uniform or not uniform else uniform[0]


class _NotMade(Exception):
    """Why a variant is not made."""


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
