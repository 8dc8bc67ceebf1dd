"""adapter_config.json that is something else, broken, or lies about its types."""

import json
from pathlib import Path

from factory import CONFIG, adapter, config
from refusals import Cases

CASES = Cases()
SAVE = "save the adapter again with PEFT"
RANK = "not an integer from 1 to 65536"


def case(name: str, settings: object, *says: str, hint: str) -> None:
    """An adapter with this adapter_config.json (fields, bytes, or what makes them) is refused with these words."""

    def build(folder: Path) -> Path:
        return adapter(folder, settings=settings() if callable(settings) else settings)

    build.__name__ = name
    CASES.refused(CONFIG, *says, hint=hint)(build)


def replaced(name: str, literal: str) -> bytes:
    """A config in which the value of `name` is a piece of text that json.dumps would not write."""
    return json.dumps(config(**{name: "@"})).replace('"@"', literal).encode()


# ---------------------------------------------------------------- something else under this name


case(
    "json_error_page_as_config",
    b'{"error": "Not found"}',
    "not a PEFT adapter config",
    '{"error": "Not found"}',
    hint="audit only the weights",
)
case(
    "mlx_config",
    b'{"fine_tune_type": "lora", "num_layers": 16, "lora_parameters": {"rank": 8}}',
    "MLX-LM adapter",
    "fine_tune_type",
    hint="rename the weights to adapters.safetensors",
)
case(
    "adapterhub_config",
    {"config": {"architecture": "lora", "r": 8}, "model_class": "BertAdapterModel", "name": "a"},
    "AdapterHub",
    hint="only PEFT LoRA",
)
case(
    "ia3_config",
    b'{"peft_type": "IA3", "target_modules": ["k"], "feedforward_modules": []}',
    "IA3",
    hint="only LoRA",
)


# ---------------------------------------------------------------- no strict JSON


case(
    "config_cut_off",
    json.dumps(config()).encode()[:-20],
    "not valid JSON",
    "line 1",
    hint="download or save it again",
)
case("the_same_field_twice", replaced("r", '4, "r": 64'), "'r' occurs twice", hint="PEFT")
case(
    "config_nested_100000_deep",
    replaced("target_modules", "[" * 100_000 + "]" * 100_000),
    "nested too deeply",
    hint="save it again",
)
case(
    "config_of_17_megabytes",
    lambda: json.dumps(config()).encode() + b" " * 17 * 2**20,
    "(limit: 16,777,216)",
    hint="download or save this file again",
)
# ---------------------------------------------------------------- r and alpha


case("r_huge", config(r=10**9), "r is 1000000000", RANK, hint=SAVE)
case("r_as_text", config(r="16"), 'r is "16"', RANK, hint=SAVE)
case("r_nan", replaced("r", "NaN"), "NaN is not a JSON number", hint="PEFT")
case("r_of_5000_digits", replaced("r", "9" * 5000), "a number of 5,000 characters", hint="PEFT")
case(
    "alpha_1e999",
    replaced("lora_alpha", "1e999"),
    "1e999 is beyond the largest number",
    hint="PEFT",
)
case(
    "alpha_1e_320",
    config(lora_alpha=1e-320),
    "lora_alpha is 1e-320, not 0, or a number between 1e-30",
    hint=SAVE,
)
# ---------------------------------------------------------------- patterns and the rest


case(
    "rank_pattern_as_a_list",
    config(rank_pattern=["q_proj"]),
    "rank_pattern is",
    "not a map from module names to numbers",
    hint=SAVE,
)
case(
    "alpha_pattern_with_null",
    config(alpha_pattern={"q_proj": None}),
    'alpha_pattern["q_proj"] is null',
    "not 0, or a number between 1e-30 and 1e+12",
    hint=SAVE,
)
case(
    "target_modules_with_a_number",
    config(target_modules=["q_proj", 7]),
    "target_modules is",
    "not a list of names",
    hint=SAVE,
)
