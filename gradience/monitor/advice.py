"""What the rules say about a run and what its file recorded, as alerts and recommendations."""

from __future__ import annotations

from collections.abc import Mapping

from gradience.monitor import rules
from gradience.monitor.run import Run
from gradience.reports.base.finding import Severity
from gradience.reports.monitor import Alert, Evidence, Recommendation
from gradience.telemetry import Record

RECORDED_SEVERITIES: Mapping[str, Severity] = {
    "info": "info",
    "warning": "warning",
    "error": "error",
    "critical": "error",
}
LIVE_SIGNALS = {"rank-settled", "rank-too-small", "rank-too-large", "nonfinite-weights"}
"""What the tracker said while the run went on. The rules judge the same at the end, so it is not repeated."""


def advice(run: Run) -> tuple[tuple[Alert, ...], tuple[Recommendation, ...]]:
    """Return what every rule says about one run, errors first, and what to do about it; then what was recorded."""
    alerts: list[Alert] = []
    recommendations: list[Recommendation] = []
    for rule in rules.RULES:
        for observation in rule.statements(run):
            alerts.append(
                Alert(
                    code=rule.code,
                    severity=rule.severity,
                    message=observation.message,
                    evidence=observation.evidence,
                    confidence=observation.confidence,
                    source=rule.source,
                )
            )
            if observation.action:
                recommendations.append(
                    Recommendation(
                        action=observation.action,
                        reason=observation.reason,
                        because=rule.code,
                        evidence=observation.evidence,
                        confidence=observation.confidence,
                    )
                )
    said = {alert.code for alert in alerts} | LIVE_SIGNALS
    alerts += [alert for alert in map(_recorded_alert, run.facts.alerts) if alert.code not in said]
    recommendations += [item for record in run.facts.recommendations for item in _recorded(record)]
    return tuple(alerts), tuple(recommendations)


def _recorded_alert(record: Record) -> Alert:
    context = record.mapping("context")
    return Alert(
        code=record.text("code") or "unnamed",
        severity=RECORDED_SEVERITIES.get(record.text("severity") or "", "warning"),
        message=record.text("message") or "",
        evidence=tuple(
            Evidence(what=key, value=value, step=record.step)
            for key, value in context.items()
            if isinstance(value, (int, float, str)) and not isinstance(value, bool)
        ),
        confidence="medium",
        source="recorded",
    )


def _recorded(record: Record) -> list[Recommendation]:
    items = record.data.get("recommendations")
    return [
        Recommendation(
            action=str(item.get("action") or item.get("message") or item.get("title") or "(not said)"),
            reason=str(item.get("reason") or item.get("rationale") or "(not said)"),
            because="recorded",
            confidence="low",
        )
        for item in (items if isinstance(items, list) else [])
        if isinstance(item, Mapping)
    ]
