"""Which modules PEFT saves whole for `modules_to_save`: our rule against PEFT itself."""

from __future__ import annotations

import pytest
from peft import LoraConfig, get_peft_model
from peft.utils.other import ModulesToSaveWrapper
from torch import nn

from gradience.adapters.patterns import SavedNames


class Network(nn.Module):
    """Names that end alike, and a head with layers of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleDict({name: nn.Linear(3, 3) for name in ("q", "head", "headed", "my_head")})
        self.pre_classifier, self.classifier = (
            nn.Linear(3, 3),
            nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)),
        )
        self.classifiers = nn.Linear(3, 3)


@pytest.mark.parametrize("names", [["classifier"], ["head"], ["body.head"], ["ead", "nothing"]])
def test_it_is_peft_s_rule(names: list[str]) -> None:
    model = get_peft_model(Network(), LoraConfig(target_modules=["q"], modules_to_save=list(names)))
    wrapped = [
        name.removeprefix("base_model.model.")
        for name, module in model.named_modules()
        if isinstance(module, ModulesToSaveWrapper)
    ]
    ours = {
        name for name, _ in Network().named_parameters() if SavedNames(names).find(name.rpartition(".")[0])
    }
    theirs = {
        name
        for name, _ in Network().named_parameters()
        if any(f"{name}.".startswith(f"{module}.") for module in wrapped)
    }
    assert ours == theirs != set()
