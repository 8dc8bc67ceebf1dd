"""The LoraConfig to copy: valid Python, and PEFT applies it to exactly the modules of the adapter."""

from __future__ import annotations

import ast

import pytest
from audit_sample import mistral_rows, power_law, report, row
from test_audit_text import refused

from gradience.reports.lora_config import lora_config_source


def arguments(source):
    """The keyword arguments of the one call in `source`, read without running it."""
    imports, assignment = ast.parse(source).body
    assert isinstance(imports, ast.ImportFrom)
    assert (imports.module, [name.name for name in imports.names]) == ("peft", ["LoraConfig"])
    assert isinstance(assignment.value, ast.Call)
    return {keyword.arg: ast.literal_eval(keyword.value) for keyword in assignment.value.keywords}


def test_it_is_the_per_layer_suggestion_and_nothing_else():
    audited = report(mistral_rows(2))
    given = arguments(lora_config_source(audited))
    per = audited.suggestions.per_layer
    assert given == {
        "r": per.r,
        "lora_alpha": per.lora_alpha,
        "task_type": "CAUSAL_LM",
        "target_modules": [layer.name for layer in audited.layers],
        "rank_pattern": per.rank_pattern,
        "alpha_pattern": per.alpha_pattern,
    }


@pytest.mark.parametrize("flag", ["use_rslora", "use_dora"])
def test_flags_that_change_the_meaning_are_kept(flag):
    assert arguments(lora_config_source(report(mistral_rows(1), adapter={flag: True})))[flag] is True


def test_stacked_experts_are_target_parameters():
    rows = [
        row(
            "m.0.experts.up",
            power_law(4, 1.0),
            r=4,
            shape=(8, 8),
            kind="expert",
            expert=e,
            layer="m.0",
            index=0,
        )
        for e in range(3)
    ]
    rows.append(row("m.0.q_proj", power_law(4, 1.0), r=4, shape=(8, 8), layer="m.0", index=0))
    given = arguments(lora_config_source(report(rows)))
    assert given["target_parameters"] == ["m.0.experts.up"]
    assert given["target_modules"] == ["m.0.q_proj"]


def test_an_unknown_alpha_is_left_to_the_reader():
    audited = report(mistral_rows(1))
    per = audited.suggestions.per_layer.model_copy(update={"lora_alpha": None, "alpha_pattern": {}})
    audited = audited.model_copy(
        update={"suggestions": audited.suggestions.model_copy(update={"per_layer": per})}
    )
    source = lora_config_source(audited)
    assert not {"lora_alpha", "alpha_pattern"} & arguments(source).keys()
    assert "set lora_alpha" in source


def test_no_suggestion_no_config():
    assert lora_config_source(refused()) is None
