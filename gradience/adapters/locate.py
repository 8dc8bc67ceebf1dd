"""Find the PEFT adapter, or adapters, at a path or on the hub, and identify anything else for the error message.

Of an adapter on the hub, config and weights are fetched, and the tokenizer if a model is to run. It is then read as one
on this disk.
"""

import fnmatch
import json
import os
import posixpath
import re
import shlex
import stat
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path, PurePath
from posixpath import basename
from typing import NamedTuple

from gradience.adapters.config import read_config
from gradience.adapters.files import pickle_hint, read_object, refuse_method
from gradience.adapters.keys import LISTED, no_such_adapter, several_adapters
from gradience.adapters.tensors import TensorEntry, TensorFile
from gradience.errors import InputError, NetworkError
from gradience.files import hub
from gradience.files.hub import Address, HubCommit
from gradience.reading import cannot_open
from gradience.words import listed

WEIGHTS = "adapter_model.safetensors"
INDEX = "adapter_model.safetensors.index.json"
CONFIG = "adapter_config.json"
PICKLES = ("adapter_model.bin", "adapter_model.pt", "adapter_model.pth", "pytorch_lora_weights.bin")
"""Names of pickled weights in a folder."""
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
WEIGHT_SUFFIXES = (".safetensors", ".gguf")
MAX_INDEX_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Location:
    """An adapter on disk. `root` is the folder that its files must stay in."""

    path: Path
    root: Path
    weights: tuple[Path, ...]
    """One file, or the shards in the order of their names."""
    config: Path | None
    """None if there is no adapter_config.json beside the weights."""
    shard_of: dict[str, str] | None = None
    """Tensor -> shard file name, if there is an index."""
    sub_folder: bool = False
    """True if the adapter requested by name is a subfolder of `root`."""


def locate(path: Path, *, adapter: str | None = None) -> Location:
    """Find the adapter at `path`: a PEFT folder, a Trainer checkpoint, a single .safetensors file.

    adapter: name of a sub-folder, if the folder contains several adapters.
    Raises InputError: not-found, not-a-file, several-adapters, no-such-adapter, pickle, full-model,
    gguf, diffusers, not-an-adapter, bad-index and those of `files`.
    """
    try:
        folder = stat.S_ISDIR(os.stat(path).st_mode)
    except OSError as error:
        refusal = cannot_open(path, error)
        if refusal.code == "not-found" and not os.path.islink(path):
            refusal.hint += "; an adapter on the hub is called org/name (or hf://org/name)"
        raise refusal from None
    if folder:
        return _in_folder(path, adapter)
    _refuse_other_methods(path.parent)
    name = path.name.lower()
    if name.endswith(PICKLE_SUFFIXES):
        raise pickle_error(path, path.name)
    if name == CONFIG:
        return _in_folder(path.parent, adapter)
    if name == INDEX:
        return _sharded(path.parent, path)
    return Location(path, path.parent, (path,), _config_in(path.parent))


# Names are checked with lexists, so that a dangling link is reported as such.


def _config_in(folder: Path) -> Path | None:
    config = folder / CONFIG
    return config if os.path.lexists(config) else None


def _in_folder(folder: Path, adapter: str | None) -> Location:
    inner = PurePath(adapter or "")
    if inner.parts and not inner.is_absolute() and ".." not in inner.parts and (folder / inner).is_dir():
        # The outer folder stays the limit for links: the inner one may be a link out of it.
        return replace(_in_folder(folder / inner, None), root=folder, sub_folder=True)
    if os.path.lexists(folder / WEIGHTS):
        return Location(folder, folder, (folder / WEIGHTS,), _config_in(folder))
    if os.path.lexists(folder / INDEX):
        return _sharded(folder, folder / INDEX)
    names = [str(inner.relative_to(folder)) for inner in adapter_folders(folder)]
    if not names:
        raise _something_else(folder)
    if adapter is not None:
        raise no_such_adapter(folder, adapter, names)
    if len(names) == 1:
        raise InputError(
            f"{folder}: adapter found in {names[0]}",
            code="several-adapters",
            hint=f"point at {folder / names[0]}",
        )
    error = several_adapters(folder, "adapters", names)
    raise InputError(str(error), code=error.code, hint=f"{error.hint}; all of them: gradience fleet {folder}")


