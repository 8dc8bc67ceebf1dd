"""One tiny causal base with adapters of every kind that may share it."""

import pytest
from tiny_models import letters_tokenizer, llama, llama_adapter

from gradience.evaluate.engines.transformers.engine import TransformersEngine

KINDS = {
    "plain": {},
    "dora": {"use_dora": True},
    "rslora": {"use_rslora": True, "r": 8},
    "with_head": {"modules_to_save": ["lm_head"]},
}


@pytest.fixture(scope="session")
def adapter_folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("adapters")
    return {
        name: llama_adapter(root / name, seed, **kind) for seed, (name, kind) in enumerate(KINDS.items(), 1)
    }


@pytest.fixture
def engine(adapter_folders):
    engine = TransformersEngine(llama(), letters_tokenizer())
    for name, folder in adapter_folders.items():
        engine.add(name, folder)
    return engine
