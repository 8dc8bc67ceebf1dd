"""The candidates of a search, its memory and the margin that it can show, before any weight is loaded."""

from __future__ import annotations

from dataclasses import replace

from gradience.evaluate.forecast import forecast_evaluation, margins_of
from gradience.reports.shrink import ShrinkForecast
from gradience.shrink.plan import CONTROL, Prepared


def forecast_shrink(prepared: Prepared) -> ShrinkForecast:
    """Return what `prepared` would do: only the base's config.json and its tokenizer are read."""
    inputs, plan = prepared.inputs, prepared.plan
    smaller = [
        replace(inputs.reference, name=candidate.name, lora_params=candidate.lora_params)
        for candidate in plan.candidates
    ]
    rewritten = replace(inputs.reference, name=CONTROL)
    expected = forecast_evaluation(
        replace(inputs, adapters=(inputs.reference, rewritten, *smaller), notes=inputs.notes)
    )
    return ShrinkForecast(
        plan=plan,
        candidates=plan.candidates,
        margins=() if inputs.compares_nll else margins_of(len(inputs.examples), 1),
        weights_bytes=expected.weights_bytes,
        adapter_bytes=expected.adapter_bytes,
        batch_bytes=expected.batch_bytes,
        process_bytes=expected.process_bytes,
        assumptions=expected.assumptions,
        notes=expected.notes,
    )
