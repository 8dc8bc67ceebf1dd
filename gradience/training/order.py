"""The order of the training examples: drawn from the seed; where the recipe says so, those of like length together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers import Trainer
from transformers.trainer_pt_utils import get_length_grouped_indices

BY_LENGTH = "group_by_length"
"""What transformers calls it."""


class ByLength(Sampler[int]):
    """Groups of like length in another order for each epoch, which the seed and the number of the epoch decide.

    transformers' own sampler draws from torch's global state, so that a training which is resumed would see other
    examples than one that was left alone.
    """

    def __init__(self, lengths: Sequence[int], together: int, seed: int) -> None:
        """lengths: tokens of each example. together: examples of a step."""
        self.lengths, self.together, self.seed = list(lengths), together, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        places: list[int] = get_length_grouped_indices(  # type: ignore[no-untyped-call]
            self.lengths, self.together, generator=generator
        )
        return iter(places)

    def __len__(self) -> int:
        return len(self.lengths)


class OrderedTrainer(Trainer):
    """The Trainer, with `ByLength` where its arguments ask for groups of like length."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.args.train_sampling_strategy != BY_LENGTH:
            return super()._get_train_sampler(train_dataset)
        rows: Any = self.train_dataset if train_dataset is None else train_dataset
        args = self.args
        step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        return ByLength([len(row["input_ids"]) for row in rows], step, int(args.data_seed or 0))
