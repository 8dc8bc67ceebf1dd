"""The examples of a task: deduplicated, identified by their content, and assigned a role.

An identity depends only on the text. It is therefore the same on every machine, in every row order and in
every subset of the data, and two spellings of one text cannot be on both sides of a split. Data without
official splits get their roles from the identities; data with splits keep them.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from operator import attrgetter
from typing import Generic, TypeVar, get_args

from gradience.digests import sha256_rows, sha256_text
from gradience.errors import UsageError
from gradience.reports.bench_plan import Role
from gradience.words import counted

ROLES: tuple[Role, ...] = get_args(Role)

PER_10_000: Mapping[Role, int] = {"train": 5600, "dev": 2200, "confirm": 2200}
"""Shares of the roles. Decisions are taken on dev; confirm is looked at once, for a claim."""
DEV = 500
"""Training examples that become dev if the data have no dev split; at most a fifth of train."""


@dataclass(frozen=True, slots=True)
class LabeledExample:
    """One text (or pair of texts) and its label, an index into the task's label names."""

    id: str
    """The first 16 hexadecimal digits of the sha256 of the `canonical` form of its text."""
    text: str
    label: int
    role: Role
    text_pair: str | None = None

    @property
    def answer(self) -> int:
        """The label."""
        return self.label

    @property
    def response(self) -> str:
        """Nothing is written."""
        return ""


@dataclass(frozen=True, slots=True)
class PromptExample:
    """One prompt, the response that is trained, and the answer that a response must contain."""

    id: str
    """The first 16 hexadecimal digits of the sha256 of the `canonical` form of its prompt."""
    prompt: str
    response: str
    """Training response after the prompt, including its leading space; the end token is added after it."""
    answer: str
    """The gold answer, as the task's filters extract it from `response`."""
    role: Role


@dataclass(frozen=True, slots=True)
class ChoiceExample:
    """One prompt and its possible responses; one is correct."""

    id: str
    """The first 16 hexadecimal digits of the sha256 of prompt and choices."""
    prompt: str
    choices: tuple[str, ...]
    label: int
    """The place of the correct one."""
    role: Role
    before: str = " "
    """Separator between the prompt and a choice."""

    @property
    def responses(self) -> tuple[str, ...]:
        """Return the text after the prompt, for each choice."""
        return tuple(self.before + choice for choice in self.choices)

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """For each choice the prompt and what follows it."""
        return tuple((self.prompt, response) for response in self.responses)

    @property
    def response(self) -> str:
        """Return the training response after the prompt."""
        return self.responses[self.label]

    @property
    def answer(self) -> str:
        """The correct choice."""
        return self.choices[self.label]


@dataclass(frozen=True, slots=True)
class ChatExample:
    """One conversation, whose last message is the assistant's."""

    id: str
    """The first 16 hexadecimal digits of the sha256 of its messages."""
    messages: tuple[tuple[str, str], ...]
    """(role, content) of each."""
    answer: str
    """The gold answer, as the task's filters extract it from the last message."""
    role: Role

    @property
    def response(self) -> str:
        """Return the assistant's last turn."""
        return self.messages[-1][1]


Example = TypeVar("Example", LabeledExample, PromptExample, ChoiceExample, ChatExample)


@dataclass(frozen=True, slots=True)
class Examples(Generic[Example]):
    """The examples of one task, in an order that depends only on their content, and counts of omitted
    rows.
    """

    all: tuple[Example, ...]
    counts: Mapping[str, int]
    """rows, duplicates (later spellings of a kept text), conflicts (rows of texts with more than one label or
    answer within a role); a task adds what else it left out."""
    groups: Mapping[str, str] = field(default_factory=dict)
    """Id of an example -> its value in the column of groups; empty without one."""

    def of(self, role: Role, limit: int | None = None) -> tuple[Example, ...]:
        """Return the examples that have `role`; at most `limit`, from the start of a pseudo-random order."""
        return tuple(example for example in self.all if example.role == role)[:limit]

    def fingerprint(self, role: Role, limit: int | None = None) -> str:
        """`fingerprint` of the examples of one role."""
        return fingerprint(self.of(role, limit))


