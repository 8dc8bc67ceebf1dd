"""A base folder with real, tiny, random models and a word-level tokenizer, and tasks that they can learn."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    set_seed,
)

from gradience.evaluate.engines.transformers.engine import TransformersEngine
from gradience.reports.bench_plan import Role
from gradience.tasks.base import ClassificationTask, GenerationTask
from gradience.tasks.examples import Examples, LabeledExample, PromptExample, content_id, prepare

SPECIAL = ["[PAD]", "[UNK]", "[END]"]
WORDS = [*SPECIAL, "good", "bad", "a", "film", "plot", "very", "is", "=", *map(str, range(20))]
ROLES: tuple[Role, ...] = ("train", "train", "train", "dev", "confirm")


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word."""
    words = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", eos_token="[END]"
    )


@contextmanager
def counted_loads() -> Iterator[list[int]]:
    """A list that gets an entry whenever a base is loaded."""
    loads: list[int] = []
    load = TransformersEngine.load
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            TransformersEngine, "load", classmethod(lambda cls, *a, **k: loads.append(1) or load(*a, **k))
        )
        yield loads


def bert(folder: Path) -> Path:
    """A classifier's base of two layers, without a head."""
    set_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    # A hundred times the usual variance: with so few numbers the words would hardly differ.
    config = BertConfig(vocab_size=len(WORDS), num_labels=2, initializer_range=0.2, **shape)
    model = BertForSequenceClassification(config)
    model.bert.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def llama(folder: Path, **changes: int) -> Path:
    """A causal model of two layers."""
    set_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": len(WORDS)}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    config = LlamaConfig(
        **{**shape, **heads, "pad_token_id": 0, "eos_token_id": 2, "bos_token_id": None, **changes}
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def sentences(count: int = 60) -> ClassificationTask:
    """Good or bad: the first word says it, and BERT's pooler looks at the first token."""
    items = [
        LabeledExample(
            id=content_id(str(place)),
            text=("good" if place % 2 else "bad") + " film" + " very" * (place % 4),
            label=place % 2,
            role=ROLES[place % 5],
        )
        for place in range(count)
    ]
    return ClassificationTask(name="sentences", examples=prepare(items), label_names=("bad", "good"))


def sums(count: int = 100) -> GenerationTask:
    """`3 4 = ` -> ` 7`, with one, two or three terms."""
    items = []
    for place in range(count):
        terms = [place % 7, place % 5, place % 3][: 1 + place % 3]
        prompt = f"{' '.join(map(str, terms))} is" + " very" * (place % 4) + " ="
        key = content_id(f"{place} {prompt}", exact=True)
        items.append(PromptExample(key, prompt, f" {sum(terms)}", str(sum(terms)), ROLES[place % 5]))
    return GenerationTask(
        name="sums",
        examples=Examples(tuple(sorted(items, key=lambda item: item.id)), {"rows": count}),
        filters={"first": lambda output: (output.split() or [None])[0]},
        same=lambda extracted, gold: extracted == gold,
        max_new_tokens=4,
    )


def gsm8k_values(base: Path | str, **changes: Any) -> dict[str, Any]:
    """A config of few steps on a causal base, as its YAML says it."""
    return {
        "model": {"name": str(base), "type": "causal_lm"},
        "task": {"profile": "gsm8k", "probe_gate": {"min_value": 0, "above_base": None}},
        "lora": {"probe_r": 4, "alpha": 8},
        "train": {
            "max_steps": 6,
            "lr": 1e-3,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 3,
        },
        "compression": {"variants": ["uniform_r2"], "controls": []},
        "runtime": {"device": "cpu"},
        **changes,
    }


class Watcher:
    """Remembers the stages, and breaks off where it is told to."""

    def __init__(self, stop_at: str = "") -> None:
        self.stages: list[str] = []
        self.stop_at = stop_at
        self.notes: list[str] = []
        self.plan = ""
        self.before_plan: list[str] = []
        """Stages that were made before the plan was there."""
        self.number = 0

    def stage(self, name: str, number: int, of: int | None) -> None:
        assert number in (self.number + 1, 1)  # from 1 again where all adapters are evaluated again
        assert (
            name in ("probe/train", "probe/eval", "base/eval", "audit", "calibration")
            if of is None
            else number <= of
        )
        self.number = number
        self.stages.append(name)
        if name == self.stop_at:
            raise KeyboardInterrupt

    def seed(self, seed: int, number: int, of: int) -> None:
        assert number <= of
        self.stages, self.number = [], 0

    def note(self, text: str) -> None:
        self.notes.append(text)

    def planned(self, text: str) -> None:
        self.plan, self.before_plan = text, [*self.stages]

    def step(self, done: int, total: int) -> None:
        assert 0 < done <= total
