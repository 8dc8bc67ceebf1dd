"""What the rules look at, and how they say it: one finding per code and cause, with a count."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gradience.adapters.config import PeftConfig
from gradience.adapters.inventory import SkippedTensor
from gradience.reports.audit import LayerAudit
from gradience.reports.base.finding import Finding, Severity
from gradience.words import counted, listed


class Facts(NamedTuple):
    """What the audit knows of an adapter, for the rules that look for findings."""

    layers: Sequence[LayerAudit]
    config: PeftConfig | None
    other: Sequence[SkippedTensor]
    unaudited: Sequence[SkippedTensor]
    ghosts: Sequence[str]
    nonfinite: Sequence[str]
    """One sentence per factor with NaN or infinity."""
    misnamed: Sequence[str] = ()
    """Tensors of the adapter under names that PEFT does not look for."""
    grouped: Sequence[str] = ()
    """Stacked modules whose lora_B is grouped by expert on disk, in Unsloth's order."""
    unordered: Sequence[str] = ()
    """Stacked modules that Unsloth wrote without saying in which order."""
    no_scale: str | None = None
    """Why no scale is known, although there is a config."""
    started: str | None = None
    """How the training started, where the initial adapter was subtracted."""


FindingRule = Callable[[Facts], Iterator[Finding]]


@dataclass(frozen=True, slots=True)
class ModuleRule:
    """A rule that looks at one module at a time: one finding for all modules to which it applies, with a count.

    message: stands behind `3 of 64 modules`.   of_all: whether it says of how many.
    """

    code: str
    severity: Severity
    applies: Callable[[LayerAudit], bool]
    message: str
    hint: str
    of_all: bool = True

    def __call__(self, facts: Facts) -> Iterator[Finding]:
        names = [layer.label for layer in facts.layers if self.applies(layer)]
        total = len(facts.layers) if self.of_all else None
        return many(self.code, self.severity, names, self.message, self.hint, total)


def many(
    code: str, severity: Severity, names: Sequence[str], message: str, hint: str, total: int | None = None
) -> Iterator[Finding]:
    """One finding for all modules in `names`, if there are any."""
    if names:
        head = (
            counted(len(names), "module") if total is None else f"{len(names)} of {counted(total, 'module')}"
        )
        yield Finding(
            code=code,
            severity=severity,
            module=names[0],
            message=f"{head} {message}: {listed(names)}",
            hint=hint,
        )
