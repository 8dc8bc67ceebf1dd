"""Interface of an engine, and the types that it returns. The rest of `evaluate` uses only this. Needs no torch.

An engine has a name and generates text. It declares its other abilities. Measures that it does not support are left
out, and the report says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

import gradience
from gradience.errors import OutputError, UsageError
from gradience.evaluate.adapters import AdapterIdentity
from gradience.files.records import RecordKind, StopReason
from gradience.models.locate import recorded_base
from gradience.models.settings import ModelSettings
from gradience.words import counted

if TYPE_CHECKING:
    from gradience.evaluate.inputs import EvaluateInputs


@dataclass(frozen=True, slots=True)
class Classified:
    """The answer of a classifier for one text or pair of texts."""

    logits: NDArray[np.float32]
    """Shape (labels,)."""
    truncated: bool
    """True if the text was longer than allowed."""


class Decoding(NamedTuple):
    """How outputs are generated: greedily, each up to the first of these limits."""

    max_new_tokens: int
    stop: Sequence[str] = ()
    """An output ends before the first of these."""
    max_length: int | None = None
    """Maximum tokens of prompt and output together."""

    @property
    def room(self) -> int | None:
        """Maximum tokens of a prompt; None for no limit. Raises UsageError (`no-room`)."""
        if self.max_length is None:
            return None
        if self.max_length <= self.max_new_tokens:
            raise UsageError(
                f"max_new_tokens={self.max_new_tokens} leaves no room for a prompt in max_length={self.max_length}",
                code="no-room",
                hint="lower max_new_tokens or raise max_length",
            )
        return self.max_length - self.max_new_tokens


class Reading(NamedTuple):
    """How given responses are scored."""

    max_length: int | None = None
    """Maximum tokens of prompt and response together."""
    end: bool = True
    """True if the end token after a response counts."""
    rolling: bool = False
    """True for whole texts of any length, without prompts and without end tokens. Texts longer than `max_length` are
    scored in windows, each of which starts after the last token of the previous one."""


@dataclass(frozen=True, slots=True)
class Output:
    """Generated text of one prompt."""

    text: str
    """Without the end token, up to the first stop string; other special tokens stay visible."""
    n_tokens: int
    """Number of generated tokens, including the end token or the stop string."""
    stopped_by: StopReason
    truncated: bool
    """True if the prompt was truncated at the start."""
    ids: tuple[int, ...] = field(default=(), compare=False, repr=False)
    """The tokens; empty if they are not known."""
    gaps: tuple[float, ...] = field(default=(), compare=False, repr=False)
    """Difference of the two largest logits at each token; empty if it is not known."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A prompt with the output of another adapter, which this adapter may generate as well."""

    prompt: str
    output: Output
    response: str | None = None
    """A given response to score in the same pass."""


@dataclass(frozen=True, slots=True)
class Score:
    """One response under one model: sums over its tokens, and the end token if it counts, in nats."""

    loglikelihood: float
    n_tokens: int
    exact: bool
    """True if each of the tokens is the most likely one."""
    kl: float | None
    """KL(reference ‖ adapter); None without a reference."""
    flips: int | None
    """Number of tokens whose most likely token differs from the reference's; None without a reference."""
    truncated: bool
    """True if the prompt was truncated at the start."""


class OutOfMemoryError(MemoryError):
    """The device has too little memory for a model, an adapter or a batch. The text is the first line of torch's."""

    divisible = False
    """True for a batch of several examples."""


@contextmanager
def memory_errors(*, batches: bool = False) -> Iterator[None]:
    """Convert an out-of-memory error into OutputError (`out-of-memory`). batches: smaller ones may help in any case."""
    try:
        yield
    except OutOfMemoryError as error:
        smaller = "a smaller --batch-size, or none, or " if batches or error.divisible else ""
        raise OutputError(
            f"not enough memory: {error}",
            code="out-of-memory",
            hint=f"try {smaller}--quantization nf4, --dtype bfloat16 or another --device",
        ) from None


def repeated(inputs: EvaluateInputs) -> Iterator[str]:
    """Yield notes on repeated rows of a file: each text is evaluated once."""
    counts = inputs.task.examples.counts if inputs.role is None else {}
    if duplicates := counts.get("duplicates", 0):
        verb = "repeats" if duplicates == 1 else "repeat"
        yield f"{counted(duplicates, 'row')} of {counts['rows']:,} {verb} an earlier one: each text counts once"
    if conflicts := counts.get("conflicts", 0):
        yield f"{counted(conflicts, 'row')} of {counts['rows']:,} are left out: the same text with different answers"


