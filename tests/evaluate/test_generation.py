"""Batched greedy generation, against transformers' own generate one prompt at a time."""

from collections import Counter

import adapters_to_compare as data
import pytest
import torch
from evaluating import evaluate_choices, evaluate_classification, evaluate_generation, evaluate_scores
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel
from raising import raises
from test_choices import EXAMPLES as CHOICES
from tiny_models import bert, generate, letters_tokenizer, llama, sentences, sums, varied_end, words_tokenizer
from transformers import GenerationConfig, PreTrainedTokenizerBase, set_seed
from watching import Notes

from gradience import evaluate_adapters
from gradience.adapters import formats
from gradience.errors import InputError, OutputError, UsageError
from gradience.evaluate import Classification, adapters
from gradience.evaluate.engines import base as protocol
from gradience.evaluate.engines.base import OutOfMemoryError, budget_batches
from gradience.evaluate.engines.transformers import forward
from gradience.evaluate.engines.transformers.engine import TransformersEngine, memory
from gradience.evaluate.evaluator import Evaluator
from gradience.evaluate.settings import EvaluateSettings
from gradience.files.records import count, read_records
from gradience.models.load import lacks_memory
from gradience.models.tokenizers import encode_prompt
from gradience.settings import call

PROMPTS = [example.prompt for example in sums(25)]
NEW = 12


def one_by_one(model, tokenizer, prompts, new=NEW, **options):
    """Ids that transformers generates for each prompt by itself."""
    rows = []
    for prompt in prompts:
        ids = torch.tensor([encode_prompt(tokenizer, prompt)])
        out = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.eos_token_id, **options,
        )  # fmt: skip
        rows.append(out[0, ids.shape[1] :].tolist())
    return rows


@pytest.mark.parametrize("name", [None, "plain", "dora", "rslora", "with_head"])
def test_outputs_are_those_of_transformers_one_by_one(engine, adapter_folders, name):
    alone = llama() if name is None else PeftModel.from_pretrained(llama(), str(adapter_folders[name])).eval()
    expected = one_by_one(alone, engine.tokenizer, PROMPTS)
    with engine.using(name) as model:
        outputs = generate(model, engine.tokenizer, PROMPTS, max_new_tokens=NEW, batch_size=8)
    assert [output.text for output in outputs] == engine.tokenizer.batch_decode(
        [[token for token in row if token != engine.tokenizer.eos_token_id] for row in expected]
    )
    assert [output.n_tokens for output in outputs] == [len(row) for row in expected]


def test_each_row_stops_at_its_own_end_token_even_when_that_is_the_padding():
    base = llama()
    letter = varied_end(base, PROMPTS, NEW)
    tokenizer = letters_tokenizer(eos=letter, pad_token=letter)
    expected = one_by_one(base, tokenizer, PROMPTS)
    outputs = generate(base, tokenizer, PROMPTS, max_new_tokens=NEW, batch_size=7)
    assert [output.n_tokens for output in outputs] == [len(row) for row in expected]
    assert len({output.n_tokens for output in outputs}) > 2
    assert {output.stopped_by for output in outputs} == {"eos", "length"}
    for output, row in zip(outputs, expected, strict=True):
        ended = row[-1] == tokenizer.eos_token_id
        assert output.stopped_by == ("eos" if ended else "length")
        assert output.text == tokenizer.decode(row[:-1] if ended else row)


def test_stop_strings_of_several_tokens_cut_the_output_and_end_the_row(engine):
    free = generate(engine.base, engine.tokenizer, PROMPTS, max_new_tokens=NEW)
    stop = [free[0].text[3:6], free[1].text[5:7], "never to be seen"]
    outputs = generate(engine.base, engine.tokenizer, PROMPTS, max_new_tokens=NEW, stop=stop, batch_size=8)
    assert sum(output.stopped_by == "stop_string" for output in outputs) >= 2
    for output, whole in zip(outputs, free, strict=True):
        places = [place for string in stop if (place := whole.text.find(string)) >= 0]
        # One letter is one token here, so that what was generated can be counted in the text.
        ends = [whole.text.find(string) + len(string) for string in stop if string in whole.text]
        assert output.text == (whole.text[: min(places)] if places else whole.text)
        assert output.n_tokens == (min(ends) if ends else whole.n_tokens)
        assert output.stopped_by == ("stop_string" if places else whole.stopped_by)


