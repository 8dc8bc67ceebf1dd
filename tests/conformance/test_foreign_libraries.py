"""The libraries of other formats themselves: what they write now is read as they compute it."""

from importlib import import_module

import numpy as np
import peft
import pytest
import torch
from raising import raises
from test_foreign import FOLDER, adapter_in, updates

from gradience import audit_adapter
from gradience.adapters.formats import open_adapter
from gradience.adapters.tensors import decode
from gradience.errors import InputError

pytestmark = pytest.mark.conformance
WRITERS = {
    "mlx_lm": ("mlx_adapters", ("mlx", "mlx-bf16")),
    "diffusers": ("image_adapters", ("diffusers", "diffusers-old", "kohya")),
    "gguf": ("gguf_adapters", ("gguf-f32", "gguf-f16")),
}


@pytest.mark.parametrize("library", WRITERS)
@pytest.mark.filterwarnings("default")
def test_what_a_library_writes_today(library, tmp_path):
    pytest.importorskip(library, reason="needs the dependency group `conformance`")
    name, kinds = WRITERS[library]
    writer = import_module(f"conformance.{name}")
    for kind in kinds:
        folder = tmp_path / kind
        writer.write(folder, kind)
        computed, tolerance = updates(adapter_in(folder))
        expected = dict(np.load(folder / "expected.npz"))
        assert computed.keys() == expected.keys() == updates(adapter_in(FOLDER / kind))[0].keys()
        for module, update in expected.items():
            size = tolerance * np.abs(update).max()
            np.testing.assert_allclose(computed[module].reshape(update.shape), update, atol=size, rtol=0)


# ---------------------------------------------------------------- What is said of LoHa and LoKr is true


METHODS = {"LoHa": peft.LoHaConfig, "LoKr": peft.LoKrConfig}


@pytest.mark.parametrize("method", METHODS)
def test_peft_makes_a_lora_of_it(method, tmp_path):
    torch.manual_seed(0)
    base = torch.nn.Sequential(torch.nn.Linear(12, 8))
    config = METHODS[method](r=2, alpha=4, target_modules=["0"], init_weights=False)
    model = peft.get_peft_model(base, config)
    model.save_pretrained(tmp_path / "method")
    with raises(InputError, "other-method") as caught:
        audit_adapter(tmp_path / "method")
    assert "peft.save_as_lora(FOLDER, model, rank)" in caught.value.hint
    peft.save_as_lora(tmp_path / "lora", model, 8)
    with open_adapter(tmp_path / "lora") as opened:
        (pair,) = opened.pairs
        loaded = pair.load()
        update = pair.scale * decode(loaded.words_B()) @ decode(loaded.words_A()).T
    expected = model.base_model.model[0].get_delta_weight("default").detach().numpy()
    np.testing.assert_allclose(update, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)
