"""Likelihoods and KL of responses, against a naive loop over prefixes and scipy."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
from evaluating import evaluate_scores
from scipy.special import log_softmax, rel_entr
from tiny_models import Sum, generate, letters_tokenizer, llama, sums, varied_end
from torch.utils._python_dispatch import TorchDispatchMode

from gradience.errors import InputError, UsageError
from gradience.evaluate import kl_divergence
from gradience.evaluate.engines.transformers import TransformersEngine, scoring
from gradience.evaluate.memory import scoring_bytes
from gradience.files.records import count
from gradience.models.rendering import encode_pair

EXAMPLES = sums(20)


def distributions(engine, name, example):
    """Log-probabilities after each prefix, one forward pass without padding for each: (tokens, vocabulary)."""
    prompt, response = encode_pair(engine.tokenizer, example.prompt, example.response)
    rows = []
    with engine.using(name) as model, torch.no_grad():
        for place in range(len(response)):
            logits = model(input_ids=torch.tensor([prompt + response[:place]])).logits[0, -1]
            rows.append(log_softmax(logits.double().numpy()))
    return np.array(rows), response


@pytest.mark.parametrize("name", [None, "plain", "dora", "rslora", "with_head"])
def test_likelihoods_are_those_of_the_naive_loop(engine, name):
    run, records = evaluate_scores(engine, [name], EXAMPLES, batch_size=6)[name]
    assert (run.kind, run.adapter, run.reference) == ("scores", name, None)
    for record, example in zip(records, EXAMPLES, strict=True):
        logs, response = distributions(engine, name, example)
        assert record.id == example.id
        assert record.n_tokens == len(response) == len(example.response) + 1
        assert record.loglikelihood == pytest.approx(logs[np.arange(len(response)), response].sum(), abs=1e-4)
        assert record.exact == (logs.argmax(axis=1).tolist() == response)
        assert record.kl is record.flips is None


def test_kl_and_flips_are_scipys(engine):
    names = ["dora", "plain", None]
    evaluations = evaluate_scores(engine, names, EXAMPLES, reference="plain", batch_size=6)
    assert list(evaluations) == names
    for name in names:
        for record, example in zip(evaluations[name].records, EXAMPLES, strict=True):
            reference, adapter = (distributions(engine, each, example)[0] for each in ("plain", name))
            assert record.kl == pytest.approx(rel_entr(np.exp(reference), np.exp(adapter)).sum(), abs=1e-4)
            assert record.flips == (reference.argmax(axis=1) != adapter.argmax(axis=1)).sum()
    assert {(record.kl, record.flips) for record in evaluations["plain"].records} == {(0.0, 0)}


def test_logits_are_made_for_the_tokens_of_responses_alone(engine):
    seen = []
    handle = engine.base.get_output_embeddings().register_forward_hook(
        lambda _module, arguments, _output: seen.append((arguments[0].shape, arguments[0].is_contiguous()))
    )
    evaluate_scores(engine, [None], EXAMPLES, batch_size=20)
    handle.remove()
    assert seen == [((sum(len(example.response) + 1 for example in EXAMPLES), 32), True)]


def test_a_few_rows_at_a_time_give_the_same(monkeypatch):
    draw = torch.Generator().manual_seed(0)
    adapter, reference = (torch.randn(50, 11, generator=draw) for _ in range(2))
    targets = torch.randint(0, 11, (50,), generator=draw)
    whole = scoring.measure(adapter, targets, reference)
    monkeypatch.setattr(scoring, "CHUNK", 33)
    for once, pieces in zip(whole, scoring.measure(adapter, targets, reference), strict=True):
        assert torch.equal(once, pieces)


class Peak(TorchDispatchMode):
    """The most bytes that tensors made here have held at a time."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and not func.is_view:
            self.now += out.nbytes
            self.most = max(self.most, self.now)
            weakref.finalize(out, self.free, out.nbytes)
        return out

    def free(self, size):
        self.now -= size


