"""Recorded compatibility of runtimes with adapters, by runtime, version, architecture and kinds of tensors.

`runs.json` holds the results of `make conformance-vllm` and `make conformance-llama-cpp`, collected from
docs/conformance/ by `make docs`. An adapter gets a run's verdict only if it has nothing beyond the adapter of
that run; otherwise the verdict is "not run".
"""

from gradience.runtimes.architecture import architecture_of, check_model_config
from gradience.runtimes.verdict import verdicts

__all__ = ["architecture_of", "check_model_config", "verdicts"]
