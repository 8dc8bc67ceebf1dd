"""Batches by a budget of tokens: what is in them, what they change, and what happens where the memory ends."""

from __future__ import annotations

import adapters_to_compare as data
import pytest
import torch
from evaluating import evaluate_choices, evaluate_classification, evaluate_generation, evaluate_scores
from hypothesis import given
from hypothesis import strategies as st
from test_choices import EXAMPLES as CHOICES
from tiny_models import bert, sentences, sums, words_tokenizer
from watching import Notes

from gradience import evaluate_adapters
from gradience.errors import OutputError
from gradience.evaluate import Classification
from gradience.evaluate.batches import budget_batches
from gradience.evaluate.engines.base import OutOfMemoryError
from gradience.evaluate.engines.transformers import TransformersEngine
from gradience.evaluate.engines.transformers import engine as engine_module
from gradience.evaluate.engines.transformers.engine import memory
from gradience.evaluate.evaluator import Evaluator
from gradience.files.records import read_records
from gradience.models.devices import lacks_memory
from gradience.progress import Watcher

GENERATE = {"filters": {"all": str}, "same": str.__eq__, "max_new_tokens": 4}


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 5)), min_size=1, max_size=40),
    st.integers(1, 120),
    st.randoms(),
)
def test_a_batch_holds_no_more_than_its_budget_and_the_order_of_the_examples_does_not_matter(
    examples, tokens, draw
):
    texts = [f"{place:03d}" for place in range(len(examples))]

    def batches(order):
        places = budget_batches(
            [texts[p] for p in order],
            [examples[p][0] for p in order],
            tokens,
            [examples[p][1] for p in order],
        )
        return [[order[place] for place in batch] for batch in places]

    given_order = list(range(len(examples)))
    whole = batches(given_order)
    assert sorted(place for batch in whole for place in batch) == given_order
    longest = [max(examples[place][0] for place in batch) for batch in whole]
    assert longest == sorted(longest, reverse=True)
    for batch, length in zip(whole, longest, strict=True):
        assert len(batch) == 1 or length * sum(examples[place][1] for place in batch) <= tokens
    mixed = given_order[:]
    draw.shuffle(mixed)
    assert batches(mixed) == whole


def seen_shapes(engine):
    """Shapes of the ids that the base gets, as they come."""
    shapes = []
    engine.base.get_input_embeddings().register_forward_hook(
        lambda _module, arguments, _output: shapes.append(tuple(arguments[0].shape))
    )
    return shapes


def test_a_budget_changes_nothing_but_the_batches_of_generation_scores_and_choices(engine):
    def answers(**batches):
        batches |= {"allow_inert": True}  # no batch before the first
        written = evaluate_generation(engine, "plain", sums(40), **GENERATE, **batches)
        scored = evaluate_scores(engine, ["dora"], sums(40), reference="plain", **batches)["dora"]
        chosen = evaluate_choices(engine, "plain", CHOICES, **batches)
        return written, scored, chosen

    by_size, shapes = answers(batch_size=3), seen_shapes(engine)
    by_tokens = answers(batch_tokens=90)
    assert max(rows * length for rows, length in shapes) <= 90
    assert by_tokens[0].records == by_size[0].records
    for one, other in zip(by_tokens[1].records, by_size[1].records, strict=True):
        assert (one.loglikelihood, one.kl) == pytest.approx((other.loglikelihood, other.kl), abs=1e-4)
    for one, other in zip(by_tokens[2].records, by_size[2].records, strict=True):
        assert one.loglikelihoods == pytest.approx(other.loglikelihoods, abs=1e-4)
    for evaluation in by_tokens:
        assert evaluation.run.batch_tokens == 90
        assert not evaluation.run.same_run_as(evaluation.run.model_copy(update={"batch_tokens": 45}))
    assert {evaluation.run.batch_tokens for evaluation in by_size} == {None}


def test_a_budget_changes_nothing_but_the_batches_of_labels():
    engine = TransformersEngine(bert(), words_tokenizer(), untrained=[])
    by_size = evaluate_classification(engine, None, sentences(50), batch_size=4)
    shapes = seen_shapes(engine)
    by_tokens = evaluate_classification(engine, None, sentences(50), batch_tokens=32)
    assert max(rows * length for rows, length in shapes) <= 32
    assert by_tokens.run.batch_size == max(rows for rows, _ in shapes)
    for one, other in zip(by_tokens.records, by_size.records, strict=True):
        assert one.logits == pytest.approx(other.logits, abs=1e-5)


# ---------------------------------------------------------------- memory


def test_the_processors_own_error_is_recognized():
    with pytest.raises(OutOfMemoryError, match="allocate"), memory():
        torch.empty(2**60, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("error", "lacks"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (MemoryError(), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (1x2 and 3x4)"), False),
    ],
)
def test_what_says_that_memory_is_full(error, lacks):
    assert lacks_memory(error) == lacks
    with pytest.raises(OutOfMemoryError if lacks else RuntimeError), memory():
        raise error


CUDA = torch.OutOfMemoryError("CUDA out of memory. 2 GiB")
CPU_ALLOCATOR = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried"
)


