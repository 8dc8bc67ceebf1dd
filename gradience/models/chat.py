"""A conversation as a tokenizer's chat template writes it, cut before one of the assistant's turns. Needs no torch.

What is cut is text: training, scoring and generation tokenize it by the one rule of `tokenizers`.
A template is an untrusted program. It is rendered in a process of its own, which runs this file: Jinja's sandbox keeps
the template from files and code, and the limits on time and memory keep it from taking the machine.
"""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradience.errors import InputError

ASSISTANT = "assistant"
Message = tuple[str, str]
"""Role and content."""
Chat = tuple[Sequence[Message], bool]
"""A conversation, and True if the assistant is to answer after it."""
MAX_TEMPLATE = 2**20
"""Characters."""
BEGINNING = 1000
"""Characters in which the beginning of a text is looked at."""
MARK = "ENDOFTHISTURN"
"""Marks the end of the answer in one of the renderings."""


@dataclass(frozen=True, slots=True)
class Turn:
    """The last turn of a conversation, the assistant's, and all that comes before it."""

    prompt: str
    """The template's text up to the assistant's turn, without the tokens that the tokenizer itself adds
    before a text.
    """
    response: str
    """The text that the assistant writes, and what closes its turn unless that is the end token."""
    close: str
    """The text that closes the turn before the end token, which is put behind every response; often empty."""


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
            hint="use an instruct model, or write out the prompts and use `profile: jsonl`",
        )
    if not isinstance(template, str) or len(template) > MAX_TEMPLATE:
        raise _refused(tokenizer, f"is not a text of at most {MAX_TEMPLATE:,} characters")
    command = [sys.executable, "-P", "-m", "gradience.models.chat"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
    ) as process:
        chat = ChatTemplate(tokenizer, process, not _begins(tokenizer, "a", _bare(tokenizer, "a")))
        try:
            chat.send([template, tokenizer.special_tokens_map])
            yield chat
        finally:
            process.kill()


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """Splits conversations into prompt and response. Its methods raise InputError (`chat-template`) if the
    template rejects a conversation, exceeds the time or memory limit, changes the assistant's text, or
    starts differently from the tokenizer.
    """

    tokenizer: Any
    _process: subprocess.Popen[str]
    _adds_a_beginning: bool = True

    def last_turn(self, messages: Sequence[Message]) -> Turn:
        """The last of `messages`, which is the assistant's, as a turn."""
        *earlier, (role, content) = messages
        mark = MARK
        while any(mark in text for _, text in messages):
            mark += "X"
        with_mark = [*earlier, (role, content.rstrip() + mark)]
        before, whole, marked = self._written(
            [(earlier, True), ([*earlier, (role, content.rstrip())], False), (with_mark, False)]
        )
        end = marked.find(mark)
        as_given = marked.count(mark) == 1 and marked.replace(mark, "") == whole
        written = whole[len(before) : end]
        if not (as_given and whole.startswith(before) and written.endswith(content.strip())):
            raise _refused(self.tokenizer, "writes the assistant's last turn in another way than it is given")
        close = whole[end:].partition(self.tokenizer.eos_token or "\0")[0].strip()
        return Turn(self._without_beginning(before), written + close, close)

    def prompt_before(self, messages: Sequence[Message]) -> str:
        """All `messages` as the prompt of the assistant's next turn."""
        return self._without_beginning(self._written([(messages, True)])[0])

    def send(self, message: object) -> None:
        """Send a line to the process: the template, then conversations."""
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._process.wait()  # why it ended is said when its answer is missing

    def _written(self, chats: Sequence[Chat]) -> list[str]:
        """The texts of conversations, each with or without what asks the assistant to write."""
        assert self._process.stdout
        self.send(chats)
        line = self._process.stdout.readline()
        reply: dict[str, Any] = json.loads(line) if line else {"wrong": self._how_it_ended()}
        if "texts" in reply:
            return list(reply["texts"])
        roles = ", ".join(role for role, _ in chats[-1][0])
        raise _refused(
            self.tokenizer,
            f"fails on a conversation of {roles}: {reply['wrong']}",
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
        if not self._adds_a_beginning:
            return text
        head, begin = text[:BEGINNING], self.tokenizer.bos_token
        bare = _bare(self.tokenizer, head)
        if begin and head.startswith(begin) and _begins(self.tokenizer, head[len(begin) :], bare):
            return text[len(begin) :]
        if not _begins(self.tokenizer, head, bare):
            raise _refused(
                self.tokenizer,
                "does not begin with the token that the tokenizer puts before every text",
                "let the template begin with bos_token, or switch off add_bos_token",
            )
        return text


def _bare(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _begins(tokenizer: Any, text: str, ids: list[int]) -> bool:
    """Return True if `text` with the tokenizer's own special tokens begins with `ids`."""
    return list(tokenizer(text, add_special_tokens=True)["input_ids"])[: len(ids)] == ids


def _refused(tokenizer: Any, problem: str, hint: str = "correct the template") -> InputError:
    return InputError(
        f"{tokenizer.name_or_path or 'the tokenizer'}: its chat template {problem}",
        code="chat-template",
        hint=hint,
    )


# ---------------------------------------------------------------- the process: lines of JSON on stdin and stdout

MEMORY_BYTES = 512 * 2**20
"""Address space for rendering, beyond what the process uses before it starts."""
SECONDS, SECONDS_EACH = 5.0, 0.007
"""Processor time: a constant, plus this much for each text. Ordinary texts need a hundredth of that."""
MAX_CHARACTERS, TIMES_GIVEN = 100_000, 10
"""Largest rendered text: a constant, plus this multiple of the conversation's own text."""


def main() -> None:
    """Read the template, then answer each line of conversations with their texts, or with what is wrong."""
    from jinja2.exceptions import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process decides when this ends
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    space, most = pages * resource.getpagesize() + MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(
        resource.RLIMIT_AS, (space if most == resource.RLIM_INFINITY else min(space, most),) * 2
    )
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    started = time.process_time()
    template, special_tokens = json.loads(sys.stdin.readline())

    def written(chat: Any, asks: bool) -> str:
        messages = [{"role": role, "content": content} for role, content in chat]
        texts = render_jinja_template([messages], None, None, template, False, False, asks, **special_tokens)[
            0
        ]
        text = str(texts[0])
        limit = MAX_CHARACTERS + TIMES_GIVEN * sum(len(content) for _, content in chat)
        if len(text) > limit:
            raise TemplateError(f"{len(text):,} characters (limit: {limit:,})")
        text.encode()
        return text

    allowed = SECONDS
    for line in sys.stdin:
        chats = json.loads(line)
        allowed += SECONDS_EACH * len(chats)
        signal.setitimer(signal.ITIMER_PROF, max(allowed - (time.process_time() - started), SECONDS_EACH))
        texts: list[str] = []
        reply: dict[str, Any] = {"texts": texts}
        try:
            texts += (written(*chat) for chat in chats)
        except MemoryError:
            reply = {"wrong": f"it takes more than {MEMORY_BYTES // 2**20} MB of memory"}
        except Exception as error:  # noqa: BLE001  (a stranger's program may raise anything)
            name = "" if type(error) is TemplateError else f"{type(error).__name__}: "
            reply = {"wrong": f"{name}{error}"[:500]}
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
