"""Recorded compatibility of runtimes with adapters, by runtime, version, architecture and kinds of tensors.

`runs.json` holds the results of `make conformance-vllm` and `make conformance-llama-cpp`, collected from
docs/conformance/ by `make docs`. An adapter gets a run's verdict only if it has nothing beyond the adapter of
that run; otherwise the verdict is "not run".
"""
