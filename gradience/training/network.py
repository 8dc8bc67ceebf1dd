"""The network that is trained: a base with fresh LoRA factors, what of it is trainable, and the adapter it becomes."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from transformers import set_seed

from gradience.digests import Sha256
from gradience.files.whole import whole_folder
from gradience.models.load import Base, quiet
from gradience.models.settings import ModelSettings
from gradience.reading import MAX_SETTINGS_BYTES, read_file
from gradience.training.settings import stream

Trained = Literal["lora", "head"]


def with_fresh_lora(
    base: Base,
    lora: Mapping[str, Any],
    settings: ModelSettings,
    seed: int,
    *,
    labels: int | None,
    trained: Trained,
) -> Any:
    """Return the base with LoRA factors (B = 0) drawn right after their stream's seed is set.

    `trained="head"` freezes the factors; `labels` is None for a model that generates.
    """
    from peft import LoraConfig, get_peft_model

    set_seed(stream(seed, "lora"))
    # A copy: PEFT extends the list `modules_to_save` that it is given.
    config = LoraConfig(task_type="CAUSAL_LM" if labels is None else "SEQ_CLS", **copy.deepcopy(dict(lora)))
    with quiet():
        network = get_peft_model(base.model, config)
    if settings.gradient_checkpointing:
        network.enable_input_require_grads()
    if trained == "head":
        for name, weight in network.named_parameters():
            if "lora_" in name:
                weight.requires_grad_(False)
    return network


class ParameterCounts(NamedTuple):
    """Parameter counts of an adapter in the network."""

    lora_params: int
    other_params: int
    """Other trained parameters, such as a classifier's head."""
    sha256: str
    """Over names and bytes of both."""


def weights_of(network: Any) -> ParameterCounts:
    """Count and hash the LoRA factors, and whatever else is trainable."""
    digest = Sha256()
    lora = other = 0
    for name, weight in sorted(network.named_parameters()):
        if "lora_" in name:
            lora += weight.numel()
        elif weight.requires_grad:
            other += weight.numel()
        else:
            continue
        digest.update(name.encode())
        digest.update(weight.detach().float().cpu().numpy().tobytes())
    return ParameterCounts(lora, other, digest.hexdigest())


def store(network: Any, folder: Path, base_name: str) -> None:
    """Write the adapter whole, with PEFT, and name the base instead of its folder in this machine's cache."""
    with whole_folder(folder, force=True) as scratch:
        network.save_pretrained(scratch)
        config_path = scratch / "adapter_config.json"
        config = json.loads(read_file(config_path, MAX_SETTINGS_BYTES)) | {
            "base_model_name_or_path": base_name
        }
        if isinstance(config["target_modules"], list):  # a set in PEFT, written in no fixed order
            config["target_modules"].sort()
        config_path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        (scratch / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
