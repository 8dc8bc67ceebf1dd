"""Conversations: the tokens that are trained and scored are those that transformers' own mask has for the assistant."""

import pytest
from data_files import write_jsonl
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from gradience import tasks
from gradience.errors import InputError
from gradience.models.chat import chat_template
from gradience.models.rendering import encode_pair

CHATML = (
    "{% for m in messages %}<s>{{ m['role'] }} : "
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}<e>{% endgeneration %}"
    "{% else %}{{ m['content'] }}<e>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant : {% endif %}"
)
GEMMA = CHATML.replace("<e>", "<t>")
"""A turn is closed by another token than the end token."""
WORDS = [
    "[PAD]",
    "[UNK]",
    "<s>",
    "<e>",
    "<t>",
    "[BOS]",
    "user",
    "assistant",
    "system",
    ":",
    "hi",
    "you",
    "ho",
    "one",
    "two",
]
TALK = [("system", "you"), ("user", "hi you"), ("assistant", "ho"), ("user", "one"), ("assistant", "two two")]


def tokenizer(template: str | None = CHATML, *, bos: bool = False) -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    reader = PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="[PAD]",
        unk_token="[UNK]",
        eos_token="<e>",
        bos_token="[BOS]",
        additional_special_tokens=["<s>", "<t>"],
    )
    if bos:
        from tokenizers.processors import TemplateProcessing

        reader.backend_tokenizer.post_processor = TemplateProcessing(
            single="[BOS] $A", special_tokens=[("[BOS]", WORDS.index("[BOS]"))]
        )
    reader.chat_template = template
    return reader


def messages(talk=TALK):
    return [{"role": role, "content": content} for role, content in talk]


def last_turn(reader, messages):
    with chat_template(reader) as template:
        return template.last_turn(messages)


def write(folder, talks, name="a.jsonl", **more):
    return write_jsonl(folder / name, [{"messages": messages(talk), **more} for talk in talks])


def talks(count=30):
    return [
        [("user", "one " * (n + 1)), ("assistant", "ho"), ("user", "hi"), ("assistant", "two")]
        for n in range(count)
    ]


@pytest.mark.parametrize(
    ("template", "bos"), [(CHATML, False), ("[BOS]" + CHATML, False), ("[BOS]" + CHATML, True)]
)
def test_the_assistants_tokens_are_those_of_transformers_mask(template, bos):
    reader = tokenizer(template, bos=bos)
    whole = reader.apply_chat_template(messages(), return_dict=True, return_assistant_tokens_mask=True)
    ids, mask = whole["input_ids"], whole["assistant_masks"]
    trained = [0] * len(ids)
    for place in (2, 4):
        turn = last_turn(reader, messages()[: place + 1])
        before, after = encode_pair(reader, turn.prompt, turn.response)
        assert ids[: len(before) + len(after)] == before + after
        trained[len(before) : len(before) + len(after)] = [1] * len(after)
        assert turn.close == ""
    assert trained == mask
    assert sum(mask) == len(["ho", "<e>", "two", "two", "<e>"])


def test_what_closes_a_turn_is_trained_and_stops_an_output_where_it_is_not_the_end_token():
    turn = last_turn(tokenizer(GEMMA), messages())
    assert (turn.response, turn.close) == ("two two<t>", "<t>")


@pytest.mark.parametrize(
    ("template", "bos", "code", "message"),
    [
        (None, False, "no-chat-template", "has no chat template"),
        (CHATML, True, "chat-template", "does not begin with the token"),
        ("{{ raise_exception('no system') }}", False, "chat-template", "fails on .* assistant, user: no system"),
        (CHATML.replace("{{ m['content'] }}<e>{% endg", "{{ m['content'] | upper }}<e>{% endg"), False, "chat-template",
         "in another way than it is given"),
        ("x" + "{% if add_generation_prompt %}y{% endif %}", False, "chat-template", "in another way"),
    ],
    ids=["none", "no beginning", "refuses", "changes", "is no prefix"],
)  # fmt: skip
def test_a_template_that_does_not_fit(template, bos, code, message):
    with pytest.raises(InputError, match=message) as caught:
        last_turn(tokenizer(template, bos=bos), messages())
    assert caught.value.code == code


def test_every_turn_trains_once_and_the_last_one_is_evaluated(tmp_path):
    chat = tasks.load("chat", {"file": write(tmp_path, talks())})
    task = chat.rendered(tokenizer())
    counts = {role: len(chat.examples.of(role)) for role in ("train", "dev", "confirm")}
    assert {role: len(task.examples.of(role)) for role in counts} == {**counts, "train": 2 * counts["train"]}
    for role in ("dev", "confirm"):
        assert {(e.response, e.answer) for e in task.examples.of(role)} == {("two", "two")}
        assert all(e.prompt.endswith("<s>user : hi<e><s>assistant : ") for e in task.examples.of(role))
    assert (
        sorted(e.response for e in task.examples.of("train"))
        == ["ho"] * counts["train"] + ["two"] * counts["train"]
    )
    assert len({e.id for e in task.examples.all}) == len(task.examples.all)
    assert (task.stop, task.scoring) == ((), "chat 1, exact")
    assert chat.rendered(tokenizer(GEMMA)).stop == ("<t>",)


def test_an_answer_is_the_turn_that_is_missing(tmp_path):
    rows = [{"messages": messages([("user", "one " * (n + 1))]), "answer": "two"} for n in range(30)]
    task = tasks.load("chat", {"file": write_jsonl(tmp_path / "a.jsonl", rows)}).rendered(tokenizer())
    assert {(e.response, e.answer) for e in task.examples.all} == {("two", "two")}


@pytest.mark.parametrize(
    ("row", "code", "message"),
    [
        ({"messages": []}, "task-text", "is not a list of at least 1 message"),
        ({"messages": "no"}, "task-text", "is not a JSON list"),
        ({"messages": [{"role": "user", "content": "x"}]}, "task-messages", "the last message is of the user"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "task-messages", "nothing comes before"),
        ({"messages": [{"role": "narrator", "content": "x"}]}, "task-messages", "message 1 has no role"),
        ({"messages": [{"role": "user", "content": ""}]}, "task-messages", "the content of message 1"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "task-messages", "the content of message 1"),
        ({"messages": [7]}, "task-messages", "message 1 has no role"),
        ({"prompt": "x", "answer": "y"}, "task-kind", "this task needs `messages`"),
        ({"messages": messages(), "answer": "three"}, "task-answer", "scored wrong"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path, row, code, message):
    with pytest.raises(InputError) as caught:
        tasks.load("chat", {"file": write_jsonl(tmp_path / "a.jsonl", [row])})
    assert caught.value.code == code
    assert message in str(caught.value)
    assert "line 1" in str(caught.value)


def test_the_row_that_a_template_refuses_is_the_one_that_is_named(tmp_path):
    refuses = "{% if messages | length > 2 %}{{ raise_exception('too long') }}{% endif %}" + CHATML
    short = [[("user", f"one {'hi ' * n}"), ("assistant", "two")] for n in range(70)]
    long = [("user", "one"), ("assistant", "ho"), ("user", "hi"), ("assistant", "two")]
    task = tasks.load("chat", {"file": write(tmp_path, [*short, long])})
    assert len(task.examples.all) == 71
    with pytest.raises(InputError, match=r"conversation of user, assistant, user.*: too long"):
        task.rendered(tokenizer(refuses))