def lone_weights(names: Collection[str]) -> str | None:
    """The only file of weights among the names in a folder, whatever it is called; None beside a pickle of PEFT's, and
    for a full model.
    """
    weights = [name for name in names if name.lower().endswith(WEIGHT_SUFFIXES)]
    other = {*PICKLES, *MODEL_FILES}.intersection(names)
    return weights[0] if len(weights) == 1 and not other else None


def adapter_folders(folder: Path) -> list[Path]:
    """Sub-folders, at most two levels down, that hold adapter weights."""
    folders = {
        weights.parent
        for pattern in ("*/", "*/*/")
        for name in (WEIGHTS, INDEX)
        for weights in folder.glob(pattern + name)
    }
    return sorted(folders, key=natural_key)


def natural_key(path: Path | str) -> list[tuple[int, int | str]]:
    """Sort key under which checkpoint-200 comes before checkpoint-1000."""
    parts = re.findall(r"[0-9]+|[^0-9]", f"{path}\0")
    return [(0, int(part[:18])) if part[0] in "0123456789" else (1, part) for part in parts]


def _something_else(folder: Path) -> InputError:
    """Return the error for a folder without adapter weights, which names the folder's actual content."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        return cannot_open(folder, error)
    _refuse_other_methods(folder)
    return no_weights(folder, names)


def no_weights(place: Path | Address, names: Sequence[str]) -> InputError:
    """Return the error for a folder, local or on the hub, without a weights file of these names."""
    for pickle in PICKLES:
        if pickle in names:
            return pickle_error(place, pickle)
    model = next((name for name in MODEL_FILES if name in names), None)
    if model and CONFIG not in names:
        return InputError(
            f"{place}: a full model ({model}), not a LoRA adapter",
            code="full-model",
            hint="point at the adapter's folder, which contains adapter_config.json and adapter_model.safetensors",
        )
    if not names:
        return InputError(f"{place}: the folder is empty", code="not-an-adapter", hint="check the path")
    weights = [name for name in names if name.endswith(".safetensors")]
    problem = f"{CONFIG} but no {WEIGHTS}" if CONFIG in names else f"neither {WEIGHTS} nor {CONFIG}"
    shown = listed([name[:80] for name in names], LISTED)
    only = f"at {shlex.quote(f'{place}/{weights[0]}')}" if len(weights) == 1 else ""
    return InputError(
        f"{place}: no adapter here: {problem} (the folder contains {shown})",
        code="not-an-adapter",
        hint=f"point at the folder written by save_pretrained(), or {only or 'at the .safetensors file itself'}",
    )


def pickle_error(place: Path | Address, name: str) -> InputError:
    """Return the error for a pickle file called `name`."""
    return InputError(
        f"{place}: {name} is a pickle file (torch.save)", code="pickle", hint=pickle_hint(str(place))
    )


def _refuse_other_methods(folder: Path) -> None:
    """Raise if the config beside the weights names another method or tool.

    Checked before the weight file: converting or downloading an IA3 file again would not help.
    """
    config = folder / CONFIG
    if not config.is_file():
        return
    try:
        read_config(config, root=folder)
    except InputError as error:
        if error.code in ("other-method", "mlx-adapter"):
            raise


def _sharded(folder: Path, index: Path) -> Location:
    shard_of = read_object(index, root=folder, limit=MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(shard_of, dict) or not shard_of:
        raise _bad_index(index, "it has no weight_map")
    for name, shard in shard_of.items():
        plain = isinstance(shard, str) and os.path.basename(shard) == shard and "\0" not in shard
        if not plain or not shard.endswith(".safetensors"):
            shown = json.dumps(shard)[:80]
            raise _bad_index(
                index, f"tensor {name[:80]!r} is in {shown}, which is not a file name in this folder"
            )
    shards = tuple(folder / shard for shard in sorted(set(shard_of.values())))
    for shard in shards:
        if not os.path.lexists(shard):
            raise _bad_index(index, f"the shard {shard.name[:80]!r} that it names is missing")
    return Location(folder, folder, shards, _config_in(folder), shard_of)


def _bad_index(index: Path, problem: str) -> InputError:
    return InputError(f"{index}: {problem}", code="bad-index", hint="download or save the adapter again")


RENAME_HINT = (
    "rename the file: Gradience looks for PEFT's tensors under this name (MLX-LM's is adapters.safetensors)"
)
TENSORS: Mapping[str, str] = {
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "ia3_": "IA3",
    "vera_": "VeRA",
    "boft_": "BOFT",
    "oft_": "OFT",
    "prompt_embeddings": "prompt tuning",
}
"""How a part of the names of a method's tensors begins -> the method, for files without a config."""
_OF_OTHER_READERS = re.compile(r"\blora_(down|up)\b|\blora\.(.*\.)?(down|up)\b|\blora_[ab]$")
"""Tensors of formats that are read under other names of files: kohya, old diffusers, MLX-LM."""
DIFFUSERS_PARTS = ("to_q_lora", "to_k_lora", "to_v_lora", "to_out_lora", "lora_linear_layer")
MODEL_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
"""Weights of a whole model."""


