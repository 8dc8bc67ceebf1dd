"""A server with OpenAI's completions API that holds base and adapters, such as `vllm serve --enable-lora`.

Prompts are sent as text, and adapters are asked for by the names that the server knows. The server's own tokenizer
adds the begin token. docs/engines.md says how to start a server and what was run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NoReturn, Self, TypeVar

import urllib3
from pydantic import BaseModel, Field, FiniteFloat, ValidationError

from gradience.errors import InputError, NetworkError, UsageError
from gradience.evaluate.adapters import AdapterIdentity
from gradience.evaluate.engines.base import Decoding, Engine, Output, Reading, Score
from gradience.files.records import RecordKind
from gradience.files.shared_names import sentence_text
from gradience.models.settings import ModelSettings
from gradience.words import counted

if TYPE_CHECKING:
    from gradience.evaluate.inputs import EvaluateInputs

T = TypeVar("T")
A = TypeVar("A", bound=BaseModel)

KEY = "GRADIENCE_SERVER_KEY"
"""Environment variable with the API key. OPENAI_API_KEY is not read: it belongs to one server, and this is any."""
ADDRESS = re.compile(r"https?://[^/?#@\s]+(/[^?#\s]*)?", re.ASCII)
SUCH_AS = "give --server with the address before /completions, such as http://127.0.0.1:8000/v1"
IN_FLIGHT = 32
"""Requests that wait for the server at the same time."""
BATCH_CHARACTERS = 2**17
"""Characters of a batch, answers included. If the server dies, at most one batch is lost and sent again."""
TIMEOUT = urllib3.Timeout(connect=10, read=600)
RETRIES = urllib3.Retry(
    total=6,
    read=2,
    redirect=0,
    allowed_methods=None,
    status_forcelist=(408, 409, 429, 500, 502, 503, 504),
    raise_on_status=False,
    backoff_factor=0.5,
    backoff_jitter=0.5,
    retry_after_max=60,
)
"""Seven attempts in about 30 seconds. A time-out or a broken connection is tried twice again."""
MAX_LISTING = 2**20
"""Bytes of the list of models."""
LONGEST = 300
"""Characters of the server's words in a message."""


class _ServedModel(BaseModel):
    id: str
    parent: str | None = None
    """vLLM: the base of an adapter."""
    owned_by: str = ""


class _ServedModels(BaseModel):
    data: list[_ServedModel]


class _Version(BaseModel):
    version: str = ""


class _Logprobs(BaseModel):
    token_logprobs: list[FiniteFloat | None]
    top_logprobs: list[dict[str, FiniteFloat] | None]


class _Choice(BaseModel):
    text: str
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    """vLLM: the stop string."""
    logprobs: _Logprobs | None = None


class _Usage(BaseModel):
    prompt_tokens: int = Field(ge=0)
    completion_tokens: int = Field(default=0, ge=0)


class _Completion(BaseModel):
    choices: Annotated[list[_Choice], Field(min_length=1)]
    usage: _Usage


