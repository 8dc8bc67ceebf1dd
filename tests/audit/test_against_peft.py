"""The audit against PEFT itself: for every kind of module, ΔW from PEFT's own layer and a dense SVD of it."""

import copy
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from peft_cases import CASES, Case, fresh, warned
from peft_kinds import KINDS, LINEAR, config
from peft_models import (
    TARGETS,
    Mixture,
    Saved,
    bert,
    fill,
    gpt2,
    gpt_oss,
    llama,
    mixtral,
    peft_updates,
    qwen_moe,
    save,
    t5,
)
from safetensors.torch import save_file

from gradience import audit_adapter, spectra
from gradience.adapters.adapter import Factor, LoadedPair, LoraPair
from gradience.adapters.tensors import DTYPES, TensorEntry, TensorFile
from gradience.audit.adapter import spectrum_of
from gradience.reports.audit import lora_config_source


def check(saved: Saved, **options: Any):
    """Rows equal PEFT's ΔW, and coverage adds up to the file. Returns the report."""
    report = audit_adapter(saved.path, **options)
    check_rows(report, saved.updates)
    coverage = report.coverage
    assert coverage.audited_params + coverage.other_params + coverage.unaudited_params == coverage.params
    assert coverage.unaudited == ()
    return report


def check_rows(report, updates) -> None:
    rows = {(row.name, row.expert): row for row in report.layers}
    assert rows.keys() == updates.keys()
    assert len(rows) == len(report.layers) == report.n_layers
    for key, delta in updates.items():
        row = rows[key]
        dense = np.linalg.svd(delta, compute_uv=False)
        assert row.status == "ok"
        assert row.shape == delta.shape
        count = min(row.r, *delta.shape)
        assert len(row.singular_values) == count
        assert row.singular_values == pytest.approx(dense[:count], rel=1e-9, abs=1e-10 * dense[0])
        assert (dense[count:] <= 1e-12 * dense[0]).all()
        assert row.sigma_max == pytest.approx(np.linalg.norm(delta, 2), rel=1e-10)
        assert row.fro_norm == pytest.approx(np.linalg.norm(delta), rel=1e-10)
        assert row.stable_rank == pytest.approx(np.linalg.norm(delta) ** 2 / dense[0] ** 2, rel=1e-10)
        if row.energy_margin > 1e-9:
            held = np.square(dense).cumsum() / np.square(dense).sum()
            for share in (90, 95, 99):
                assert getattr(row, f"energy_rank_{share}") == int((held < share / 100).sum()) + 1


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_module(kind, tmp_path):
    make, lora, kinds, others = KINDS[kind]
    saved = save(make(), lora, tmp_path)
    report = check(saved)
    assert {row.kind for row in report.layers} == kinds
    reasons: dict[str, int] = {}
    for note in report.coverage.other:
        reasons[note.reason] = reasons.get(note.reason, 0) + 1
    assert reasons == others
    tensors = saved.tensors
    assert report.coverage.tensors == len(tensors)
    assert report.coverage.params == sum(tensor.size for tensor in tensors.values())
    assert all(row.r == row.declared_r for row in report.layers)
    codes = {finding.code for finding in report.findings}
    trouble = {"rank-disagrees", "config-disagrees", "target-unmatched", "pattern-unmatched", "unaudited"}
    assert not codes & trouble
    if kind.startswith("dora"):
        assert "dora" in codes


def test_three_parameters_of_one_module(tmp_path):
    """Nested wrappers, in the order of the model: w1, v1, w2."""
    targets = ["experts.v1", "experts.w1", "experts.w2"]
    saved = save(Mixture("w1", "v1", "w2"), config(target_modules=[], target_parameters=targets), tmp_path)
    check(saved)


def test_parameters_in_an_unknown_order_are_not_audited(tmp_path):
    targets = ["experts.zeta", "experts.alpha"]
    save(Mixture("zeta", "alpha"), config(target_modules=[], target_parameters=targets), tmp_path)
    report = audit_adapter(tmp_path)
    assert (report.layers, len(report.coverage.unaudited)) == ((), 4)
    assert all("order is not known" in note.reason for note in report.coverage.unaudited)


# ---------------------------------------------------------------- ways of saving


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("make", "targets"), [(llama, LINEAR), (gpt2, ["wte", "c_attn"])], ids=["llama", "gpt2"]
)
def test_storage_types(dtype, make, targets, tmp_path):
    saved = save(make(), config(target_modules=targets, fan_in_fan_out=make is gpt2), tmp_path, dtype=dtype)
    report = check(saved)
    name = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32", torch.float64: "F64"}[dtype]
    assert report.adapter.dtypes == (name,)


