"""Conversations from a user's own files (JSONL, CSV, TSV): `messages`, each with `role` and `content`.

The tokenizer's chat template renders them as text. Only the assistant's turns are trained on and scored: in
training each turn once, in dev and confirm the last turn of each conversation, because turns of one
conversation are not independent.

Prompts without answers may be conversations too: an output counts as unchanged if its text equals the reference's.
"""

import json
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from gradience.errors import InputError
from gradience.files.records import GenerationRecord
from gradience.models.chat import ASSISTANT, ChatTemplate, chat_template
from gradience.reports.bench_plan import Role
from gradience.settings import Positive
from gradience.tasks.base import AnswerScoring, ChatTask, Decision, GenerationTask, LikelihoodScoring
from gradience.tasks.examples import ChatExample, PromptExample, content_id
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


# ---------------------------------------------------------------- prompts without answers

MAX_NEW_TOKENS = 256
"""Tokens of an answer, since no response shows how long answers are."""


class Unchanged:
    """Compares an output with the reference's, which comes first."""

    names = ("output",)

    def __init__(self) -> None:
        self._outputs: dict[str, str] = {}

    def __call__(self, example_id: str, responses: Sequence[Any]) -> Decision:
        """Return True for the first output of an example, and for those that are equal to it."""
        output = str(responses[0])
        return Decision(self._outputs.setdefault(example_id, output) == output, {"output": output})

    def set_reference(self, records: Iterable[GenerationRecord]) -> None:
        """Set the outputs to compare with: the reference's, from its records."""
        self._outputs.update((record.id, record.output) for record in records)


def load_prompts(
    file: Path,
    tokenizer: Any,
    *,
    columns: dict[str, str] | None = None,
    stop: Sequence[str] = (),
    max_new_tokens: int | None = None,
) -> GenerationTask:
    """Return the prompts of a file, each once. tokenizer: writes conversations as prompts.

    Raises InputError (`task-…`) as the rows of other tasks do.
    """
    tables = tables_of(file, train=None, dev=None, confirm=None, columns=columns)
    with ExitStack() as stack:
        templates: list[ChatTemplate] = []

        def prompt(row: Row) -> str:
            if not row.has("messages"):
                return row.text("prompt")
            if tokenizer is None:
                raise InputError(
                    f"{row.place}: this engine has no chat template here",
                    code="task-kind",
                    hint="give rendered prompts, or use the engine transformers",
                )
            if not templates:
                templates.append(stack.enter_context(chat_template(tokenizer)))
            return rendered_turn(row, templates[0])[0]

        def make(row: Row, _: Role) -> PromptExample:
            text = prompt(row)
            return PromptExample(content_id(text, exact=True), text, "", "", "confirm")

        examples = gather(tables, "asked", prompt, make, None)
    return GenerationTask(
        name="prompts",
        scored_by="unchanged",
        examples=examples,
        filters={},
        same=str.__eq__,
        decide=Unchanged(),
        max_new_tokens=max_new_tokens or MAX_NEW_TOKENS,
        stop=tuple(stop),
        source=sources_of(tables),
    )


def rendered_turn(row: Row, template: ChatTemplate) -> tuple[str, str | None]:
    """Return the prompt of a conversation, and what the assistant says at its end, if it does."""
    if row.has("answer") or several_messages_of(row)[-1][0] == ASSISTANT:
        turn = template.last_turn(messages_of(row))
        return turn.prompt, turn.response
    return template.prompt_before(several_messages_of(row)), None
