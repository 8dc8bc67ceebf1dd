"""The engine of vLLM: in a process of its own, with a Python of its own, beside that of transformers."""

from gradience.evaluate.engines.vllm.engine import VllmEngine

__all__ = ["VllmEngine"]