def refuse_foreign(
    path: Path, entries: Mapping[str, TensorEntry], metadata: Mapping[str, str], *, has_config: bool
) -> None:
    """Raise InputError if no tensor is a PEFT LoRA factor; the message names the file's actual content.

    Codes: other-method, not-peft-tensors, full-model, no-lora-tensors, empty-adapter.
    """
    if not entries:
        raise no_factors(path, entries)
    parts = {part for name in entries for part in name.split(".")}
    if "lora_E" in parts:  # beside lora_A and lora_B
        raise refuse_method(path, "contains weights of AdaLoRA")
    is_peft = bool(parts.intersection(("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B")))
    diffusers = from_diffusers(entries, parts, metadata, has_config=has_config)
    if diffusers or (not is_peft and any(map(_OF_OTHER_READERS.search, entries))):
        raise InputError(
            f"{path}: tensors of kohya, diffusers or MLX-LM under the name of PEFT's weights",
            code="not-peft-tensors",
            hint=RENAME_HINT,
        )
    if is_peft:
        return
    for prefix, method in TENSORS.items():
        if any(part.startswith(prefix) for part in parts):
            raise refuse_method(path, f"contains weights of {method}")
    matrices = any(name.endswith(".weight") and len(entry.shape) >= 2 for name, entry in entries.items())
    if matrices and not has_config and not any("lora" in name for name in entries):
        raise InputError(
            f"{path}: no LoRA factors among its {len(entries)} tensors: a full model?",
            code="full-model",
            hint="point at the adapter's folder (adapter_config.json and adapter_model.safetensors)",
        )
    raise no_factors(path, entries)


def from_diffusers(
    names: Iterable[str], parts: set[str], metadata: Mapping[str, str], *, has_config: bool
) -> bool:
    """Return True for diffusers' keys, keys of its attention processors (`to_q_lora`), or its config in the
    header.
    """
    if "lora_adapter_metadata" in metadata or parts.intersection(DIFFUSERS_PARTS):
        return True
    if has_config:
        return False
    # GPT-2, Falcon and others also have `transformer.` at the top; only diffusers goes on like this.
    blocks = ("transformer_blocks", "single_transformer_blocks")
    return any(
        name.startswith(("unet.", "text_encoder.", "text_encoder_2."))
        or (name.startswith("transformer.") and name.split(".")[1] in blocks)
        for name in names
    )


def no_factors(path: Path, entries: Mapping[str, TensorEntry]) -> InputError:
    """Return the error for a file without a LoRA factor to measure."""
    if not entries:
        return InputError(
            f"{path}: the file contains no tensors",
            code="empty-adapter",
            hint="if it was saved under DeepSpeed ZeRO-3 or FSDP, gather the weights and save it again",
        )
    scalars = sum(entry.params <= 1 for entry in entries.values())
    numbers = f", {scalars} of them scalars" if scalars else ""
    return InputError(
        f"{path}: no LoRA factors among its {len(entries)} tensors{numbers} (the first is {min(entries)[:80]!r})",
        code="no-lora-tensors",
        hint="save it again with PEFT, or export it to PEFT's format with the tool that trained it: the format is "
        "unknown, or its LoRA weights were lost",
    )


# ---------------------------------------------------------------- the format of a stranger's file


def listing(folder: Path) -> list[str]:
    """Return the names in a folder; none if it cannot be read."""
    try:
        return os.listdir(folder)
    except OSError:
        return []


