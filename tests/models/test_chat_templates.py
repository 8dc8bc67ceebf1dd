"""Turns of conversations as the templates of the usual families write them, whatever the answer is."""

from __future__ import annotations

import pytest
from chat_families import FAMILIES, QUESTION
from hypothesis import given
from hypothesis import strategies as st

from gradience.models.chat import chat_template

EDGES = (
    "",
    " ",
    "ENDOFTHISTURN",
    "ENDOFTHISTURNX",
    "xENDOFTHIS",
    "{{ x }}",
    "a\n\nb",
    "é✓",
    "</think",
    "\\n",
)


def pieces(tokens):
    """Every substring of the tokens and of the names of roles that a template writes, as far as it is an answer."""
    texts = {*tokens, "user", "model", "assistant"}
    parts = {text[a:b] for text in texts for a in range(len(text)) for b in range(a + 1, len(text) + 1)}
    return sorted({part.strip() for part in parts} - {*tokens, ""})


def asked(answer):
    return [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": answer}]


def check(family, template, answer):
    turn = template.last_turn(asked(answer))
    assert turn.prompt == family.prompt
    assert turn.close == family.close
    assert turn.response == family.before + answer + family.close
    assert template.prompt_before(asked(answer)[:1]) == family.prompt


@pytest.mark.parametrize("name", FAMILIES)
def test_a_turn_ends_where_its_answer_ends(name):
    family = FAMILIES[name]
    answers = [*pieces(family.tokens), *filter(str.strip, EDGES)]
    assert len(answers) > 60
    letters = "".join({*"".join(family.tokens), *"aé{}% \n"})
    with chat_template(family.tokenizer()) as template:
        for answer in answers:
            check(family, template, answer)

        @given(st.text(st.sampled_from(letters), min_size=1, max_size=12).map(str.strip))
        def holds(answer):
            if answer and not any(token in answer for token in (*family.tokens, "</think>")):
                check(family, template, answer)

        holds()