class Engine:
    """Answers batches of examples with one base model and any number of LoRA adapters.

    Adapters are addressed by name; None is the base model. Equal batches give equal answers, independent of
    other loaded adapters and earlier requests. If the device runs out of memory, OutOfMemoryError is raised
    and the state is unchanged.

    >>> class Parrot(Engine):
    ...     name = "parrot"
    ...
    ...     def generate(self, name, prompts, how):
    ...         return [Output(prompt, 1, "eos", truncated=False) for prompt in prompts]
    """

    name: ClassVar[str]
    """Registered name, stored in every header of records and in the key of every evaluation."""
    answers: ClassVar[frozenset[RecordKind]] = frozenset({"generation"})
    """Kinds of records that it supports: by `classify`, `generate`, and `score` for choices and scores."""
    local: ClassVar[bool] = False
    """True if base and adapters are folders on this machine; otherwise their names are passed on unchanged."""
    batches_at_once: ClassVar[int] = 1
    """Batches passed to the engine at once: an engine with its own scheduler gets more."""
    follows: ClassVar[bool] = False
    """True if `follow` is faster than `generate` when the outputs of another adapter are known."""

    def __init__(self, model: ModelSettings) -> None:
        self.model = model
        self._adapters: dict[str, AdapterIdentity] = {}

    # ------------------------------------------------------------ before anything is loaded

    @classmethod
    def check(cls, model: ModelSettings, *, labels: int | None = None) -> None:
        """Raise UsageError for an unsupported model, before anything is trained or loaded."""
        if labels is not None:
            cls.require("classification")

    @classmethod
    def inspect(cls, inputs: EvaluateInputs) -> Iterator[str]:
        """Yield notes for the user before an evaluation; raise if it cannot run."""
        yield from repeated(inputs)

    @classmethod
    def tokenizer_of(cls, model: ModelSettings) -> Any:
        """Return the base's tokenizer, which encodes every row once; None if it is not available locally."""
        return None

    @classmethod
    def numerics(cls, device: str = "auto") -> dict[str, Any]:
        """Return the facts that may change an answer on equal inputs, without loading anything: `device`,
        `threads`, `versions`.

        Evaluations are compared only if these agree (fields of `ExamplesRun`).
        """
        return {"device": None, "threads": None, "versions": {"gradience": gradience.__version__}}

    @classmethod
    def identify(cls, model: ModelSettings, device: str = "auto") -> dict[str, Any]:
        """Return everything about the base that determines answers. `base`: digest of its content, if possible."""
        return {"base": model.name}

    @classmethod
    def decides(cls) -> dict[str, Any]:
        """Return the engine's settings in the key of every evaluation, besides its name."""
        return {}

    @classmethod
    def batch_tokens(cls, device: str) -> int:
        """Return the initial number of tokens in a batch; it is reduced if memory runs out."""
        return CPU_TOKENS

    # ------------------------------------------------------------ the base and its adapters

    @classmethod
    def load(
        cls, model: ModelSettings, *, labels: int | None = None, device: str = "auto", tokenizer: Any = None
    ) -> Self:
        """Load the base: with `labels` a sequence classifier, else the language model that `model.type` says.

        tokenizer: that of `tokenizer_of`, if it is loaded already.
        """
        return cls(model)

    @property
    def facts(self) -> Mapping[str, Any]:
        """Facts about engine and base for the header: the fields of `ExamplesRun` from `engine` to `versions`."""
        unknown = dict.fromkeys(("base_sha256", "tokenizer_sha256", "dtype", "attention"))
        return {"engine": self.name, "base": recorded_base(self.model.name), **unknown, **self.numerics()}

    @property
    def classifies(self) -> bool:
        """True if the base is a classifier (else it is a language model)."""
        return False

    @property
    def max_length(self) -> int | None:
        """Maximum context length of the base in tokens; None if unknown."""
        return None

    @property
    def adapters(self) -> Mapping[str, AdapterIdentity]:
        """Name -> folder and digests of each adapter that is loaded."""
        return self._adapters

    def count_tokens(self, texts: Sequence[tuple[str, ...]]) -> list[int]:
        """Return the number of tokens of each text or pair of texts, with special tokens; without a tokenizer,
        characters."""
        return [sum(map(len, text)) for text in texts]

    @property
    def divergence(self) -> Engine | None:
        """The engine that measures KL and flips with the same adapters: itself, another one, or None."""
        return self if "scores" in self.answers else None

    def check_adapter(self, name: str | None, prompts: Sequence[str], max_length: int | None) -> None:
        """Raise if the adapter's outputs differ from PEFT's, before any scoring; a no-op for PEFT itself."""

    def expect(self, folders: Iterable[Path]) -> None:
        """Reserve memory for the adapters in `folders`, which will be added; a no-op for engines that reserve
        none.
        """

    def add(self, name: str, folder: Path) -> None:
        """Load the PEFT adapter in `folder`. Raises UsageError (`adapter-name`) when the name is taken."""
        self._adapters[name] = AdapterIdentity(folder)

    def remove(self, name: str) -> None:
        """Unload the adapter `name`, and free its memory."""
        del self._adapters[name]

    def close(self) -> None:
        """Free the memory of the base; nothing can be answered afterwards."""

    # ------------------------------------------------------------ batches

    def generate(self, name: str | None, prompts: Sequence[str], how: Decoding) -> list[Output]:
        """Return the greedy output of each prompt."""
        raise NotImplementedError

    def follow(
        self,
        name: str | None,
        batches: Sequence[Sequence[Draft]],
        how: Decoding,
        *,
        reference: str | None,
        near_tie: float,
    ) -> list[list[tuple[Output, Score | None]]]:
        """Return what `generate` returns for each prompt of each batch, and the score of its response.

        Each prompt is read with its draft in one pass, in which the largest logits verify the draft. Only the rest of
        an output is generated: from the first token that differs, or whose two largest logits are at most `near_tie`
        apart.
        """
        raise NotImplementedError

    def near_tie(self, name: str, drafts: Sequence[Draft], how: Decoding) -> float:
        """Return the noise of the two largest logits: twice the largest change of their difference between `follow`'s
        pass and generation. drafts: outputs of the adapter `name` itself."""
        raise NotImplementedError

    def classify(
        self,
        name: str | None,
        texts: Sequence[tuple[str, str | None]],
        *,
        max_length: int | None,
        lora: bool = True,
    ) -> list[Classified]:
        """Return logits of each text or pair of texts, reading at most `max_length` tokens.

        lora=False: only the adapter's head, ΔW = 0.
        """
        raise NotImplementedError

    def score(
        self, name: str | None, pairs: Sequence[tuple[str, str]], how: Reading, reference: str | None = None
    ) -> list[Score]:
        """Return scores of the (prompt, response) pairs under an adapter, with KL and flips against `reference`.

        Without a prompt, a response follows the begin token.
        """
        raise NotImplementedError

    @classmethod
    def require(cls, kind: RecordKind) -> None:
        """Raise UsageError (`engine-cannot`) for an unsupported kind of records."""
        if kind not in cls.answers:
            lacking = "label texts" if kind == "classification" else "score given responses"
            raise UsageError(
                f"the engine {cls.name} does not {lacking}",
                code="engine-cannot",
                hint="use the engine transformers",
            )


