"""What the process of vLLM finds in its environment: one device, nobody to ask, and vLLM's own variables."""

from __future__ import annotations

import os

import torch

from gradience.models.devices import VISIBLE, devices_of

BATCH_INVARIANT = "VLLM_BATCH_INVARIANT"
"""vLLM's own variable: answers that do not depend on what is computed beside them, at a price."""
CACHE = "VLLM_CPU_KVCACHE_SPACE"
"""vLLM's own variable: GiB for keys and values on a processor."""
CACHE_GIB = "2"
"""Unless that says otherwise."""


def environment(device: torch.device) -> dict[str, str]:
    """Return that of one process on this device: a refusal arrives as one, and no worker outlives it."""
    index = device.index or 0
    return {
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
        "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",  # one token more than the context: it is not read
        CACHE: os.environ.get(CACHE, CACHE_GIB),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        VISIBLE: devices_of("cuda")[index] if device.type == "cuda" else "",
    }


def is_batch_invariant() -> bool:
    """Return whether vLLM is asked for answers that do not depend on what is computed beside them."""
    return os.environ.get(BATCH_INVARIANT, "0") not in ("", "0")
