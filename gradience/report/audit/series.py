"""Several adapters: the steps of one run, or adapters that merely stand beside each other?"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import NamedTuple

from gradience.reports.audit import AuditReport

_STEP = re.compile(r"(checkpoint|ckpt|global_step|step|iter|epoch)([-_=]?)(\d{1,18})", re.IGNORECASE)


class Refused(NamedTuple):
    """An adapter that could not be audited, in its place among the others."""

    path: str
    code: str


class Step(NamedTuple):
    """A step number in a path, and the path without it: steps of one run differ in the number alone."""

    run: str
    number: int


def step_of(path: str) -> Step | None:
    """The last step number that the path names.

    >>> step_of("run/checkpoint-200")
    Step(run='run/checkpoint-#', number=200)
    """
    matches = list(_STEP.finditer(os.path.normpath(path)))
    if not matches:
        return None
    last = matches[-1]
    start, end = last.span(3)
    text = last.string
    return Step(f"{text[:start]}#{text[end:]}", int(last[3]))


def why_no_series(reports: Sequence[AuditReport]) -> str | None:
    """None where base, modules and names say that these are the steps of one run; else what speaks against it."""
    steps = [step_of(report.adapter.path) for report in reports]
    if None in steps or len({step.run for step in steps if step}) > 1:
        return "no step numbers of one run in their names"
    if len({step.number for step in steps if step}) < len(steps):
        return "a step number comes twice"
    bases = {report.adapter.base_model for report in reports}
    if None in bases:
        return "the base model is not named"
    if len(bases) > 1:
        return "different base models"
    modules = {frozenset((layer.label, layer.shape) for layer in report.layers) for report in reports}
    return "different modules" if len(modules) > 1 else None


def by_step(reports: Sequence[AuditReport]) -> list[AuditReport]:
    """The reports of a series, the earliest step first."""
    return sorted(reports, key=lambda report: step_number(report) or 0)


def step_number(report: AuditReport) -> int | None:
    step = step_of(report.adapter.path)
    return step.number if step else None