class Device:
    """A device on which batches of more than `rows` texts do not fit, from the call `start` on."""

    def __init__(self, monkeypatch, rows, start=0, error=CUDA):
        self.answered, self.calls, answer = [], 0, engine_module.classify_batch

        def classify(model, tokenizer, texts, **options):
            self.calls += 1
            if len(texts) > rows and self.calls > start:
                raise error
            self.answered.append(len(texts))
            return answer(model, tokenizer, texts, **options)

        monkeypatch.setattr(engine_module, "classify_batch", classify)


def evaluate(folder, *names, **options):
    settings = {"base_model": folder / "base", "data": folder / "rows.csv", "device": "cpu", "max_length": 8}
    return evaluate_adapters([folder / name for name in names], **{**settings, **options})


def headers(out):
    return [read_records(path).run for path in sorted((out / "records").glob("*.jsonl"))]


@pytest.mark.parametrize("error", [CUDA, CPU_ALLOCATOR], ids=["cuda", "cpu"])
def test_out_of_memory_at_the_second_adapter_starts_all_of_them_again(prepared, tmp_path, monkeypatch, error):
    monkeypatch.setattr(engine_module, "CPU_TOKENS", 200)
    device = Device(monkeypatch, rows=40, start=5, error=error)  # two of the gate, one batch, two of the gate
    watcher, out = Notes(), tmp_path / "out"
    report = evaluate(prepared, "reference", "other", output=out, watcher=watcher)
    assert device.answered[2] == 60  # the reference, in a batch that the next adapter has no room for
    [note] = watcher.notes
    assert "batches of 200 tokens do not fit in memory" in note
    assert "all adapters are evaluated again in batches of 100" in note
    assert report.conditions.batch_tokens == 100
    assert report.conditions.batch_size <= 40
    assert {run.batch_tokens for run in headers(out)} == {100}
    assert [row.n for row in report.adapters] == [data.ROWS, data.ROWS]
    # An evaluation that has had this budget from the beginning has the same bytes.
    monkeypatch.setattr(engine_module, "CPU_TOKENS", 100)
    evaluate(prepared, "reference", "other", output=tmp_path / "small")
    for name in ("reference", "other"):
        again, small = (folder / "records" / f"{name}.jsonl" for folder in (out, tmp_path / "small"))
        assert again.read_bytes() == small.read_bytes()
    # And what is there is used again, in its own batches.
    monkeypatch.setattr(Evaluator, "engine", property(lambda self: pytest.fail("a model is loaded")))
    assert evaluate(prepared, "reference", "other", output=out).conditions.batch_tokens == 100


def test_where_one_example_does_not_fit_or_the_size_was_given_it_ends(prepared, monkeypatch):
    device = Device(monkeypatch, rows=0)
    monkeypatch.setattr(engine_module, "CPU_TOKENS", 30)
    monkeypatch.setattr(Classification, "prove", lambda *_, **__: None)
    watcher = Notes()
    with pytest.raises(OutputError, match=r"not enough memory: CUDA out of memory\. 2 GiB") as caught:
        evaluate(prepared, "reference", watcher=watcher)
    assert (caught.value.code, caught.value.exit_code) == ("out-of-memory", 5)
    assert "--batch-size" not in caught.value.hint
    assert [note.partition(" do not")[0] for note in watcher.notes] == [
        "batches of 30 tokens", "batches of 15 tokens", "batches of 7 tokens",
    ]  # fmt: skip
    before = device.calls
    with pytest.raises(OutputError) as caught:
        evaluate(prepared, "reference", batch_size=5)
    assert "a smaller --batch-size" in caught.value.hint
    assert device.calls == before + 1


def test_tokens_are_counted_for_the_progress_alone(engine, prepared):
    prompts = [example.prompt for example in sums(5)]
    outputs = engine.generate("plain", prompts, max_new_tokens=3)
    # One letter is one token here.
    assert engine.tokens == sum(map(len, prompts)) + sum(output.n_tokens for output in outputs)
    before, pairs = engine.tokens, [(example.prompt, example.response) for example in sums(5)]
    engine.score(["dora", "plain"], pairs, reference="plain")
    assert engine.tokens - before == 2 * sum(len(prompt + response) for prompt, response in pairs)

    class Tokens(Watcher):
        batches: list[int] = []  # noqa: RUF012  (of this one test)

        def tokens(self, count):
            self.batches.append(count)

    evaluate(prepared, "reference", "other", watcher=Tokens(), batch_size=20)
    of_proof = 2 * 8 * 3
    assert Tokens.batches == 2 * [60 + of_proof, 60, 60]
