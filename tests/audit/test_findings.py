"""Findings name what they are about."""

from __future__ import annotations

import numpy as np
from audit_sample import power_law, row

from gradience.audit.findings import AdapterFacts, find
from gradience.plan.blocking import blocks_suggestions


def facts_of(rows):
    return AdapterFacts(layers=rows, config=None, other=(), unaudited=(), ghosts=(), nonfinite=())


def noise(name, shape=(64, 64), r=8):
    """A row as random factors give it."""
    return row(name, np.ones(r), r=r, shape=shape)


def test_an_adapter_that_looks_random_is_an_error_and_gets_no_suggestion():
    findings = find(facts_of([noise(f"layers.{i}.q") for i in range(3)]))
    (error,) = [finding for finding in findings if finding.severity == "error"]
    assert error.code == "looks-random"
    assert blocks_suggestions(findings)


def test_some_random_modules_are_a_warning_and_the_suggestion_stands():
    rows = [
        noise("layers.0.q"),
        *(row(f"layers.{i}.q", power_law(8, 1.5), r=8, shape=(64, 64)) for i in range(1, 4)),
    ]
    findings = find(facts_of(rows))
    (warning,) = [finding for finding in findings if finding.code == "random-modules"]
    assert (warning.severity, warning.module) == ("warning", "layers.0.q")
    assert "looks-random" not in {finding.code for finding in findings}
    assert not blocks_suggestions(findings)


def test_a_head_of_few_labels_cannot_look_random():
    """It spreads over all of its few directions when it is trained well."""
    head = noise("classifier.out_proj", shape=(6, 64))
    rest = [row(f"layers.{i}.q", power_law(8, 1.5), r=8, shape=(64, 64)) for i in range(3)]
    assert not {"looks-random", "random-modules"} & {
        finding.code for finding in find(facts_of([head, *rest]))
    }
