"""A module of the public predecessor. Its telemetry has another home here, and importing it says where."""

raise ImportError(
    "gradience.vnext.telemetry is the predecessor's name: use `from gradience import TelemetryReader, TelemetryWriter`"
    " (or `from gradience.telemetry import ...`); docs/train_and_monitor.md describes both",
    name=__name__,
)