def single(path: Path, adapter: str | None, fits: Callable[[str], object], kind: str) -> Path:
    """The file at `path`, or the one in this folder whose name fits; of several the one that is called `adapter`.

    kind: name of the files in messages. Raises InputError (several-adapters, no-such-adapter).
    """
    if not os.path.isdir(path):
        if adapter is not None:
            raise no_such_adapter(path, adapter, ())
        return path
    names = sorted(filter(fits, listing(path)), key=natural_key)
    if adapter is not None and adapter not in names:
        raise no_such_adapter(path, adapter, names)
    if adapter is None and len(names) > 1:
        raise several_adapters(path, kind, names, first=-1)
    return path / (adapter or names[0])


class Sniffed(NamedTuple):
    """Names and shapes of the tensors in a file, and its metadata; nothing of a file that cannot be read."""

    shapes: Mapping[str, tuple[int, ...]]
    metadata: Mapping[str, str]


def sniff(path: Path) -> Sniffed:
    """Return the contents of the safetensors header at `path`; empty if the header is missing or broken.

    The fallback format opens the file again and reports the problem.
    """
    if path.suffix.lower() != ".safetensors":
        return Sniffed({}, {})
    try:
        with TensorFile.open(path) as file:
            return Sniffed({name: entry.shape for name, entry in file.entries.items()}, file.metadata)
    except InputError:
        return Sniffed({}, {})


# ---------------------------------------------------------------- an adapter on the hub

Weights = tuple[tuple[str, ...], ...]
"""Choices of files of weights, as patterns: the first choice whose patterns all match is fetched, first file last."""
_PLAIN = re.compile(r"[\w.+-]{1,200}", re.ASCII)
"""Allowed names of fetched files, so that a name from the hub cannot steer the download."""
MAX_LONE = 2 * 2**30
"""Largest file that is downloaded without being named by the user, if its name is not a known one."""


TOKENIZER = "tokenizer_config.json"
"""The file that every tokenizer has; it is fetched last, so its presence means that all files are there."""
BESIDE_TOKENIZER = (
    *(
        "tokenizer.json",
        "tokenizer.model",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.jinja",
    ),
    *("vocab.json", "vocab.txt", "merges.txt", "spiece.model", "sentencepiece.bpe.model"),
)
Fetched = tuple[Path, HubCommit]
"""Local path of a downloaded adapter, and its commit."""


class _Choice(NamedTuple):
    folder: str
    files: tuple[str, ...]
    """In the order in which they are fetched."""
    point: str = ""
    """The requested file, if it is not the folder."""


@cache
def fetch_adapter(address: Address, weights: Weights, adapter: str | None = None) -> Fetched:
    """Download the adapter at `address`, once per process, so that every read sees the same commit.

    weights: file choices.   adapter: a sub-folder, if the repository contains several adapters.
    Raises NetworkError (`hub-…`), InputError for a repository that holds something else, MissingExtra without
    huggingface_hub.
    """
    hub.need_client(address)
    if hub.is_offline() or re.fullmatch(r"[0-9a-f]{40}", address.revision or ""):
        kept = _kept(address, weights, adapter)
        if kept is not None:
            return kept
        if hub.is_offline():
            raise hub.not_cached(address)
    choice = _choose(address, hub.list_files(address), weights, adapter)
    root, commit = hub.download(address, [posixpath.join(choice.folder, name) for name in choice.files])
    return root / choice.folder / choice.point, HubCommit(address, commit)


@cache
def fetch_tokenizer(source: HubCommit, folder: Path) -> None:
    """Download the tokenizer files stored beside a hub adapter into its `folder` in the cache.

    Raises NetworkError (`hub-…`; `hub-offline` if only the hub can tell whether there are any).
    """
    address = Address(source.address.repo, source.commit)
    inside = "/".join(folder.parts[folder.parts.index(source.commit) + 1 :])
    last = posixpath.join(inside, TOKENIZER)
    if hub.is_cached(address, last) is not None:
        return
    if hub.is_offline():
        raise NetworkError(
            f"{source.address}: the hub cache does not show whether it has its own tokenizer, and offline mode "
            "is on",
            code="hub-offline",
            hint="use the base's tokenizer (--tokenizer base), or unset HF_HUB_OFFLINE",
        )
    files = hub.list_files(address)
    if last not in files:
        hub.remember_absent(address, last)
        return
    wanted = [*(posixpath.join(inside, name) for name in BESIDE_TOKENIZER), last]
    hub.download(address, [name for name in wanted if name in files])


