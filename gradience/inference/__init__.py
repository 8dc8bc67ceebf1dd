"""One loaded base model, any number of LoRA adapters, the same batches for each: a record for every example.

So far for classification. Every number that is reported is counted over the records, never the other way
round, and two adapters are compared on exactly the same batches: the composition of a batch alone can move
a logit in the last bits, and in bfloat16 by more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray

from gradience.artifacts.records import ClassificationRecord, ExamplesRun
from gradience.errors import InputError, UsageError

Logits = NDArray[np.float32]
"""Shape (examples, labels), in the order of the texts that were given."""
Records = Sequence[ClassificationRecord]

PROMPTS_OF_PROOF = 8
"""On how many texts an adapter must show that it changes something."""


class LabelledText(Protocol):
    """What an example must have; the tasks of Bench have their own class."""

    @property
    def id(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def label(self) -> int: ...


class Classifier:
    """A sequence classifier whose base is loaded once; adapters are added by name and switched.

    An adapter must bring its own classification head (PEFT saves it for `task_type="SEQ_CLS"`).
    """

    def __init__(self, model: Any, tokenizer: Any, *, batch_size: int = 64, max_length: int = 64) -> None:
        """Use a transformers sequence-classification model and its tokenizer. `max_length` is in tokens."""
        self.base, self.tokenizer = model.eval(), tokenizer
        self.batch_size, self.max_length = batch_size, max_length
        self._peft: Any = None
        self.adapters: dict[str, Path] = {}

    @classmethod
    def load(
        cls, base: Path | str, *, labels: int, dtype: torch.dtype = torch.float32, **settings: int
    ) -> Self:
        """Load the base once. Its own, untrained head is never used: every adapter brings one."""
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=labels, dtype=dtype)
        return cls(model, AutoTokenizer.from_pretrained(base), **settings)

    def add(self, name: str, adapter: Path) -> None:
        """Load the PEFT adapter directory `adapter` beside those already there.

        Raises InputError (`no-head`) when it holds no classification head: its logits would be noise.
        """
        from peft import PeftConfig, PeftModel

        if name in self.adapters:
            raise UsageError(f"there is already an adapter called {name!r}", code="adapter-name")
        config = PeftConfig.from_pretrained(str(adapter))
        if not getattr(config, "modules_to_save", None) and config.task_type != "SEQ_CLS":
            raise InputError(
                f"{adapter}: holds no classification head",
                code="no-head",
                hint='train with task_type="SEQ_CLS", so that PEFT saves the head',
            )
        if self._peft is None:
            self._peft = PeftModel.from_pretrained(self.base, str(adapter), adapter_name=name)
        else:
            self._peft.load_adapter(str(adapter), adapter_name=name)
        self._peft.eval()
        self.adapters[name] = adapter

    def logits(self, name: str, texts: Sequence[str], *, lora: bool = True) -> Logits:
        """Logits of the adapter `name`. With `lora=False` its head alone, on the base's own features."""
        if name not in self.adapters:
            raise UsageError(f"there is no adapter called {name!r}", code="adapter-name")
        self._peft.set_adapter(name)
        with nullcontext() if lora else _without_lora(self._peft, name):
            return classify(
                self._peft, self.tokenizer, texts, batch_size=self.batch_size, max_length=self.max_length
            )

    def evaluate(
        self, name: str, examples: Sequence[LabelledText], *, lora: bool = True
    ) -> tuple[ExamplesRun, tuple[ClassificationRecord, ...]]:
        """One record for every example, in the order given, and the facts that a comparison rests on.

        Raises InputError (`adapter-inert`) when the LoRA changes no logit of the first few examples: such
        a score would be the base model's, whatever the adapter's name says.
        """
        texts = [example.text for example in examples]
        logits = self.logits(name, texts, lora=lora)
        few = texts[:PROMPTS_OF_PROOF]
        if lora and np.array_equal(self.logits(name, few), self.logits(name, few, lora=False)):
            raise InputError(
                f"{self.adapters[name]}: changes nothing: with and without its LoRA the logits of {len(few)} texts"
                " are equal",
                code="adapter-inert",
                hint="it is untrained (every B is zero), or its modules do not fit this base model",
            )
        return self._run_facts(name, len(texts), lora=lora), tuple(
            ClassificationRecord(
                id=example.id,
                text_sha256=hashlib.sha256(example.text.encode()).hexdigest(),
                label=example.label,
                predicted=int(row.argmax()),
                correct=int(row.argmax()) == example.label,
                logits=tuple(float(value) for value in row),
                truncated=length > self.max_length,
            )
            for example, row, length in zip(examples, logits, self._lengths(texts), strict=True)
        )

    def _lengths(self, texts: Sequence[str]) -> list[int]:
        return [len(ids) for ids in self.tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]]

    def _run_facts(self, name: str, n: int, *, lora: bool) -> ExamplesRun:
        import peft
        import transformers

        weights = self.adapters[name] / "adapter_model.safetensors"
        with weights.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return ExamplesRun(
            schema="gradience.records/1",
            adapter=name,
            adapter_sha256=digest,
            base=Path(self.base.config._name_or_path).name,
            lora=lora,
            dtype=str(self.base.dtype).removeprefix("torch."),
            batch_size=self.batch_size,
            max_length=self.max_length,
            threads=torch.get_num_threads(),
            versions={
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "peft": peft.__version__,
            },
            n=n,
        )


