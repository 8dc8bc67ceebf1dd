"""Batched greedy generation, against transformers' own generate one prompt at a time."""

from __future__ import annotations

import pytest
import torch
from evaluating import evaluate_generation
from peft import PeftModel
from tiny_models import generate, letters_tokenizer, llama, sums, varied_end
from transformers import GenerationConfig, set_seed

from gradience.errors import InputError, UsageError
from gradience.files.records import count
from gradience.models.rendering import encode_prompt

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


def test_a_prompt_may_contain_the_token_that_pads():
    base, tokenizer = llama(), letters_tokenizer(eos="1")
    outputs = generate(base, tokenizer, ["11 + 1", "2", "1"], max_new_tokens=NEW, batch_size=3)
    for output, row in zip(outputs, one_by_one(base, tokenizer, ["11 + 1", "2", "1"]), strict=True):
        assert output.n_tokens == len(row)


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
    assert (run.kind, run.max_new_tokens, run.filters, run.n) == (
        "generation",
        6,
        ("first letter", "number"),
        20,
    )
    assert run.max_length == 128  # what the base allows
    counts = count(records)
    assert counts.cut_off == sum(output.stopped_by == "length" for output in outputs) > 0
    assert counts.failed_extractions == sum(record.extracted is None for record in records)


def test_every_adapter_gets_the_same_batches(engine):
    seen = []
    handle = engine.base.get_input_embeddings().register_forward_hook(
        lambda _module, arguments, _output: seen.append(arguments[0].tolist())
    )
    fed = {}
    for name in ("plain", "dora"):
        seen.clear()
        evaluate_generation(engine, name, sums(20), **ASK, allow_inert=True)
        fed[name] = [ids for ids in seen if len(ids[0]) > 1]  # whole prompts
    handle.remove()
    assert fed["plain"] == fed["dora"]
    assert len(fed["plain"]) == 3


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
    with pytest.raises(error) as caught:
        evaluate_generation(engine, "plain", examples, **ASK)
    assert caught.value.code == code
