"""Prompts without answers: an output counts as unchanged if its text equals the reference's."""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from gradience.errors import InputError
from gradience.files.records import GenerationRecord
from gradience.models.chat import ASSISTANT, ChatTemplate, chat_template
from gradience.reports.bench_plan import Role
from gradience.tasks.base import Decision, GenerationTask
from gradience.tasks.chat import messages_of, several_messages_of
from gradience.tasks.examples import PromptExample, content_id
from gradience.tasks.rows import Row, gather, sources_of, tables_of

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
