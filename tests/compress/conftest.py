"""Adapters of every kind, made and loaded once for all tests of compression."""

from functools import cache

import pytest
import torch
from peft_cases import CASES, fresh, load, outputs
from peft_models import peft_updates, save


@pytest.fixture(scope="session")
def originals(tmp_path_factory):
    """Name -> (case, folder, PEFT's warnings when it loads the adapter, ΔW, outputs)."""

    @cache
    def original(name: str):
        case, folder = CASES[name], tmp_path_factory.mktemp(name)
        save(fresh(case), case.config, folder, prepare=case.prepare, dtype=torch.float64)
        model, messages = load(case, folder)
        return case, folder, messages, peft_updates(model), outputs(model)

    return original
