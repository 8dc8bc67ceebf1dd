"""Multiple choice as lm-eval asks it: choices behind one prompt, or one text behind several prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gradience.reports.bench_plan import Role
from gradience.tasks.base import ChooseBy
from gradience.tasks.examples import ChoiceExample
from gradience.tasks.harness.rule import HarnessRule

WAYS: dict[str, ChooseBy] = {"acc": "sum", "acc_norm": "per_character"}
"""Metrics that are our own ways of choosing."""


@dataclass(frozen=True, slots=True)
class PairsExample(ChoiceExample):
    """A document whose choices are scored as lm-eval's pairs say, such as several prompts with one ending."""

    given: tuple[tuple[str, str], ...] = ()

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """What is scored."""
        return self.given

    @property
    def responses(self) -> tuple[str, ...]:
        """Every pair as one text."""
        return tuple(prompt + response for prompt, response in self.given)

    @property
    def response(self) -> str:
        """What follows the prompt of the correct choice."""
        return self.given[self.label][1]


def choice_task(
    harness: Any, metric: str, confirm: Sequence[tuple[str, Any]], rule: HarnessRule
) -> tuple[dict[str, Any], Callable[[str, Any, Role], ChoiceExample]]:
    """Return how choices are decided, and what makes an example of lm-eval's requests.

    Where lm-eval's rule is one of ours, it is ours that decides, and anybody can count again from the records.
    """
    if metric in WAYS and all(_is_plain(harness, requests) for _, requests in confirm):
        return {"choose_by": WAYS[metric]}, lambda key, requests, role: _plain(harness, key, requests, role)
    return {"decide": rule}, lambda key, requests, role: _pairs(harness, key, requests, role)


def _is_plain(harness: Any, requests: Sequence[Any]) -> bool:
    """Whether there is one prompt, one choice for each request, and one correct choice among them."""
    if harness.get_config("process_results") is not None or harness.multiple_input or harness.multiple_target:
        return False
    choices = harness.doc_to_choice(requests[0].doc)
    return len(requests) == len(choices) and all(choices) and _label(harness, requests[0].doc) is not None


def _label(harness: Any, doc: Any) -> int | None:
    """The place of the correct choice; None where lm-eval finds none, or several."""
    choices = harness.doc_to_choice(doc)
    gold = harness.doc_to_text(doc) if harness.multiple_input else harness.doc_to_target(doc)
    if isinstance(gold, str):
        return choices.index(gold) if gold in choices else None
    return gold if isinstance(gold, int) and 0 <= gold < len(choices) else None


def _plain(harness: Any, key: str, requests: Sequence[Any], role: Role) -> ChoiceExample:
    prompt = requests[0].arguments[0]
    bare = prompt.rstrip()
    doc = requests[0].doc
    label = _label(harness, doc)
    assert label is not None
    before = prompt[len(bare) :] + harness.config.target_delimiter
    return ChoiceExample(key, bare, tuple(harness.doc_to_choice(doc)), label, role, before)


def _pairs(harness: Any, key: str, requests: Sequence[Any], role: Role) -> ChoiceExample:
    doc = requests[0].doc
    choices = tuple(map(str, harness.doc_to_choice(doc)))
    pairs = tuple(behind_the_blank(*each.arguments) for each in requests)
    return PairsExample(key, pairs[0][0], choices, _label(harness, doc) or 0, role, given=pairs)


def behind_the_blank(prompt: str, response: str) -> tuple[str, str]:
    """Move the blanks at the end of a prompt to its response, as lm-eval does before it tokenises the two.

    >>> behind_the_blank("Answer: ", "yes")
    ('Answer:', ' yes')
    """
    bare = prompt.rstrip()
    return bare, prompt[len(bare) :] + response
