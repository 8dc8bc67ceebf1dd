"""Ways of deciding whether an output is the answer, by name: what is extracted from it, and when that is correct.

`number` is the flexible filter of GSM8K, see `gsm8k`; `normalized` is SQuAD's normalization (Rajpurkar et al. 2016,
evaluate-v1.1.py), `contains` what Inspect calls `includes()`.
"""

import re
import string
from collections.abc import Mapping
from typing import Any, Literal

import regex

from gradience.adapters.config import too_large
from gradience.errors import InputError, UsageError
from gradience.tasks import gsm8k
from gradience.tasks.base import AnswerScoring, Filter, LikelihoodScoring
from gradience.tasks.examples import ChatExample, Examples, PromptExample
from gradience.tasks.rows import Row

ScorerName = Literal["exact", "normalized", "contains", "regex", "number"]
NLL: Literal["nll"] = "nll"
"""No way of finding an answer: how likely the given responses are, and nothing is generated."""
ROOM, MOST_TOKENS = 8, 1024
"""Tokens beside those of the longest response, and how many an output gets at most unless an option says more."""
PATTERN_SECONDS = 1.0
"""For one output. An ordinary pattern needs microseconds."""
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def stripped(output: str) -> str | None:
    """The output without the blanks around it."""
    return output.strip() or None


def plain(text: str) -> str:
    """SQuAD's normal form: lower case, no punctuation, no articles, single blanks.

    >>> plain("The  Eiffel-Tower!")
    'eiffeltower'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def contains(extracted: str, gold: str) -> bool:
    """Return True if the output contains the gold answer, ignoring case."""
    return gold.strip().casefold() in extracted.casefold()


SCORERS: Mapping[str, AnswerScoring] = {
    "exact": AnswerScoring(filters={"exact": stripped}, same=str.__eq__),
    "normalized": AnswerScoring(
        filters={"normalized": stripped}, same=lambda extracted, gold: plain(extracted) == plain(gold)
    ),
    "contains": AnswerScoring(filters={"contains": stripped}, same=contains),
    "number": AnswerScoring(filters={"number": gsm8k.flexible}, same=gsm8k.same),
}
"""By name; `regex` is made of a pattern."""


def scorer_of(name: str, pattern: str | None) -> AnswerScoring:
    """The scorer of this name. Raises UsageError (`task-scorer`: it and the pattern do not fit, `task-pattern`)."""
    if (pattern is not None) != (name == "regex"):
        raise UsageError(
            "`scorer: regex` needs a `pattern`" if pattern is None else f"`scorer: {name}` has no `pattern`",
            code="task-scorer",
            hint="give `scorer: regex` with `pattern: …`, with one group for the answer",
        )
    if pattern is None:
        return SCORERS[name]
    return AnswerScoring(filters={name: matching(pattern)}, same=str.__eq__)


def scoring_by(scorer: str, pattern: str | None) -> AnswerScoring | LikelihoodScoring:
    """Return the scoring rule of this scorer, or scoring by likelihood. Raises as `scorer_of` does."""
    return LikelihoodScoring() if scorer == NLL else scorer_of(scorer, pattern)


def room_for(examples: Examples[PromptExample] | Examples[ChatExample]) -> int:
    """Return the token limit for outputs. A token is at least one byte of the longest response."""
    longest = max((len(example.response.encode()) for example in examples.all), default=0)
    return min(longest + ROOM, MOST_TOKENS)


def gold_of(row: Row, response: str, answer: str | None, rule: AnswerScoring) -> str:
    """The gold answer of a row, which its own response must have. Raises InputError (`task-answer`)."""
    ((name, extract),) = rule.filters.items()
    extracted = extract(response)
    gold = extracted if answer is None else answer
    if extracted is not None and gold is not None and rule.same(extracted, gold):
        return gold
    shown = "nothing" if extracted is None else f"{extracted[:80]!r}"
    expected = "" if answer is None else f", and its answer is {answer[:80]!r}"
    raise InputError(
        f"{row.place}: its own response would be scored wrong: `{name}` finds {shown} in it{expected}",
        code="task-answer",
        hint="correct the row, or choose another scorer: exact, normalized, contains, regex, number",
    )


def matching(pattern: str) -> Filter:
    """Return a filter that extracts the group of the first match of `pattern`, or the whole match without a
    group.

    The pattern uses the `regex` package, with a time limit. Raises UsageError (`task-pattern`) for an invalid
    pattern. The filter raises InputError (`task-pattern`) on a timeout, since correctness must not depend on
    the clock.
    """
    reason = too_large(pattern)
    compiled: Any = None
    if reason is None:
        try:
            compiled = regex.compile(pattern)
        except (regex.error, RecursionError, OverflowError) as error:
            reason = f"not a regular expression: {error}"
    if compiled is not None and compiled.groups > 1:
        reason = f"{compiled.groups} groups"
    if reason is not None:
        raise UsageError(
            f"`pattern: {pattern}`: {reason}",
            code="task-pattern",
            hint="write a short pattern with one group; `(?:…)` groups without extracting",
        )

    def extract(output: str) -> str | None:
        try:
            match = compiled.search(output, timeout=PATTERN_SECONDS)
        except TimeoutError:
            raise InputError(
                f"`pattern: {pattern}` takes more than {PATTERN_SECONDS:g} s on an output of {len(output)} characters",
                code="task-pattern",
                hint="write it without nested repeats, such as `(a+)+`",
            ) from None
        return None if match is None else stripped(match[compiled.groups] or "")

    return extract