def _kept(address: Address, weights: Weights, adapter: str | None) -> Fetched | None:
    """Return the cached adapter if it is complete, which the file that is fetched last shows."""
    folders = [*([posixpath.join(address.inside, adapter)] if adapter else []), address.inside]
    wanted = [(folder, choice[0], "") for folder in folders for choice in weights]
    if adapter:
        wanted.append((address.inside, adapter, ""))
    if address.inside:
        above, file = posixpath.split(address.inside)
        wanted.append((above, file, file))
    for folder, name, point in wanted:
        root = hub.cached(address, posixpath.join(folder, name))
        if root is not None:
            return root / folder / point, HubCommit(address, root.name)
    return None


def _choose(
    address: Address, files: Mapping[str, int | None], weights: Weights, adapter: str | None
) -> _Choice:
    """Return what to fetch of the files of a repository. Raises NetworkError (`hub-file`), InputError."""
    folder = address.inside
    if address.inside in files:
        folder, name = posixpath.split(address.inside)
        named = tuple(choice for choice in weights if name == choice[0])
        if not named and name != CONFIG:
            return _single(address, files, folder, name)
        weights = named or weights
    within = posixpath.join(folder, adapter or "").strip("/")
    folder = within if _beside(files, within) else folder
    beside = _beside(files, folder)
    # Folders that hold adapters, no more than two levels down.
    known = {choice[0] for choice in weights}
    depth = address.inside.count("/") + 3
    folders = {
        posixpath.dirname(path) for path in files if 1 <= path.count("/") <= depth and basename(path) in known
    }
    revision = f"@{address.revision}" if address.revision else ""
    shown = [f"{address.repo}{revision}:{inner[:80]}" for inner in sorted(folders, key=natural_key)]
    hint = f"name one: {listed(shown, 3)}" if shown else ""
    if not beside and folder:
        raise NetworkError(
            f"{address}: there is no {folder!r} in this repository at this revision",
            code="hub-file",
            hint=hint or "check the name of the folder",
        )
    config = [CONFIG] if CONFIG in beside else []
    for choice in weights:
        fitting = [
            sorted(name for name in fnmatch.filter(beside, pattern) if _PLAIN.fullmatch(name))
            for pattern in choice
        ]
        if all(fitting):
            return _Choice(folder, (*config, *(name for names in reversed(fitting) for name in names)))
    if adapter in beside:
        return _single(address, files, folder, adapter)._replace(point="")
    lone = lone_weights(beside)
    if lone is not None and _PLAIN.fullmatch(lone) and not hint:
        size = files[posixpath.join(folder, lone)]
        if size is not None and size > MAX_LONE:
            raise InputError(
                f"{address}: its only weight file, {lone[:80]}, has {size / 1e9:.1f} GB: a full model, by its "
                "size; nothing was downloaded",
                code="full-model",
                hint=f"if it is the adapter, name it: {address.repo}:{lone[:80]}",
            )
        return _Choice(folder, (*config, lone), lone)
    if hint and not set(PICKLES) & set(beside):
        raise InputError(f"{address}: the adapters are in sub-folders", code="several-adapters", hint=hint)
    raise no_weights(address, sorted(beside))


def _single(address: Address, files: Collection[str], folder: str, name: str) -> _Choice:
    """One file of weights under another name, and the config beside it."""
    if name.lower().endswith(PICKLE_SUFFIXES):
        raise pickle_error(address, name)
    if not name.lower().endswith(WEIGHT_SUFFIXES) or not _PLAIN.fullmatch(name):
        raise InputError(
            f"{address}: not a weight file",
            code="not-an-adapter",
            hint="name the repository, a folder in it, or a weight file",
        )
    config = [CONFIG] if CONFIG in _beside(files, folder) else []
    return _Choice(folder, (*config, name), name)


def _beside(files: Collection[str], folder: str) -> list[str]:
    """The names of the files in one folder of the repository."""
    return [basename(path) for path in files if posixpath.dirname(path) == folder]
