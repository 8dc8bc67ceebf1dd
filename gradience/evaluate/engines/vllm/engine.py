"""The engine itself: vLLM answers; what it is checked against, and KL, is computed by transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial, reduce
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import torch

import gradience
from gradience.errors import EngineError, GradienceError, InputError, UsageError
from gradience.evaluate.engines.base import (
    AdapterIdentity,
    Classified,
    Engine,
    OutOfMemoryError,
    Output,
    Score,
)
from gradience.evaluate.engines.transformers import TransformersEngine
from gradience.evaluate.engines.transformers.generation import Row, prompt_ids, room_of
from gradience.evaluate.engines.transformers.scoring import Pair, fitted, windows_of
from gradience.evaluate.engines.vllm.environment import CACHE, CACHE_GIB, environment, is_batch_invariant
from gradience.evaluate.engines.vllm.gate import refuse_disagreement
from gradience.evaluate.engines.vllm.interpreter import HOW, interpreter, versions_in
from gradience.evaluate.engines.vllm.process import Refused, VllmProcess
from gradience.evaluate.engines.vllm.slots import NO_SLOTS, Slots, slots_of
from gradience.evaluate.engines.vllm.unservable import refuse_unservable
from gradience.models.devices import choose_device, device_name
from gradience.models.locate import locate
from gradience.models.rendering import end_token
from gradience.models.settings import ModelSettings

WHOLE_CONTEXT = 8192
"""Up to so many tokens vLLM holds the base's whole context; of a longer one as much as its memory takes."""
SHARE_OF_FREE = 0.75
"""Of a GPU's memory that is free once transformers has loaded the base: the rest is for scoring there."""


class Served(NamedTuple):
    """An adapter as vLLM knows it."""

    number: int
    folder: Path
    needs: Slots


