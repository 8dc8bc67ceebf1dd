"""Every model that a shipped config names, of its own architecture and scaled down, and data for every task.

The weights are random; modules have the names that the configs' `target_modules` rely on. Heads are missing from the
checkpoints, as they are from the real ones.
"""

import json
from collections.abc import Callable
from pathlib import Path

from data_files import write_jsonl
from gsm8k_cases import QUESTIONS
from tiny_bench import WORDS, bert, llama, tokenizer
from transformers import (
    DistilBertConfig,
    DistilBertModel,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    set_seed,
)

from gradience.bench.config import BenchConfig

SENTENCES = [
    f"{what} film {number} is {('bad', 'good')[number % 2]}"
    for number in range(60)
    for what in ("a", "the", "my", "this")
]


def save(model: PreTrainedModel, folder: Path) -> None:
    model.save_pretrained(folder)
    reader = tokenizer()
    reader.model_input_names = ["input_ids", "attention_mask"]
    reader.save_pretrained(folder)


def distilbert(folder: Path) -> None:
    save(
        DistilBertModel(
            DistilBertConfig(vocab_size=len(WORDS), dim=32, n_layers=2, n_heads=4, hidden_dim=48)
        ),
        folder,
    )


def smollm2(folder: Path) -> None:
    """Grouped queries, one matrix for embeddings and output."""
    llama(folder, max_position_embeddings=1024, tie_word_embeddings=True)


def mistral(folder: Path) -> None:
    """Grouped queries and a sliding window as in Mistral-7B, a hundred thousandth of its weights."""
    config = MistralConfig(
        vocab_size=len(WORDS), hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, sliding_window=512, bos_token_id=None, eos_token_id=2,
    )  # fmt: skip
    save(MistralForCausalLM(config), folder)


MODELS: dict[str, Callable[[Path], object]] = {
    "distilbert-base-uncased": distilbert,
    "embedded:minilm": bert,
    "embedded:smollm2": smollm2,
    "mistralai/Mistral-7B-v0.1": mistral,
}


def base_of(name: str, folder: Path) -> Path:
    """The model `name` on a small scale, in a folder below `folder` that is made once."""
    target = folder / name.rpartition("/")[2].replace(":", "_")
    if not target.exists():
        set_seed(0)
        MODELS[name](target)
    return target


def data_of(profile: str, folder: Path) -> list[str]:
    """Overrides that make a task read files in `folder` instead of the hub or the package index."""
    if profile == "glue":
        rows = [{"sentence": text, "label": place // 4 % 2} for place, text in enumerate(SENTENCES)]
        train = write_jsonl(folder / "sst2_train.jsonl", rows[60:])
        confirm = write_jsonl(folder / "sst2_validation.jsonl", rows[:60])
        return _options(subset="sst2", train_file=str(train), validation_file=str(confirm))
    if profile == "reviews":
        path = folder / "reviews.txt"
        lines = [f"{place}\t{(-2.5, 2.5)[place // 4 % 2]}\t{text}" for place, text in enumerate(SENTENCES)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return _options(path=str(path))
    train = write_jsonl(folder / "gsm8k_train.jsonl", QUESTIONS[6:])
    confirm = write_jsonl(folder / "gsm8k_test.jsonl", QUESTIONS[:6])
    files = _options(train_file=str(train), test_file=str(confirm))
    # The generator of `arithmetic` is a package of the extra [demo], which the tests do without.
    return [*files, "task.profile=gsm8k", "train.max_length=512"] if profile == "arithmetic" else files


def _options(**options: str) -> list[str]:
    return [f"task.options={json.dumps(options)}"]


def scaled_down(config: BenchConfig, folder: Path) -> list[str]:
    """Overrides of a shipped config: its own architecture, task, recipe, variants and controls, and a few steps."""
    changes = [
        *data_of(config.task.profile, folder),
        f"model.name={base_of(config.model.name, folder)}",
        "task.eval_samples=4",
        "task.probe_gate.min_value=0",
        "task.probe_gate.above_base=null",
        "train.max_steps=2",
        "train.per_device_train_batch_size=2",
        "runtime.device=cpu",
        "runtime.threads=1",
    ]
    if config.compression.calibration is not None:
        changes.append("compression.calibration.rows=16")
    if config.compression.distillation is not None:
        changes.append("compression.distillation.rows=32")
    return [*changes, "task.generation.max_new_tokens=6"] if config.model.type == "causal_lm" else changes
