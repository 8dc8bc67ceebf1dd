"""Which runtimes load an adapter? Only what was run counts: a runtime, its version, an architecture, kinds of tensors.

`runs.json` holds what `make conformance-vllm` and `make conformance-llama-cpp` found, made from docs/conformance/ by
`make docs`. An adapter that holds nothing beyond one that was run gets that run's verdict; every other is "not run".
"""

from gradience.runtimes.architecture import architecture_of, check_model_config
from gradience.runtimes.verdict import verdicts

__all__ = ["architecture_of", "check_model_config", "verdicts"]
