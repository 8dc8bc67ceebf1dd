"""What is said of LoHa and LoKr is true: PEFT makes a LoRA of them, and that is audited as the same update."""

import numpy as np
import peft
import pytest
import torch

from gradience import audit_adapter
from gradience.adapters.formats import open_adapter
from gradience.adapters.tensors import decode
from gradience.errors import InputError

pytestmark = pytest.mark.conformance
METHODS = {"LoHa": peft.LoHaConfig, "LoKr": peft.LoKrConfig}


@pytest.mark.parametrize("method", METHODS)
def test_peft_makes_a_lora_of_it(method, tmp_path):
    torch.manual_seed(0)
    base = torch.nn.Sequential(torch.nn.Linear(12, 8))
    config = METHODS[method](r=2, alpha=4, target_modules=["0"], init_weights=False)
    model = peft.get_peft_model(base, config)
    model.save_pretrained(tmp_path / "method")
    with pytest.raises(InputError) as caught:
        audit_adapter(tmp_path / "method")
    assert caught.value.code == "other-method"
    assert "peft.save_as_lora(FOLDER, model, rank)" in caught.value.hint
    peft.save_as_lora(tmp_path / "lora", model, 8)
    with open_adapter(tmp_path / "lora") as opened:
        (pair,) = opened.pairs
        loaded = pair.load()
        update = pair.scale * decode(loaded.words_B()) @ decode(loaded.words_A()).T
    expected = model.base_model.model[0].get_delta_weight("default").detach().numpy()
    np.testing.assert_allclose(update, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)
