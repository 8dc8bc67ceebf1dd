"""The same outputs through lm-evaluation-harness's own `gsm8k` and through ours: the same extraction and verdict.

The task is built from the gsm8k.yaml that lm-eval brings; only its rows are ours. Where GRADIENCE_GSM8K names a
folder with train.jsonl and test.jsonl, the answers of GSM8K itself are compared too.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from gsm8k_cases import CASES, QUESTIONS

from gradience.tasks import gsm8k

pytestmark = [pytest.mark.conformance, pytest.mark.filterwarnings("ignore")]

OURS = {"strict-match": gsm8k.strict, "flexible-extract": gsm8k.flexible}
INVALID = "[invalid]"
GSM8K = os.environ.get("GRADIENCE_GSM8K")

Row = dict[str, str]
Pair = tuple[str, Row]
"""An output, and the row that it answers."""


@pytest.fixture(scope="module")
def harness(tmp_path_factory):
    """lm-eval's task, with rows of our own in place of the hub's."""
    lm_eval = pytest.importorskip("lm_eval", reason="needs lm-eval: make conformance")
    import datasets
    import yaml
    from lm_eval.api.task import ConfigurableTask

    folder = tmp_path_factory.mktemp("rows")
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS), encoding="utf-8")
    text = (Path(lm_eval.__file__).parent / "tasks" / "gsm8k" / "gsm8k.yaml").read_text(encoding="utf-8")
    config = yaml.safe_load(text)
    assert config["metadata"]["version"] == 3.0
    files = {"data_files": {"train": str(rows), "test": str(rows)}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        return ConfigurableTask(
            config={**config, "dataset_path": "json", "dataset_name": None, "dataset_kwargs": files}
        )


def random_outputs(count: int) -> Iterator[str]:
    """Strings of what filters stumble over, and a few of any characters at all."""
    draw = random.Random(20_261_125)
    pieces = [
        *"0123456789.,$-#% \n", "#### ", "#### -", "####", "Question:", "</s>", "1,080", "$18", "42.0", "-5",
        "so", " apples", "−", "٣", "<<1+2=3>>", "é", "\x00", "\x1c", "\u2028", "\r", "\t", "İ",
    ]  # fmt: skip
    for number in range(count):
        if number % 10:
            yield "".join(draw.choices(pieces, k=draw.randint(0, 12)))
        else:
            points = [
                draw.choice([draw.randrange(0xD800), draw.randrange(0xE000, 0x110000)]) for _ in range(12)
            ]
            yield "".join(map(chr, points))


def of_our_own() -> Iterator[Pair]:
    outputs = [case[0] for case in CASES.values()] + list(random_outputs(6000))
    for number, output in enumerate(outputs):
        row = QUESTIONS[number % len(QUESTIONS)]
        yield output, row
        yield f"{output}\n{row['answer']}", row
        yield f"{output} {row['answer'].rpartition('#### ')[2]}", row


def of_gsm8k() -> Iterator[Pair]:
    for name in ("train.jsonl", "test.jsonl"):
        lines = Path(GSM8K or "", name).read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        for row, other in zip(rows, [*rows[1:], rows[0]], strict=True):
            number = row["answer"].rpartition("#### ")[2]
            for output in (
                f" {row['answer']}",
                f" {other['answer']}",  # the answer to another question
                row["answer"].rpartition("\n")[0],  # cut off before the marker
                f"The answer is ${number}.",
                f"#### {number}.",
                f"#### {number.replace(',', '')}.0",
            ):
                yield output, row


def verdicts_differ(harness, pairs: list[Pair]) -> tuple[list[object], int]:
    """Where we and lm-eval do not agree on extraction or verdict; and how many were right, to see that some are."""
    from lm_eval.api.instance import Instance

    rows = [row for _, row in pairs]
    harness._instances = [
        Instance(request_type="generate_until", doc=row, arguments=("", {}), idx=0, resps=[output])
        for output, row in pairs
    ]
    harness.apply_filters()
    differ: list[object] = []
    right = 0
    for instance, row in zip(harness._instances, rows, strict=True):
        gold = row["answer"].rpartition("####")[2].strip()
        for name, extract in OURS.items():
            theirs = instance.filtered_resps[name]
            ours = extract(instance.resps[0])
            verdict = harness.process_results(row, [theirs])["exact_match"] == 1
            right += verdict
            if (theirs, verdict) != (
                INVALID if ours is None else ours,
                bool(ours and gsm8k.same(ours, gold)),
            ):
                differ.append((name, instance.resps[0], theirs, verdict))
    return differ, right


def test_the_outputs_of_our_own(harness):
    pairs = list(of_our_own())
    differ, right = verdicts_differ(harness, pairs)
    assert len(pairs) > 18_000
    assert right > 10_000
    assert not differ


@pytest.mark.skipif(GSM8K is None, reason="GRADIENCE_GSM8K names no folder with GSM8K's files")
def test_the_answers_of_gsm8k(harness):
    pairs = list(of_gsm8k())
    differ, right = verdicts_differ(harness, pairs)
    assert len(pairs) == 6 * (7473 + 1319)
    assert right > 4 * 8792
    assert not differ


def test_prompt_target_and_stop_strings(harness):
    for row in QUESTIONS:
        prompt = f"Question: {row['question']}\nAnswer:"
        assert harness.doc_to_text(row) == prompt
        assert harness.doc_to_target(row) == row["answer"]
    assert harness.config.target_delimiter == " "
    assert tuple(harness.config.generation_kwargs["until"]) == gsm8k.STOP


@pytest.mark.skipif(GSM8K is None, reason="GRADIENCE_GSM8K names no folder with GSM8K's files")
def test_every_row_of_gsm8k_is_used(harness):
    folder = Path(GSM8K or "")
    task = gsm8k.load(train_file=folder / "train.jsonl", test_file=folder / "test.jsonl")
    assert task.examples.counts == {"rows": 8792, "duplicates": 0, "conflicts": 0, "unparsable": 0}
    assert {role: len(task.examples.of(role)) for role in ("train", "dev", "confirm")} == {
        "train": 6973,
        "dev": 500,
        "confirm": 1319,
    }