def fingerprint(
    examples: Sequence[LabeledExample]
    | Sequence[PromptExample]
    | Sequence[ChoiceExample]
    | Sequence[ChatExample],
) -> str:
    """sha256 over everything in `examples`, in their order: equal if and only if they are the same."""
    values = {kind: attrgetter(*(item.name for item in fields(kind))) for kind in {*map(type, examples)}}
    return sha256_rows(values[type(example)](example) for example in examples)


def canonical(text: str) -> str:
    """Return a spelling-independent form of a text: letters and digits, without case, accents or spacing.

    The vowel signs of Indic scripts and of Thai are marks too, but not accents, so they stay.
    """
    if text.isascii():
        return " ".join(text.lower().translate(_ASCII).split()) or " ".join(text.split())
    decomposed = unicodedata.normalize("NFKD", text).casefold()
    bare = (c for c in decomposed if not unicodedata.combining(c))
    kept = "".join(c if c.isalnum() or unicodedata.category(c)[0] == "M" else " " for c in bare)
    return " ".join(kept.split()) or " ".join(text.split())


_ASCII = {place: " " for place in range(128) if not chr(place).isalnum()}


def content_id(text: str, *, exact: bool = False) -> str:
    """Return the identity of a text: the first 16 hexadecimal digits of the sha256 of its canonical form.

    exact: hash the text without normalization. Needed if signs matter, as in `3 - 4` and `3 + 4`.
    """
    return sha256_text(text if exact else canonical(text))[:16]


def role_of(example_id: str) -> Role:
    """The role that an example's identity gives it."""
    place, bound = int(example_id, 16) % 10_000, 0
    for role in ROLES:
        bound += PER_10_000[role]
        if place < bound:
            return role
    raise AssertionError("the shares of the roles do not add up to 10,000")


def prepare(examples: Iterable[Example]) -> Examples[Example]:
    """Examples without duplicates, ordered by identity; the roles that they bring are kept.

    The first spelling of a text is kept, and its role with it: give the split that must stay whole first.
    A text that occurs within one role with different labels or answers is left out altogether.
    """
    counts: Counter[str] = Counter(rows=0, duplicates=0, conflicts=0)
    kept: dict[str, Example] = {}
    occurrences: Counter[str] = Counter()
    conflicting: set[str] = set()
    for example in examples:
        counts["rows"] += 1
        occurrences[example.id] += 1
        first = kept.setdefault(example.id, example)
        # Another split may contradict it: the official test set does not change.
        if first.role == example.role and first.answer != example.answer:
            conflicting.add(example.id)
    counts["conflicts"] = sum(occurrences[key] for key in conflicting)
    counts["duplicates"] = sum(occurrences[key] - 1 for key in kept if key not in conflicting)
    return Examples(tuple(kept[key] for key in sorted(kept) if key not in conflicting), dict(counts))


def with_dev(examples: Examples[Example], dev: int | None) -> Examples[Example]:
    """Return the examples with `dev` of the training examples moved to dev; None uses the default.

    For data whose official test split is used as confirm and that have no dev split. The choice depends only
    on the identities, not on the row order.
    Raises UsageError (`task-dev`) if no training examples would remain.
    """
    train = examples.of("train")
    if dev is not None and dev >= len(train) > 0:
        raise UsageError(
            f"`dev: {dev}` leaves none of the {counted(len(train), 'example')} for training",
            code="task-dev",
            hint="leave out `dev`: then a fifth, at most 500, is held out",
        )
    chosen = {example.id for example in train[: min(DEV, len(train) // 5) if dev is None else dev]}
    return replace(
        examples,
        all=tuple(
            replace(example, role="dev") if example.id in chosen else example for example in examples.all
        ),
    )
