"""Real TRL trainers on a tiny model of 64 words: supervised, preferences, and reinforcement learning.

python -m tests.conformance.tiny_trl [NAME...]    trains the scenarios and writes tests/monitor/runs/<name>.jsonl

The files are what the callback wrote; nobody edits them. Needs `make conformance`'s environment (TRL).
"""

import copy
import importlib
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import Trainer, TrainingArguments

from tests.live.tiny import ALL_LINEAR, Tokens, llama

EOS, PAD = 62, 63
SETTINGS = {
    "logging_steps": 1, "report_to": [], "save_strategy": "no", "seed": 7, "use_cpu": True, "bf16": False,
    "disable_tqdm": True, "gradient_checkpointing": False,
}  # fmt: skip


def lora(**changes):
    """The adapter all of them train."""
    config = {"r": 4, "lora_alpha": 8, "target_modules": ALL_LINEAR, "task_type": "CAUSAL_LM"}
    return LoraConfig(**{**config, **changes})


def tokenizer():
    """A word for each of 64 tokens, so that trainers have a tokenizer to ask."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {f"w{i}": i for i in range(EOS)} | {"<eos>": EOS, "<pad>": PAD}
    words_of = Tokenizer(models.WordLevel(words, unk_token="w0"))
    words_of.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words_of, eos_token="<eos>", pad_token="<pad>")


def speaker(folder):
    """A base that was trained to say four to eight words and stop."""
    dice = torch.Generator().manual_seed(3)
    rows = []
    for _ in range(256):
        length = int(torch.randint(6, 10, (1,), generator=dice))
        words = [*torch.randint(0, 20, (length,), generator=dice).tolist(), EOS]
        padding = [PAD] * (11 - len(words))
        rows.append(
            {
                "input_ids": words + padding,
                "attention_mask": [1] * len(words) + [0] * len(padding),
                "labels": words + [-100] * len(padding),
            }
        )
    model = llama(pad_token_id=PAD, eos_token_id=EOS)
    args = TrainingArguments(
        output_dir=str(folder),
        max_steps=150,
        learning_rate=5e-3,
        per_device_train_batch_size=32,
        **SETTINGS,
    )
    Trainer(model=model, args=args, train_dataset=rows).train()
    return model


def shared(model, callbacks, adapter=None):
    """Return the arguments that all trainers share, with a copy of the model."""
    return {
        "model": copy.deepcopy(model),
        "processing_class": tokenizer(),
        "peft_config": adapter or lora(),
        "callbacks": callbacks,
    }


def brevity(completions, **kwargs):
    """Reward shorter completions (up to 24 words), a goal that the model can reach."""
    return [1 - len(text.split()) / 24 for text in completions]


def grpo(folder, model, callbacks, **arguments):
    trl = importlib.import_module("trl")
    settings = {
        "max_steps": 60, "learning_rate": 1e-2, "per_device_train_batch_size": 16, "num_generations": 8,
        "max_completion_length": 24, "beta": 0.04, "lr_scheduler_type": "constant", "logging_steps": 2,
    }  # fmt: skip
    return trl.GRPOTrainer(
        reward_funcs=brevity,
        args=trl.GRPOConfig(output_dir=str(folder), **{**SETTINGS, **settings, **arguments}),
        train_dataset=Dataset.from_list([{"prompt": f"w{i % 20} w{(7 * i) % 20}"} for i in range(32)]),
        **shared(model, callbacks),
    )


def dpo(folder, model, callbacks, **arguments):
    trl = importlib.import_module("trl")
    rows = [
        {"prompt": f"w{i % 20} ", "chosen": f"w{(i + 1) % 20} w3 w3", "rejected": f"w{(i + 5) % 20} w9 w9"}
        for i in range(64)
    ]
    settings = {
        "max_steps": 40, "learning_rate": 1e-3, "per_device_train_batch_size": 8, "max_length": 16,
        "logging_steps": 2, "eval_strategy": "steps", "eval_steps": 20,
    }  # fmt: skip
    return trl.DPOTrainer(
        args=trl.DPOConfig(output_dir=str(folder), **{**SETTINGS, **settings, **arguments}),
        train_dataset=Dataset.from_list(rows[:48]),
        eval_dataset=Dataset.from_list(rows[48:]),
        **shared(model, callbacks),
    )


def sft(folder, model, callbacks, adapter=None, **arguments):
    trl = importlib.import_module("trl")
    rows = [{"input_ids": row["input_ids"].tolist()} for row in Tokens(rows=256)]
    settings = {
        "max_steps": 60, "learning_rate": 1e-2, "per_device_train_batch_size": 8, "max_length": 16,
        "logging_steps": 2, "eval_strategy": "steps", "eval_steps": 20,
        "dataset_kwargs": {"skip_prepare_dataset": True}, "pad_token": None,
    }  # fmt: skip
    return trl.SFTTrainer(
        args=trl.SFTConfig(output_dir=str(folder), **{**SETTINGS, **settings, **arguments}),
        train_dataset=Dataset.from_list(rows[:192]),
        eval_dataset=Dataset.from_list(rows[192:]),
        **shared(model, callbacks, adapter),
    )


SCENARIOS = {"sft": sft, "dpo": dpo, "grpo": grpo}


def train(name, folder, model):
    """Run one scenario; its log is `folder/run.jsonl`."""
    from gradience.live.callback import GradienceCallback

    run = SCENARIOS[name](folder, model, [GradienceCallback(notes=f"{name}, a model of 64 words")])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run.train()
    return run


def write_fixtures(names):
    runs = Path(__file__).resolve().parent.parent / "monitor" / "runs"
    with tempfile.TemporaryDirectory() as folder:
        model = speaker(Path(folder) / "base")
        for name in names or SCENARIOS:
            train(name, Path(folder) / name, model)
            (runs / f"{name}.jsonl").write_bytes((Path(folder) / name / "run.jsonl").read_bytes())


if __name__ == "__main__":
    write_fixtures(sys.argv[1:])
