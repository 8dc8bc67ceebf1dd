"""The interface of an engine, and what it returns. Everything else in `evaluate` works through it. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from gradience.digests import sha256_file
from gradience.errors import InputError
from gradience.files.records import StopReason
from gradience.models.settings import ModelSettings
from gradience.reading import MAX_SETTINGS_BYTES


@dataclass(frozen=True, slots=True)
class AdapterIdentity:
    """An adapter's folder, and digests of the two files in it that decide what it does."""

    folder: Path
    weights_sha256: str
    config_sha256: str

    @classmethod
    def of(cls, folder: Path) -> AdapterIdentity:
        """Hash the files of `folder`. Raises InputError (`no-such-adapter`) when one of them is not there."""
        weights, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
        digests = _digest(weights), _digest(config, limit=MAX_SETTINGS_BYTES)
        return cls(folder, *digests)


@dataclass(frozen=True, slots=True)
class Classified:
    """What a classifier says of one text or pair of texts."""

    logits: NDArray[np.float32]
    """Shape (labels,)."""
    truncated: bool
    """Whether the text was longer than allowed."""


@dataclass(frozen=True, slots=True)
class Output:
    """What was written behind one prompt."""

    text: str
    """Without the end token, up to the first stop string; other special tokens stay visible."""
    n_tokens: int
    """How many were generated, the end token or those of the stop string included."""
    stopped_by: StopReason
    truncated: bool
    """Whether the prompt was cut: it lost its beginning, of an encoder–decoder its end."""


@dataclass(frozen=True, slots=True)
class Score:
    """One response under one model; sums over its tokens and the end token if that counts, in nats."""

    loglikelihood: float
    n_tokens: int
    exact: bool
    """Whether each of the tokens is the most likely one."""
    kl: float | None
    """KL(reference ‖ adapter); None without a reference."""
    flips: int | None
    """Tokens at which another one is the most likely than under the reference; None without a reference."""
    truncated: bool
    """Whether the prompt was cut: it lost its beginning, of an encoder–decoder its end."""


class OutOfMemoryError(MemoryError):
    """The device has no room for a model, an adapter or a batch. Its text is the first line of what torch said."""

    divisible = False
    """Whether it was a batch of several examples."""


class Engine(Protocol):
    """Answers batches of examples with one base model and any number of LoRA adapters.

    Adapters go by name; the name None is the base alone. Equal batches give equal answers, whichever adapters are
    loaded beside and whatever was answered before. What the device has no room for raises OutOfMemoryError and leaves
    everything as it was.
    """

    name: ClassVar[str]
    """What it is registered as; it stands in every header of records and in the key of every evaluation."""
    batches_at_once: ClassVar[int] = 1
    """How many batches it is handed at once: one that decides by itself what it computes together is handed more."""
    on_part: Callable[[float], None] | None = None
    """Called with the share of the batch in hand that is answered, by an engine that takes long over one; others need
    not."""
    tokens: int
    """Read and written so far, without padding; for the progress alone, so that an engine may leave it at 0."""

    @classmethod
    def load(cls, model: ModelSettings, *, labels: int | None = None, device: str = "auto") -> Self:
        """Load the base: with `labels` a sequence classifier, else the language model that `model.type` says."""

    @classmethod
    def numerics(cls, device: str = "auto") -> dict[str, Any]:
        """What may move an answer on equal inputs, without loading anything: `device`, `threads` and `versions`.

        Evaluations are compared only where these agree (fields of `ExamplesRun`).
        """

    @classmethod
    def check(cls, model: ModelSettings, *, labels: int | None = None) -> None:
        """Refuse what it cannot do, before anything is trained or loaded."""

    @classmethod
    def decides(cls) -> dict[str, Any]:
        """What of it stands in the key of every evaluation, beside its name."""
        return {}

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the header says of engine and base: the fields of `ExamplesRun` from `engine` to `versions`."""

    @property
    def classifies(self) -> bool:
        """Whether the base is a classifier (else it is a language model)."""

    @property
    def max_length(self) -> int | None:
        """How many tokens the base can tell apart; None where its configuration does not say so."""

    @property
    def adapters(self) -> Mapping[str, AdapterIdentity]:
        """Name -> folder and digests of each adapter that is loaded."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text with its special ones: what a batch of them weighs."""

    @property
    def divergence(self) -> Engine:
        """The engine that measures KL and flips with the same adapters: itself, or where it cannot, another one."""
        return self

    def verify(self, names: Sequence[str | None], prompts: Sequence[str], max_length: int | None) -> None:
        """Refuse adapters that it would not compute as PEFT does, before any score; nothing where it is PEFT's."""

    def expect(self, folders: Iterable[Path]) -> None:
        """Make room at once for the adapters in `folders`, which will be added; nothing where none is set aside."""

    def add(self, name: str, folder: Path) -> None:
        """Load the PEFT adapter in `folder`. Raises UsageError (`adapter-name`) when the name is taken."""

    def remove(self, name: str) -> None:
        """Forget the adapter `name` and free its memory."""

    def classify(
        self,
        name: str | None,
        texts: Sequence[tuple[str, str | None]],
        *,
        max_length: int | None,
        lora: bool = True,
    ) -> list[Classified]:
        """Logits of each text or pair of texts, of which `max_length` tokens are read.

        lora=False: the adapter's head alone, ΔW = 0.
        """

    def generate(
        self,
        name: str | None,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        stop: Sequence[str] = (),
        max_length: int | None = None,
    ) -> list[Output]:
        """What is written behind each prompt, greedily; max_length: tokens of prompt and output together (of an
        encoder–decoder of each)."""

    def score(
        self,
        names: Sequence[str | None],
        pairs: Sequence[tuple[str, str]],
        *,
        reference: str | None = None,
        max_length: int | None = None,
        end: bool = True,
        rolling: bool = False,
    ) -> list[list[Score]]:
        """Scores of the (prompt, response) pairs under each of `names`, with KL and flips against `reference`.

        end: whether the end token behind a response counts. Without a prompt a response follows the begin token.
        rolling: responses are whole texts without prompts and without end tokens, of any length: what is longer than
        `max_length` is read in windows, each of which begins behind the last token of the one before.
        """

    def close(self) -> None:
        """Free the memory of the base; nothing can be answered afterwards."""


def _digest(path: Path, limit: int | None = None) -> str:
    try:
        return sha256_file(path, limit=limit)
    except InputError as error:
        if error.code != "not-found":
            raise
        raise InputError(
            f"{path}: cannot be read: no such file or folder",
            code="no-such-adapter",
            hint="give the folder that PEFT wrote, with adapter_config.json and adapter_model.safetensors",
        ) from None
