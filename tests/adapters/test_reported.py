"""Unusual configs and tensors that can be audited in full (exit code 0), and what the report then says."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest
from audited import audit, good
from factory import (
    CONFIG,
    PREFIX,
    adapter,
    config,
    factors,
    modules,
    ones,
)
from killing import HANGS

Q = "model.layers.0.self_attn.q_proj"


# ---------------------------------------------------------------- configs


def test_without_a_config_everything_that_needs_no_scale_is_there(tmp_path, capsys):
    folder = adapter(tmp_path)
    known = audit(capsys, folder).report
    (folder / CONFIG).unlink()
    outcome = audit(capsys, folder)
    assert outcome.code == 0
    assert outcome.finding("no-config")["severity"] == "warning"
    assert "dora" not in outcome.codes
    for layer, before in zip(outcome.report["layers"], known["layers"], strict=True):
        assert layer["alpha"] is layer["scale"] is layer["fro_norm"] is layer["sigma_max"] is None
        for measure in ("stable_rank", "effective_rank", "utilization", "energy_rank_90", "r"):
            assert layer[measure] == before[measure]
    assert outcome.report["gain"] is None
    assert outcome.report["suggestions"]["per_layer"]["alpha_pattern"] == {}


@pytest.mark.parametrize(
    "fields",
    [
        {"use_rslora": None, "use_dora": None, "fan_in_fan_out": None, "bias": None, "modules_to_save": None,
         "rank_pattern": None, "alpha_pattern": None, "enable_lora": None,
         "layers_to_transform": None},
        {"field_of_a_later_peft": {"a": [1]}, "auto_mapping": {"parent_library": "os"}, "runtime_config": {}},
        {"base_model_name_or_path": None, "task_type": None},
        {"base_model_name_or_path": "C:\\Models\\größe\\模型"},
        {"target_modules": ["q_proj", "q_proj", "v_proj"]},
        {"target_modules": ".*(q|v)_proj"},
        {"lora_alpha": 8.0},
        {"layers_to_transform": [0, 1]},
        {"peft_type": None},
    ],
    ids=["nulls", "unknown", "no-base", "foreign-base", "twice", "expression", "float-alpha", "layers", "no-type"],
)  # fmt: skip
def test_unusual_configs_are_fine(fields, tmp_path, capsys):
    plain = good(audit(capsys, adapter(tmp_path / "plain"))).report
    outcome = good(audit(capsys, adapter(tmp_path / "other", settings=config(**fields))))
    assert outcome.report["layers"] == plain["layers"]
    assert outcome.codes == {finding["code"] for finding in plain["findings"]}


def test_r_and_alpha_that_are_left_out_are_those_of_peft(tmp_path, capsys):
    import peft

    settings = config()
    del settings["r"], settings["lora_alpha"]
    outcome = audit(capsys, adapter(tmp_path, modules(r=8), settings))
    assert outcome.code == 0
    assert (outcome.report["adapter"]["r"], outcome.report["adapter"]["lora_alpha"]) == (8, 8)
    assert (peft.LoraConfig().r, peft.LoraConfig().lora_alpha) == (8, 8)
    assert "rank-disagrees" not in outcome.codes


@pytest.mark.parametrize(
    ("fields", "code", "says"),
    [
        (
            {"r": 8},
            "rank-disagrees",
            "4 modules with another rank than the config says (tensors 4, config 8)",
        ),
        ({"rank_pattern": {"v_proj": 2}}, "rank-disagrees", "2 modules"),
        (
            {"rank_pattern": {"k_proj": 2}},
            "pattern-unmatched",
            "rank_pattern key without a matching module: k_proj",
        ),
        ({"alpha_pattern": {"layers.1": 2}}, "pattern-unmatched", "alpha_pattern key"),
        ({"alpha_pattern": {"(q_proj": 2}}, "pattern-skipped", "not a regular expression"),
        ({"target_modules": ["q_proj", "V"]}, "target-unmatched", "without a matching module in the file: V"),
        (
            {"target_modules": ["q_proj", "proj"]},
            "target-unmatched",
            "without a matching module in the file: proj",
        ),
        ({"bias": "lora_only"}, "bias-missing", "bias='lora_only'"),
        ({"modules_to_save": ["score"]}, "saved-module-missing", "score"),
        ({"use_dora": True}, "config-disagrees", "use_dora=true, the file contains no magnitude vectors"),
        ({"lora_alpha": 0}, "zero-scale", "multiplied by 0"),
        ({"init_lora_weights": "pissa_niter_4"}, "init-not-update", "pissa_niter_4"),
        ({"init_lora_weights": "loftq"}, "init-not-update", "LoftQ"),
        ({"init_lora_weights": False}, "init-noise", "random non-zero factors"),
        ({"init_lora_weights": "orthogonal"}, "init-noise", "rounding"),
        ({"init_lora_weights": "new_idea"}, "init-unknown", "new_idea"),
        ({"use_qalora": True}, "variant-not-update", "QA-LoRA"),
        ({"alora_invocation_tokens": [1, 2]}, "activated-lora", "after its invocation tokens"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_what_a_config_gives_away(fields, code, says, tmp_path, capsys):
    outcome = audit(capsys, adapter(tmp_path, settings=config(**fields)))
    assert outcome.code == 0
    assert says in outcome.finding(code)["message"]
    assert code not in audit(capsys, adapter(tmp_path / "plain")).codes
    withheld = code in ("init-not-update", "init-noise", "variant-not-update")
    assert (outcome.report["suggestions"] is None) == withheld


@pytest.mark.parametrize("rslora", [False, True])
def test_the_scale_follows_the_patterns(rslora, tmp_path, capsys):
    tensors = modules(names=("q_proj",)) | modules(names=("v_proj",), r=9)
    settings = config(
        rank_pattern={"v_proj": 9},
        alpha_pattern={r"layers\.1\.self_attn\.v_proj": 2.5, "v_proj": 6, "layers.0.self_attn.q_proj": 2},
        use_rslora=rslora,
    )
    outcome = good(audit(capsys, adapter(tmp_path, tensors, settings)))
    by_name = {layer["name"]: (layer["declared_r"], layer["alpha"]) for layer in outcome.report["layers"]}
    layers = "model.layers"
    assert by_name == {
        f"{layers}.0.self_attn.q_proj": (4, 2), f"{layers}.1.self_attn.q_proj": (4, 8),
        f"{layers}.0.self_attn.v_proj": (9, 6), f"{layers}.1.self_attn.v_proj": (9, 2.5),
    }  # fmt: skip
    for layer in outcome.report["layers"]:
        size = math.sqrt(layer["r"]) if rslora else layer["r"]
        assert layer["scale"] == pytest.approx(layer["alpha"] / size, rel=1e-11)


@pytest.mark.parametrize("field", ["rank_pattern", "alpha_pattern"])
def test_an_expression_that_would_run_for_years(field, tmp_path):
    # 40 keys, each slow for each module, in the command as a user runs it.
    bombs = {f"(a|aa)+$b{i}": 8 for i in range(40)}
    name = "layers.0." + "a" * 60
    folder = adapter(tmp_path, factors(name), config(**{field: bombs, "target_modules": ["a" * 60]}))
    done = subprocess.run(
        [sys.executable, "-m", "gradience", "audit", "--json", folder],
        capture_output=True, text=True, timeout=HANGS, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    report = json.loads(done.stdout)
    skipped = [finding for finding in report["findings"] if finding["code"] == "pattern-skipped"]
    assert "more than 1 s" in skipped[0]["message"]
    assert skipped[0]["severity"] == "error"
    (layer,) = report["layers"]
    if field == "alpha_pattern":
        # What stands behind a key that was not evaluated is not guessed.
        assert layer["alpha"] is layer["scale"] is layer["fro_norm"] is None
    else:
        assert (layer["r"], layer["declared_r"], layer["alpha"]) == (4, None, 8)


# ---------------------------------------------------------------- tensors beside the factors


BESIDE = {
    "head": ({"base_model.model.score.weight": ones(3, 16)}, {}, "head or embedding"),
    "saved-module": ({"base_model.model.norm.weight": ones(16)}, {"modules_to_save": ["norm"]}, "modules_to_save"),
    "saved-by-path": ({"base_model.model.a.norm.weight": ones(16)}, {"modules_to_save": ["a.norm"]}, "modules_to_save"),
    "live-saved-module": ({"base_model.model.norm.modules_to_save.default.weight": ones(16)}, {}, "modules_to_save"),
    "live-original": ({"base_model.model.norm.original_module.weight": ones(16)}, {}, "copy of the untrained module"),
    "base-bias": ({f"{PREFIX}{Q}.base_layer.bias": ones(12)}, {"bias": "lora_only"}, "bias of the base layer"),
    "base-weight": ({f"{PREFIX}{Q}.base_layer.weight": ones(12, 16)}, {}, "weight of the base model"),
    "bias": ({"base_model.model.norm.bias": ones(16)}, {"bias": "all"}, "bias"),
    "lora-bias": ({f"{PREFIX}{Q}.lora_B.bias": ones(12)}, {"lora_bias": True}, "bias of lora_B"),
    "dora": ({f"{PREFIX}{Q}.lora_magnitude_vector": ones(12)}, {"use_dora": True}, "DoRA magnitude"),
    "tokens": (
        {"base_model.model.embed_tokens.token_adapter.trainable_tokens_delta": ones(2, 16)},
        {"trainable_token_indices": [0, 1]},
        "trained rows of an embedding",
    ),
}  # fmt: skip


def ghosts(name, *places, nested=""):
    """Factors of `name` (its sub-module `nested`) under each of the places where PEFT keeps copies."""
    return {
        key.replace(f"{name}.", f"{name}.{place}{nested}", 1): tensor
        for index, place in enumerate(places)
        for key, tensor in factors(name, seed=index).items()
    }


@pytest.mark.parametrize("nested", ["", "dense."], ids=["module", "nested"])
@pytest.mark.parametrize(
    ("places", "read"),
    [
        (("", "modules_to_save.", "original_module."), 0),
        (("modules_to_save.", ""), 1),
        (("original_module.", "modules_to_save."), 1),
        (("original_module.",), 0),
    ],
    ids=["all", "two", "without-the-module", "only-the-original"],
)
def test_copies_of_a_module_count_once(places, read, nested, tmp_path, capsys):
    """A LoRA on a head that PEFT saved as well: three times the same factors in one file."""
    tensors = modules() | ghosts("classifier", *places, nested=nested)
    outcome = audit(capsys, adapter(tmp_path / "copies", tensors))
    assert outcome.code == 0
    name = f"classifier.{nested}".rstrip(".")
    assert [layer["name"] for layer in outcome.report["layers"]].count(name) == 1
    assert len(outcome.report["layers"]) == 5
    copies = [tensor for tensor, reason in outcome.other.items() if reason == "ghost copy of a module"]
    assert len(copies) == 2 * (len(places) - 1)
    assert ("ghost-copies" in outcome.codes) == (len(places) > 1)
    # Which of the copies is read shows in its numbers.
    alone = audit(capsys, adapter(tmp_path / "alone", ghosts("classifier", *places[: read + 1])
                                  if read == 0 else factors("classifier", seed=read)))  # fmt: skip
    row = next(layer for layer in outcome.report["layers"] if layer["name"] == name)
    assert row["singular_values"] == alone.report["layers"][0]["singular_values"]
