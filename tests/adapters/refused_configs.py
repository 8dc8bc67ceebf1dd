"""adapter_config.json that is something else, broken, or lies about its types."""

from __future__ import annotations

import json
from pathlib import Path

import factory
from factory import CONFIG, adapter, config
from refusals import Cases

CASES = Cases()
refused = CASES.refused
SAVE = "save the adapter again with PEFT"
RANK = "not an integer from 1 to 65536"


def setting(folder: Path, **fields: object) -> Path:
    return adapter(folder, settings=config(**fields))


def text(folder: Path, content: bytes) -> Path:
    return adapter(folder, settings=content)


def replaced(name: str, literal: str) -> bytes:
    """A config in which the value of `name` is a piece of text that json.dumps would not write."""
    return json.dumps(config(**{name: "@"})).replace('"@"', literal).encode()


# ---------------------------------------------------------------- something else under this name


@refused(CONFIG, "Git LFS pointer", hint="git lfs pull")
def lfs_pointer_as_config(folder):
    return text(folder, factory.lfs_pointer(512))


@refused(CONFIG, "web page", hint="hf download")
def html_page_as_config(folder):
    return text(folder, b"<!doctype html><p>Not found")


@refused(CONFIG, "empty", hint="again")
def empty_config(folder):
    return text(folder, b"")


@refused(CONFIG, "not a config of PEFT", '{"error": "Not found"}', hint="weights are audited alone")
def json_error_page_as_config(folder):
    return text(folder, b'{"error": "Not found"}')


@refused(CONFIG, "not a config of PEFT", hint="the adapter's own adapter_config.json")
def home_made_config(folder):
    return text(folder, b'{"rank": 8, "alpha": 16}')


@refused(CONFIG, "MLX-LM adapter", "fine_tune_type", hint="audit the PEFT original")
def mlx_config(folder):
    return text(folder, b'{"fine_tune_type": "lora", "num_layers": 16, "lora_parameters": {"rank": 8}}')


@refused(CONFIG, "AdapterHub", hint="only PEFT LoRA")
def adapterhub_config(folder):
    fields = {"config": {"architecture": "lora", "r": 8}, "model_class": "BertAdapterModel", "name": "a"}
    return text(folder, json.dumps(fields).encode())


@refused(CONFIG, "AdaLoRA", "B·diag(E)·A", hint="only LoRA has")
def adalora_config(folder):
    return setting(folder, peft_type="ADALORA", init_r=12, target_r=8)


@refused(CONFIG, "IA3", hint="only LoRA has")
def ia3_config(folder):
    return text(folder, b'{"peft_type": "IA3", "target_modules": ["k"], "feedforward_modules": []}')


@refused(CONFIG, "prompt tuning", hint="only LoRA has")
def prompt_tuning_config(folder):
    return text(folder, b'{"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 8}')


@refused(CONFIG, "LoHa", "Hadamard", hint="only LoRA has")
def loha_config(folder):
    return setting(folder, peft_type="LOHA")


@refused(CONFIG, "UniLoRA (one shared vector)", hint="only LoRA has")
def unilora_config(folder):
    return setting(folder, peft_type="UNILORA")


@refused(CONFIG, "the PEFT method 'NEWLORA'", hint="only LoRA has")
def method_of_a_later_peft(folder):
    return setting(folder, peft_type="NEWLORA")


# ---------------------------------------------------------------- no strict JSON


@refused(CONFIG, "not valid JSON", "line 1", hint="download or save it again")
def config_cut_off(folder):
    return text(folder, json.dumps(config()).encode()[:-20])


@refused(CONFIG, "not a JSON object", hint=SAVE)
def config_that_is_a_list(folder):
    return text(folder, b'["LORA"]')


@refused(CONFIG, "not UTF-8", hint="UTF-8")
def config_in_utf16(folder):
    return text(folder, json.dumps(config()).encode("utf-16"))


@refused(CONFIG, "byte order mark", hint="without a byte order mark")
def config_with_a_byte_order_mark(folder):
    return text(folder, b"\xef\xbb\xbf" + json.dumps(config()).encode())


@refused(CONFIG, "'r' stands twice", hint="PEFT")
def the_same_field_twice(folder):
    return text(folder, replaced("r", '4, "r": 64'))


@refused(CONFIG, "'q_proj' stands twice", hint="PEFT")
def the_same_pattern_twice(folder):
    return text(folder, replaced("rank_pattern", '{"q_proj": 2, "q_proj": 4}'))


@refused(CONFIG, "nested too deeply", hint="not an adapter's file")
def config_nested_100000_deep(folder):
    return text(folder, replaced("target_modules", "[" * 100_000 + "]" * 100_000))