def test_nothing_of_the_checkpoints_generation_settings_leaks_in(engine):
    expected = generate(engine.base, engine.tokenizer, PROMPTS, max_new_tokens=NEW)
    engine.base.generation_config = GenerationConfig(
        do_sample=True, temperature=9.0, repetition_penalty=5.0, no_repeat_ngram_size=1, min_new_tokens=3,
        eos_token_id=list(range(20)), max_new_tokens=2, num_beams=3,
    )  # fmt: skip
    set_seed(1)
    assert generate(engine.base, engine.tokenizer, PROMPTS, max_new_tokens=NEW) == expected


def test_logits_are_made_for_the_last_position_alone(engine):
    seen = []
    handle = engine.base.get_output_embeddings().register_forward_hook(
        lambda _module, arguments, _output: seen.append(arguments[0].shape)
    )
    generate(engine.base, engine.tokenizer, PROMPTS[:4], max_new_tokens=3, batch_size=4)
    handle.remove()
    assert seen == [(4, 32)] * 3


# --- records --------------------------------------------------------------------------------------

ASK = {
    "filters": {
        "first letter": lambda text: next((c for c in text if c.isalpha()), None),
        "number": lambda text: next((c for c in text if c.isdigit()), None),
    },
    "same": str.__eq__,
    "max_new_tokens": 6,
    "batch_size": 8,
}


def test_a_record_for_every_prompt(engine):
    examples = sums(20)
    run, records = evaluate_generation(engine, "plain", examples, **ASK)
    with engine.using("plain") as model:
        outputs = generate(
            model, engine.tokenizer, [e.prompt for e in examples], max_new_tokens=6, batch_size=8
        )
    assert [record.id for record in records] == [example.id for example in examples]
    assert [record.output for record in records] == [output.text for output in outputs]
    for record, example in zip(records, examples, strict=True):
        assert record.answers == {name: find(record.output) for name, find in ASK["filters"].items()}
        assert record.extracted == record.answers["first letter"]
        assert record.correct == (record.extracted == example.answer)
    assert (run.kind, run.max_new_tokens, run.n) == ("generation", 6, 20)
    assert run.filters == ("first letter", "number")
    assert run.max_length == 128  # what the base allows
    counts = count(records)
    assert counts.cut_off == sum(output.stopped_by == "length" for output in outputs) > 0
    assert counts.failed_extractions == sum(record.extracted is None for record in records)


def test_prompts_that_are_too_long_lose_their_beginning_and_say_so(engine):
    examples = sums(20)
    records = evaluate_generation(engine, "plain", examples, **ASK, max_length=16).records
    assert [record.truncated for record in records] == [len(e.prompt) > 10 for e in examples]
    assert 0 < count(records).truncated < 20
    short = [type(e)(e.id, e.prompt[-10:], e.response, e.answer) for e in examples]
    expected = {r.id: r.output for r in evaluate_generation(engine, "plain", short, **ASK).records}
    assert {record.id: record.output for record in records} == expected
    with pytest.raises(UsageError, match="no room"):
        evaluate_generation(engine, "plain", examples, **ASK, max_length=6)


@pytest.mark.parametrize(
    ("examples", "error", "code"),
    [([], UsageError, "no-examples"), ([type(sums(1)[0])("1", "", " 1", "1")], InputError, "empty-prompt")],
)
def test_what_cannot_be_asked(engine, examples, error, code):
    with raises(error, code):
        evaluate_generation(engine, "plain", examples, **ASK)


# ---------------------------------------------------------------- Batches by a budget of tokens


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
        lengths, sequences = zip(*(examples[place] for place in order), strict=True)
        places = budget_batches([texts[place] for place in order], lengths, tokens, sequences)
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
        self.answered, self.calls, answer = [], 0, forward.classify_batch

        def classify(model, tokenizer, texts, **options):
            self.calls += 1
            if len(texts) > rows and self.calls > start:
                raise error
            self.answered.append(len(texts))
            return answer(model, tokenizer, texts, **options)

        monkeypatch.setattr(forward, "classify_batch", classify)


def evaluate(folder, *names, **options):
    settings = {"base_model": folder / "base", "data": folder / "rows.csv", "device": "cpu", "max_length": 8}
    return call(
        evaluate_adapters, EvaluateSettings([folder / name for name in names], **{**settings, **options})
    )


