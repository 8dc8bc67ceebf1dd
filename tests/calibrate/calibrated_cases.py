"""Adapters on the disk and rows for them."""

from typing import NamedTuple

import numpy as np
import tiny_bench
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    set_seed,
)

from gradience.models.load import quiet

TARGETS = {"SEQ_CLS": ["query", "value", "output.dense"], "CAUSAL_LM": ["q_proj", "v_proj", "down_proj"]}


class Case(NamedTuple):
    base: object
    adapter: object
    prompts: object
    calibration: object
    """The path of the file."""


def adapter(folder, base, task: str, **config):
    """Trained factors whose components differ in size."""
    set_seed(3)
    with quiet():
        if task == "SEQ_CLS":
            model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
        else:
            kind = AutoModelForSeq2SeqLM if task == "SEQ_2_SEQ_LM" else AutoModelForCausalLM
            model = kind.from_pretrained(base)
    settings = {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": TARGETS.get(task),
        "init_lora_weights": False,
        **config,
    }
    peft = get_peft_model(model, LoraConfig(task_type=task, **settings))
    with torch.no_grad():
        for name, weight in peft.named_parameters():
            if "lora_B" in name:
                weight.mul_(4 * 0.5 ** torch.arange(weight.shape[1]))
    peft.save_pretrained(folder, save_embedding_layers=False)
    return folder


def texts(count: int) -> list[str]:
    """Different ones."""
    draw = np.random.default_rng(0)
    drawn: dict[str, None] = {}
    while len(drawn) < count:
        drawn.setdefault(" ".join(draw.choice(tiny_bench.WORDS[3:9], size=draw.integers(2, 9))))
    return list(drawn)
