"""What the screen and the Markdown of a compression both say. Pure functions of its plan and its report."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from statistics import median
from typing import NamedTuple

from gradience.adapters.families import family_of
from gradience.artifacts.compression import CompressionPlan, CompressionReport, ModulePlan, ModuleResult
from gradience.compress.encodings import ENCODINGS, Target, encode_modules
from gradience.report.numbers import count, number_range, percent, plural, sig, size, trimmed
from gradience.spectra import GRAM_TOLERANCE

Module = ModulePlan | ModuleResult

QUALITY = (
    "Quality. A small error in the weights does not prove equal answers, and weight energy says little about which "
    "module matters: evaluate the smaller adapter beside the original, on the task."
)
CERTAIN_ERROR = math.sqrt(GRAM_TOLERANCE)
"""A predicted error is the root of an energy that is lost, and energies are known to GRAM_TOLERANCE at worst."""
SHOWN_RANKS = 6
"""Different ranks that are counted one by one."""


class Total(NamedTuple):
    """One figure of the whole adapter, before and after."""

    label: str
    before: str
    after: str
    change: str


class Loss(NamedTuple):
    """One measure of what is lost."""

    label: str
    value: str
    meaning: str


class FamilyRow(NamedTuple):
    """Modules of one family, before and after."""

    family: str
    modules: int
    ranks: str
    stored: str
    """Ranks on disk where they are not the new ranks, else empty."""
    old_params: int
    new_params: int
    kept: str
    """Median of the kept energies."""
    error: str
    """Largest error of a module."""


# ---------------------------------------------------------------- the whole adapter


def saved(before: int, after: int) -> str:
    """`50.0 % saved`, `12.5 % more`, `the same`."""
    if before == after:
        return "the same"
    share = 1 - after / before
    return f"{percent(share)} saved" if share > 0 else f"{percent(-share)} more"


def step(rank: int | None) -> str:
    """vLLM's permitted max_lora_rank in words."""
    return "over 512" if rank is None else str(rank)


def totals(made: CompressionPlan | CompressionReport) -> list[Total]:
    """Parameters, bytes, and the step of vLLM."""
    parameters = Total(
        "LoRA parameters",
        count(made.old_params),
        count(made.new_params),
        saved(made.old_params, made.new_params),
    )
    what = "weights on disk" if isinstance(made, CompressionReport) else "LoRA factors"
    in_bytes = Total(what, size(made.old_bytes), size(made.new_bytes), saved(made.old_bytes, made.new_bytes))
    same = made.old_max_lora_rank == made.new_max_lora_rank
    server = Total(
        "vLLM max_lora_rank",
        step(made.old_max_lora_rank),
        step(made.new_max_lora_rank),
        "the same step" if same else "",
    )
    return [parameters, in_bytes, server]


def zeros_sentence(made: CompressionPlan | CompressionReport) -> str:
    """How much of what is stored are zeros of the padded encoding; empty where there are none."""
    zeros = sum(
        module.new_params * (module.stored_rank - module.new_rank) // module.stored_rank
        for module in made.modules
        if isinstance(module, ModuleResult) and module.stored_rank
    )
    return f"{count(zeros)} of the parameters are zeros that fill up ranks" if zeros else ""


def losses(made: CompressionPlan | CompressionReport) -> list[Loss]:
    """Energy kept, error, and for DoRA the error of whole layers."""
    kept = Loss("energy kept", percent(made.kept_energy), "of Σσ² over all modules")
    if isinstance(made, CompressionPlan):
        meaning = "‖ΔW − ΔW′‖/‖ΔW‖ before storage rounding"
        return [kept, Loss("predicted error", predicted(made.predicted_error), meaning)]
    meaning = f"‖ΔW − ΔW′‖/‖ΔW‖ as stored; predicted {predicted(made.predicted_error)}"
    found = [kept, Loss("error", sig(made.measured_error), meaning)]
    layers = [module.output_error for module in made.modules if module.output_error is not None]
    if layers:
        found.append(Loss("DoRA layers", sig(max(layers)), "largest ‖W′ − W″‖/‖W′ − W‖ of a layer"))
    return found


def predicted(error: float | None) -> str:
    """A predicted error, no smaller than it can be known."""
    return f"under {sig(CERTAIN_ERROR, 1)}" if error is not None and 0 < error < CERTAIN_ERROR else sig(error)


def spread(modules: Iterable[Module]) -> str:
    """How many modules get which rank; empty where all get the same."""
    ranks = Counter(module.new_rank for module in modules)
    if len(ranks) < 2:
        return ""
    if len(ranks) > SHOWN_RANKS:
        middle = trimmed(median(ranks.elements()))
        return f"new ranks from {min(ranks)} to {max(ranks)}, median {middle}"
    counted = ", ".join(f"{rank} × {count(number)}" for rank, number in sorted(ranks.items()))
    return f"new ranks, with their number of modules: {counted}"


# ---------------------------------------------------------------- modules


def error_of(module: Module) -> float | None:
    """The measured error of a written module, the predicted one of a planned."""
    return module.measured_error if isinstance(module, ModuleResult) else module.predicted_error


def shown_error(module: Module) -> str:
    """The same in words."""
    return (
        sig(module.measured_error) if isinstance(module, ModuleResult) else predicted(module.predicted_error)
    )


def rank_change(module: Module) -> str:
    """`64 → 16`, or `64` where it stays."""
    return arrow(str(module.old_rank), str(module.new_rank))


def arrow(old: str, new: str) -> str:
    """`old → new`, or one of them where they are equal."""
    return old if old == new else f"{old} → {new}"


