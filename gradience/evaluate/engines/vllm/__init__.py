"""The vLLM engine: a separate process with its own Python, beside the transformers engine."""

from gradience.evaluate.engines.vllm.engine import VllmEngine

__all__ = ["VllmEngine"]
