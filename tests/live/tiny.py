"""A real, tiny, random causal model with a LoRA adapter that PEFT makes: seconds on a CPU."""

import torch
from peft import LoraConfig, get_peft_model
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, set_seed

from gradience.telemetry import TelemetryReader

ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def llama(seed=0, **changes):
    """A Llama of two layers and 64 tokens, initialized with `seed`."""
    set_seed(seed)
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 64}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    return LlamaForCausalLM(LlamaConfig(**{**size, **heads, **changes}))


def lora_llama(seed=0, **lora):
    """The same with an adapter: r = 8, α = 16 on all linear layers unless told otherwise."""
    config = {"r": 8, "lora_alpha": 16, "target_modules": ALL_LINEAR, "task_type": "CAUSAL_LM"}
    return get_peft_model(llama(seed), LoraConfig(**{**config, **lora}))


def give_random_factors(model):
    """Factors as training leaves them: no B at zero, energies that fall."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name and "magnitude" not in name:
                values = torch.randn(parameter.shape, generator=generator)
                if "lora_B" in name or "embedding_B" in name:
                    values *= 0.5 ** torch.arange(values.shape[1]).view(1, -1, *[1] * (values.ndim - 2))
                parameter.copy_(values)
    return model


class Tokens(Dataset):
    """Sequences that follow one rule (next = 3·x + 1 modulo 61), so that a loss can fall."""

    def __init__(self, rows=64, length=12, seed=3):
        start = torch.randint(0, 61, (rows,), generator=torch.Generator().manual_seed(seed))
        columns = [start]
        for _ in range(length - 1):
            columns.append((3 * columns[-1] + 1) % 61)
        self.rows = torch.stack(columns, dim=1)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return {"input_ids": self.rows[index], "labels": self.rows[index]}


def trainer(folder, model=None, callbacks=(), eval_rows=0, **arguments):
    """A real Trainer over `Tokens` with settings that make runs repeatable."""
    settings = {
        "max_steps": 12, "logging_steps": 1, "per_device_train_batch_size": 4, "learning_rate": 5e-3,
        "report_to": [], "save_strategy": "no", "seed": 7, "use_cpu": True, "disable_tqdm": True,
    }  # fmt: skip
    return Trainer(
        model=model if model is not None else lora_llama(),
        args=TrainingArguments(output_dir=str(folder), **{**settings, **arguments}),
        train_dataset=Tokens(),
        eval_dataset=Tokens(eval_rows, seed=9) if eval_rows else None,
        callbacks=list(callbacks),
    )


def losses(run):
    return [entry["loss"] for entry in run.state.log_history if "loss" in entry]


def weights(run):
    return {name: value.clone() for name, value in run.model.state_dict().items() if "lora_" in name}


def records(path, event=None, kind=None):
    matching = [r for r in TelemetryReader(path) if event in (None, r.event)]
    return [r for r in matching if kind is None or r.text("kind") == kind]


def assert_same_weights(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name
