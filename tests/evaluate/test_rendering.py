"""Prompt and response as ids: the cases in which tokenizers differ."""

from __future__ import annotations

import pytest
from tiny_models import letters_tokenizer

from gradience.errors import InputError
from gradience.models.rendering import encode_pair, encode_prompt


def ids(tokenizer, *tokens):
    return tokenizer.convert_tokens_to_ids(list(tokens))


@pytest.mark.parametrize(
    ("options", "before", "behind"),
    [
        ({}, [], []),
        ({"bos": True}, ["<s>"], []),
        ({"closes": True}, [], []),
        ({"bos": True, "closes": True}, ["<s>"], []),
        ({"bos": True, "closes": True, "eos": "<s>"}, ["<s>"], []),
    ],
    ids=["plain", "begins", "closes", "both", "one token for both"],
)
def test_special_tokens_before_the_prompt_none_behind_it_one_end(options, before, behind):
    tokenizer = letters_tokenizer(**options)
    end = tokenizer.eos_token
    assert encode_prompt(tokenizer, "1+") == ids(tokenizer, *before, "1", "+", *behind)
    prompt, response = encode_pair(tokenizer, "1+", "2=3")
    assert prompt == ids(tokenizer, *before, "1", "+")
    assert response == ids(tokenizer, "2", "=", "3", end)


def test_an_end_token_that_the_prompt_spells_out_stays():
    tokenizer = letters_tokenizer(closes=True)
    assert encode_prompt(tokenizer, "a</s>") == ids(tokenizer, "a", "</s>")
    assert encode_prompt(letters_tokenizer(), "a</s>") == ids(tokenizer, "a", "</s>")


def test_an_empty_prompt_keeps_its_beginning():
    tokenizer = letters_tokenizer(bos=True)
    assert encode_pair(tokenizer, "", "a") == (ids(tokenizer, "<s>"), ids(tokenizer, "a", "</s>"))
    assert encode_prompt(letters_tokenizer(), "") == []


def test_a_response_begins_as_the_model_would_begin_it():
    tokenizer = letters_tokenizer(merges=[(" ", "4"), (" 4", "2")])
    assert encode_pair(tokenizer, "6*7=", " 42") == (
        encode_prompt(tokenizer, "6*7="),
        ids(tokenizer, " 42", "</s>"),
    )


def test_where_prompt_and_response_melt_the_response_stands_alone():
    tokenizer = letters_tokenizer(merges=[("=", "4")], bos=True)
    prompt, response = encode_pair(tokenizer, "6+7=", "42")
    assert prompt == ids(tokenizer, "<s>", "6", "+", "7", "=")
    assert response == ids(tokenizer, "4", "2", "</s>")
    assert encode_pair(tokenizer, "6+7=", "") == (prompt, ids(tokenizer, "</s>"))


def test_without_an_end_token_no_response_could_end():
    with pytest.raises(InputError) as caught:
        encode_prompt(letters_tokenizer(eos=None), "1+1=")
    assert caught.value.code == "no-end-token"
    assert "eos_token" in caught.value.hint
