"""GSM8K: word problems whose answer is a number, scored as lm-evaluation-harness scores them.

Data: Cobbe et al., "Training Verifiers to Solve Math Word Problems", arXiv:2110.14168, 2021; MIT, © OpenAI.
Prompt, stop strings, both filters and the comparison are those of lm-evaluation-harness's task `gsm8k`,
version 3.0; tests/conformance/test_lm_eval.py runs both on the same outputs.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import Field

from gradience.reports.bench_plan import Role
from gradience.tasks.base import AnswerScoring, Filter, GenerationTask
from gradience.tasks.examples import PromptExample, content_id, prepare, with_dev
from gradience.tasks.rows import Row, sources_of, train_and_confirm

STOP = ("Question:", "</s>", "<|im_end|>")

_STRICT = re.compile(r"#### (-?[0-9.,]+)")
_FLEXIBLE = re.compile(r"-?[$0-9.,]{2,}|-?[0-9]+")
_POINT = re.compile(r"\.$")


def load(
    *,
    dataset: str = "openai/gsm8k",
    subset: str = "main",
    revision: str | None = None,
    train_file: Path | None = None,
    test_file: Path | None = None,
    dev: Annotated[int, Field(ge=0)] | None = None,
    max_new_tokens: Annotated[int, Field(ge=1)] = 320,
) -> GenerationTask:
    """Load GSM8K from the hub, or from two JSONL files with the fields `question` and `answer`.

    The test split is used as confirm, and `dev` examples are held out of train (default 500, at most a fifth
    of train).
    `counts` also holds `unparsable`: rows whose own answer would not be counted as correct.
    Raises the errors of `rows.train_and_confirm` and `examples.with_dev`.
    """
    tables = train_and_confirm(
        train_file, test_file, dataset=dataset, subset=subset, split="test", revision=revision
    )
    read = [_example(row, role) for role, table in tables.items() for row in table.read()]
    examples = with_dev(prepare(example for example in read if example is not None), dev)
    counts = {**examples.counts, "rows": len(read), "unparsable": read.count(None)}
    return GenerationTask(
        name="gsm8k_causal_lm",
        examples=replace(examples, counts=counts),
        filters=FILTERS,
        same=same,
        max_new_tokens=max_new_tokens,
        stop=STOP,
        source=sources_of(tables),
    )


def scoring(**_: object) -> AnswerScoring:
    """Return the scoring rule for outputs; it does not depend on the options."""
    return AnswerScoring(filters=FILTERS, same=same)


def strict(output: str) -> str | None:
    """The number behind the first `#### `, with its commas and points."""
    match = _STRICT.search(output)
    return match[1] if match else None


def flexible(output: str) -> str | None:
    """Return the last number-like string: two or more of `$0-9.,`, or digits, each with or without a minus
    sign.

    By this rule a lone `.` does not match, but `..`, `,,` or `$$` does (and equals no gold answer).
    """
    matches = _FLEXIBLE.findall(output)
    return matches[-1] if matches else None


FILTERS: Mapping[str, Filter] = {"strict": strict, "flexible": flexible}


def same(extracted: str, gold: str) -> bool:
    """Equal but for case, commas, dollar signs, text before a `#### `, and one point at the end.

    Text, not numbers: `42.0` is not `42`.
    """
    return _plain(extracted) == _plain(gold)


def _plain(text: str) -> str:
    text = text.replace(",", "").replace("$", "").rpartition("#### ")[2]  # `.*#### ` takes quadratic time
    return _POINT.sub("", text).lower()


def _example(row: Row, role: Role) -> PromptExample | None:
    """The example in a row, or None when its own answer would be counted as wrong."""
    prompt = f"Question: {row.text('question')}\nAnswer:"
    solution = row.text("answer")
    response = f" {solution}"
    answer = solution.rpartition("####")[2].strip()
    extracted = strict(response)
    if extracted is None or not same(extracted, answer):
        return None
    return PromptExample(content_id(prompt), prompt, response, answer, role)
