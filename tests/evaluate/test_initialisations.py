"""Each `init_lora_weights` of PEFT, run: what the table of initializations says of B·A and of the base is what happens.

LoftQ alone is not run: it needs bitsandbytes.
"""

import typing
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from factory import edit_config
from peft import EvaConfig, LoraConfig, PeftModel, get_peft_model, initialize_lora_eva_weights
from peft.tuners.lora.config import CordaConfig, LoraGAConfig
from peft.tuners.lora.corda import preprocess_corda
from peft.tuners.lora.loraga import preprocess_loraga
from peft_models import llama
from raising import raises
from tiny_models import letters_tokenizer

from gradience import audit_adapter, compress_adapter, convert_adapter
from gradience.adapters.config import INITIALIZATIONS, initialization_of
from gradience.errors import InputError
from gradience.evaluate.engines.transformers.engine import TransformersEngine
from gradience.live.tracker import find_pairs, starts_at_zero

TOKENS = torch.arange(24).reshape(2, 12)
RUN: dict[str, dict[str, Any]] = {
    "true": {"init_lora_weights": True},
    "false": {"init_lora_weights": False},
    "eva": {"eva_config": EvaConfig()},
    "corda": {"corda_config": CordaConfig()},
    "lora_ga": {"lora_ga_config": LoraGAConfig()},
} | {name: {} for name in ("gaussian", "olora", "pissa", "pissa_niter_4", "orthogonal", "mica")}
LEAVE_THE_BASE = [name for name, start in INITIALIZATIONS.items() if start.keeps_base]
CHANGE_THE_BASE = [name for name in RUN if name not in LEAVE_THE_BASE]