def test_two_adapters_saved_together(tmp_path):
    model = get_peft_model(llama(), config(target_modules=LINEAR))
    model.add_adapter("second", config(target_modules=["v_proj"], r=3, use_rslora=True))
    torch.manual_seed(1)
    fill(model)
    model.save_pretrained(tmp_path)
    model.double()
    check_rows(audit_adapter(tmp_path / "second"), peft_updates(model, "second"))
    check_rows(audit_adapter(tmp_path, adapter="second"), peft_updates(model, "second"))
    # The default adapter lies in the folder itself, its sibling in a sub-folder.
    updates = {key: delta for key, delta in peft_updates(model).items() if "v_proj" not in key[0]}
    check_rows(audit_adapter(tmp_path), updates)


@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "module.", "_fsdp_wrapped_module."])
def test_tensors_dumped_from_a_live_model(prefix, tmp_path):
    """`model.state_dict()` keeps the adapter's name in the keys; compile, DDP and FSDP put theirs in front."""
    saved = save(llama(), config(target_modules=LINEAR), tmp_path / "saved")
    state = {name: tensor for name, tensor in saved.model.state_dict().items() if "lora_" in name}
    folder = tmp_path / "dumped"
    folder.mkdir()
    (folder / "adapter_config.json").write_bytes((saved.path / "adapter_config.json").read_bytes())
    save_file(
        {prefix + name: tensor.contiguous() for name, tensor in state.items()},
        folder / "adapter_model.safetensors",
    )
    report = check(Saved(folder, saved.model, saved.updates))
    assert report.adapter.adapter_name == "default"


# ---------------------------------------------------------------- numbers at the ends


def test_updates_beyond_the_range_of_squares(tmp_path):
    """σ of 1e200: norms are reported, and nothing overflows on the way to shares and totals."""

    def huge(model):
        for name, parameter in model.named_parameters():
            if "lora_A" in name and "layers.0" in name:
                parameter.data.mul_(1e200)

    saved = save(llama(), config(target_modules=LINEAR), tmp_path, dtype=torch.float64, prepare=huge)
    report = audit_adapter(tmp_path)
    rows = {row.name: row for row in report.layers}
    for (name, _), delta in saved.updates.items():
        size = 1e200 if "layers.0" in name else 1.0
        assert rows[name].fro_norm == pytest.approx(np.linalg.norm(delta / size) * size, rel=1e-10)
        assert rows[name].stable_rank == pytest.approx(
            spectra.stable_rank(np.linalg.svd(delta / size, compute_uv=False)), rel=1e-10
        )
    assert [layer.share for layer in report.gain.per_layer] == [1.0, 0.0]
    assert "diverged-norm" in {finding.code for finding in report.findings}


# ---------------------------------------------------------------- Bases that transformers saves


