"""`--engine-python`: the Python of another engine, for this command and every process that it starts."""

from __future__ import annotations

import os
from pathlib import Path


def name_engine_python(python: Path | None) -> None:
    """Set GRADIENCE_ENGINE_PYTHON, where one is given; of a name without a folder the PATH says where it is."""
    if python is None:
        return
    from gradience.evaluate.engines.vllm.interpreter import PYTHON

    os.environ[PYTHON] = os.path.abspath(python) if len(python.parts) > 1 else str(python)
