"""Conversations from a user's own files (JSONL, CSV, TSV): `messages`, each with `role` and `content`.

The tokenizer's chat template renders them as text. Only the assistant's turns are trained on and scored: in
training each turn once, in dev and confirm the last turn of each conversation, because turns of one
conversation are not independent.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from gradience.errors import InputError
from gradience.models.chat import ASSISTANT
from gradience.reports.bench_plan import Role
from gradience.settings import Positive
from gradience.tasks.base import AnswerScoring, ChatTask, LikelihoodScoring
from gradience.tasks.examples import ChatExample, content_id
from gradience.tasks.rows import Column, Row, gather, sources_of, tables_of
from gradience.tasks.scorers import NLL, ScorerName, gold_of, room_for, scorer_of, scoring_by

ROLES = ("system", "developer", "user", ASSISTANT, "tool")
SPEAKERS = {"human": "user", "function_call": ASSISTANT, "observation": "tool"} | dict.fromkeys(
    ("gpt", "chatgpt", "bot", "model"), ASSISTANT
)
"""Names of speakers in ShareGPT's layout -> roles."""


def load(
    *,
    file: Path | None = None,
    train_file: Path | None = None,
    dev_file: Path | None = None,
    confirm_file: Path | None = None,
    dev: Annotated[int, Field(ge=0)] | None = None,
    columns: dict[Column, str] | None = None,
    scorer: ScorerName | Literal["nll"] = "exact",
    pattern: Annotated[str, Field(min_length=1)] | None = None,
    max_new_tokens: Positive | None = None,
) -> ChatTask:
    """Conversations from one `file`, split by all but their last turns, or from `train_file` and `confirm_file`.

    The last message is the assistant's, or the row has an `answer`, which then is that message. The gold answer is the
    `answer`, or what the scorer extracts from the last message. max_new_tokens: as in `jsonl`.
    Raises UsageError (`task-scorer`, `task-pattern`), InputError (`task-messages`: a message is none, or the last is
    not the assistant's; `task-answer`), and as `tables_of` and `gather` do.
    """
    likelihoods = scorer == NLL
    rule = scorer_of("exact" if likelihoods else scorer, pattern)

    def make(row: Row, role: Role) -> ChatExample:
        messages = messages_of(row)
        answer = row.answer().strip() if row.has("answer") else None
        gold = messages[-1][1] if likelihoods else gold_of(row, messages[-1][1], answer, rule)
        return ChatExample(content_id(_text(messages), exact=True), messages, gold, role)

    tables = tables_of(file, train=train_file, dev=dev_file, confirm=confirm_file, columns=columns)
    examples = gather(tables, "messages", lambda row: _text(messages_of(row)[:-1]), make, dev)
    return ChatTask(
        name="chat",
        scored_by=scorer if pattern is None else f"{scorer} {pattern}",
        likelihoods=likelihoods,
        examples=examples,
        filters=rule.filters,
        same=rule.same,
        max_new_tokens=max_new_tokens or room_for(examples),
        source=sources_of(tables),
    )


def scoring(
    *, scorer: str = "exact", pattern: str | None = None, **_: object
) -> AnswerScoring | LikelihoodScoring:
    """Return the scoring rule for the last turns, from the options `scorer` and `pattern`. Raises as `load`
    does.
    """
    return scoring_by(scorer, pattern)


def messages_of(row: Row) -> tuple[tuple[str, str], ...]:
    """(role, content) of each message, the assistant's last. Raises InputError (`task-messages`, `task-text`)."""
    messages = several_messages_of(row)
    if messages[-1][0] != ASSISTANT and row.has("answer"):
        messages.append((ASSISTANT, row.answer()))
    if messages[-1][0] != ASSISTANT:
        raise _no_message(
            row, f"the last message is of the {messages[-1][0]}, so nothing says what is to be answered"
        )
    if len(messages) < 2:
        raise _no_message(row, "nothing comes before the assistant's message")
    return tuple(messages)


def several_messages_of(row: Row) -> list[tuple[str, str]]:
    """Return (role, content) of each message; the last may have any role. ShareGPT calls them `from` and `value`.

    Raises InputError (`task-messages`, `task-text`).
    """
    messages = []
    for number, value in enumerate(row.items("messages", "message", 1), 1):
        fields = value if isinstance(value, dict) else {}
        role = fields.get("role", fields.get("from"))
        role, content = SPEAKERS.get(str(role), role), fields.get("content", fields.get("value"))
        if role not in ROLES:
            raise _no_message(row, f"message {number} has no role of {', '.join(ROLES)}")
        if not isinstance(content, str) or not content.strip():
            raise _no_message(row, f"the content of message {number} is no text, or empty")
        messages.append((role, content))
    return messages


def _no_message(row: Row, problem: str) -> InputError:
    return InputError(
        f"{row.place}: {problem}",
        code="task-messages",
        hint='write {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}',
    )


def _text(messages: Sequence[tuple[str, str]]) -> str:
    return json.dumps(messages, ensure_ascii=False)
