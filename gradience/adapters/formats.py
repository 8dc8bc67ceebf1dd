"""The supported formats, and `open_adapter`, which opens an adapter in any of them.

To add a format, write a file beside `mlx.py` with a function that returns an `Adapter`, and add a line to
`FORMATS`. A format with settings of its own translates them to PEFT's (`PeftConfig`), which all verbs
understand.

Pickled weights (torch.save) are read only if the caller allows it: a sandboxed process (`unpickle`) checks the archive,
loads it with `weights_only=True`, accepts only plain tensors, and rewrites them as safetensors. Only that module
imports torch. Its output is then read like any adapter, with all checks.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from gradience.adapters import locate
from gradience.adapters.adapter import Adapter
from gradience.adapters.config import read_config
from gradience.adapters.diffusers import NAME, is_diffusers, is_kohya, open_diffusers, open_kohya
from gradience.adapters.files import refuse_placeholder
from gradience.adapters.gguf import is_gguf, open_gguf
from gradience.adapters.mlx import FINAL, is_mlx, open_mlx
from gradience.adapters.peft import SAY_ORDER, open_peft
from gradience.errors import InputError, MissingExtra
from gradience.files.hub import address_of
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
    safe = (locate.WEIGHTS, locate.INDEX, "pytorch_lora_weights.safetensors")
    if not path.is_dir() or any(os.path.lexists(path / name) for name in safe):
        return None
    return next((path / name for name in locate.PICKLES if os.path.lexists(path / name)), None)


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
        config = pickle.parent / locate.CONFIG
        if os.path.lexists(config):
            read_config(config, root=pickle.parent)  # another method than LoRA ends here
            (folder / locate.CONFIG).write_bytes(read_file(config, MAX_SETTINGS_BYTES, root=pickle.parent))
        weights = folder / f"{pickle.stem}.safetensors"
        _unpickle(pickle, weights)
        yield folder if weights.name == locate.WEIGHTS else weights


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


# ---------------------------------------------------------------- formats


class AdapterFormat(NamedTuple):
    """An adapter format.

    recognizes: True for a file or folder of this format, judged by file names only.
    open: (path, name of the adapter if there are several, stack that closes its files) -> the open adapter.
    words: `Adapter.format` set by `open` -> name of the format in reports.
    weights: alternative sets of weight files. One set is downloaded from the hub; its first file comes last.
    """

    recognizes: Callable[[Path], bool]
    open: Callable[[Path, str | None, ExitStack], Adapter]
    words: Mapping[str, str]
    weights: locate.Weights = ()


FORMATS: dict[str, AdapterFormat] = {
    "mlx": AdapterFormat(is_mlx, open_mlx, {"mlx": "MLX-LM LoRA"}, ((FINAL,),)),
    "gguf": AdapterFormat(is_gguf, open_gguf, {"gguf": "GGUF LoRA"}),
    "diffusers": AdapterFormat(is_diffusers, open_diffusers, {"diffusers": "diffusers LoRA"}, ((NAME,),)),
    "kohya": AdapterFormat(is_kohya, open_kohya, {"kohya": "kohya LoRA"}),
    "peft": AdapterFormat(
        lambda path: True,  # last: its error describes any other path
        open_peft,
        {"peft": "PEFT LoRA", "safetensors": "LoRA from a single safetensors file"},
        ((locate.WEIGHTS,), (locate.INDEX, "adapter_model-*.safetensors")),
    ),
}


def open_adapter(
    path: Path,
    *,
    adapter: str | None = None,
    allow_pickle: bool = False,
    tokenizer: bool = False,
) -> Adapter:
    """Open the adapter at `path`, in any supported format. Use it in a `with` statement.

    path: a path on disk, or a name on the hub (see `hub.address`), which is downloaded.
    adapter: name of the adapter to open if a folder or file contains several.
    allow_pickle: read a pickle in a sandboxed process (see `pickles`) if there are no other weights.
    tokenizer: for a name on the hub, also download the tokenizer stored beside the weights.
    Raises InputError; NetworkError and MissingExtra for a name on the hub.
    """
    address, place, source = address_of(path), path, None
    if address is not None:
        # PEFT first, as in a folder on this disk.
        weights = tuple(choice for form in reversed(FORMATS.values()) for choice in form.weights)
        if allow_pickle:
            weights += tuple((name,) for name in locate.PICKLES)
        place, source = locate.fetch_adapter(address, weights, adapter)
    pickle = pickle_at(place) if allow_pickle else None
    with ExitStack() as stack:
        readable = place if pickle is None else stack.enter_context(twin_of(pickle))
        chosen, readable = _format_of(readable)
        opened = chosen.open(readable, adapter, stack)
        opened.source = source
        if pickle is not None:
            opened.pickle = pickle
            opened.location = replace(opened.location, path=place, root=pickle.parent)
        if address is not None:
            opened.location = replace(opened.location, path=Path(str(address)))
        if tokenizer and source is not None:
            locate.fetch_tokenizer(source, opened.location.weights[0].parent)
        opened.stack = stack.pop_all()
        return opened


def _format_of(path: Path) -> tuple[AdapterFormat, Path]:
    """Return the adapter's format and path: the weights file, if a folder has only one and its name is not a known
    one."""
    name, chosen = next((name, form) for name, form in FORMATS.items() if form.recognizes(path))
    if name == "peft" and os.path.isdir(path):
        names = locate.listing(path)
        lone = locate.lone_weights(names)
        if (
            lone is not None
            and {locate.WEIGHTS, locate.INDEX}.isdisjoint(names)
            and not locate.adapter_folders(path)
        ):
            return _format_of(path / lone)
    return chosen, path


def known_names() -> frozenset[str]:
    """File names that mark a folder as an adapter, in any format."""
    names = {name for form in FORMATS.values() for choice in form.weights for name in choice}
    return frozenset((locate.CONFIG, *locate.PICKLES, *(name for name in names if "*" not in name)))


def require_peft(opened: Adapter) -> None:
    """Raise InputError (not-peft-format) for an adapter that PEFT cannot load without conversion."""
    require_order(opened)
    grouped = opened.packed("grouped_by_expert")
    if grouped:
        raise InputError(
            f"{opened.location.path}: lora_B of {grouped[0]} is grouped by expert (lora_B_layout), and PEFT 0.21 reads "
            "it in another order",
            code="expert-order",
            hint=f"write it in PEFT's order first: gradience convert {opened.location.path} converted",
        )
    if opened.loads_in_peft:
        return
    raise InputError(
        f"{opened.location.path}: {words_of(opened.format)} cannot be loaded into a model: only PEFT's format can",
        code="not-peft-format",
        hint=f"write it in PEFT's format first: gradience convert {opened.location.path} converted"
        if opened.unwritable is None
        else "train it with PEFT to evaluate it here",
    )


def require_order(opened: Adapter) -> None:
    """Raise InputError (expert-order-unknown) if nothing shows how stacked experts are packed (see
    `experts`).
    """
    unordered = opened.packed(None)
    if unordered:
        raise InputError(
            f"{opened.location.path}: Unsloth saved {unordered[0]} without lora_B_layout, so the order of its experts "
            "is unknown",
            code="expert-order-unknown",
            hint=SAY_ORDER,
        )


def words_of(name: str) -> str:
    """Return what reports call an adapter whose `Adapter.format` is `name`; one that is unknown here, by that name."""
    words = (form.words.get(name) for form in FORMATS.values())
    return next(filter(None, words), f"LoRA of the format {name}")
