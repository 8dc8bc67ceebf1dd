"""Adapters as a training leaves them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from command import KINDS, LAYERS


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory):
    """Checkpoints 100, 200 and 1000 of a tiny Llama whose LoRA learns a fixed batch, saved by PEFT."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=64,
    )
    lora = LoraConfig(r=8, lora_alpha=16, target_modules=list(KINDS), task_type="CAUSAL_LM")
    model = get_peft_model(LlamaForCausalLM(config), lora)
    folder = tmp_path_factory.mktemp("run")
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    tokens = torch.randint(0, 64, (4, 12))
    for step in range(1, 21):
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step in (2, 4, 20):
            model.save_pretrained(folder / f"checkpoint-{step * 50}")
    return folder


@pytest.fixture
def adapter(run_folder, tmp_path):
    """A copy that a test may spoil."""
    return Path(shutil.copytree(run_folder / "checkpoint-1000", tmp_path / "adapter"))
