"""A conversation as a tokenizer's chat template writes it, cut before one of the assistant's turns. Needs no torch.

What is cut is text: training, scoring and generation tokenise it by the one rule of `rendering`.
A template is a stranger's program: `chat_process` renders it, with limits on time and memory.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from gradience.errors import InputError
from gradience.models.chat_process import SECONDS

ASSISTANT = "assistant"
Message = Mapping[str, str]
"""`role` and `content`."""
MAX_TEMPLATE = 2**20
"""Characters."""
MARK = "ENDOFTHISTURN"
"""Stands behind the answer in one of the renderings, so that its end is seen and not searched for."""


@dataclass(frozen=True, slots=True)
class Turn:
    """The last turn of a conversation, the assistant's, and all that comes before it."""

    prompt: str
    """The template's text up to where the assistant writes, without what the tokenizer itself puts before a text."""
    response: str
    """What the assistant writes, and what closes its turn unless that is the end token."""
    close: str
    """What closes the turn before the end token, which is put behind every response; empty where nothing does."""


@contextmanager
def chat_template(tokenizer: Any) -> Iterator[ChatTemplate]:
    """The chat template of `tokenizer`, in a process of its own while this lasts.

    Raises InputError (`no-chat-template`, `chat-template`).
    """
    given = getattr(tokenizer, "chat_template", None)
    template = given.get("default") if isinstance(given, Mapping) else given
    if not template:
        raise InputError(
            f"{tokenizer.name_or_path or 'the tokenizer'}: has no chat template",
            code="no-chat-template",
            hint="take an instruct model, or write the prompts out and use `profile: jsonl`",
        )
    if not isinstance(template, str) or len(template) > MAX_TEMPLATE:
        raise _refused(tokenizer, f"is not a text of at most {MAX_TEMPLATE:,} characters")
    command = [sys.executable, "-P", "-m", "gradience.models.chat_process"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
    ) as process:
        chat = ChatTemplate(tokenizer, process)
        try:
            chat.send([template, tokenizer.special_tokens_map])
            yield chat
        finally:
            process.kill()


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """Cuts conversations. Its methods raise InputError (`chat-template`) where the template refuses a conversation,
    takes too much time or memory, writes the turn in another way than it is given, or begins in another way than the
    tokenizer does."""

    tokenizer: Any
    _process: subprocess.Popen[str]

    def last_turn(self, messages: Sequence[Message]) -> Turn:
        """The last of `messages`, which is the assistant's, as a turn."""
        *earlier, last = messages
        content = last["content"].rstrip()
        mark = MARK
        while any(mark in message["content"] for message in messages):
            mark += "X"
        before, whole, marked = self._written(
            (earlier, True),
            ([*earlier, {**last, "content": content}], False),
            ([*earlier, {**last, "content": content + mark}], False),
        )
        end = marked.find(mark)
        as_given = marked.count(mark) == 1 and marked.replace(mark, "") == whole
        if not (
            as_given and whole.startswith(before) and whole[len(before) : end].endswith(content.lstrip())
        ):
            raise _refused(self.tokenizer, "writes the assistant's last turn in another way than it is given")
        close = whole[end:].partition(self.tokenizer.eos_token or "\0")[0].strip()
        return Turn(self._without_beginning(before), whole[len(before) : end] + close, close)

    def prompt_before(self, messages: Sequence[Message]) -> str:
        """All `messages` as the prompt of the assistant's next turn."""
        return self._without_beginning(self._written((messages, True))[0])

    def send(self, what: object) -> None:
        """Send a line to the process: the template, then conversations."""
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps(what) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._process.wait()  # why it ended is said when its answer is missing

    def _written(self, *chats: tuple[Sequence[Message], bool]) -> list[str]:
        """The texts of conversations, each with or without what asks the assistant to write."""
        assert self._process.stdout
        self.send(chats)
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"wrong": self._how_it_ended()}
        if "texts" in answer:
            return list(answer["texts"])
        roles = ", ".join(message["role"] for message in chats[-1][0])
        raise _refused(
            self.tokenizer,
            f"fails on a conversation of {roles}: {answer['wrong']}",
            "correct the template or the rows: most templates want user and assistant in turn",
        )

    def _how_it_ended(self) -> str:
        code = self._process.wait()
        if code == -signal.SIGPROF:
            return f"it takes more than {SECONDS:.0f} seconds of processor time"
        if code >= 0:  # an error of ours, or of the installation
            raise subprocess.CalledProcessError(code, self._process.args)
        return f"signal {-code} ended the process that rendered it"

    def _without_beginning(self, text: str) -> str:
        """The text without the token that the tokenizer puts before every text anyway."""
        bare = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        begin = self.tokenizer.bos_token
        if begin and text.startswith(begin):
            shorter = text[len(begin) :]
            if self._begins(shorter, bare):
                return shorter
        if not self._begins(text, bare):
            raise _refused(
                self.tokenizer,
                "does not begin with the token that the tokenizer puts before every text",
                "let the template begin with bos_token, or switch off add_bos_token",
            )
        return text

    def _begins(self, text: str, ids: list[int]) -> bool:
        """Whether `text` with the tokenizer's own special tokens begins with `ids`."""
        return list(self.tokenizer(text, add_special_tokens=True)["input_ids"])[: len(ids)] == ids


def _refused(tokenizer: Any, what: str, hint: str = "correct the template") -> InputError:
    return InputError(
        f"{tokenizer.name_or_path or 'the tokenizer'}: its chat template {what}",
        code="chat-template",
        hint=hint,
    )
