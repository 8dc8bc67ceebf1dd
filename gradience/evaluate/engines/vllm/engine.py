"""Answers come from vLLM. Transformers, with the same base, computes KL and the answers that check vLLM's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache, reduce
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, NoReturn, Self

import torch

import gradience
from gradience.adapters.formats import open_adapter
from gradience.errors import EngineError, GradienceError, InputError, UsageError
from gradience.evaluate.adapters import AdapterIdentity
from gradience.evaluate.engines.base import Decoding, Engine, OutOfMemoryError, Output, Reading, Score
from gradience.evaluate.engines.transformers import forward
from gradience.evaluate.engines.transformers.engine import TransformersEngine
from gradience.files.records import RecordKind
from gradience.models.load import VISIBLE, choose_device, device_name, visible_name
from gradience.models.locate import locate
from gradience.models.settings import ModelSettings
from gradience.models.tokenizers import end_token
from gradience.ranks import max_lora_rank_step
from gradience.words import counted

WHOLE_CONTEXT = 8192
"""Largest context that vLLM holds whole; of a longer one, as much as its memory allows."""
SHARE_OF_FREE = 0.75
"""Share of the GPU memory still free after transformers has loaded the base; the rest is for scoring
there.
"""
TOLERANCE = {"float32": 0.001, "float16": 0.02, "bfloat16": 0.1}
"""Nats per token of a prompt, by the base's dtype: how far vLLM and PEFT may be apart in its mean log-probability. vLLM
computes LoRA in the base's dtype, PEFT in float32. Measured on processors: docs/engines.md."""
HEAD = "lm_head"
OTHER = "use the engine transformers"


class Slots(NamedTuple):
    """The room that vLLM makes for adapters when it starts: as large as those that are served need, and no larger.

    One slot: adapters answer one after another, so that none depends on which others are there.
    """

    rank: int = 0
    """A max_lora_rank that vLLM accepts: the largest module's rank, rounded up to a step."""
    modules: frozenset[str] = frozenset()
    """Last parts of the names of the modules that have LoRA, such as `q_proj`."""

    def joined(self, other: Slots) -> Slots:
        """Return slots that fit both."""
        return Slots(max(self.rank, other.rank), self.modules | other.modules)

    def settings(self) -> dict[str, Any]:
        """Return settings of `vllm.LLM`.

        Only the modules that are needed: with LoRA on the head vLLM 0.32 cannot score prompts on a processor, and
        every module takes memory.
        """
        lora = {"max_loras": 1, "max_lora_rank": self.rank, "lora_target_modules": sorted(self.modules)}
        return {"enable_lora": bool(self.modules), **(lora if self.modules else {})}


class Served(NamedTuple):
    """An adapter as vLLM knows it."""

    number: int
    folder: Path
    needs: Slots