def family_rows(modules: Iterable[Module], most: int | None = None) -> tuple[list[FamilyRow], int]:
    """One row a family in the order of the adapter, those with the most parameters; and how many are left out."""
    grouped: dict[str, list[Module]] = defaultdict(list)
    for module in modules:
        grouped[family_of(module.name)].append(module)
    weights = {family: sum(module.old_params for module in members) for family, members in grouped.items()}
    heaviest = sorted(grouped, key=lambda family: (-weights[family], family))[:most]
    kept = [family for family in grouped if family in set(heaviest)]
    return [_family(family, grouped[family]) for family in kept], len(grouped) - len(kept)


def _family(family: str, members: Sequence[Module]) -> FamilyRow:
    kept = [module.kept_energy for module in members if module.kept_energy is not None]
    worst_one = max(members, key=lambda module: error_of(module) or 0.0)
    new = number_range(module.new_rank for module in members)
    return FamilyRow(
        family,
        len(members),
        arrow(number_range(module.old_rank for module in members), new),
        number_range(module.stored_rank for module in members if isinstance(module, ModuleResult))
        if padded(members)
        else "",
        sum(module.old_params for module in members),
        sum(module.new_params for module in members),
        percent(median(kept) if kept else None),
        shown_error(worst_one),
    )


def padded(modules: Iterable[Module]) -> bool:
    """Whether a module has another rank on disk than it was given."""
    return any(
        isinstance(module, ModuleResult) and module.stored_rank != module.new_rank for module in modules
    )


def worst(modules: Iterable[Module], number: int) -> list[Module]:
    """The truncated modules that lose most: rounding alone is no loss to speak of."""
    lossy = [
        module
        for module in modules
        if module.new_rank < module.old_rank and (module.predicted_error or 0.0) > CERTAIN_ERROR
    ]
    return sorted(lossy, key=lambda module: (-(error_of(module) or 0.0), module.name))[:number]


# ---------------------------------------------------------------- sentences


def left_as_they_are(plan: CompressionPlan) -> list[str]:
    """Modules that keep their rank whatever was asked, by reason."""
    by_reason = Counter(module.fixed for module in plan.modules if module.fixed)
    keeps = {1: "1 module keeps its rank"}
    return [
        f"{keeps.get(number, f'{count(number)} modules keep their rank')}: {reason}"
        for reason, number in by_reason.items()
    ]


def nothing_truncated(modules: Iterable[Module]) -> str:
    """Said where the criterion asks for no less than what is there."""
    if any(module.new_rank < module.old_rank for module in modules):
        return ""
    return "no module is truncated: none has more than was asked for"


def planned_encoding(plan: CompressionPlan) -> str:
    """How the adapter would be written where no --encoding is given; empty where the scale is unknown."""
    targets = [
        Target(module.name, module.new_rank, module.scale)
        for module in plan.modules
        if module.new_rank and module.scale is not None
    ]
    if len(targets) < sum(module.new_rank > 0 for module in plan.modules):
        return ""
    encoded = encode_modules(targets, None)
    return f"by default {encoded.encoding} ({encoded.reason}): {ENCODINGS[encoded.encoding].meaning}"


def encoding_sentence(report: CompressionReport) -> str:
    """How the adapter was written, and why so."""
    return f"{report.encoding} ({report.encoding_reason}): {ENCODINGS[report.encoding].meaning}"


def factors_sentence(report: CompressionReport) -> str:
    """Storage type, and how many modules are byte for byte what they were."""
    written = [module for module in report.modules if module.new_rank]
    types = "+".join(sorted({module.dtype.lower() for module in written}))
    copied = sum(module.unchanged for module in written)
    folded = sum(module.folded != 1.0 for module in written)
    parts = [f"stored as {types}"]
    parts += [f"{copied} of {plural(len(written), 'module')} byte for byte as they were"] if copied else []
    parts += [f"B of {plural(folded, 'module')} absorbs a factor"] if folded else []
    if report.renamed:
        parts.append(f"{plural(report.renamed, 'tensor')} renamed as PEFT names them")
    return "; ".join(parts)


def config_changes(report: CompressionReport) -> list[tuple[str, str]]:
    """Field of adapter_config.json, and `old → new`."""
    changes = []
    for name, change in report.config_changes.items():
        before, _, after = change.partition(" -> ")
        changes.append((name, f"{_setting(before)} → {_setting(after)}"))
    return changes


def _setting(text: str) -> str:
    """A list or a mapping by its length, anything else as it is."""
    try:
        value = json.loads(text)
    except ValueError:  # shortened already
        return text
    if value is None or value in ([], {}):
        return "none"
    return plural(len(value), "entry", "entries") if isinstance(value, list | dict) else text


def carried(report: CompressionReport) -> str:
    """What was copied beside the factors."""
    parts = [plural(report.carried_tensors, "other tensor")] if report.carried_tensors else []
    parts += [plural(len(report.carried_files), "file")] if report.carried_files else []
    return f"{' and '.join(parts)} byte for byte" if parts else "nothing: there was nothing else"


def peft_sentence(report: CompressionReport) -> str:
    """What PEFT made of the folder; empty where it was not asked."""
    seen = report.peft_check
    if seen is None:
        return ""
    modules, tensors = plural(seen.modules, "module"), plural(seen.tensors, "tensor")
    return f"by PEFT {seen.peft}: {modules} with these ranks and scales, {tensors} bit for bit"


def lists(report: CompressionReport) -> list[tuple[str, Sequence[str]]]:
    """What is not in the output or not as it was, by reason; only what there is."""
    groups = [
        ("module", "at rank 0, left out", report.dropped),
        ("tensor", "stripped", report.stripped),
        ("file", "with a first line that says it describes the original", report.annotated_files),
        ("file", "not carried over", report.left_out_files),
    ]
    return [(f"{plural(len(names), noun)} {what}", names) for noun, what, names in groups if names]
