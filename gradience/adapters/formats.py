"""The supported formats, and `open_adapter`, which opens an adapter in any of them.

To add a format, write a file beside `mlx.py` with a function that returns an `Adapter`, and add a line to
`FORMATS`. A format with settings of its own translates them to PEFT's (`PeftConfig`), which all verbs
understand.
"""

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from gradience.adapters.adapter import Adapter
from gradience.adapters.diffusers import NAME, is_diffusers, is_kohya, open_diffusers, open_kohya
from gradience.adapters.gguf import is_gguf, open_gguf
from gradience.adapters.locate import CONFIG, INDEX, PICKLES, WEIGHTS, adapter_folders, listing, lone_weights
from gradience.adapters.mlx import FINAL, is_mlx, open_mlx
from gradience.adapters.peft import SAY_ORDER, open_peft
from gradience.adapters.pickles import pickle_at, twin_of
from gradience.adapters.remote import Weights, fetch_adapter, fetch_tokenizer
from gradience.errors import InputError
from gradience.files.hub import address_of


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
    weights: Weights = ()


FORMATS: dict[str, AdapterFormat] = {
    "mlx": AdapterFormat(is_mlx, open_mlx, {"mlx": "MLX-LM LoRA"}, ((FINAL,),)),
    "gguf": AdapterFormat(is_gguf, open_gguf, {"gguf": "GGUF LoRA"}),
    "diffusers": AdapterFormat(is_diffusers, open_diffusers, {"diffusers": "diffusers LoRA"}, ((NAME,),)),
    "kohya": AdapterFormat(is_kohya, open_kohya, {"kohya": "kohya LoRA"}),
    "peft": AdapterFormat(
        lambda path: True,  # last: its error describes any other path
        open_peft,
        {"peft": "PEFT LoRA", "safetensors": "LoRA from a single safetensors file"},
        ((WEIGHTS,), (INDEX, "adapter_model-*.safetensors")),
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
            weights += tuple((name,) for name in PICKLES)
        place, source = fetch_adapter(address, weights, adapter)
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
            fetch_tokenizer(source, opened.location.weights[0].parent)
        opened.stack = stack.pop_all()
        return opened


def _format_of(path: Path) -> tuple[AdapterFormat, Path]:
    """Return the adapter's format and path: the weights file, if a folder has only one and its name is not a known
    one."""
    name, chosen = next((name, form) for name, form in FORMATS.items() if form.recognizes(path))
    if name == "peft" and os.path.isdir(path):
        names = listing(path)
        lone = lone_weights(names)
        if lone is not None and {WEIGHTS, INDEX}.isdisjoint(names) and not adapter_folders(path):
            return _format_of(path / lone)
    return chosen, path


def known_names() -> frozenset[str]:
    """File names that mark a folder as an adapter, in any format."""
    names = {name for form in FORMATS.values() for choice in form.weights for name in choice}
    return frozenset((CONFIG, *PICKLES, *(name for name in names if "*" not in name)))


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
