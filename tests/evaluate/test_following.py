"""One pass behind the reference's answers gives what generation and scoring give, and generates only what differs."""

from __future__ import annotations

import pytest
from tiny_models import sums

from gradience.evaluate.engines.base import Draft, Output
from gradience.evaluate.engines.transformers import engine as module

ROWS = sums(40)
PROMPTS = [row.prompt for row in ROWS]
WRITE = {"max_new_tokens": 12, "max_length": 60}
NAMES = [None, "plain", "dora", "rslora", "with_head"]


def followed(engine, name, reference="rslora", *, known=True, near_tie=1e-4, **write):
    """Outputs and scores of the rows in batches of 9, behind the reference's outputs."""
    write = {**WRITE, **write}
    outputs = engine.generate(reference, PROMPTS, **write)
    if not known:  # as after a resumption: the records hold texts only
        engine._written.clear()
        outputs = [Output(one.text, one.n_tokens, one.stopped_by, one.truncated) for one in outputs]
    drafts = [Draft(row.prompt, one, row.response) for row, one in zip(ROWS, outputs, strict=True)]
    batches = [drafts[start : start + 9] for start in range(0, len(drafts), 9)]
    answered = engine.follow(name, batches, reference=reference, near_tie=near_tie, **write)
    assert list(map(len, answered)) == list(map(len, batches))
    return [pair for batch in answered for pair in batch]


@pytest.fixture
def generated(monkeypatch):
    """Tokens with which each row begins that is generated."""
    begun: list[int] = []
    generate = module.generate_batch

    def counting(*arguments, **settings):
        begun.extend(len(row.ids) for row in settings.get("begun", ()))
        return generate(*arguments, **settings)

    monkeypatch.setattr(module, "generate_batch", counting)
    return begun


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_outputs_and_scores_are_those_of_two_passes(engine, name, known):
    expected = engine.generate(name, PROMPTS, **WRITE)
    free = [output.text for output in expected]
    pairs = [(row.prompt, row.response) for row in ROWS]
    (scores,) = engine.score([name], pairs, reference="rslora", max_length=60)
    answered = followed(engine, name, known=known)
    assert [output for output, _ in answered] == expected
    for (_, score), one in zip(answered, scores, strict=True):
        assert score.loglikelihood == pytest.approx(one.loglikelihood, rel=1e-5)
        assert score.kl == pytest.approx(one.kl, rel=1e-4, abs=1e-6)
        assert (score.n_tokens, score.exact, score.flips) == (one.n_tokens, one.exact, one.flips)
    stop = [free[0][3:6], free[1][5:7], "never to be seen"]
    stopped = engine.generate(name, PROMPTS, **WRITE, stop=stop)
    assert "stop_string" in {output.stopped_by for output in stopped}
    assert [output for output, _ in followed(engine, name, known=known, stop=stop)] == stopped


def test_only_what_differs_is_generated(engine, generated, adapter_folders):
    engine.add("again", adapter_folders["rslora"])
    followed(engine, "again")
    assert generated == []
    texts = [output.text for output, _ in followed(engine, "again", known=False)]
    other_tokens = sum(
        "<" in text for text in texts
    )  # such as <s>, which this tokenizer does not read as one
    assert len(generated) <= other_tokens < len(ROWS) / 2 + 6
    generated.clear()
    answered = [output for output, _ in followed(engine, "plain")]
    drafts = engine.generate("rslora", PROMPTS, **WRITE)
    agreed = [
        next((n for n, (a, b) in enumerate(zip(one.ids, two.ids, strict=False)) if a != b), 12)
        for one, two in zip(answered, drafts, strict=True)
    ]
    rest = [n + 1 for n, one in zip(agreed, answered, strict=True) if n < len(one.ids) - 1]
    assert sorted(generated) == sorted(rest)
    assert max(rest) > 1


def test_positions_closer_than_the_noise_are_generated(engine, generated):
    expected = engine.generate("plain", PROMPTS, **WRITE)
    assert [output for output, _ in followed(engine, "plain", near_tie=1e9)] == expected
    assert generated == [0] * len(PROMPTS)


def test_noise_is_twice_the_largest_change_of_a_gap(engine):
    outputs = engine.generate("plain", PROMPTS, **WRITE)
    drafts = [Draft(prompt, output) for prompt, output in zip(PROMPTS, outputs, strict=True)]
    noise = engine.near_tie("plain", drafts, **WRITE)
    assert 0 < noise < 1e-4
    place = max(range(len(outputs)), key=lambda n: len(outputs[n].gaps))
    gaps = list(outputs[place].gaps)
    moved = Output("", 1, "eos", truncated=False, ids=outputs[place].ids, gaps=(gaps[0] + 0.5, *gaps[1:]))
    engine._written["plain", PROMPTS[place]] = moved
    assert engine.near_tie("plain", drafts, **WRITE) == pytest.approx(1.0, abs=1e-4)


def test_the_reference_reads_a_response_once(engine, monkeypatch):
    read: list[int] = []
    states = module.ResponseBatch.states

    def counting(batch, model):
        read.append(len(batch.pairs))
        return states(batch, model)

    monkeypatch.setattr(module.ResponseBatch, "states", counting)
    first = [score for _, score in followed(engine, "plain")]
    assert sum(read) == len(ROWS)
    assert [score for _, score in followed(engine, "plain")] == first
    assert sum(read) == len(ROWS)
