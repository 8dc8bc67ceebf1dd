"""Pickled weights (torch.save), read in a sandboxed process and rewritten as safetensors.

Only if the caller allows it. The child process runs `unpickle`. Only that module imports torch; it checks the
archive before loading, loads it with `weights_only=True` only, and accepts only plain tensors. Its output is
then read like any adapter, with all checks.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from gradience.adapters.config import read_config
from gradience.adapters.files import refuse_placeholder
from gradience.adapters.locate import CONFIG, INDEX, PICKLES, WEIGHTS
from gradience.errors import InputError, MissingExtra
from gradience.reading import MAX_SETTINGS_BYTES, open_stream, read_file

SUFFIXES = (".bin", ".pt", ".pth")
MAX_BYTES = 8 * 2**30
"""Largest pickle that is read."""
SAFE_TORCH = "2.10"
"""Before it, `weights_only` let code or writes beyond a buffer through (CVE-2025-32434, CVE-2026-24747)."""
MEMORY_BYTES, MEMORY_FACTOR = 2**30, 4
"""Address space beyond torch's own: a constant, plus this multiple of the file size."""
CPU_SECONDS, BYTES_PER_SECOND = 20, 20 * 2**20
"""Processor time beyond torch's import: a constant, plus the file size at this speed."""
TOO_LONG = "reading it exceeds the time limit"
STARTING_SECONDS = 300
"""For the start of the process and torch's import, on a machine that is busy."""
_HINT = (
    "it is not a plain weight file: do not use it, or if you trust it, load the adapter with PEFT and save it again "
    "with safe_serialization=True"
)


def pickle_at(path: Path) -> Path | None:
    """Return the pickle file of the adapter at `path`; None without one, or if the folder has safetensors."""
    if path.suffix.lower() in SUFFIXES:
        return path
    safe = (WEIGHTS, INDEX, "pytorch_lora_weights.safetensors")
    if not path.is_dir() or any(os.path.lexists(path / name) for name in safe):
        return None
    return next((path / name for name in PICKLES if os.path.lexists(path / name)), None)


@contextmanager
def twin_of(pickle: Path) -> Iterator[Path]:
    """Yield the path of a temporary safetensors copy, with the config beside it.

    Raises MissingExtra without torch, or with one before 2.10; InputError: pickle-refused, and what opening a file and
    `refuse_placeholder` raise.
    """
    from packaging.version import Version

    with open_stream(pickle, limit=MAX_BYTES) as file:
        refuse_placeholder(pickle, file.read(1024))
    try:
        installed = Version(version("torch"))
    except PackageNotFoundError:
        installed = None
    if installed is None or installed < Version(SAFE_TORCH):
        problem = "PyTorch is not installed" if installed is None else f"PyTorch is {installed}"
        raise MissingExtra(
            f"{pickle}: {problem}, but reading a pickle needs {SAFE_TORCH} or newer",
            code="missing-extra",
            hint='in your clone of Gradience: pip install --upgrade ".[hf]"',
        )
    with tempfile.TemporaryDirectory(prefix="gradience-") as name:
        folder = Path(name)
        config = pickle.parent / CONFIG
        if os.path.lexists(config):
            read_config(config, root=pickle.parent)  # another method than LoRA ends here
            (folder / CONFIG).write_bytes(read_file(config, MAX_SETTINGS_BYTES, root=pickle.parent))
        weights = folder / f"{pickle.stem}.safetensors"
        _unpickle(pickle, weights)
        yield folder if weights.name == WEIGHTS else weights


def _unpickle(pickle: Path, weights: Path) -> None:
    size = pickle.stat().st_size
    seconds = CPU_SECONDS + size // BYTES_PER_SECOND
    request = {
        "pickle": str(pickle.absolute()),
        "weights": str(weights),
        "memory": MEMORY_BYTES + MEMORY_FACTOR * size,
        "seconds": seconds,
        "bytes": size,
    }
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "gradience.adapters.unpickle"],
            input=json.dumps(request), capture_output=True, encoding="utf-8", errors="replace", check=False,
            timeout=STARTING_SECONDS + 10 * seconds, cwd=weights.parent,
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONIOENCODING": "utf-8"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise _refused(pickle, TOO_LONG) from None
    lines = done.stdout.splitlines()
    if lines:
        raise _refused(pickle, json.loads(lines[-1]))
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        raise _refused(pickle, TOO_LONG)
    if done.returncode:
        raise _refused(pickle, f"the process that read it died ({done.returncode})")


def _refused(pickle: Path, problem: str) -> InputError:
    return InputError(f"{pickle}: {problem}", code="pickle-refused", hint=_HINT)
