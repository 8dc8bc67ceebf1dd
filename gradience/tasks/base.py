"""The task interface: examples, and the rule that scores an output.

A task file has a function `load(...) -> Task`, whose keyword parameters are the task's options in a config.
It may also have `scoring(...) -> Scoring` with the same parameters. That function returns the scoring rule
without loading examples, so that stored answers can be scored again on a machine without the data.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, Protocol

from gradience.files.records import RecordKind
from gradience.models.chat import ASSISTANT, chat_template
from gradience.models.settings import ModelSettings
from gradience.reports.bench_plan import TaskCode
from gradience.tasks.examples import ChatExample, ChoiceExample, Examples, LabeledExample, PromptExample
from gradience.tasks.metrics import Metric

Filter = Callable[[str], str | None]
"""A function from a model's output to the answer in it, or to None if there is none."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Result of a scoring rule for one example."""

    correct: bool
    answers: Mapping[str, str | None] = field(default_factory=dict)
    """Way of finding the answer -> what it finds in the output; the first decides. None when it finds none."""

    @property
    def extracted(self) -> str | None:
        """The answer that decides."""
        return next(iter(self.answers.values()), None)


class Decide(Protocol):
    """Decides by a rule of its own, which may look at more of an example than its gold answer."""

    @property
    def names(self) -> tuple[str, ...]:
        """The ways of finding an answer in an output."""

    def __call__(self, example_id: str, responses: Sequence[Any]) -> Decision:
        """Score an output, or the (log-likelihood, True if greedy) pair of each choice."""


ChooseBy = Literal["sum", "per_character"]


@dataclass(frozen=True, kw_only=True)
class _Versioned:
    scoring_version: int = 1
    """Increased if the same outputs are scored differently: finished evaluations are then repeated."""


@dataclass(frozen=True, kw_only=True)
class LabelScoring(_Versioned):
    """Scoring of labels: correct if the predicted label is the example's."""

    metric: Metric = "accuracy"
    """The metric commonly reported for this task; shown beside accuracy."""


@dataclass(frozen=True, kw_only=True)
class AnswerScoring(_Versioned):
    """Scoring of free text: correct if the extracted answer matches the gold answer."""

    filters: Mapping[str, Filter]
    """Ways of finding the answer in an output. The first decides; the others are shown beside it."""
    same: Callable[[str, str], bool]
    """(extracted, gold) -> whether they are the same answer."""
    decide: Decide | None = None
    """Decides in place of filters and comparison."""

    @property
    def ways(self) -> tuple[str, ...]:
        """Names of the ways of finding the answer; the first decides."""
        return tuple(self.filters) if self.decide is None else self.decide.names

    def decision(self, example_id: str, output: str, gold: str) -> Decision:
        """Return the answers found in an output, and whether it is correct."""
        if self.decide is not None:
            return self.decide(example_id, [output])
        wrong = Decision(False, {name: extract(output) for name, extract in self.filters.items()})
        return replace(wrong, correct=wrong.extracted is not None and self.same(wrong.extracted, gold))


@dataclass(frozen=True, kw_only=True)
class ChoiceScoring(_Versioned):
    """Scoring of choices: correct if the chosen one is the example's."""

    choose_by: ChooseBy = "sum"
    """The largest log-likelihood, or the largest for each character; the other one is shown beside it."""


@dataclass(frozen=True, kw_only=True)
class LikelihoodScoring(_Versioned):
    """Likelihood of given responses: nothing is generated, none is correct, and the likelihoods are compared."""


Scoring = LabelScoring | AnswerScoring | ChoiceScoring | LikelihoodScoring


@dataclass(frozen=True, kw_only=True)
class _Named(_Versioned):
    """Fields common to all kinds of task."""

    name: str
    scored_by: str = ""
    """Name of the scoring variant that the task's options select; part of `scoring`."""
    code: TaskCode | None = None
    """The user's code that makes the task; `load` fills it in."""
    source: Mapping[str, str] = field(default_factory=dict)
    """Provenance of the data: names, versions, hashes."""

    @property
    def scoring(self) -> str:
        """Name and version of the scoring and its way, and of a user's code its digest."""
        version = ", ".join(filter(None, [f"{self.name} {self.scoring_version}", self.scored_by]))
        return version if self.code is None else f"{version}, {self.code.sha256}"