class Start(NamedTuple):
    """A model before its first step. change: of the base's weights.   update: ‖B·A‖, the largest of all modules."""

    model: PeftModel
    change: float
    update: float


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """PEFT warns that a base is changed, and shows the progress of EVA."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def base() -> Any:
    torch.manual_seed(7)
    return llama().eval()


def start(name: str) -> Start:
    network = base()
    options = {"init_lora_weights": name} | RUN[name]
    config = LoraConfig(target_modules=["q_proj", "down_proj"], r=4, lora_alpha=8, **options)
    before = {key: weight.detach().clone() for key, weight in network.named_parameters()}
    if name == "corda":
        preprocess_corda(network, config, run_model=lambda: network(TOKENS[:1]))
    if name == "lora_ga":
        preprocess_loraga(network, config, lambda: network(TOKENS, labels=TOKENS).loss.backward())
    model = get_peft_model(network, config)
    if name == "eva":
        initialize_lora_eva_weights(model, dataloader=[{"input_ids": TOKENS}] * 3, show_progress_bar=False)
    after = {key.replace(".base_layer.", "."): weight for key, weight in network.named_parameters()}
    pairs, _ = find_pairs(model)
    return Start(
        model.eval(),
        max(float((after[key] - weight).detach().norm()) for key, weight in before.items()),
        max(float((pair.B @ pair.A).detach().norm()) for pair in pairs),
    )


def trained(name: str, folder: Path) -> PeftModel:
    """What `start` gives, its trainable factors moved, saved."""
    model = start(name).model
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(0.05 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    return model


def codes(report: Any) -> set[str]:
    return {finding.code for finding in report.findings}


def outputs(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=TOKENS).logits


def test_the_table_has_all_that_peft_has():
    declared = typing.get_type_hints(LoraConfig)["init_lora_weights"]
    names = {str(name) for part in typing.get_args(declared) for name in typing.get_args(part)}
    names = {"pissa_niter_4" if name.startswith("pissa_niter") else name for name in names}
    assert names | {"true", "false", "lora_ga"} == RUN.keys() | {"loftq"}
    assert {name for name in RUN if name != "pissa_niter_4"} | {"loftq"} == INITIALIZATIONS.keys()
    assert initialization_of("new_idea") is None


@pytest.mark.parametrize("name", RUN)
def test_the_table_says_what_peft_does_and_the_audit_what_is_in_the_file(name, tmp_path):
    said, measured = initialization_of(name), start(name)
    assert said is not None
    assert said.zero == (measured.update == 0)
    assert said.keeps_base == (measured.change == 0)
    assert starts_at_zero(measured.model, "default") == said.zero
    measured.model.save_pretrained(tmp_path)
    report = audit_adapter(tmp_path)
    assert {row.status for row in report.layers} == {"untrained" if said.zero else "ok"}
    assert ("untrained" in codes(report)) == said.zero
    assert report.suggestions is None


@pytest.mark.parametrize("name", LEAVE_THE_BASE)
def test_where_the_base_stays_the_file_is_the_update_and_is_compressed(name, tmp_path):
    """The best approximation of what PEFT computed in the training, at an odd rank, in a base that knows nothing."""
    model = trained(name, tmp_path / "probe")
    torch.testing.assert_close(outputs(PeftModel.from_pretrained(base(), tmp_path / "probe")), outputs(model))
    compress_adapter(tmp_path / "probe", tmp_path / "smaller", rank=3)
    smaller = PeftModel.from_pretrained(base(), tmp_path / "smaller")
    before, after = (
        {pair.name: pair.scale * pair.B @ pair.A for pair in find_pairs(m)[0]} for m in (model, smaller)
    )
    for module, update in before.items():
        lost = float((update - after[module]).detach().norm())
        values = np.linalg.svd(update.detach().numpy(), compute_uv=False)
        assert lost == pytest.approx(float(np.linalg.norm(values[3:])), rel=1e-3, abs=1e-6)
    assert ("init-noise" in codes(audit_adapter(tmp_path / "probe"))) != INITIALIZATIONS[name].zero


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("name", LEAVE_THE_BASE)
def test_where_the_base_stays_adapters_share_it(name, first, tmp_path):
    engine = TransformersEngine(base(), letters_tokenizer())
    if not first:
        trained("gaussian", tmp_path / "other")
        engine.add("other", tmp_path / "other")
    model = trained(name, tmp_path / "probe")
    engine.add("probe", tmp_path / "probe")
    with engine.using("probe") as network:
        torch.testing.assert_close(outputs(network), outputs(model))


@pytest.mark.parametrize("name", CHANGE_THE_BASE)
def test_where_the_base_changes_the_file_is_refused(name, tmp_path):
    """Its s·B·A on the base is another function than the one that was trained."""
    model = trained(name, tmp_path / "probe")
    report = audit_adapter(tmp_path / "probe")
    (finding,) = [finding for finding in report.findings if finding.code == "init-not-update"]
    assert (finding.severity, report.suggestions, report.rank_pattern()) == ("error", None, {})
    assert report.suggested_r_global_median is report.suggested_r_global_90 is None
    assert report.evidence == {}
    with raises(InputError, "init-not-update"):
        compress_adapter(tmp_path / "probe", tmp_path / "smaller", rank=3)
    with raises(InputError, "adapter-changes-base"):
        TransformersEngine(base(), letters_tokenizer()).add("probe", tmp_path / "probe")
    edit_config(tmp_path / "probe", init_lora_weights=True)
    plain = outputs(PeftModel.from_pretrained(base(), tmp_path / "probe"))
    assert not torch.allclose(plain, outputs(model), rtol=0, atol=1e-5)


# ---------------------------------------------------------------- formats beside PEFT's


@pytest.mark.parametrize(
    "fields",
    [
        {"use_qalora": True},
        {"alora_invocation_tokens": [1, 2]},
        {"layer_replication": [[0, 2], [0, 2]]},
        {"init_lora_weights": "new_idea"},
        {"init_lora_weights": "loftq"},
        *({"init_lora_weights": name} for name in CHANGE_THE_BASE),
    ],
    ids=str,
)
def test_what_is_not_the_trained_function_is_written_in_no_other_format(fields, tmp_path):
    trained("true", tmp_path / "probe")
    edit_config(tmp_path / "probe", **fields)
    with raises(InputError, "not-in-format") as caught:
        convert_adapter(tmp_path / "probe", tmp_path / "new", to="mlx")
    assert not (tmp_path / "new").exists()
    if fields.get("init_lora_weights") in CHANGE_THE_BASE:
        assert "path_initial_model_for_weight_conversion" in caught.value.hint