SIDES = {"vocab_size": 48, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
NARROW = {**SIDES, "num_key_value_heads": 1, "intermediate_size": 24}


def causal(name, **sides):
    """A tiny random model of this architecture."""
    config = getattr(transformers, f"{name}Config")(**sides)
    return lambda: getattr(transformers, f"{name}ForCausalLM")(config)


ALL_LINEAR = {"target_modules": "all-linear"}
EXPERTS = {"target_modules": ["q_proj"], "target_parameters": ["experts.gate_up_proj", "experts.down_proj"]}
BASES = {
    "llama": (llama, ALL_LINEAR),
    "llama-head": (llama, {"target_modules": ["lm_head", "embed_tokens"]}),
    "mistral": (causal("Mistral", **NARROW), ALL_LINEAR),
    "qwen2": (causal("Qwen2", **NARROW), ALL_LINEAR),
    "qwen3": (causal("Qwen3", **NARROW, head_dim=8), ALL_LINEAR),
    "gemma-tied-head": (
        causal("Gemma", **NARROW, head_dim=8),
        {"target_modules": ["q_proj", "down_proj", "lm_head"]},
    ),
    "phi3": (causal("Phi3", **NARROW, pad_token_id=0), ALL_LINEAR),
    "gpt2": (gpt2, {"target_modules": ["c_attn", "c_fc", "wte"], "fan_in_fan_out": True}),
    "bert": (bert, ALL_LINEAR),
    "t5": (t5, ALL_LINEAR),
    "mixtral": (mixtral, EXPERTS),
    "qwen2-moe": (qwen_moe, EXPERTS),
    "gpt-oss": (gpt_oss, {"target_modules": [], "target_parameters": EXPERTS["target_parameters"]}),
    "falcon": (causal("Falcon", **SIDES), ALL_LINEAR),
    "gpt-neox": (
        causal("GPTNeoX", **SIDES, intermediate_size=24),
        {"target_modules": ["query_key_value", "lm_head"]},
    ),
}


def adapted(base, path, **options):
    """The model of PEFT with factors that are not 0, saved; its base beside it."""
    base.save_pretrained(path / "base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(copy.deepcopy(base), LoraConfig(r=2, lora_alpha=4, **options))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_magnitude" in name:
                    parameter.mul_(1 + 0.1 * torch.rand(parameter.shape))
                elif "lora_" in name:
                    parameter.copy_(0.1 * torch.randn(parameter.shape))
        model.save_pretrained(path / "adapter", save_embedding_layers=False)
    return model


@pytest.mark.parametrize("name", BASES)
def test_every_weight_of_a_saved_base_is_found(name, tmp_path):
    make, options = BASES[name]
    torch.manual_seed(0)
    base = make()
    adapted(base, tmp_path, **options)
    report = audit_adapter(tmp_path / "adapter", base_model=tmp_path / "base")
    block = report.base
    assert block.not_compared == ()
    assert len(block.modules) == len(report.layers) > 0
    for layer, module in zip(report.layers, block.modules, strict=True):
        try:
            weight = base.get_parameter(layer.name)
        except AttributeError:
            weight = base.get_submodule(layer.name).weight
        weight = weight.detach().double().numpy()
        weight = weight if layer.expert is None else weight[layer.expert]
        assert module.weight_norm == pytest.approx(np.linalg.norm(weight), rel=1e-6)
        assert module.weight_sigma_max == pytest.approx(np.linalg.norm(weight, 2), rel=1e-2)


@pytest.mark.parametrize(
    ("make", "options"),
    [(llama, ALL_LINEAR), (gpt2, {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True})],
    ids=["linear", "transposed"],
)
def test_the_update_of_dora_is_what_the_merge_of_peft_adds(make, options, tmp_path, command):
    torch.manual_seed(0)
    base = make()
    model = adapted(base, tmp_path, use_dora=True, **options)
    block = audit_adapter(tmp_path / "adapter", base_model=tmp_path / "base").base
    assert block.not_compared == ()
    merged = copy.deepcopy(model).merge_and_unload()
    for module in block.modules:
        before, after = (
            each.get_submodule(module.name).weight.detach().double().numpy() for each in (base, merged)
        )
        update = after - before
        assert module.dora.fro_norm == pytest.approx(np.linalg.norm(update), rel=1e-5)
        assert module.dora.sigma_max == pytest.approx(np.linalg.norm(update, 2), rel=1e-2)
        assert module.frobenius == pytest.approx(np.linalg.norm(update) / np.linalg.norm(before), rel=1e-5)
        (wrapper,) = model.get_submodule(f"base_model.model.{module.name}").lora_magnitude_vector.values()
        start = np.linalg.norm(before, axis=0 if options.get("fan_in_fan_out") else 1)
        moved = np.linalg.norm(wrapper.weight.detach().double().numpy() - start) / np.linalg.norm(start)
        assert module.dora.magnitude == pytest.approx(moved, rel=1e-5)
    assert "‖m − m₀‖/‖m₀‖" in command("audit", tmp_path / "adapter", "--base-model", tmp_path / "base").out


# ---------------------------------------------------------------- Grouped convolutions


NOWHERE = TensorFile(Path(), -1, 0, {}, {})


def loaded(a: np.ndarray, b: np.ndarray, groups: int) -> LoadedPair:
    """The pair of a convolution: A (r, n), B (m, r/groups)."""
    f64 = DTYPES["F64"]
    factors = [
        Factor(name, NOWHERE, TensorEntry(f64, array.shape, 0, array.nbytes))
        for name, array in (("A", a), ("B", b))
    ]
    pair = LoraPair("conv", "conv", *factors, rank=len(a), rows=len(b), columns=a.shape[1], groups=groups)
    return LoadedPair(pair, a, b)


def dense(a: np.ndarray, b: np.ndarray, groups: int) -> np.ndarray:
    """ΔW, multiplied out group by group."""
    parts = zip(np.split(b, groups), np.split(a, groups), strict=True)
    return np.vstack([part_b @ part_a for part_b, part_a in parts])


def drawn(groups: int, width: int, height: int, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    a = generator.standard_normal((groups * width, n)) * 10.0 ** generator.uniform(-3, 3, (groups * width, 1))
    return a, generator.standard_normal((groups * height, width))


@settings(max_examples=60)
@given(st.integers(2, 9), st.integers(1, 5), st.integers(1, 6), st.integers(1, 40), st.integers(0, 99))
@example(2, 70, 300, 500, 0)
@example(700, 1, 1, 9, 0)
def test_the_singular_values_are_those_of_the_dense_update(groups, width, height, n, seed):
    a, b = drawn(groups, width, height, n, seed)
    measured = spectrum_of(loaded(a, b, groups))
    expected = np.linalg.svd(dense(a, b, groups), compute_uv=False)[: min(len(a), len(b), n)]
    assert len(measured.values) == len(expected)
    np.testing.assert_allclose(measured.scaled(), expected, rtol=0, atol=measured.error_bound * expected[0])
    assert measured.error_bound < 1e-6


# ---------------------------------------------------------------- Suggestions, given to PEFT


def ranks_and_scales(model) -> dict[str, tuple[int, float]]:
    applied = {}
    for name, layer in model.base_model.model.named_modules():
        if isinstance(layer, LoraLayer):
            parameter = getattr(layer, "parameter_name", None)
            full = f"{name.replace('.base_layer', '')}.{parameter}" if parameter else name
            applied[full] = (layer.r["default"], layer.scaling["default"])
    return applied


def uneven(model) -> None:
    """Updates that need another rank in every module: k directions of equal size in the k-th."""
    index = 0
    for name, parameter in model.named_parameters():
        if ("lora_B" in name or "lora_embedding_B" in name) and parameter.ndim > 1:
            parameter.data[:, 1 + index % parameter.shape[1] :] = 0
            index += 1


SUGGESTED = {
    **CASES,
    "dropout": Case(
        llama, config(target_modules=["q_proj"], lora_dropout=0.25, exclude_modules="model.layers.1..*")
    ),
    "a flat parameter alone": Case(
        qwen_moe, config(target_modules=[], target_parameters=["mlp.gate.weight"], r=2)
    ),
}


@pytest.mark.parametrize("name", SUGGESTED)
def test_the_suggested_config_trains_what_was_trained_at_the_suggested_ranks(name, tmp_path):
    """Paste the suggestion as a person would: the parameters and ranks are those suggested, and no scale changes."""
    case = SUGGESTED[name]

    def prepare(model):
        uneven(model)
        if case.prepare:
            case.prepare(model)

    save(fresh(case), case.config, tmp_path, prepare=prepare, dtype=torch.float64)
    report, original, pasted = audit_adapter(tmp_path), LoraConfig.from_pretrained(tmp_path), {}
    exec(lora_config_source(report), pasted)
    suggested = pasted["config"]
    models = []
    for lora in (original, suggested):
        lora.inference_mode = False
        with warned() as messages:
            models.append(get_peft_model(fresh(case), lora))
    # PEFT 0.21 looks for its keys among modules only: it calls those of parameters ignored, and applies them.
    assert original.target_parameters or not [text for text in messages if "_pattern" in text]
    before, after = (
        {name: each.numel() for name, each in model.named_parameters() if each.requires_grad}
        for model in models
    )
    assert after.keys() == before.keys()
    factors = [key for key in after if ".lora_" in key and not key.endswith(".bias")]
    assert sum(after[key] for key in factors) == report.suggestions.per_layer.params
    assert all(after[key] == before[key] for key in after if key not in factors)
    for field in ("lora_dropout", "bias", "use_rslora", "task_type", "fan_in_fan_out", "lora_bias"):
        assert getattr(suggested, field) == getattr(original, field)
    old, new = map(ranks_and_scales, models)
    pattern = {key[1:].replace("\\", ""): rank for key, rank in report.rank_pattern().items()}
    # The two parts of an attention have one name in a config.
    assert {name.replace(".base_layer.out_proj", ""): rank for name, (rank, _) in new.items()} == pattern
    assert {name: scale for name, (_, scale) in new.items()} == pytest.approx(
        {name: scale for name, (_, scale) in old.items()}, rel=1e-12
    )


# ---------------------------------------------------------------- Adapters whose start changed the base


def test_what_peft_saves_as_plain_lora_has_the_spectra_of_what_its_merge_adds(tmp_path):
    """The hint for PiSSA: PEFT converts the trained adapter into plain LoRA with the initial one."""
    torch.manual_seed(0)
    base = llama()
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS, init_lora_weights="pissa")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(copy.deepcopy(base), lora)
        start = model.peft_config["default"]
        start.init_lora_weights = True
        model.save_pretrained(tmp_path / "initial")
        start.init_lora_weights = "pissa"
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.data.add_(0.01 * torch.randn(parameter.shape))
        model.save_pretrained(tmp_path / "adapter")
        model.save_pretrained(
            tmp_path / "plain", path_initial_model_for_weight_conversion=str(tmp_path / "initial")
        )
    (refused,) = [
        row for row in audit_adapter(tmp_path / "adapter").findings if row.code == "init-not-update"
    ]
    assert "path_initial_model_for_weight_conversion" in refused.hint
    merged = copy.deepcopy(model).merge_and_unload()
    for layer in audit_adapter(tmp_path / "plain").layers:
        before, after = (each.get_submodule(layer.name).weight.detach().double() for each in (base, merged))
        expected = np.linalg.svd((after - before).numpy(), compute_uv=False)[: layer.r]
        got = np.asarray(layer.singular_values)
        # The merge and the change of the base are rounded to float32, relative to W.
        assert np.abs(got - expected[: len(got)]).max() < 2e-6, layer.name
