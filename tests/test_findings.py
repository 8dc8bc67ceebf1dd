"""Findings name what they are about."""

from __future__ import annotations

from audit_sample import power_law, row

from gradience.findings import Facts, find


def test_a_stacked_expert_is_named_with_its_number():
    """All experts of a tensor have one name: without the number a finding would say it three times."""
    shape = {"r": 4, "shape": (16, 8), "kind": "expert"}
    rows = [row("mlp.experts.down_proj", None, expert=i, status="untrained", **shape) for i in range(2)]
    rows.append(row("mlp.experts.down_proj", power_law(4, 1.0), expert=2, **shape))
    facts = Facts(layers=rows, config=None, other=(), unaudited=(), ghosts=(), nonfinite=())
    (dead,) = [finding for finding in find(facts) if finding.code == "dead-modules"]
    assert dead.message.endswith("mlp.experts.down_proj[0], mlp.experts.down_proj[1]")
    assert dead.module == "mlp.experts.down_proj[0]"
