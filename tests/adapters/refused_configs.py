"""adapter_config.json that is something else, broken, or lies about its types."""

import json
from functools import partial
from pathlib import Path

from factory import CONFIG, adapter, config
from refusals import Refusal

SAVE, AGAIN = "save the adapter again with PEFT", "download or save it again"
RANK, NUMBER = "not an integer from 1 to 65536", "not 0, or a number between 1e-30"


def replaced(name: str, literal: str) -> bytes:
    """A config in which the value of `name` is a piece of text that json.dumps would not write."""
    return json.dumps(config(**{name: "@"})).replace('"@"', literal).encode()


CONFIGS: dict[str, tuple[object, tuple[str, ...], str]] = {
    # name: (fields or bytes of the file, words of the message, words of the hint)
    # Something else under this name.
    "json_error_page_as_config": (
        b'{"error": "Not found"}', ("not a PEFT adapter config", '{"error": "Not found"}'), "audit only the weights"
    ),
    "mlx_config": (
        b'{"fine_tune_type": "lora", "num_layers": 16, "lora_parameters": {"rank": 8}}',
        ("MLX-LM adapter", "fine_tune_type"), "rename the weights to adapters.safetensors",
    ),
    "ia3_config": (
        b'{"peft_type": "IA3", "target_modules": ["k"], "feedforward_modules": []}', ("IA3",), "only LoRA"
    ),
    # No strict JSON.
    "config_cut_off": (json.dumps(config()).encode()[:-20], ("not strict JSON", "line 1"), "save it again"),
    "the_same_field_twice": (replaced("r", '4, "r": 64'), ("'r' occurs twice",), "PEFT"),
    "config_nested_100000_deep": (
        replaced("target_modules", "[" * 100_000 + "]" * 100_000), ("nested too deeply",), "save it again"
    ),
    "config_nested_100_deep": (
        replaced("target_modules", "[" * 100 + "]" * 100), ("nested too deeply",), "save it again"
    ),
    "config_of_17_megabytes": (
        json.dumps(config()).encode() + b" " * 17 * 2**20, ("(limit: 16,777,216)",), "download or save this file again"
    ),
    # r and alpha.
    "r_huge": (config(r=10**9), ("r is 1000000000", RANK), SAVE),
    "r_as_text": (config(r="16"), ('r is "16"', RANK), SAVE),
    "r_nan": (replaced("r", "NaN"), ("NaN is not a JSON number",), "PEFT"),
    "r_of_5000_digits": (replaced("r", "9" * 5000), ("a number of 5,000 characters",), "PEFT"),
    "alpha_1e999": (replaced("lora_alpha", "1e999"), ("1e999 is beyond the largest number",), "PEFT"),
    "alpha_1e_320": (config(lora_alpha=1e-320), (f"lora_alpha is 1e-320, {NUMBER}",), SAVE),
    # Patterns and the rest.
    "rank_pattern_as_a_list": (
        config(rank_pattern=["q_proj"]), ("rank_pattern is", "not a map from module names to numbers"), SAVE
    ),
    "alpha_pattern_with_null": (
        config(alpha_pattern={"q_proj": None}), ('alpha_pattern["q_proj"] is null', f"{NUMBER} and 1e+12"), SAVE
    ),
    "target_modules_with_a_number": (
        config(target_modules=["q_proj", 7]), ("target_modules is", "not a list of names"), SAVE
    ),
}  # fmt: skip


def build(settings: object, folder: Path) -> Path:
    return adapter(folder, settings=settings)


CASES = [
    Refusal(name, partial(build, settings), CONFIG, says, (hint,), (), 3)
    for name, (settings, says, hint) in CONFIGS.items()
]
