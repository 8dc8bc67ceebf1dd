"""What a task is: its examples, and how an output becomes right or wrong. Two kinds; every task is one of them.

A task file has one function `load(...) -> Task`, whose keyword parameters are the task's options in a config. It may
have a second one with the same parameters, `scoring(...) -> Scoring`: what counts as right, without the examples, so
that stored answers can be scored again where the data are not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from gradience.artifacts.bench_plan import TaskCode
from gradience.models.chat import ASSISTANT, last_turn
from gradience.tasks.examples import ChatExample, ChoiceExample, Examples, LabelledExample, PromptExample
from gradience.tasks.metrics import Metric

Filter = Callable[[str], str | None]
"""From a model's output to the answer in it, or None when there is none."""


@dataclass(frozen=True, kw_only=True)
class LabelScoring:
    """How labels are scored: the predicted one is right when it is the example's."""

    metric: Metric = "accuracy"
    """What the field reports; shown beside accuracy."""
    version: int = 1
    """The task's `scoring_version`."""


@dataclass(frozen=True, kw_only=True)
class AnswerScoring:
    """How outputs in free text are scored."""

    filters: Mapping[str, Filter]
    """Ways of finding the answer in an output. The first decides."""
    same: Callable[[str, str], bool]
    """(extracted, gold) -> whether they are the same answer."""
    version: int = 1
    """The task's `scoring_version`."""


ChooseBy = Literal["sum", "per_character"]


@dataclass(frozen=True, kw_only=True)
class ChoiceScoring:
    """How choices are scored: the chosen one is right when it is the example's."""

    choose_by: ChooseBy = "sum"
    """The largest log-likelihood, or the largest for each character; the other one is shown beside it."""
    version: int = 1
    """The task's `scoring_version`."""


Scoring = LabelScoring | AnswerScoring | ChoiceScoring


@dataclass(frozen=True, kw_only=True)
class _Named:
    """What both kinds of task have."""

    name: str
    scoring_version: int = 1
    """Raised when the same outputs come to count otherwise: finished evaluations are then made again."""
    scored_by: str = ""
    """Which of several ways of scoring a task's options choose; it is part of `scoring`."""
    code: TaskCode | None = None
    """The user's code that makes the task; `load` fills it in."""
    source: Mapping[str, str] = field(default_factory=dict)
    """Where the data come from: names, versions, hashes."""

    @property
    def scoring(self) -> str:
        """Name and version of the scoring and its way, and of a user's code its digest, or its package without one."""
        version = ", ".join(filter(None, [f"{self.name} {self.scoring_version}", self.scored_by]))
        if self.code is None:
            return version
        return f"{version}, {self.code.sha256 or self.code.package or self.code.name}"


@dataclass(frozen=True, kw_only=True)
class ClassificationTask(_Named):
    """Texts to label. The verdicts of Bench rest on counts of right labels, whatever `metric` is shown."""

    examples: Examples[LabelledExample]
    label_names: tuple[str, ...]
    metric: Metric = "accuracy"
    """What the field reports for this task; shown beside accuracy."""

    @property
    def rules(self) -> LabelScoring:
        """How its labels are scored."""
        return LabelScoring(metric=self.metric, version=self.scoring_version)


@dataclass(frozen=True, kw_only=True)
class GenerationTask(_Named):
    """Prompts to answer in free text; right when the extracted answer is the gold answer."""

    examples: Examples[PromptExample]
    filters: Mapping[str, Filter]
    """Ways of finding the answer in an output. The first decides; the others are shown beside it."""
    same: Callable[[str, str], bool]
    """(extracted, gold) -> whether they are the same answer."""
    max_new_tokens: int
    stop: tuple[str, ...] = ()
    """An output ends before the first of these."""

    @property
    def rules(self) -> AnswerScoring:
        """How its outputs are scored."""
        return AnswerScoring(filters=self.filters, same=self.same, version=self.scoring_version)


@dataclass(frozen=True, kw_only=True)
class ChoiceTask(_Named):
    """Prompts with several responses; right when the likeliest is the correct one. Nothing is generated."""

    examples: Examples[ChoiceExample]
    choose_by: ChooseBy = "sum"

    @property
    def rules(self) -> ChoiceScoring:
        """How its choices are scored."""
        return ChoiceScoring(choose_by=self.choose_by, version=self.scoring_version)


@dataclass(frozen=True, kw_only=True)
class ChatTask(_Named):
    """Conversations: the chat template of a tokenizer makes prompts of them, and then it is a `GenerationTask`."""

    examples: Examples[ChatExample]
    filters: Mapping[str, Filter]
    same: Callable[[str, str], bool]
    max_new_tokens: int

    @property
    def rules(self) -> AnswerScoring:
        """How the assistant's last turns are scored."""
        return AnswerScoring(filters=self.filters, same=self.same, version=self.scoring_version)

    def rendered(self, tokenizer: Any) -> GenerationTask:
        """The assistant's turns as prompts and responses: in training all of them, else the last of a conversation.

        Raises InputError as `last_turn` does.
        """
        turns = [turn for example in self.examples.all for turn in _turns(tokenizer, example)]
        return GenerationTask(
            examples=Examples(tuple(prompt for prompt, _ in turns), self.examples.counts),
            stop=tuple(sorted({close for _, close in turns if close})),
            **{each.name: getattr(self, each.name) for each in fields(self) if each.name != "examples"},
        )


def _turns(tokenizer: Any, example: ChatExample) -> Iterator[tuple[PromptExample, str]]:
    """What one conversation trains or is evaluated on, and what closes a turn of it."""
    messages = [{"role": role, "content": content} for role, content in example.messages]
    last = len(messages) - 1
    for place, message in enumerate(messages):
        if place == last or (example.role == "train" and message["role"] == ASSISTANT and place > 0):
            turn = last_turn(tokenizer, messages[: place + 1])
            key, answer = (
                (example.id, example.answer)
                if place == last
                else (f"{example.id}#{place}", message["content"])
            )
            yield PromptExample(key, turn.prompt, turn.response, answer, example.role), turn.close


Task = ClassificationTask | GenerationTask | ChoiceTask
"""What can be trained and evaluated; a `ChatTask` once it is rendered."""