def headers(out):
    return [read_records(path).run for path in sorted((out / "records").glob("*.jsonl"))]


@pytest.mark.parametrize("error", [CUDA, CPU_ALLOCATOR], ids=["cuda", "cpu"])
def test_out_of_memory_at_the_second_adapter_starts_all_of_them_again(prepared, tmp_path, monkeypatch, error):
    monkeypatch.setattr(protocol, "CPU_TOKENS", 200)
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
    monkeypatch.setattr(protocol, "CPU_TOKENS", 100)
    evaluate(prepared, "reference", "other", output=tmp_path / "small")
    for name in ("reference", "other"):
        again, small = (folder / "records" / f"{name}.jsonl" for folder in (out, tmp_path / "small"))
        assert again.read_bytes() == small.read_bytes()
    # And what is there is used again, in its own batches.
    monkeypatch.setattr(Evaluator, "engine", property(lambda self: pytest.fail("a model is loaded")))
    assert evaluate(prepared, "reference", "other", output=out).conditions.batch_tokens == 100


def test_where_one_example_does_not_fit_or_the_size_was_given_it_ends(prepared, monkeypatch):
    device = Device(monkeypatch, rows=0)
    monkeypatch.setattr(protocol, "CPU_TOKENS", 30)
    monkeypatch.setattr(Classification, "check_adapter", lambda *_, **__: None)
    watcher = Notes()
    with raises(OutputError, "out-of-memory", r"not enough memory: CUDA out of memory\. 2 GiB") as caught:
        evaluate(prepared, "reference", watcher=watcher)
    assert "--batch-size" not in caught.value.hint
    assert [note.partition(" do not")[0] for note in watcher.notes] == [
        "batches of 30 tokens", "batches of 15 tokens", "batches of 7 tokens",
    ]  # fmt: skip
    before = device.calls
    with pytest.raises(OutputError) as caught:
        evaluate(prepared, "reference", batch_size=5)
    assert "a smaller --batch-size" in caught.value.hint
    assert device.calls == before + 1


# ---------------------------------------------------------------- Each row is tokenized once


@pytest.fixture
def counted(monkeypatch):
    """Texts that any tokenizer encodes, and folders that are opened."""
    texts, folders = Counter(), Counter()
    call, opened = PreTrainedTokenizerBase.__call__, formats.open_adapter

    def encode(self, text=None, text_pair=None, **settings):
        texts.update(map(str, text if isinstance(text, list) else [text]))
        return call(self, text, text_pair, **settings)

    def open_adapter(path, **settings):
        folders[path.name] += 1
        return opened(path, **settings)

    monkeypatch.setattr(PreTrainedTokenizerBase, "__call__", encode)
    monkeypatch.setattr(adapters, "open_adapter", open_adapter)
    return texts, folders


def test_a_row_is_tokenized_once_for_all_adapters_and_an_adapter_opened_once(tmp_path, counted):
    """It was 30 times for the first prompt and 7 for its response; of a classifier's rows 4 to 12 times."""
    texts, folders = counted
    folder = data.writers(tmp_path)
    (folder / "rows.jsonl").write_text(
        '{"prompt": "good film", "answer": "bad"}\n{"prompt": "film", "answer": "a"}\n'
    )
    evaluate_adapters(
        [folder / "reference", folder / "other"], base_model=folder / "base", data=folder / "rows.jsonl",
        device="cpu", max_new_tokens=2, with_base=True,
    )  # fmt: skip
    assert [texts[text] for text in ("good film", "good film bad", "film", "film a")] == [1, 1, 1, 1]
    assert folders == {"reference": 1, "other": 1}


def test_a_text_is_tokenized_once_for_all_classifiers(tmp_path, counted):
    texts, folders = counted
    folder = data.classifiers(tmp_path)
    evaluate_adapters(
        [folder / "reference", folder / "other"], base_model=folder / "base", data=folder / "rows.csv",
        device="cpu", max_length=16,
    )  # fmt: skip
    rows = {text: count for text, count in texts.items() if text != "0 a"}  # which a tokenizer is tried on
    assert set(rows.values()) == {1}
    assert len(rows) == data.ROWS
    assert folders == {"reference": 1, "other": 1}
