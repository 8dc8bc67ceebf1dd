"""Bases of tiny_bench on the disk, adapters of every kind for them, and rows to evaluate them on."""

import csv
from pathlib import Path

import tiny_bench
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, set_seed

from gradience.models.load import quiet

KINDS = {
    "reference": {},
    "other": {},
    "dora": {"use_dora": True},
    "rslora": {"use_rslora": True},
    "patterns": {
        "rank_pattern": {r"layer\.0\.attention\.self\.(query|value)": 2},
        "alpha_pattern": {"layer.1.attention.self.query": 5},
    },
}
TARGETS = {"SEQ_CLS": ["query", "value"], "CAUSAL_LM": ["q_proj", "v_proj"]}
ROWS = 60
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
KEPT = RESULTS / "minilm_evaluation" / "evaluation.json"
"""The bundled adapter and two truncations of it, evaluated."""
LABELS = "label bad is class 0, label good is class 1; if your head orders them differently, set --option label_names=…"
"""What is noted of the rows of `classifiers` if no label names are given."""


def adapter(
    folder: Path,
    base: Path,
    seed: int,
    *,
    task: str = "SEQ_CLS",
    labels: int = 2,
    falling: bool = False,
    **config,
) -> Path:
    """An adapter with random factors and, of a classifier, a random head. falling: components differ in size."""
    set_seed(seed)
    with quiet():
        if task == "SEQ_CLS":
            model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=labels)
        else:
            model = AutoModelForCausalLM.from_pretrained(base)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": TARGETS[task], "init_lora_weights": False}
    peft = get_peft_model(model, LoraConfig(task_type=task, **{**settings, **config}))
    with torch.no_grad():
        for name, weight in peft.named_parameters():
            if "lora_B" in name:
                size = 4 * 0.5 ** torch.arange(weight.shape[1]) if falling else 20.0
                weight.mul_(0.0 if config.get("init_lora_weights") is True else size)
    peft.save_pretrained(folder, save_embedding_layers=False)
    return folder


def classifiers(root: Path) -> Path:
    """A base in `base`, an adapter of each kind, and `rows.csv`."""
    tiny_bench.bert(root / "base")
    for seed, (name, config) in enumerate(KINDS.items()):
        adapter(root / name, root / "base", seed, **config)
    words = tiny_bench.WORDS[3:8]
    with (root / "rows.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        for place in range(ROWS):
            text = " ".join(words[(place // 5**power) % 5] for power in range(3))
            rows.writerow([text, ["bad", "good"][place * 7 % 3 % 2]])
    return root


def writers(root: Path) -> Path:
    """A causal base in `base`, two adapters, and the task in `task.py`."""
    tiny_bench.llama(root / "base")
    for seed, name in enumerate(("reference", "other")):
        adapter(root / name, root / "base", seed, task="CAUSAL_LM")
    (root / "task.py").write_text("from tiny_bench import sums\n\n\ndef load():\n    return sums()\n")
    return root
