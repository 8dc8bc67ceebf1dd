"""A conversation as a tokenizer's chat template writes it, cut before one of the assistant's turns. Needs no torch.

What is cut is text: training, scoring and generation tokenise it by the one rule of `rendering`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradience.errors import InputError

ASSISTANT = "assistant"
Message = Mapping[str, str]
"""`role` and `content`."""


@dataclass(frozen=True, slots=True)
class Turn:
    """The last turn of a conversation, the assistant's, and all that comes before it."""

    prompt: str
    """The template's text up to where the assistant writes, without what the tokenizer itself puts before a text."""
    response: str
    """What the assistant writes, and what closes its turn unless that is the end token."""
    close: str
    """What closes the turn; empty where it is the end token, which is put behind every response."""


def last_turn(tokenizer: Any, messages: Sequence[Message]) -> Turn:
    """The last of `messages`, which is the assistant's, as a turn.

    Raises InputError: `no-chat-template`; `chat-template` where the template refuses the conversation, writes the turn
    in another way than it is given, or begins in another way than the tokenizer does.
    """
    before = _written(tokenizer, messages[:-1], asks=True)
    whole = _written(tokenizer, messages, asks=False)
    said, behind = messages[-1]["content"].strip(), whole[len(before) :]
    place = behind.rfind(said)
    if not whole.startswith(before) or place < 0:
        raise _refused(
            tokenizer,
            "writes the assistant's last turn in another way than it is given",
            "correct the template",
        )
    end = place + len(said)
    close = behind[end:].strip()
    if close.startswith(tokenizer.eos_token or "\0"):
        close = ""
    return Turn(_without_beginning(tokenizer, before), behind[:end] + close, close)


def prompt_before(tokenizer: Any, messages: Sequence[Message]) -> str:
    """All `messages` as the prompt of the assistant's next turn. Raises InputError as `last_turn` does."""
    return _without_beginning(tokenizer, _written(tokenizer, messages, asks=True))


def _written(tokenizer: Any, messages: Sequence[Message], *, asks: bool) -> str:
    from jinja2.exceptions import TemplateError

    if not getattr(tokenizer, "chat_template", None):
        raise InputError(
            f"{tokenizer.name_or_path or 'the tokenizer'}: has no chat template",
            code="no-chat-template",
            hint="take an instruct model, or write the prompts out and use `profile: jsonl`",
        )
    given = [dict(message) for message in messages]
    try:
        return str(tokenizer.apply_chat_template(given, tokenize=False, add_generation_prompt=asks))
    except TemplateError as error:
        said = f"refuses a conversation of {', '.join(one['role'] for one in given)}: {error}"
        raise _refused(
            tokenizer, said, "correct the rows: most templates want user and assistant in turn"
        ) from None


def _without_beginning(tokenizer: Any, text: str) -> str:
    """The text without the token that the tokenizer puts before every text anyway."""
    bare = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    begin = tokenizer.bos_token
    if begin and text.startswith(begin):
        shorter = text[len(begin) :]
        if _begins(tokenizer, shorter, bare):
            return shorter
    if not _begins(tokenizer, text, bare):
        raise _refused(
            tokenizer,
            "does not begin with the token that the tokenizer puts before every text",
            "let the template begin with bos_token, or switch off add_bos_token",
        )
    return text


def _begins(tokenizer: Any, text: str, ids: list[int]) -> bool:
    """Whether `text` with the tokenizer's own special tokens begins with `ids`."""
    return list(tokenizer(text, add_special_tokens=True)["input_ids"])[: len(ids)] == ids


def _refused(tokenizer: Any, what: str, hint: str) -> InputError:
    return InputError(
        f"{tokenizer.name_or_path or 'the tokenizer'}: its chat template {what}",
        code="chat-template",
        hint=hint,
    )