@refused(CONFIG, "more than the 16,777,216", hint="not the file it seems to be")
def config_of_17_megabytes(folder):
    return text(folder, json.dumps(config()).encode() + b" " * 17 * 2**20)


@refused(CONFIG, "half of a character", hint="PEFT")
def base_model_with_a_lone_surrogate(folder):
    return text(folder, replaced("base_model_name_or_path", '"org/\\udead"'))


# ---------------------------------------------------------------- r and alpha


@refused(CONFIG, "r is 1000000000", RANK, hint=SAVE)
def r_huge(folder):
    return setting(folder, r=10**9)


@refused(CONFIG, "r is true", RANK, hint=SAVE)
def r_true(folder):
    return setting(folder, r=True)


@refused(CONFIG, 'r is "16"', RANK, hint=SAVE)
def r_as_text(folder):
    return setting(folder, r="16")


@refused(CONFIG, "r is 16.0", RANK, hint=SAVE)
def r_with_a_fraction(folder):
    return setting(folder, r=16.0)


@refused(CONFIG, "r is 0", RANK, hint=SAVE)
def r_zero(folder):
    return setting(folder, r=0)


@refused(CONFIG, "r is -8", RANK, hint=SAVE)
def r_negative(folder):
    return setting(folder, r=-8)


@refused(CONFIG, "r is null", RANK, hint=SAVE)
def r_null(folder):
    return setting(folder, r=None)


@refused(CONFIG, "r is [8]", RANK, hint=SAVE)
def r_as_a_list(folder):
    return setting(folder, r=[8])


@refused(CONFIG, "NaN is no JSON number", hint="PEFT")
def r_nan(folder):
    return text(folder, replaced("r", "NaN"))


@refused(CONFIG, "r is 9999", RANK, hint=SAVE)
def r_of_4000_digits(folder):
    return text(folder, replaced("r", "9" * 4000))


@refused(CONFIG, "thousands of digits", hint="PEFT")
def r_of_5000_digits(folder):
    return text(folder, replaced("r", "9" * 5000))


@refused(CONFIG, "-Infinity is no JSON number", hint="PEFT")
def alpha_infinite(folder):
    return text(folder, replaced("lora_alpha", "-Infinity"))


@refused(CONFIG, "lora_alpha is", "not a number of at most 1e+12", hint=SAVE)
def alpha_1e999(folder):
    return text(folder, replaced("lora_alpha", "1e999"))


@refused(CONFIG, "lora_alpha is 9999", hint=SAVE)
def alpha_of_4000_digits(folder):
    return text(folder, replaced("lora_alpha", "9" * 4000))


@refused(CONFIG, 'lora_alpha is "16"', hint=SAVE)
def alpha_as_text(folder):
    return setting(folder, lora_alpha="16")


@refused(CONFIG, "lora_alpha is null", hint=SAVE)
def alpha_null(folder):
    return setting(folder, lora_alpha=None)


# ---------------------------------------------------------------- patterns and the rest


@refused(CONFIG, "rank_pattern is", "not a map from module names to numbers", hint=SAVE)
def rank_pattern_as_a_list(folder):
    return setting(folder, rank_pattern=["q_proj"])


@refused(CONFIG, 'rank_pattern["q_proj"] is "4"', hint=SAVE)
def rank_pattern_with_text(folder):
    return setting(folder, rank_pattern={"q_proj": "4"})


@refused(CONFIG, 'rank_pattern["q_proj"] is 0', RANK, hint=SAVE)
def rank_pattern_with_zero(folder):
    return setting(folder, rank_pattern={"q_proj": 0})


@refused(CONFIG, 'alpha_pattern["q_proj"] is null', "not a number of at most 1e+12", hint=SAVE)
def alpha_pattern_with_null(folder):
    return setting(folder, alpha_pattern={"q_proj": None})


@refused(CONFIG, "use_rslora is", "not true or false", hint=SAVE)
def rslora_as_text(folder):
    return setting(folder, use_rslora="false")


@refused(CONFIG, "target_modules is", "not a list of names", hint=SAVE)
def target_modules_with_a_number(folder):
    return setting(folder, target_modules=["q_proj", 7])


@refused(CONFIG, "init_lora_weights is 3", hint=SAVE)
def initialisation_that_is_a_number(folder):
    return setting(folder, init_lora_weights=3)


@refused(CONFIG, "peft_type is", "not text", hint=SAVE)
def peft_type_that_is_a_list(folder):
    return setting(folder, peft_type=["LORA"])
