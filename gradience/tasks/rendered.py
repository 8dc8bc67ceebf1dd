"""A task whose text depends on the tokenizer, as the base's tokenizer writes it."""

from __future__ import annotations

from gradience.models.settings import ModelSettings
from gradience.tasks.base import ChatTask, Task


def rendered(task: Task | ChatTask, model: ModelSettings) -> Task:
    """The task itself, or the conversations of a chat as prompts in the chat template of `model`.

    Raises InputError (`no-chat-template`, `chat-template`), and what loading the tokenizer raises.
    """
    if not isinstance(task, ChatTask):
        return task
    from gradience.models.load import load_tokenizer

    return task.rendered(load_tokenizer(model))
