"""A forecast as text for the terminal. Pure."""

from __future__ import annotations

from gradience.artifacts.forecast import BenchForecast
from gradience.report.names import printable


def forecast_text(found: BenchForecast) -> str:
    """What would be done, and what it would cost."""
    seeds = ", ".join(map(str, found.seeds))
    rows = [
        ("model", printable(found.model)),
        ("task", printable(found.task)),
        ("seeds", seeds),
        ("examples", f"{found.examples:,}" if found.examples else "known when the data are read"),
        ("gate", f"the probe must get a share of {found.gate} right"),
        ("trainings", f"{found.trainings} a seed, fewer where variants come to the same"),
        ("evaluations", f"{found.evaluations} a seed"),
    ]
    if found.cost is not None:
        cost = found.cost
        rows += [
            ("base", f"{cost.base_params / 1e6:,.1f} M parameters, {cost.weights_bytes / 1e9:.2f} GB"),
            (
                "probe",
                f"{cost.probe_params / 1e6:,.2f} M LoRA parameters, {cost.trained_bytes / 1e9:.2f} GB to train",
            ),
            ("tokens", f"{cost.tokens_per_training / 1e6:,.2f} M a training, at most"),
            (
                "GPU hours",
                f"about {_hours(cost.hours)} a seed, {_hours(cost.hours * len(found.seeds))} in all",
            ),
        ]
    width = max(len(name) for name, _ in rows)
    lines = ["SMOKE RUN: no evidence" if found.smoke else "Nothing is run: this is the plan.", ""]
    lines += [f"  {name:{width}}  {value}" for name, value in rows]
    lines += ["", "Stages of a seed"] + [
        f"  {number:2}  {name}" for number, name in enumerate(found.stages, start=1)
    ]
    lines += ["", "Estimates rest on"] + [f"  {text}" for text in found.assumptions]
    lines += ["", "Of the config"] * bool(found.notes) + [f"  {printable(text)}" for text in found.notes]
    return "\n".join(lines) + "\n"


def _hours(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 0.95 else f"{hours * 60:.2g} min"
