"""Chat templates, which are programs, and tokenizers: of a base model and of an adapter, used for a dry run."""

import json
from pathlib import Path

import adapters_to_compare
import tiny_bench
from chat_families import CHATML, FAMILIES

from hostile.surface import Input, Surface

VERB = "evaluate in/adapter -b in/base --data in/rows.jsonl --dry-run"
CALIBRATE = "calibrate in/adapter -b in/base --prompts in/rows.jsonl -o out/c.safetensors --dry-run"
TALK = [{"role": "user", "content": "Which letter?"}, {"role": "assistant", "content": "n"}]
ROWS = "".join(
    json.dumps({"messages": [{**TALK[0], "content": f"Which letter, {word}?"}, {**TALK[1], "content": word}]})
    + "\n"
    for word in "nopqrstu"
)

MEMORY = {
    "a string times 10^10": "{{ 'a' * 10**10 }}",
    "a long text often": "{% set a = 'a' * 10**6 %}{% for i in range(100000) %}{{ a }}{% endfor %}",
    "center": "{{ 'a' | center(10**10) }}",
    "ljust": "{{ 'a'.ljust(10**10) }}",
    "indent": "{{ 'a\n' | indent(10**10) }}",
    "join": "{{ range(99999) | join('a' * 10**6) }}",
    "format": "{{ '%10000000000d' % 1 }}",
    "format with a method": "{{ '{:>10000000000}'.format(1) }}",
    "replace": "{{ ('a' * 10**5) | replace('a', 'a' * 10**5) }}",
    "batch": "{{ range(99999) | batch(10**9, 'x') | list }}",
    "a list that doubles": "{% set n = namespace(a=['x']) %}"
    "{% for i in range(99999) %}{% set n.a = n.a + n.a %}{% endfor %}",
    "an error of a long list": "{{ raise_exception([1] * 10**7) }}",
    "strftime": "{{ strftime_now('%Y' * 10**7) }}",
}
TIME = {
    "loops in loops": "{% for a in range(99999) %}" * 3 + "{% endfor %}" * 3,
    "powers": "{{ (3**100000000) % 7 }}",
    "slice": "{{ [1] | slice(10**9) | list }}",
    "wordwrap": "{{ ('a ' * 10**7) | wordwrap(1) }}",
    "lipsum": "{{ lipsum(n=10**6) }}",
    "slow only for the answer": "{% if not add_generation_prompt %}{% for a in range(99999) %}"
    "{% for b in range(99999) %}{% endfor %}{% endfor %}{% endif %}" + CHATML,
    "half a second for each row": "{% for a in range(99999) %}{% for b in range(100) %}{% endfor %}{% endfor %}"
    + CHATML,
}
ERRORS = {
    "import": "{% import 'x' as y %}",
    "include": "{% include '/etc/passwd' %}",
    "extends": "{% extends 'x' %}",
    "a macro that calls itself": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "division by zero": "{{ 1 / 0 }}",
    "a range too large": "{{ range(10**9) | list }}",
    "an integer of 10,000 digits": "{{ 10**10000 }}",
    "broken syntax": "{% if %}",
    "what the sandbox forbids": "{{ ''.__class__.__mro__ }}",
    "5,000 brackets": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "an error of 10 MB": "{{ raise_exception('a' * 10**7) }}",
    "an error that steers a terminal": "{{ raise_exception('\\x1b[2J\\u202e\\r') }}",
    "an error that is a number": "{{ raise_exception(1) }}",
    "half of a character": "{{ '\\ud83d' }}",
    "a text of 100 MB": "{{ 'a' * 99999999 }}",
    "nothing of the conversation": "x",
    "the answer twice": "{% for m in messages %}{{ m.content * 2 }}{% endfor %}",
    "the answer in capitals": "{% for m in messages %}{{ m.content | upper }}{% endfor %}",
    "the answer by chance": "{{ range(99999) | random }}{% for m in messages %}{{ m.content }}{% endfor %}",
    "another text where the answer is marked": "{{ messages[-1].content | length }}" + CHATML,
    "a NUL": "\0",
    "2 MB": "{# " + "a" * 2_000_000 + " #}" + CHATML,
}


CONFIGS = {
    "a list": "[]",
    "100,000 lists": "[" * 100_000,
    "an end token that is a number": {"eos_token": 1},
    "a class that is a number": {"tokenizer_class": 1},
    "a class of T5": {"tokenizer_class": "T5Tokenizer"},
    "templates that are numbers": {"chat_template": [1]},
    "templates without a default": {"chat_template": [{"name": "x", "template": "a"}]},
    "a default that is a number": {"chat_template": [{"name": "default", "template": 1}]},
    "special tokens that are a number": {"extra_special_tokens": 1},
}
"""What is wrong with the tokenizer_config.json of an adapter."""


def surface(folder: Path) -> Surface:
    base = tiny_bench.llama(folder / "base", vocab_size=300)
    reader = FAMILIES["Qwen2.5"].tokenizer()
    reader.chat_template = None
    reader.save_pretrained(base)
    adapter = adapters_to_compare.adapter(folder / "adapter", base, 1, task="CAUSAL_LM")
    files = {"in/base": base, "in/adapter": adapter, "in/rows.jsonl": ROWS.encode()}

    def case(name: str, template: str | bytes, verb: str = VERB, **more: object) -> Input:
        content = template if isinstance(template, bytes) else template.encode()
        return Input(name, verb, {**files, "in/base/chat_template.jinja": content}, **more)

    reader.chat_template = CHATML
    reader.save_pretrained(folder / "with_tokenizer")
    beside = {f"in/adapter/{path.name}": path.read_bytes() for path in (folder / "with_tokenizer").iterdir()}
    config = json.loads(beside["in/adapter/tokenizer_config.json"])

    def of_adapter(name: str, **damaged: bytes) -> Input:
        changed = {f"in/adapter/{key.replace('__', '.')}": content for key, content in damaged.items()}
        return Input(f"adapter: {name}", VERB, {**files, **beside, **changed})

    return Surface(
        what="chat templates",
        good=[
            case("evaluate", CHATML, codes={0}),
            case("calibrate", CHATML, CALIBRATE, codes={0}),
            Input("of an adapter", VERB, {**files, **beside}, codes={0}),
        ],
        inputs=[
            *(case(name, template) for name, template in {**MEMORY, **TIME, **ERRORS}.items()),
            *(case(f"calibrate: {name}", TIME[name], CALIBRATE) for name in ("loops in loops", "powers")),
            case("not UTF-8", b"\xff\xfe{{"),
            *(
                of_adapter(name, chat_template__jinja={**MEMORY, **TIME, **ERRORS}[name].encode())
                for name in ("center", "loops in loops", "import", "an error that steers a terminal")
            ),
            *(
                of_adapter(
                    name,
                    tokenizer_config__json=(
                        damage if isinstance(damage, str) else json.dumps(config | damage)
                    ).encode(),
                    chat_template__jinja=b"",
                )
                for name, damage in CONFIGS.items()
            ),
            of_adapter("a tokenizer that is a list", tokenizer__json=b"[]"),
            of_adapter("a tokenizer without a model", tokenizer__json=b"{}"),
            of_adapter("a tokenizer of 100,000 lists", tokenizer__json=b"[" * 100_000),
        ],
        may=("subprocess.Popen",),
    )
