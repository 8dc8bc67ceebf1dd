"""What a person should know about an adapter: rules over measured rows and the config. Pure.

One finding per code and cause, with a count: an adapter of 224 modules must not print 224 lines. A new rule is a
function or a `ModuleRule`, and a line in `RULES`.
"""

from __future__ import annotations

from gradience.audit.findings import contents, meaning, numbers
from gradience.audit.findings.facts import Facts, FindingRule
from gradience.reports.base.finding import SEVERITIES, Finding

__all__ = ["RULES", "Facts", "find"]

RULES: tuple[FindingRule, ...] = (
    numbers.nonfinite,
    numbers.cancelled,
    numbers.imprecise,
    meaning.initialisation,
    meaning.variant,
    meaning.expert_order,
    numbers.untrained,
    numbers.random,
    contents.unaudited,
    contents.declared_ranks,
    contents.no_config,
    contents.names,
    contents.saved_and_adapted,
    meaning.dora,
    contents.targets,
    contents.saved_parts,
    contents.ghosts,
    numbers.shape_ceiling,
    numbers.saturated,
    numbers.diverged,
    numbers.unlike_family,
    numbers.outliers,
    numbers.coarse_storage,
)


def find(facts: Facts) -> tuple[Finding, ...]:
    """All findings, the gravest first."""
    findings = [finding for rule in RULES for finding in rule(facts)]
    return tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity)))