# ---------------------------------------------------------------- batches
#
# The batches depend only on the examples, so they are the same for every adapter. The composition of a batch can move a
# logit in the last bits, and in bfloat16 by more, so paired answers must come from the same batches.


CPU_TOKENS = 4096
"""Tokens in a batch on a CPU; larger batches are not faster (docs/decisions/014-batches.md)."""
TRIED_TOKENS = 32768
"""Initial tokens in a batch on other devices, before testing if memory can hold the longest one."""
SCORED_SHARE = 4
"""Factor by which a batch of teacher-forced scoring is smaller: its logits over the whole vocabulary need memory."""


def fixed_batches(texts: Sequence[str], batch_size: int) -> list[list[int]]:
    """Return the indices of the texts in each batch, sorted by length to reduce padding.

    They depend only on the texts: neither on their order nor on the answers.
    """
    order = sorted(range(len(texts)), key=lambda place: (len(texts[place]), texts[place], place))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def budget_batches(
    texts: Sequence[str], lengths: Sequence[int], tokens: int, rows: Sequence[int]
) -> list[list[int]]:
    """Return the indices of the texts in each batch, the longest first, so that memory problems show at once.

    A batch has at most `tokens` tokens, including padding, unless a single example has more. The batches
    depend only on the texts and their lengths.

    >>> budget_batches(["a", "b", "c", "d"], [9, 2, 3, 4], 8, [1, 1, 1, 1])
    [[0], [3, 2], [1]]
    """
    order = sorted(range(len(texts)), key=lambda place: (-lengths[place], texts[place], place))
    batches: list[list[int]] = []
    room = 0
    for place in order:
        if not batches or rows[place] > room:
            batches.append([])
            room = tokens // max(1, lengths[place])
        batches[-1].append(place)
        room -= rows[place]
    return batches
