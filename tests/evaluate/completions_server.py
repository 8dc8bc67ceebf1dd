"""A server on loopback that speaks OpenAI's completions API with a tiny model, and every way in which it fails."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch
from peft import PeftModel

Body = dict[str, Any]
Failure = tuple[int, Mapping[str, str], bytes]


@dataclass
class Server:
    """What it answers, and what it was asked."""

    complete: Callable[[Body], Body]
    models: list[Body]
    key: str = ""
    failures: list[Failure] = field(default_factory=list)
    """Answers to the next requests, in place of its own."""
    left: int | None = None
    """Completions until it dies; None: never."""
    asked: list[Body] = field(default_factory=list)
    keys: set[str | None] = field(default_factory=set)
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)


class _Handler(BaseHTTPRequestHandler):
    server_state: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        state = self.server_state
        answers = {
            "/v1/models": {"object": "list", "data": state.models},
            "/version": {"version": "0.0-tiny"},
        }
        self._send(200 if self.path in answers else 404, {}, json.dumps(answers.get(self.path, {})).encode())

    def do_POST(self) -> None:
        state = self.server_state
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with state.lock:
            state.keys.add(self.headers["Authorization"])
            failure = state.failures.pop(0) if state.failures else None
            if state.left is not None:
                state.left -= 1
        if state.left is not None and state.left < 0:
            self.close_connection = True  # as if its process were gone
            self.connection.close()
        elif failure is not None:
            self._send(*failure)
        elif state.key and self.headers["Authorization"] != f"Bearer {state.key}":
            self._send(401, {}, f"Incorrect API key: {self.headers['Authorization']}".encode())
        else:
            with state.lock:
                state.asked.append(body)
                answer = state.complete(body)
            self._send(200, {}, json.dumps(answer).encode())

    def _send(self, status: int, headers: Mapping[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
        self.close_connection = "Content-Length" in headers  # less than it says


@contextmanager
def serving(state: Server) -> Iterator[Server]:
    """Answer on a free port of loopback, while this lasts."""
    handler = type("Handler", (_Handler,), {"server_state": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()


def tiny_server(base: Any, tokenizer: Any, adapters: Mapping[str, Any]) -> Server:
    """Serve `base`, called `tiny`, and adapters from their folders; it computes each prompt on its own."""
    model: Any = base
    for name, folder in adapters.items():
        model = (
            model.load_adapter(folder, name) and model
            if isinstance(model, PeftModel)
            else PeftModel.from_pretrained(model, folder, adapter_name=name)
        )

    def forward(name: str, ids: list[int]) -> torch.Tensor:
        with torch.no_grad():
            if name == "tiny":
                with model.disable_adapter():
                    logits = model(torch.tensor([ids])).logits
            else:
                model.set_adapter(name)
                logits = model(torch.tensor([ids])).logits
        return logits[0].log_softmax(-1)

    def complete(body: Body) -> Body:
        ids = tokenizer(body["prompt"])["input_ids"]
        written: list[int] = []
        text, reason = "", "length"
        while len(written) < body["max_tokens"]:
            written.append(int(forward(body["model"], ids + written)[-1].argmax()))
            if written[-1] == tokenizer.eos_token_id:
                reason = "stop"
                break
            text = tokenizer.decode(written)
            if any(stop in text for stop in body.get("stop", ())):
                reason = "stop"
                break
        stopped = next((stop for stop in body.get("stop", ()) if stop in text), None)
        text = text if stopped is None else text.partition(stopped)[0]
        choice: Body = {"text": text, "finish_reason": reason, "stop_reason": stopped}
        if body.get("echo"):
            logprobs = forward(body["model"], ids)
            chosen = [None, *(float(row[token]) for row, token in zip(logprobs, ids[1:], strict=False))]
            best = [None, *({"best": float(row.max())} for row in logprobs[:-1])]
            choice |= {
                "text": body["prompt"] + text,
                "logprobs": {"token_logprobs": chosen, "top_logprobs": best},
            }
        usage = {"prompt_tokens": len(ids), "completion_tokens": len(written)}
        return {"object": "text_completion", "choices": [choice], "usage": usage}

    owner = {"owned_by": "vllm"}
    listed = [{"id": "tiny", **owner}, *({"id": name, "parent": "tiny", **owner} for name in adapters)]
    return Server(complete, listed)