class VllmEngine(Engine):
    """A causal language model in vLLM, with adapters of PEFT, one at a time in its slot.

    The same base is loaded by transformers beside it: it tokenizes, proves that vLLM computes each adapter as PEFT
    does, and measures KL over the whole vocabulary. The docstrings of `Engine` say what each method does.
    """

    name: ClassVar[str] = "vllm"
    answers: ClassVar[frozenset[RecordKind]] = frozenset({"generation", "choices", "scores"})
    local: ClassVar[bool] = True
    batches_at_once: ClassVar[int] = 16

    def __init__(self, peft: TransformersEngine, folder: Path, device: torch.device) -> None:
        """peft: the base, loaded. folder: of its files. vLLM is started only when it is needed."""
        self.peft, self._folder, self._device = peft, folder, device
        self._python = interpreter()
        self._served: dict[str, Served] = {}
        self._verified: set[str | None] = set()
        self._added = 0
        self._process: VllmProcess | None = None
        self._slots = self._expected = Slots()
        self._longest = 0

    @classmethod
    def load(
        cls, model: ModelSettings, *, labels: int | None = None, device: str = "auto", tokenizer: Any = None
    ) -> Self:
        cls.check(model, labels=labels)
        peft = TransformersEngine.load(model, device=device, tokenizer=tokenizer)
        return cls(peft, locate(model).folder, choose_device(device))

    @classmethod
    def check(cls, model: ModelSettings, *, labels: int | None = None) -> None:
        """Raises UsageError: `engine-cannot` if the model is not supported with vLLM, and what `versions_in` raises."""
        kinds = {
            "a sequence classifier": labels is not None or model.type == "seqcls",
            "a base in 4 bits": model.quantization is not None,
        }
        for kind, is_so in kinds.items():
            if is_so:
                raise UsageError(
                    f"{model.name}: the engine vllm does not support {kind}", code="engine-cannot", hint=OTHER
                )
        versions_in(interpreter())

    inspect = TransformersEngine.inspect
    tokenizer_of = TransformersEngine.tokenizer_of
    identify = TransformersEngine.identify
    batch_tokens = TransformersEngine.batch_tokens

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
        here = {"engine": self.name, "attention": None, "batch_invariant": is_batch_invariant()}
        return {**self.peft.facts, **here, **self.numerics(str(self._device))}

    @property
    def divergence(self) -> Engine:
        return self.peft

    @property
    def max_length(self) -> int | None:
        return self.peft.max_length

    @property
    def adapters(self) -> Mapping[str, AdapterIdentity]:
        return self.peft.adapters

    def count_tokens(self, texts: Sequence[tuple[str, ...]]) -> list[int]:
        return self.peft.count_tokens(texts)

    def expect(self, folders: Iterable[Path]) -> None:
        for folder in folders:
            with suppress(GradienceError):  # `add` says what is wrong with it
                self._expected = self._expected.joined(needs_of(folder, self._device.type))

    def add(self, name: str, folder: Path) -> None:
        """Load the PEFT adapter in `folder` into both engines. Raises what transformers' engine raises, and InputError
        (`engine-cannot`, `engine-refuses`)."""
        self.peft.add(name, folder)
        self._added += 1
        try:
            served = Served(self._added, folder.absolute(), needs_of(folder, self._device.type))
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

    def check_adapter(self, name: str | None, prompts: Sequence[str], max_length: int | None) -> None:
        new = [adapter for adapter in dict.fromkeys([None, name]) if adapter not in self._verified]
        if new:
            refuse_disagreement(self, self.peft, new, prompts, max_length)
            self._verified.update(new)

    def generate(self, name: str | None, prompts: Sequence[str], how: Decoding) -> list[Output]:
        """Return outputs, cut by the rules of the transformers engine; a row that vLLM stopped earlier is
        continued.
        """
        tokenizer = self.peft.encoder
        encoded = [forward.prompt_ids(tokenizer, prompt, how.room) for prompt in prompts]
        rows = [forward.GeneratedRow(tokenizer, how, truncated) for _, truncated in encoded]
        waiting = list(range(len(rows)))
        while waiting:
            room = [how.max_new_tokens - len(rows[place].ids) for place in waiting]
            written = self._ask(
                "generate",
                name,
                [encoded[place][0] + rows[place].ids for place in waiting],
                room,
                room=room,
                end=end_token(tokenizer),
                stop=list(how.stop),
            )
            for place, ids in zip(waiting, written, strict=True):
                for token in ids:
                    rows[place].take(token)
            waiting = [place for place in waiting if rows[place].stopped_by is None]
        return [row.output() for row in rows]

    def score(
        self, name: str | None, pairs: Sequence[tuple[str, str]], how: Reading, reference: str | None = None
    ) -> list[Score]:
        """Scores without KL and flips, which need the whole vocabulary: `divergence` measures them."""
        tokenizer = self.peft.encoder
        texts = [
            forward.windows_of(tokenizer, response, how.max_length)
            if how.rolling
            else [forward.fitted(tokenizer, prompt, response, how)]
            for prompt, response in pairs
        ]
        scored = [pair for parts in texts for pair in parts if pair.response]
        rows, first = (
            [[*pair.prompt, *pair.response] for pair in scored],
            [len(pair.prompt) for pair in scored],
        )
        terms = iter(self._ask("score", name, rows, first=first) if rows else [])

        def score_of(pair: forward.EncodedPair) -> Score:
            values, best = zip(*next(terms), strict=True) if pair.response else ((), ())
            return Score(sum(values), len(values), all(best), kl=None, flips=None, truncated=pair.truncated)

        return [forward.summed_up([score_of(pair) for pair in parts]) for parts in texts]

    def close(self) -> None:
        self._stop()
        self.peft.close()

    def _ask(
        self,
        method: str,
        name: str | None,
        rows: list[list[int]],
        more: Sequence[int] = (),
        **arguments: Any,
    ) -> Any:
        """Return answers to `rows` of ids. more: tokens that may follow each of them."""
        self._server(Slots())
        longest = max(map(sum, zip(map(len, rows), more or [0] * len(rows), strict=True)))
        if longest > self._longest:
            raise InputError(
                f"{longest} tokens in a sequence, but vLLM has memory for {self._longest}",
                code="engine-context",
                hint="lower max_new_tokens or max_length, or use the engine transformers",
            )
        number = None if name is None else self._served[name].number
        return self._command(method, method, number=number, rows=rows, **arguments)

    def _server(self, needs: Slots) -> None:
        """Start the process again, with all its adapters, if its slots do not fit what an adapter needs."""
        if self._process is not None and self._slots.joined(needs) == self._slots:
            return
        self._stop()
        known = [self._expected, *(served.needs for served in self._served.values())]
        self._slots = reduce(Slots.joined, known, needs)
        self._process = VllmProcess(self._python, environment(self._device))
        started = self._start()
        if started["device"] != self._device.type:
            self._stop()
            raise UsageError(
                f"this vLLM runs on {started['device']}, but the device is {self._device.type}",
                code="engine-device",
                hint=f"use --device {started['device']}, or --engine-python with a vLLM for {self._device.type}",
            )
        self._longest = started["max_model_len"]
        for served in self._served.values():
            self._load(served)

    def _start(self) -> Any:
        """Import vLLM in its process and load the base; if either fails, the process is ended.

        Nothing is unpickled, the checkpoint's generation settings are ignored, and no cached computation of
        an earlier answer is reused.
        """
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
        if not processor:
            free, total = torch.cuda.mem_get_info(self._device)
            settings["gpu_memory_utilization"] = SHARE_OF_FREE * free / total
        try:
            self._command("imports", f"be imported by {self._python}", hint=HOW)
            return self._command("start", "load the base", settings=settings)
        except OutOfMemoryError as error:
            raise EngineError(
                f"vLLM has too little memory to load the base: {error}",
                code="engine-memory",
                hint=f"on a CPU, {CACHE} sets the size of the KV cache in GiB (default: {CACHE_GIB}); or use the engine"
                " transformers",
            ) from None
        except InputError:
            self._stop()
            raise

    def _load(self, served: Served) -> None:
        self._command("add", f"load {served.folder}", number=served.number, path=str(served.folder))

    def _command(self, method: str, action: str, hint: str = OTHER, **arguments: Any) -> Any:
        """Return what the server's `method` returns. action: the request, for the error message."""
        assert self._process is not None
        try:
            return self._process.ask(method, **arguments)
        except RefusedByVllm as refusal:
            raise InputError(
                f"vLLM {self.decides()['engine_version']} refuses to {action}: {refusal}",
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


def needs_of(folder: Path, device: str) -> Slots:
    """Return the largest rank in an adapter's config or file, and the modules with LoRA. device: its kind.

    Raises InputError (`engine-cannot`) for LoRA on the head if vLLM cannot read prompts with it.
    """
    with open_adapter(folder) as adapter:
        modules = frozenset(pair.module.rpartition(".")[2] for pair in adapter.pairs)
        fields = {} if adapter.config is None else adapter.config.fields
        ranks = [
            int(fields.get("r") or 1),
            *map(int, (fields.get("rank_pattern") or {}).values()),
            *(pair.rank for pair in adapter.pairs),
        ]
    if device == "cpu" and HEAD in modules:
        raise InputError(
            f"{folder}: LoRA on {HEAD}, with which vLLM cannot read prompts on a processor",
            code="engine-cannot",
            hint=OTHER,
        )
    largest = max(ranks)
    return Slots(max_lora_rank_step(largest) or largest, modules)  # beyond its largest vLLM refuses


def refuse_disagreement(
    vllm: Engine, peft: Engine, names: Sequence[str | None], prompts: Sequence[str], max_length: int | None
) -> None:
    """Raise InputError if vLLM's log-probabilities of `prompts` differ from PEFT's.

    A serving runtime may silently ignore an adapter (unknown names) or apply a different scale. So both
    engines read the same prompts, token by token, before any scoring.
    Codes: `engine-disagrees`, and `engine-ignores-adapter` if vLLM's values do not change with an adapter but
    PEFT's do.
    """
    dtype, read = str(peft.facts["dtype"]), counted(len(prompts), "prompt")
    compared, pairs = list(dict.fromkeys([None, *names])), [("", prompt) for prompt in prompts]
    here, there = (
        [engine.score(name, pairs, Reading(max_length, rolling=True)) for name in compared]
        for engine in (vllm, peft)
    )
    for name, ours, theirs in zip(compared, here, there, strict=True):
        who = str(peft.facts["base"]) if name is None else str(peft.adapters[name].folder)
        if name is not None and ours == here[0] and theirs != there[0]:
            raise InputError(
                f"{who}: vLLM ignores this adapter: its log-probabilities of {read} equal those of the base, PEFT's do"
                " not",
                code="engine-ignores-adapter",
                hint="evaluate with the engine transformers",
            )
        apart = max(
            (
                abs(score.loglikelihood - expected.loglikelihood) / max(1, expected.n_tokens)
                for score, expected in zip(ours, theirs, strict=True)
            ),
            default=0.0,
        )
        if not apart <= TOLERANCE[dtype]:  # nor NaN
            raise InputError(
                f"{who}: vLLM and PEFT disagree: log-probabilities of {read} differ by up to {apart:.2g}"
                f" nats per token (limit for {dtype}: {TOLERANCE[dtype]:g})",
                code="engine-disagrees",
                hint="evaluate with the engine transformers",
            )


# ---------------------------------------------------------------- process
#
# vLLM has a process with its own Python, since vLLM pins its own torch, and its own environment (one device, no
# prompts, vLLM's variables). It starts once, receives requests as lines of JSON (server.py), and ends with Gradience.


PYTHON = "GRADIENCE_ENGINE_PYTHON"
"""Environment variable that names the Python. No config can: only the user decides which program runs."""
SERVER = Path(__file__).with_name("server.py")
SECONDS = 60
"""Seconds to list the installed packages."""
HOW = (
    "give --engine-python PATH (or set GRADIENCE_ENGINE_PYTHON): the python of an environment with"
    " `pip install vllm`"
)
BATCH_INVARIANT = "VLLM_BATCH_INVARIANT"
"""vLLM's variable for answers that do not depend on the rest of the batch. It makes vLLM slower."""
CACHE = "VLLM_CPU_KVCACHE_SPACE"
"""vLLM's own variable: GiB for keys and values on a processor."""
CACHE_GIB = "2"
"""Unless that says otherwise."""
LEAVES = 30
"""Seconds that it has to leave, before it is killed."""
LAST = 4
"""Lines of its output that a message quotes."""
LONGEST = 300
"""Characters of a refusal: some list all that there is."""


def interpreter() -> str:
    """Return the program that the environment names. Raises UsageError (`no-engine-python`)."""
    named = os.environ.get(PYTHON)
    if not named:
        raise UsageError("the engine vllm needs its own Python", code="no-engine-python", hint=HOW)
    program = shutil.which(named)
    if program is None:
        raise UsageError(f"{named}: no such program", code="no-engine-python", hint=HOW)
    return program


@cache
def versions_in(python: str) -> dict[str, str]:
    """Return the installed versions of vLLM and its numeric dependencies, without importing them.

    Raises UsageError: `no-engine-python` if this is not a Python, `no-vllm` if it lacks vLLM.
    """
    try:
        done = subprocess.run(
            [python, str(SERVER), "versions"], env=_clean(), capture_output=True, timeout=SECONDS, check=True
        )
        versions: dict[str, str] = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise UsageError(
            f"{python}: cannot be used as the Python of vLLM: {error}", code="no-engine-python", hint=HOW
        ) from None
    if "vllm" not in versions:
        raise UsageError(f"{python}: vLLM is not installed there", code="no-vllm", hint=HOW)
    return versions


def _clean() -> dict[str, str]:
    """Return the environment for another Python, without this one's module paths."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def environment(device: torch.device) -> dict[str, str]:
    """Return that of one process on this device: a refusal arrives as one, and no worker outlives it."""
    return {
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
        "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",  # one token more than the context: it is not read
        CACHE: os.environ.get(CACHE, CACHE_GIB),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        VISIBLE: visible_name(device),
    }


def is_batch_invariant() -> bool:
    """Return True if vLLM must give answers that do not depend on the rest of the batch."""
    return os.environ.get(BATCH_INVARIANT, "0") not in ("", "0")


class RefusedByVllm(Exception):
    """vLLM does not take a model, an adapter or a sequence; why, in its words."""


class VllmProcess:
    """A running server.py."""

    def __init__(self, python: str, environment: Mapping[str, str]) -> None:
        """python: as `interpreter` names it. environment: added to that of this process."""
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115  (open as long as the process is)
        self._child = subprocess.Popen(
            [python, str(SERVER)],
            env=_clean() | dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._printed,
            encoding="utf-8",
        )

    def ask(self, method: str, **arguments: Any) -> Any:
        """Return the result of a method of `server.Server`.

        Raises RefusedByVllm, OutOfMemoryError, and EngineError (`engine-died`) if the process is gone.
        """
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        with suppress(BrokenPipeError):  # then there is no reply
            self._child.stdin.write(json.dumps({"ask": method, **arguments}) + "\n")
            self._child.stdin.flush()
        line = self._child.stdout.readline()
        if not line:
            self._died(method)
        reply = json.loads(line)
        if "refusal" not in reply:
            return reply["answer"]
        raise (OutOfMemoryError if reply["memory"] else RefusedByVllm)(_first_line(reply["refusal"]))

    def _died(self, method: str) -> NoReturn:
        code = self._child.wait()
        how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
        hint = "the system may have run out of memory (signal 9)" if code < 0 else ""
        self._printed.seek(0)
        lines = self._printed.read().decode(errors="replace").split("\n")
        last = [line.strip() for line in lines if line.strip()][-LAST:]
        printed = (
            f"Its last {counted(len(last), 'line')}: {' / '.join(last)}" if last else "It printed nothing"
        )
        raise EngineError(
            f"the vLLM process {how} during {method!r}. {printed}", code="engine-died", hint=hint
        )

    def close(self) -> None:
        """End it."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        with suppress(BrokenPipeError):
            self._child.stdin.close()
        try:
            self._child.wait(LEAVES)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._child.stdout.close()
        self._printed.close()


def _first_line(text: str) -> str:
    """Return an error message in one line. pydantic's start with the number of errors, and end with a type."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    reasons = [
        line.partition(" [type=")[0].removeprefix("Value error, ") for line in lines if " [type=" in line
    ]
    line = next(iter(reasons or lines), text)
    return line if len(line) <= LONGEST else line[:LONGEST].rpartition(" ")[0] + " …"
