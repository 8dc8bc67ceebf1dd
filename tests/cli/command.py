"""What tests do to the adapters that the command line reads."""

import json

import ml_dtypes  # noqa: F401  (bfloat16 for numpy)
import numpy as np
from processes import gradience
from safetensors.numpy import load_file, save_file

MODULES = 16
"""Of the adapter that comes with the package."""


def audit(*arguments, **options):
    return gradience("audit", *arguments, **options)


def edit(adapter, change):
    """Rewrite the weights after `change(tensors)`."""
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def edit_config(adapter, **changes):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def untrain(tensors):
    for key in tensors:
        if "lora_B" in key:
            tensors[key] = np.zeros_like(tensors[key])


def poison(tensors):
    key = next(key for key in tensors if "lora_A" in key)
    tensors[key] = np.full_like(tensors[key], np.nan)
