"""Training inputs from examples: token ids, and labels only on the response.

An example's labels are -100 (ignored by the loss) on the prompt and on padding, and the token itself on the
response and on the end token after it. So the loss covers only answers, and the model learns to stop.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gradience.digests import sha256_parts
from gradience.errors import InputError, UsageError
from gradience.models.settings import ModelSettings
from gradience.models.tokenizers import encode_pair
from gradience.tasks.base import ClassificationTask, Task
from gradience.tasks.examples import LabeledExample, PromptExample
from gradience.words import counted

IGNORED = -100
"""The label that PyTorch's cross entropy leaves out."""

Features = dict[str, Any]


@dataclass(frozen=True, slots=True)
class EncodedExamples:
    """The examples as features, and how many did not fit."""

    features: list[Features]
    truncated: int
    left_out: int

    @property
    def tokens(self) -> int:
        """Tokens of one pass, without padding."""
        return sum(len(row["input_ids"]) for row in self.features)


def labels_of(task: Task, model: ModelSettings) -> int | None:
    """Return the number of labels; None for a task whose answers are generated.

    Raises UsageError (`task-model`) when task and model do not fit together.
    """
    classifies = isinstance(task, ClassificationTask)
    if classifies != (model.type == "seqcls"):
        raise UsageError(
            f"model.type is {model.type}, but the task {task.name} needs"
            f" {'seqcls' if classifies else 'causal_lm'}",
            code="task-model",
            hint="set model.type to that, or choose another task",
        )
    return len(task.label_names) if isinstance(task, ClassificationTask) else None


def encode(tokenizer: Any, task: Task, examples: Sequence[Any], max_length: int) -> EncodedExamples:
    """Return the examples as features. Raises InputError (`no-examples`) when none fits."""
    encode_all = encode_labeled if isinstance(task, ClassificationTask) else encode_prompts
    encoded = encode_all(tokenizer, examples, max_length)
    if not encoded.features:
        raise InputError(
            f"{task.name}: nothing to train on: {counted(len(examples), 'training example')},"
            f" {encoded.left_out} of them longer than {max_length} tokens",
            code="no-examples",
            hint="raise train.max_length, or add data",
        )
    return encoded


def encode_labeled(tokenizer: Any, examples: Sequence[LabeledExample], max_length: int) -> EncodedExamples:
    """Return texts cut at `max_length` tokens, each with its label."""
    texts = [example.text for example in examples]
    pairs = [example.text_pair for example in examples]
    arguments = {"text_pair": pairs} if any(pair is not None for pair in pairs) else {}
    whole = tokenizer(texts, **arguments, truncation=False, verbose=False)["input_ids"]
    cut = tokenizer(texts, **arguments, truncation=True, max_length=max_length)
    rows = [{key: cut[key][i] for key in cut} | {"labels": row.label} for i, row in enumerate(examples)]
    return EncodedExamples(rows, truncated=sum(len(ids) > max_length for ids in whole), left_out=0)


def encode_prompts(tokenizer: Any, examples: Sequence[PromptExample], max_length: int) -> EncodedExamples:
    """Return prompt, response and end token; what is longer than `max_length` is left out, not cut.

    Half a solution would teach the model to stop before the answer.
    """
    rows: list[Features] = []
    for example in examples:
        prompt, response = encode_pair(tokenizer, example.prompt, example.response)
        if len(prompt) + len(response) <= max_length:
            ids = prompt + response
            labels = [IGNORED] * len(prompt) + response
            rows.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels})
    return EncodedExamples(rows, truncated=0, left_out=len(examples) - len(rows))


class Collator:
    """Pads a batch on the right to its longest row, and remembers the digest of its first batch."""

    def __init__(self, tokenizer: Any) -> None:
        """`tokenizer` gives the padding token and nothing else."""
        self._fill = {"input_ids": tokenizer.pad_token_id, "labels": IGNORED}
        self.first_batch: str | None = None

    def __call__(self, rows: Sequence[Features]) -> dict[str, torch.Tensor]:
        """Tensors of shape (rows, longest row); the labels of a classification have shape (rows,)."""
        batch = {key: self._column([row[key] for row in rows], self._fill.get(key, 0)) for key in rows[0]}
        if self.first_batch is None:
            self.first_batch = sha256_parts(batch[key].numpy().tobytes() for key in ("input_ids", "labels"))
        return batch

    @staticmethod
    def _column(values: Sequence[Any], fill: int) -> torch.Tensor:
        if isinstance(values[0], int):
            return torch.tensor(values)
        width = max(len(value) for value in values)
        return torch.tensor([[*value, *[fill] * (width - len(value))] for value in values])