class OpenAIEngine(Engine):
    """Adapters on a server, by name. The methods are documented in `Engine`.

    It computes no KL, and cannot tell whether a server applies an adapter at all.
    """

    name: ClassVar[str] = "openai"
    answers: ClassVar[frozenset[RecordKind]] = frozenset({"generation", "choices"})

    def __init__(self, model: ModelSettings, begin: str = "") -> None:
        """begin: the text of the begin token, which the server adds; a chat template may write it as well."""
        super().__init__(model)
        self._address, self._key = address_of(model), key()
        self._pool = urllib3.PoolManager(maxsize=IN_FLIGHT, block=True, retries=RETRIES, timeout=TIMEOUT)
        listed = self._ask("models", _ServedModels, MAX_LISTING).data
        self._models = {served.id: served for served in listed}
        owners = {served.owned_by for served in listed}
        self._version = owners.pop() if len(owners) == 1 else ""
        if self._version == "vllm":
            with suppress(InputError):  # a proxy may not pass this on
                self._version += f" {self._ask('../version', _Version, MAX_LISTING).version}"
        self._begin = begin

    @classmethod
    def check(cls, model: ModelSettings, *, labels: int | None = None) -> None:
        """Raises UsageError: `no-server`, `bad-server`, `bad-server-key`, `engine-cannot` for what a server decides."""
        super().check(model, labels=labels)
        address_of(model)
        key()
        decided = {
            "--dtype": model.dtype != "auto",
            "--quantization": model.quantization is not None,
            "--revision": model.revision is not None,
        }
        for flag, given in decided.items():
            if given:
                raise UsageError(
                    f"{flag} cannot be used with the engine openai: the server has loaded the base",
                    code="engine-cannot",
                    hint=f"remove {flag}",
                )

    @classmethod
    def inspect(cls, inputs: EvaluateInputs) -> Iterator[str]:
        cls.check(inputs.model)
        yield from super().inspect(inputs)
        if folders := sum(adapter.ranks is not None for adapter in inputs.adapters):
            yield (
                f"{counted(folders, 'adapter')} given as {'a folder' if folders == 1 else 'folders'}: the server was"
                " asked by name, and its weights were not compared with these files"
            )

    @classmethod
    def batch_tokens(cls, device: str) -> int:
        return BATCH_CHARACTERS

    @classmethod
    def load(
        cls, model: ModelSettings, *, labels: int | None = None, device: str = "auto", tokenizer: Any = None
    ) -> Self:
        """Ask the server which models it holds. Raises what `check` raises, and NetworkError (`no-server-answer`,
        `server-key`)."""
        cls.check(model, labels=labels)
        adds = tokenizer is not None and tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]
        return cls(model, tokenizer.bos_token if adds else "")

    @property
    def facts(self) -> Mapping[str, Any]:
        known = super().facts
        return {**known, "versions": {**known["versions"], self.name: sentence_text(self._version)[:60]}}

    def add(self, name: str, folder: Path) -> None:
        """Find the adapter on the server: by `folder` as a name, else by its last part. Raises InputError
        (`not-served`)."""
        self._served_name(folder)
        self._adapters[name] = AdapterIdentity.of(folder) if folder.is_dir() else AdapterIdentity(folder)

    def close(self) -> None:
        self._pool.clear()

    def generate(self, name: str | None, prompts: Sequence[str], how: Decoding) -> list[Output]:
        """Return greedy answers, cut at the first stop string."""
        model, more = self._model(name), {"stop": list(how.stop)} if how.stop else {}

        def answer(prompt: str) -> Output:
            completion = self._complete(model, prompt, max_tokens=how.max_new_tokens, **more)
            choice, n_tokens = completion.choices[0], completion.usage.completion_tokens
            ends = [place for text in how.stop if (place := choice.text.find(text)) >= 0]
            text = choice.text[: min(ends)] if ends else choice.text
            if ends or isinstance(choice.stop_reason, str):
                return Output(text, n_tokens, "stop_string", truncated=False)
            cut = choice.finish_reason == "length"
            return Output(text, n_tokens, "length" if cut else "eos", truncated=False)

        return self._together(answer, prompts)

    def score(
        self, name: str | None, pairs: Sequence[tuple[str, str]], how: Reading, reference: str | None = None
    ) -> list[Score]:
        """Return scores without KL, from the server's log-probabilities of the prompt (`echo`).

        A response's tokens are those behind as many tokens as its prompt has on its own, as in
        lm-evaluation-harness. Raises InputError (`engine-cannot`) for a server that returns none.
        """
        model, prompts = self._model(name), list(dict.fromkeys(prompt for prompt, _ in pairs))
        alone = self._together(lambda prompt: self._complete(model, prompt, max_tokens=1), prompts)
        tokens = {prompt: answer.usage.prompt_tokens for prompt, answer in zip(prompts, alone, strict=True)}
        return self._together(lambda pair: self._score(model, pair[0], pair[1], tokens[pair[0]]), pairs)

    def _score(self, model: str, prompt: str, response: str, before: int) -> Score:
        completion = self._complete(model, prompt + response, max_tokens=1, echo=True, logprobs=1)
        whole, logprobs = completion.usage.prompt_tokens, completion.choices[0].logprobs
        if logprobs is None or len(logprobs.token_logprobs) < whole:
            raise InputError(
                f"{self._address}: the server returned no log-probabilities of the prompt, which choices need",
                code="engine-cannot",
                hint="use a server that answers `echo` with `logprobs`, such as vLLM, or the engine transformers",
            )
        terms = logprobs.token_logprobs[before:whole]
        values = [value for value in terms if value is not None]
        best = logprobs.top_logprobs[before:whole]
        if not values or len(values) < len(terms) or len(best) < len(terms):
            self._refuse_answer("log-probabilities are missing for some tokens of a response")
        exact = all(
            value >= max((top or {}).values(), default=value) for value, top in zip(values, best, strict=True)
        )
        return Score(sum(values), len(values), exact, kl=None, flips=None, truncated=False)

    # ------------------------------------------------------------ the server

    def _model(self, name: str | None) -> str:
        """Return the name that the server knows."""
        if name is not None:
            return self._served_name(self._adapters[name].folder)
        if self.model.name in self._models:
            return self.model.name
        bases = [served.id for served in self._models.values() if served.parent is None]
        if len(bases) != 1:
            raise self._not_served(self.model.name)
        return bases[0]

    def _served_name(self, folder: Path) -> str:
        for known in (str(folder), folder.name):
            if known in self._models:
                return known
        raise self._not_served(str(folder))

    def _not_served(self, name: str) -> InputError:
        served = ", ".join(sentence_text(known)[:80] for known in list(self._models)[:8]) or "no model"
        return InputError(
            f"{self._address}: the server has no model called {name}",
            code="not-served",
            hint=f"it serves {served}",
        )

    def _complete(self, model: str, prompt: str, *, max_tokens: int, **more: Any) -> _Completion:
        prompt = prompt.removeprefix(self._begin)
        body = {
            "model": model,
            "prompt": prompt,
            "max_tokens": max_tokens,
            "temperature": 0,
            "seed": 0,
            **more,
        }
        longest = 2**16 + 2**10 * (max_tokens + len(prompt))
        return self._ask("completions", _Completion, longest, body)

    def _ask(self, path: str, answers: type[A], longest: int, body: Mapping[str, Any] | None = None) -> A:
        """Return the server's answer of at most `longest` bytes: to a POST with a body, else to a GET."""
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        address = f"{self._address}/{path}"
        if path.startswith("../"):
            address = f"{self._address.rpartition('/')[0]}/{path.removeprefix('../')}"
        try:
            response = self._pool.request(
                "GET" if body is None else "POST",
                address,
                json=body,
                headers=headers,
                preload_content=False,
                redirect=False,
            )
            try:
                content = response.read(longest + 1, decode_content=False)
                if response.length_remaining and len(content) <= longest:
                    raise urllib3.exceptions.IncompleteRead(len(content), response.length_remaining)
            finally:
                response.release_conn() if response.length_remaining == 0 else response.close()
        except urllib3.exceptions.HTTPError as error:
            reason = getattr(error, "reason", None) or error
            raise NetworkError(
                f"{self._address}: no answer from the server: {self._words(str(reason))}",
                code="no-server-answer",
                hint="start the server again, and repeat the command: finished answers are kept",
            ) from None
        if response.status != 200:
            self._refuse_status(response.status, content[:4096].decode(errors="replace"))
        if len(content) > longest:
            self._refuse_answer(f"its answer has more than {longest:,} bytes")
        try:
            return answers.model_validate_json(content)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            self._refuse_answer(f"its answer is not that of a completions API: {where} {first['msg']}")

    def _refuse_status(self, status: int, words: str) -> NoReturn:
        if status in (401, 403):
            raise NetworkError(
                f"{self._address}: the server refused the API key (status {status})",
                code="server-key",
                hint=f"set {KEY} to a key of this server",
            )
        words = f"{self._address}: the server answered with status {status}: {self._words(words)}"
        if status == 429 or status >= 500 or status < 400:
            raise NetworkError(
                words, code="no-server-answer", hint="repeat the command: finished answers are kept"
            )
        raise InputError(
            words, code="engine-refuses", hint="see docs/engines.md for what a server must accept"
        )

    def _refuse_answer(self, why: str) -> NoReturn:
        raise NetworkError(
            f"{self._address}: {why}",
            code="server-answer",
            hint="check that --server names a completions API",
        )

    def _words(self, text: str) -> str:
        """Return the server's words, short and without the key."""
        text = text.replace(self._key, "[key]") if self._key else text
        return sentence_text(" ".join(text.split()))[:LONGEST]

    def _together(self, ask: Callable[[Any], T], items: Sequence[Any]) -> list[T]:
        """Return an answer to each item; the first error cancels those that have not begun."""
        with ThreadPoolExecutor(IN_FLIGHT) as pool:
            return list(pool.map(ask, items))


def address_of(model: ModelSettings) -> str:
    """Return the server's address without a slash at its end. Raises UsageError (`no-server`, `bad-server`)."""
    if model.server is None:
        raise UsageError("the engine openai needs a server", code="no-server", hint=SUCH_AS)
    if not ADDRESS.fullmatch(model.server):
        raise UsageError("--server: not the address of a server", code="bad-server", hint=SUCH_AS)
    return model.server.rstrip("/")


def key() -> str:
    """Return the API key in the environment; empty if there is none. Raises UsageError (`bad-server-key`)."""
    given = os.environ.get(KEY, "").strip()
    if not given.isascii() or not given.isprintable():
        raise UsageError(
            f"{KEY} contains characters that are not allowed in an HTTP header",
            code="bad-server-key",
            hint=f"set {KEY} to the key only, in ASCII and without line breaks",
        )
    return given
