"""What a run will cost, before anything is loaded: parameters, memory, tokens, hours. Estimates, and said to be.

From the shape of the architecture alone: a local config.json, or the few models that the shipped configs name.
Formulas: training a LoRA adapter takes 4 · N floating-point operations for a token (forward 2, the gradient with
respect to activations 2; N parameters of the base), 6 · N with gradient checkpointing, which runs forward again.
Decoding reads all weights once for every position of a batch, so its time is bytes / bandwidth.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

H100 = "an H100 (989 TFLOP/s in bfloat16 at 35 %, 3.35 TB/s at 60 %)"
FLOPS, BANDWIDTH = 989e12 * 0.35, 3.35e12 * 0.6
ADAM_BYTES = 16
"""For each trained parameter: float32 weight, gradient and two moments."""

KNOWN: Mapping[str, Mapping[str, Any]] = {
    "mistralai/Mistral-7B-v0.1": {
        "model_type": "mistral",
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
        "vocab_size": 32000,
    },
    "distilbert-base-uncased": {
        "model_type": "distilbert",
        "dim": 768,
        "n_layers": 6,
        "n_heads": 12,
        "hidden_dim": 3072,
        "vocab_size": 30522,
    },
    "embedded:minilm": {
        "model_type": "bert",
        "hidden_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 12,
        "intermediate_size": 1536,
        "vocab_size": 30522,
    },
    "embedded:smollm2": {
        "model_type": "llama",
        "hidden_size": 576,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "intermediate_size": 1536,
        "vocab_size": 49152,
        "tie_word_embeddings": True,
    },
}
"""config.json of the models that shipped configs name, as far as it is needed, so that a dry run works offline."""

DECODERS = ("llama", "mistral", "qwen2", "qwen3", "gemma", "phi3")
ENCODERS = ("bert", "roberta", "distilbert", "electra")


@dataclass(frozen=True, slots=True)
class Architecture:
    """A transformer as a list of linear layers."""

    layers: int
    linear: Mapping[str, tuple[int, int]]
    """Name of a linear module in each layer -> (rows m, columns n) of its weight."""
    outside: int
    """Parameters of embeddings and output layer."""

    @property
    def parameters(self) -> int:
        """Weights of the base, norms and biases left out."""
        return self.outside + self.layers * sum(m * n for m, n in self.linear.values())

    def lora_params(self, r: int, targets: Sequence[str] | str) -> int:
        """Parameters of A (r, n) and B (m, r) on the modules that `targets` names the way PEFT does: by suffix."""
        everywhere = targets == "all-linear"
        names = [targets] if isinstance(targets, str) else targets
        hit = [shape for name, shape in self.linear.items() if everywhere or _is_target(name, names)]
        return self.layers * r * sum(m + n for m, n in hit)


def _is_target(name: str, targets: Sequence[str]) -> bool:
    return any(name == target or name.endswith(f".{target}") for target in targets)


def architecture_of(model: str) -> Architecture | None:
    """The architecture of a known name, or of the folder's config.json; None when neither says it."""
    config = KNOWN.get(model) or _read(Path(model) / "config.json")
    if config is None:
        return None
    kind = config.get("model_type")
    if kind in DECODERS:
        return _decoder(config)
    return _encoder(config) if kind in ENCODERS else None


def _read(path: Path) -> Mapping[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _decoder(config: Mapping[str, Any]) -> Architecture:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    head = config.get("head_dim") or hidden // config["num_attention_heads"]
    queries = head * config["num_attention_heads"]
    keys = head * (config.get("num_key_value_heads") or config["num_attention_heads"])
    linear = {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    copies = 1 if config.get("tie_word_embeddings") else 2
    return Architecture(config["num_hidden_layers"], linear, copies * config["vocab_size"] * hidden)


def _encoder(config: Mapping[str, Any]) -> Architecture:
    distil = config["model_type"] == "distilbert"
    hidden = config["dim" if distil else "hidden_size"]
    inner = config["hidden_dim" if distil else "intermediate_size"]
    layers = config["n_layers" if distil else "num_hidden_layers"]
    attention = (
        [f"attention.{name}" for name in ("q_lin", "k_lin", "v_lin", "out_lin")]
        if distil
        else ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"]
    )
    up, down = ("ffn.lin1", "ffn.lin2") if distil else ("intermediate.dense", "output.dense")
    linear = dict.fromkeys(attention, (hidden, hidden)) | {up: (inner, hidden), down: (hidden, inner)}
    positions = config.get("max_position_embeddings", 512)
    return Architecture(layers, linear, (config["vocab_size"] + positions) * hidden)


@dataclass(frozen=True, slots=True)
class Cost:
    """Estimates for one seed."""

    base_params: int
    probe_params: int
    weights_bytes: int
    """The frozen base in its dtype."""
    trained_bytes: int
    """LoRA factors of the probe with gradients and Adam's moments."""
    tokens_per_training: int
    """At most: every example as long as `max_length`."""
    hours_per_training: float
    hours_per_evaluation: float
    trainings: int
    evaluations: int

    @property
    def hours(self) -> float:
        """GPU hours for all trainings and evaluations of a seed."""
        return self.trainings * self.hours_per_training + self.evaluations * self.hours_per_evaluation


def estimate(
    found: Architecture,
    *,
    r: int,
    targets: Sequence[str] | str,
    bytes_per_weight: float,
    checkpointing: bool,
    steps: int,
    sequences: int,
    max_length: int,
    examples: int,
    new_tokens: int,
    eval_batch: int,
    trainings: int,
    evaluations: int,
) -> Cost:
    """What one seed costs on one GPU.

    sequences: examples of a step. examples: that are evaluated. new_tokens: of an answer at most (0: a label).
    """
    params = found.parameters
    lora = found.lora_params(r, targets)
    tokens = steps * sequences * max_length
    operations = (6 if checkpointing else 4) * params * tokens
    reading = 2 * params * examples * max_length / FLOPS
    decoding = new_tokens * -(-examples // eval_batch) * params * bytes_per_weight / BANDWIDTH
    return Cost(
        base_params=params,
        probe_params=lora,
        weights_bytes=int(params * bytes_per_weight),
        trained_bytes=ADAM_BYTES * lora,
        tokens_per_training=tokens,
        hours_per_training=operations / FLOPS / 3600,
        hours_per_evaluation=(reading + decoding) / 3600,
        trainings=trainings,
        evaluations=evaluations,
    )
