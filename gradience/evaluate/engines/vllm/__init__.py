"""The vLLM engine: a separate process with its own Python, beside the transformers engine."""