@dataclass(frozen=True, kw_only=True)
class ClassificationTask(_Named, LabelScoring):
    """Texts to label. The verdicts of Bench rest on counts of right labels, whatever `metric` is shown."""

    kind: ClassVar[RecordKind] = "classification"
    examples: Examples[LabeledExample]
    label_names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class GenerationTask(_Named, AnswerScoring):
    """Prompts to answer in free text."""

    kind: ClassVar[RecordKind] = "generation"
    examples: Examples[PromptExample]
    max_new_tokens: int
    stop: tuple[str, ...] = ()
    """An output ends before the first of these."""


@dataclass(frozen=True, kw_only=True)
class ChoiceTask(_Named, ChoiceScoring):
    """Prompts with several responses; right when the likeliest is the correct one. Nothing is generated."""

    kind: ClassVar[RecordKind] = "choices"
    examples: Examples[ChoiceExample]
    decide: Decide | None = None
    """Decides in place of `choose_by`."""


@dataclass(frozen=True, kw_only=True)
class LikelihoodTask(_Named, LikelihoodScoring):
    """Prompts with their responses, or whole texts: how likely are they? Nothing is generated."""

    kind: ClassVar[RecordKind] = "scores"
    examples: Examples[PromptExample]
    rolling: bool = False
    """The responses are whole texts of any length, without prompts and without end tokens."""


@dataclass(frozen=True, kw_only=True)
class ChatTask(_Named, AnswerScoring):
    """Conversations: the chat template of a tokenizer makes prompts of them, and then it is a `GenerationTask`."""

    examples: Examples[ChatExample]
    max_new_tokens: int
    likelihoods: bool = False
    """Compare the likelihoods of the last turns instead of generating."""

    def rendered(self, tokenizer: Any) -> GenerationTask | LikelihoodTask:
        """The assistant's turns as prompts and responses: in training all of them, else the last of a conversation.

        Raises InputError (`no-chat-template`, `chat-template`).
        """
        turns = [(example, place) for example in self.examples.all for place in _turns(example)]
        prompts: list[PromptExample] = []
        stops: set[str] = set()
        with chat_template(tokenizer) as template:
            for example, place in turns:
                turn = template.last_turn(example.messages[: place + 1])
                last = place == len(example.messages) - 1
                key, gold = example.id if last else f"{example.id}#{place}", example.messages[place][1]
                answer = example.answer if last else gold
                prompts.append(PromptExample(key, turn.prompt, turn.response, answer, example.role))
                stops |= {turn.close} if turn.close else set()
        shared = {item.name: getattr(self, item.name) for item in fields(_Named)}
        shared["examples"] = Examples(tuple(prompts), self.examples.counts, groups=self.examples.groups)
        if self.likelihoods:
            return LikelihoodTask(**shared)
        shared |= {item.name: getattr(self, item.name) for item in fields(AnswerScoring)}
        return GenerationTask(**shared, max_new_tokens=self.max_new_tokens, stop=tuple(sorted(stops)))


def _turns(example: ChatExample) -> Iterator[int]:
    """The places of the messages of a conversation that are trained or evaluated."""
    last = len(example.messages) - 1
    for place, (role, _) in enumerate(example.messages):
        if place == last or (example.role == "train" and role == ASSISTANT and place > 0):
            yield place


Task = ClassificationTask | GenerationTask | ChoiceTask | LikelihoodTask
"""Tasks that can be evaluated; a `ChatTask` becomes one once it is rendered. Bench needs correct counts, so
it does not accept a `LikelihoodTask`.
"""


def rendered(task: Task | ChatTask, model: ModelSettings) -> Task:
    """The task itself, or the conversations of a chat as prompts in the chat template of `model`.

    Raises InputError (`no-chat-template`, `chat-template`), and what loading the tokenizer raises.
    """
    if not isinstance(task, ChatTask):
        return task
    from gradience.models.load import load_tokenizer

    return task.rendered(load_tokenizer(model))