def classify(model: Any, tokenizer: Any, texts: Sequence[str], *, batch_size: int, max_length: int) -> Logits:
    """Logits of a transformers (or PEFT) sequence classifier for `texts`, each cut at `max_length` tokens."""
    out: Logits | None = None
    with torch.inference_mode():
        for places in fixed_batches(texts, batch_size):
            inputs = tokenizer(
                [texts[place] for place in places],
                padding=True,
                truncation=True,
                max_length=max_length,
                return_tensors="pt",
            ).to(model.device)
            values = model(**inputs).logits.float().cpu().numpy()
            if out is None:
                out = np.empty((len(texts), values.shape[1]), dtype=np.float32)
            out[places] = values
    if out is None:
        raise UsageError("there is no text to classify", code="no-examples")
    return out


def fixed_batches(texts: Sequence[str], batch_size: int) -> list[list[int]]:
    """Places of the texts in each batch: sorted by length, so that little is padded.

    They depend on the texts alone, so that every adapter sees the same batches.
    """
    order = sorted(range(len(texts)), key=lambda place: (len(texts[place]), texts[place], place))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


@contextmanager
def _without_lora(model: Any, name: str) -> Iterator[None]:
    """Set the scale of every LoRA module of `name` to 0. (PEFT's disable_adapter takes the trained head away too.)"""
    from peft.tuners.lora import LoraLayer

    layers = [
        module for module in model.modules() if isinstance(module, LoraLayer) and name in module.scaling
    ]
    scales = [layer.scaling[name] for layer in layers]
    try:
        for layer in layers:
            layer.scaling[name] = 0.0
        yield
    finally:
        for layer, scale in zip(layers, scales, strict=True):
            layer.scaling[name] = scale


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How many of how many examples were right."""

    correct: int
    n: int

    @property
    def value(self) -> float:
        """The share of right answers (NaN for no examples)."""
        return self.correct / self.n if self.n else float("nan")


def accuracy(records: Records) -> Accuracy:
    """Count of the records that are right."""
    return Accuracy(sum(record.correct for record in records), len(records))


@dataclass(frozen=True, slots=True)
class Divergence:
    """Adapter B against adapter A on the same examples."""

    n: int
    kl_mean: float
    """Mean over examples of KL(A ‖ B) in nats."""
    kl_standard_error: float
    """Sample standard deviation over examples, divided by √n."""
    flips: int
    """Examples whose predicted label differs."""
    both_right: int
    only_a_right: int
    only_b_right: int
    both_wrong: int


def diverge(a: tuple[ExamplesRun, Records], b: tuple[ExamplesRun, Records]) -> Divergence:
    """What changes when adapter B answers instead of adapter A.

    Raises UsageError (`not-paired`) when the two were not evaluated on the same examples in the same way.
    """
    (run_a, records_a), (run_b, records_b) = a, b
    same_examples = [(r.id, r.text_sha256, r.label) for r in records_a] == [
        (r.id, r.text_sha256, r.label) for r in records_b
    ]
    if not same_examples or not run_a.same_run_as(run_b):
        raise UsageError(
            f"{run_a.adapter} and {run_b.adapter} cannot be compared:"
            f" {'their settings' if same_examples else 'their examples'} differ",
            code="not-paired",
            hint="evaluate both on the same examples with the same base, batch size, dtype, threads and versions",
        )
    kl = kl_divergence(
        np.array([record.logits for record in records_a]), np.array([record.logits for record in records_b])
    )
    pairs = [(x.correct, y.correct) for x, y in zip(records_a, records_b, strict=True)]
    return Divergence(
        n=len(pairs),
        kl_mean=float(kl.mean()),
        kl_standard_error=float(kl.std(ddof=1) / np.sqrt(len(kl))) if len(kl) > 1 else float("nan"),
        flips=sum(x.predicted != y.predicted for x, y in zip(records_a, records_b, strict=True)),
        both_right=pairs.count((True, True)),
        only_a_right=pairs.count((True, False)),
        only_b_right=pairs.count((False, True)),
        both_wrong=pairs.count((False, False)),
    )


def kl_divergence(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """KL(softmax(a) ‖ softmax(b)) of each row, in nats: (examples, labels) twice -> (examples,), float64."""
    log_a, log_b = _log_softmax(a), _log_softmax(b)
    return np.asarray((np.exp(log_a) * (log_a - log_b)).sum(axis=1))


def _log_softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
