"""The shapes of the models that shipped configs name, so that a forecast works without a network."""

from collections.abc import Mapping
from typing import Any

KNOWN: Mapping[str, Mapping[str, Any]] = {
    "mistralai/Mistral-7B-v0.1": {"model_type": "mistral"},
    "distilbert-base-uncased": {"model_type": "distilbert"},
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
"""The keys are those of their config.json, as far as they are not what transformers assumes for the type."""
