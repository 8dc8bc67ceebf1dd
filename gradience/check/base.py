"""The base model's config.json: its width, and how many parameters LoRA adds to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gradience.adapters.families import LINEAR, LINEAR_IN
from gradience.arguments import positive_integer
from gradience.check.files import read_mapping


@dataclass(frozen=True, slots=True)
class BaseShape:
    """What a rule may need of the base model."""

    model_type: str | None
    hidden_size: int | None
    projections: Mapping[str, tuple[int, int]]
    """(in, out) of each linear layer of one transformer layer; empty for model types we do not know."""
    layers: int

    def lora_params(self, r: int, targets: tuple[str, ...] | str | None) -> int | None:
        """Return Σ r·(in + out) over the targeted modules; None where it cannot be known."""
        if not self.projections or targets is None or (isinstance(targets, str) and targets != "all-linear"):
            return None
        chosen = self.projections if isinstance(targets, str) else targets
        if any(name not in self.projections for name in chosen):
            return None
        return self.layers * sum(r * sum(self.projections[name]) for name in set(chosen))


def read_base(path: Path) -> BaseShape:
    """Read shapes from a config.json, or from the folder that holds it. Raises InputError as `read_mapping` does."""
    config = read_mapping(path / "config.json" if path.is_dir() else path)
    model_type = config.get("model_type")
    names = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers")
    hidden, inner, heads, layers = (positive_integer(config.get(name)) for name in names)
    shapes: list[tuple[int, int]] = []
    if model_type in LINEAR_IN and hidden and inner and heads and layers:
        head = positive_integer(config.get("head_dim")) or hidden // heads
        queries, keys = heads * head, (positive_integer(config.get("num_key_value_heads")) or heads) * head
        attention = [(hidden, queries), (hidden, keys), (hidden, keys), (queries, hidden)]
        shapes = [*attention, (hidden, inner), (hidden, inner), (inner, hidden)]
    projections = dict(zip(LINEAR, shapes, strict=False))
    return BaseShape(model_type if isinstance(model_type, str) else None, hidden, projections, layers or 0)
