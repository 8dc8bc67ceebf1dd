"""Models to train on."""

import pytest
from tiny_bench import bert, llama

from gradience.models.settings import ModelSettings


@pytest.fixture(scope="module")
def causal(tmp_path_factory):
    return ModelSettings(name=str(llama(tmp_path_factory.mktemp("llama"))), type="causal_lm")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return ModelSettings(name=str(bert(tmp_path_factory.mktemp("bert"))))