class VllmEngine(Engine):
    """A causal language model in vLLM, with adapters of PEFT, one at a time in its slot.

    The same base is loaded by transformers beside it: it tokenises, proves that vLLM computes each adapter as PEFT
    does, and measures KL over the whole vocabulary. What a method does stands with `Engine`.
    """

    name: ClassVar[str] = "vllm"
    batches_at_once: ClassVar[int] = 16
    tokens = 0

    def __init__(self, peft: TransformersEngine, folder: Path, device: torch.device) -> None:
        """peft: the base, loaded. folder: where its files are. Nothing of vLLM is started before it is needed."""
        self.peft, self._folder, self._device = peft, folder, device
        self._python = interpreter()
        self._served: dict[str, Served] = {}
        self._verified: set[str | None] = set()
        self._added = 0
        self._process: VllmProcess | None = None
        self._slots = self._expected = NO_SLOTS
        self._longest = 0

    @classmethod
    def load(cls, model: ModelSettings, *, labels: int | None = None, device: str = "auto") -> Self:
        cls.check(model, labels=labels)
        return cls(TransformersEngine.load(model, device=device), locate(model).folder, choose_device(device))

    @classmethod
    def check(cls, model: ModelSettings, *, labels: int | None = None) -> None:
        """Raises UsageError: `engine-cannot` for what vLLM is not asked to do here, and what `versions_in` raises."""
        kinds = {
            "a sequence classifier": labels is not None or model.type == "seqcls",
            "an encoder–decoder model": model.type == "seq2seq_lm",
            "a base in 4 bits": model.quantization is not None,
        }
        for kind, is_so in kinds.items():
            if is_so:
                raise UsageError(
                    f"{model.name}: the engine vllm is not used for {kind}",
                    code="engine-cannot",
                    hint="use the engine transformers",
                )
        versions_in(interpreter())

    @classmethod
    def decides(cls) -> dict[str, Any]:
        version = versions_in(interpreter())["vllm"]
        return {"engine_version": version, "batch_invariant": is_batch_invariant()}

    @classmethod
    def numerics(cls, device: str = "auto") -> dict[str, Any]:
        return {
            "device": device_name(choose_device(device)),
            "threads": torch.get_num_threads(),
            "versions": {"gradience": gradience.__version__, **versions_in(interpreter())},
        }

    @property
    def facts(self) -> Mapping[str, Any]:
        numerics = self.numerics(str(self._device))
        here = {"engine": self.name, "attention": None, "batch_invariant": is_batch_invariant()}
        return {**self.peft.facts, **here, **numerics}

    @property
    def divergence(self) -> Engine:
        return self.peft

    @property
    def classifies(self) -> bool:
        return False

    @property
    def max_length(self) -> int | None:
        return self.peft.max_length

    @property
    def adapters(self) -> Mapping[str, AdapterIdentity]:
        return self.peft.adapters

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return self.peft.count_tokens(texts)

    def expect(self, folders: Iterable[Path]) -> None:
        for folder in folders:
            with suppress(GradienceError):  # `add` says what is wrong with it
                self._expected = self._expected.joined(self._needs(folder))

    def _needs(self, folder: Path) -> Slots:
        refuse_unservable(folder, self._folder, self.decides()["engine_version"], self._device.type)
        return slots_of(folder)

    def add(self, name: str, folder: Path) -> None:
        """Load the PEFT adapter in `folder`, into both. Raises what transformers' engine raises, and InputError
        (`engine-cannot`, `engine-refuses`)."""
        self.peft.add(name, folder)
        self._added += 1
        try:
            served = Served(self._added, folder.absolute(), self._needs(folder))
            self._server(served.needs)
            self._load(served)
        except BaseException:
            self.peft.remove(name)
            raise
        self._served[name] = served

    def remove(self, name: str) -> None:
        self.peft.remove(name)
        served = self._served.pop(name)
        self._verified.discard(name)
        if self._process is not None:
            self._process.ask("remove", number=served.number)

    def verify(self, names: Sequence[str | None], prompts: Sequence[str], max_length: int | None) -> None:
        new = [name for name in dict.fromkeys([None, *names]) if name not in self._verified]
        if new:
            refuse_disagreement(self, self.peft, new, prompts, max_length)
            self._verified.update(new)

    def classify(
        self,
        name: str | None,
        texts: Sequence[tuple[str, str | None]],
        *,
        max_length: int | None,
        lora: bool = True,
    ) -> list[Classified]:
        raise TypeError("vLLM is not asked for labels: `check` refuses a classifier")

    def generate(
        self,
        name: str | None,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        stop: Sequence[str] = (),
        max_length: int | None = None,
    ) -> list[Output]:
        """Outputs, cut where transformers' engine cuts them: a row that vLLM stopped earlier is asked to go on."""
        tokenizer = self.peft.tokenizer
        encoded = [prompt_ids(tokenizer, prompt, room_of(max_length, max_new_tokens)) for prompt in prompts]
        rows = [Row(tokenizer, tuple(stop), truncated) for _, truncated in encoded]
        waiting = list(range(len(rows)))
        while waiting:
            some = [(encoded[place][0], rows[place]) for place in waiting]
            self._generate(
                name, some, max_new_tokens, self._part(len(rows) - len(some), len(some), len(rows))
            )
            waiting = [
                place
                for place in waiting
                if rows[place].stopped_by is None and len(rows[place].ids) < max_new_tokens
            ]
        self.tokens += sum(len(ids) for ids, _ in encoded) + sum(len(row.ids) for row in rows)
        return [row.output() for row in rows]

    def _part(self, before: int, asked: int, of: int) -> Callable[[float], None] | None:
        """Tells how far the batch is while `asked` of it are answered, behind `before`."""
        tell = self.on_part
        return None if tell is None else lambda share: tell((before + share * asked) / of)

    def _generate(
        self,
        name: str | None,
        rows: Sequence[tuple[list[int], Row]],
        max_new_tokens: int,
        on_part: Callable[[float], None] | None,
    ) -> None:
        room = [max_new_tokens - len(row.ids) for _, row in rows]
        written = self._ask(
            "generate",
            name,
            [ids + row.ids for ids, row in rows],
            room=room,
            more=room,
            end=end_token(self.peft.tokenizer),
            stop=list(rows[0][1].stop),
            on_part=on_part,
        )
        for (_, row), ids in zip(rows, written, strict=True):
            for token in ids:
                row.take(token)

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
        """Scores without KL and flips, which need the whole vocabulary: `divergence` measures them."""
        tokenizer = self.peft.tokenizer
        if rolling:
            parts = [windows_of(tokenizer, text, max_length) for _, text in pairs]
        else:
            parts = [[fitted(tokenizer, *pair, max_length, end=end)] for pair in pairs]
        return [
            self._scores(name, parts, self._part(place, 1, len(names))) for place, name in enumerate(names)
        ]

    def _scores(
        self, name: str | None, parts: Sequence[Sequence[Pair]], on_part: Callable[[float], None] | None
    ) -> list[Score]:
        asked = [pair for some in parts for pair in some if pair.response]
        rows = [pair.prompt + pair.response for pair in asked]
        first = [len(pair.prompt) for pair in asked]
        self.tokens += sum(map(len, rows))
        terms = iter(self._ask("score", name, rows, first=first, on_part=on_part) if rows else [])
        return [
            _summed(some, list(islice(terms, sum(bool(pair.response) for pair in some)))) for some in parts
        ]

    def close(self) -> None:
        self._stop()
        self.peft.close()

    def _ask(
        self,
        what: str,
        name: str | None,
        rows: list[list[int]],
        more: Sequence[int] = (),
        **question: Any,
    ) -> Any:
        """Answers to `rows` of ids. more: tokens that may follow each of them."""
        process = self._server(NO_SLOTS)
        longest = max(
            length + beyond for length, beyond in zip(map(len, rows), more or [0] * len(rows), strict=True)
        )
        if longest > self._longest:
            raise InputError(
                f"{longest} tokens in a sequence, and vLLM holds {self._longest} here",
                code="engine-context",
                hint="lower max_new_tokens or max_length, or use the engine transformers",
            )
        number = None if name is None else self._served[name].number
        return self._answer(partial(process.ask, what, number=number, rows=rows, **question), what)

    def _server(self, needs: Slots) -> VllmProcess:
        """The process, whose slots hold what an adapter needs; else it is started anew, with all its adapters."""
        if self._process is not None and self._slots.hold(needs):
            return self._process
        self._stop()
        known = [self._expected, *(served.needs for served in self._served.values())]
        self._slots = reduce(Slots.joined, known, needs)
        process = self._process = VllmProcess(self._python, environment(self._device))
        started = self._start(process)
        if started["device"] != self._device.type:
            self._stop()
            raise UsageError(
                f"vLLM computes on {started['device']} there, and the device is {self._device.type}",
                code="engine-device",
                hint="give --device, or the Python of a vLLM for this device",
            )
        self._longest = started["max_model_len"]
        for served in self._served.values():
            self._load(served)
        return process

    def _start(self, process: VllmProcess) -> Mapping[str, Any]:
        """Import vLLM there and load the base; where one of them fails the process is ended."""
        start = partial(process.ask, "start", settings=self._settings())
        try:
            self._answer(partial(process.ask, "imports"), f"be imported by {self._python}", hint=HOW)
            return self._answer(start, "load the base")  # type: ignore[no-any-return]
        except OutOfMemoryError as error:
            raise EngineError(
                f"vLLM has too little memory to load the base: {error}",
                code="engine-memory",
                hint=f"on a processor {CACHE} says how many GiB it takes for keys and values ({CACHE_GIB} if nobody"
                " says so); or use the engine transformers",
            ) from None
        except InputError:
            self._stop()
            raise

    def _load(self, served: Served) -> None:
        assert self._process is not None
        ask = partial(self._process.ask, "add", number=served.number, path=str(served.folder))
        self._answer(ask, f"load {served.folder}")

    def _answer(self, ask: Callable[[], Any], what: str, hint: str = "use the engine transformers") -> Any:
        try:
            return ask()
        except Refused as refusal:
            raise InputError(
                f"vLLM {self.decides()['engine_version']} refuses to {what}: {refusal}",
                code="engine-refuses",
                hint=hint,
            ) from None
        except BaseException:
            self._stop()
            raise

    def _stop(self) -> None:
        if self._process is not None:
            self._process.close()
            self._process = None

    def _settings(self) -> dict[str, Any]:
        """Of `vllm.LLM`. Nothing is unpickled, nothing of the checkpoint's generation settings is used, and no answer
        rests on what was computed for another one before."""
        context = self.max_length
        processor = self._device.type == "cpu"
        settings = {
            "model": str(self._folder),
            "load_format": "safetensors",
            "dtype": self.peft.facts["dtype"],
            "generation_config": "vllm",
            **self._slots.settings(),
            "max_model_len": -1 if context is None or context > WHOLE_CONTEXT else context + 1,
            "enable_prefix_caching": False,
            "enforce_eager": processor,
            "seed": 0,
        }
        if processor:
            return settings
        free, total = torch.cuda.mem_get_info(self._device)
        return settings | {"gpu_memory_utilization": SHARE_OF_FREE * free / total}


def _summed(pairs: Sequence[Pair], terms: Sequence[Sequence[tuple[float, bool]]]) -> Score:
    """The score of an example from the terms of its parts."""
    whole = [term for some in terms for term in some]
    return Score(
        loglikelihood=sum(value for value, _ in whole),
        n_tokens=len(whole),
        exact=all(best for _, best in whole),
        kl=None,
        flips=None,
        truncated=any(pair.truncated for pair in pairs),
    )