@pytest.mark.parametrize("tokens", [3, 6, 30])
def test_what_a_plan_counts_for_scoring_is_what_is_held_while_kl_is_computed(tokens, monkeypatch):
    vocabulary = 4000
    monkeypatch.setattr(scoring, "CHUNK", 6 * vocabulary)
    targets = torch.zeros(tokens, dtype=torch.long)
    with Peak() as peak:
        scoring.measure(torch.randn(tokens, vocabulary), targets, torch.randn(tokens, vocabulary))
    assert peak.most == pytest.approx(scoring_bytes(tokens * vocabulary, 4), rel=0.02)


@pytest.mark.parametrize("cap", [None, 2.0])
def test_what_a_model_does_behind_its_head_still_happens(cap):
    from transformers import Gemma2Config, Gemma2ForCausalLM, set_seed

    set_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "initializer_range": 0.5}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 46}
    model = Gemma2ForCausalLM(Gemma2Config(**size, **heads, final_logit_softcapping=cap, pad_token_id=0))
    engine = TransformersEngine(model, letters_tokenizer())
    for record, example in zip(
        evaluate_scores(engine, [None], EXAMPLES)[None].records, EXAMPLES, strict=True
    ):
        logs, response = distributions(engine, None, example)
        assert record.loglikelihood == pytest.approx(logs[np.arange(len(response)), response].sum(), abs=1e-4)


def test_exact_is_what_greedy_generation_would_write():
    """Of responses that the model writes itself, those that end are exact; with one letter changed they are not."""
    base = llama()
    tokenizer = letters_tokenizer(eos=varied_end(base, [e.prompt for e in EXAMPLES], 12))
    outputs = generate(base, tokenizer, [e.prompt for e in EXAMPLES], max_new_tokens=12)
    ended = [
        (e, o.text)
        for e, o in zip(EXAMPLES, outputs, strict=True)
        if o.stopped_by == "eos" and o.text and "<" not in o.text
    ]
    assert len(ended) >= 3
    engine = TransformersEngine(base, tokenizer)
    written = [Sum(example.id, example.prompt, text, "") for example, text in ended]
    changed = [
        Sum(example.id, example.prompt, "#" + text[1:], "") for example, text in ended if text[0] != "#"
    ]
    assert count(evaluate_scores(engine, [None], written)[None].records).correct == len(written)
    assert count(evaluate_scores(engine, [None], changed)[None].records).correct == 0


def test_prompts_lose_their_beginning_responses_nothing(engine):
    records = evaluate_scores(engine, ["plain"], EXAMPLES, max_length=16)["plain"].records
    assert [r.truncated for r in records] == [len(e.prompt) + len(e.response) + 1 > 16 for e in EXAMPLES]
    assert 0 < count(records).truncated < len(EXAMPLES)
    with pytest.raises(InputError) as caught:
        evaluate_scores(engine, ["plain"], EXAMPLES, max_length=4)
    assert caught.value.code == "response-too-long"


def test_a_classifier_scores_nothing():
    from tiny_models import bert, words_tokenizer

    with pytest.raises(UsageError) as caught:
        evaluate_scores(TransformersEngine(bert(), words_tokenizer()), [None], EXAMPLES)
    assert caught.value.code == "wrong-model"


def test_kl_is_never_below_nothing():
    """In float32 the sum of a distribution against nearly itself comes out at -1e-8 as often as at 1e-8."""
    generator = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(400, 300, generator=generator)
    nearly = logits + 1e-6 * torch.randn(400, 300, generator=generator)
    targets = torch.zeros(400, dtype=torch.long)
    assert (scoring.measure(nearly, targets, logits).kl < 0).any()  # or this test shows nothing
    pairs = [scoring.EncodedPair(prompt=[1], response=[2], truncated=False)] * 400
    summed = [score.kl for score in scoring.scores_of(pairs, targets, nearly, logits)]
    assert min(summed) == 0 < max(summed)
    assert kl_divergence(logits.numpy(), nearly.numpy()).min() >= 0
