"""The engine of transformers and PEFT: one loaded base, adapters switched by name, batches in torch."""

from gradience.evaluate.engines.transformers.engine import TransformersEngine

__all__ = ["TransformersEngine"]
