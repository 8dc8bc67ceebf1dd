"""One environment for every test: offline, one BLAS thread, the same random examples every time."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Adapters made byte by byte and tiny models are used beyond the folders that they lie in.
sys.path += [str(Path(__file__).parent / folder) for folder in ("adapters", "bench", "evaluate", "report")]

# Before anything loads numpy or torch: their thread pools read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"
# What a developer's shell may hold, and what would change the output under test.
for variable in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
    os.environ.pop(variable, None)

from hypothesis import HealthCheck, settings  # noqa: E402

# The same examples every time, however slow the machine: `pytest --hypothesis-profile explore` draws new ones.
patient = {"deadline": None, "print_blob": True, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("fixed", derandomize=True, **patient)
settings.register_profile("explore", **patient)
settings.register_profile(
    "many", derandomize=True, max_examples=int(os.environ.get("EXAMPLES", "100")), **patient
)
settings.load_profile("fixed")
