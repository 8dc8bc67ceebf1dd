"""What lies at a path: a PEFT adapter, several of them, or something else that is then named for what it is."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gradience.adapters import strict_json
from gradience.adapters.files import PICKLE_HINT, read_small, refuse_disguise
from gradience.errors import InputError

WEIGHTS = "adapter_model.safetensors"
INDEX = "adapter_model.safetensors.index.json"
CONFIG = "adapter_config.json"
PICKLES = ("adapter_model.bin", "adapter_model.pt", "adapter_model.pth")
MAX_INDEX_BYTES = 64 * 2**20
LISTED = 8
"""Names shown in a message before it says how many more there are."""


@dataclass(frozen=True)
class Location:
    """An adapter on disk. `root` is the folder that its files must stay in."""

    path: Path
    root: Path
    weights: tuple[Path, ...]
    """One file, or the shards in the order of their names."""
    config: Path | None
    """None where there is no adapter_config.json beside the weights."""
    shard_of: dict[str, str] | None = None
    """Tensor -> shard file name, where an index says so."""


def locate(path: Path, *, adapter: str | None = None) -> Location:
    """Find the adapter at `path`: a PEFT folder, a Trainer checkpoint, a single .safetensors file.

    adapter: name of a sub-folder where several adapters lie in one.
    Raises InputError: not-found, not-a-file, several-adapters, no-such-adapter, pickle, full-model,
    mlx-adapter, gguf, diffusers, not-an-adapter, bad-index and those of `files`.
    """
    if not path.exists():
        raise InputError(
            f"{path}: no such file or folder",
            code="not-found",
            hint="check the path; an adapter on a hub must be downloaded first (`hf download REPO --local-dir DIR`)",
        )
    if path.is_dir():
        return _in_folder(path, adapter)
    return _single_file(path)


def _single_file(path: Path) -> Location:
    name = path.name.lower()
    if name.endswith((".bin", ".pt", ".pth", ".pkl", ".ckpt")):
        raise _pickle(path)
    if name == CONFIG:
        return locate(path.parent)
    if name == INDEX:
        return _sharded(path.parent, path)
    if name.endswith(".npz"):
        raise InputError(
            f"{path}: a numpy archive (old MLX adapters look like this), not a PEFT adapter",
            code="mlx-adapter",
            hint="MLX adapters are not read yet: audit the PEFT original",
        )
    config = path.parent / CONFIG
    return Location(path, path.parent, (path,), config if config.exists() or config.is_symlink() else None)


def _in_folder(folder: Path, adapter: str | None) -> Location:
    if (
        adapter is not None
        and (folder / adapter).is_dir()
        and "/" not in adapter
        and adapter not in (".", "..")
    ):
        return _in_folder(folder / adapter, None)
    config = folder / CONFIG
    has_config = config.exists() or config.is_symlink()
    if _present(folder / INDEX) and not _present(folder / WEIGHTS):
        return _sharded(folder, folder / INDEX)
    if _present(folder / WEIGHTS):
        return Location(folder, folder, (folder / WEIGHTS,), config if has_config else None)
    nested = adapter_folders(folder)
    if nested:
        names = [str(found.relative_to(folder)) for found in nested]
        if adapter is not None:
            raise InputError(
                f"{folder}: holds no adapter called {adapter!r}; it holds {_listed(names)}",
                code="no-such-adapter",
                hint=f"--adapter {names[0]}",
            )
        if len(nested) == 1:
            raise InputError(
                f"{folder}: the adapter lies one folder deeper, in {names[0]}",
                code="several-adapters",
                hint=f"point at {nested[0]}",
            )
        raise InputError(
            f"{folder}: holds {len(names)} adapters: {_listed(names)}",
            code="several-adapters",
            hint=f"name one with --adapter {names[0]}, or point at several folders to compare them",
        )
    raise _something_else(folder, has_config=has_config)


def adapter_folders(folder: Path) -> list[Path]:
    """Sub-folders, at most two levels down, that hold adapter weights."""
    found = [
        weights.parent
        for pattern in ("*/", "*/*/")
        for name in (WEIGHTS, INDEX)
        for weights in folder.glob(pattern + name)
    ]
    return sorted(set(found), key=natural_key)


def natural_key(path: Path | str) -> list[tuple[int, int | str]]:
    """Sort key under which checkpoint-200 comes before checkpoint-1000."""
    parts: list[tuple[int, int | str]] = []
    digits = ""
    for character in str(path) + "\0":
        if character.isascii() and character.isdigit():
            digits += character
            continue
        if digits:
            parts.append((0, int(digits[:18])))
            digits = ""
        parts.append((1, character))
    return parts


def _present(path: Path) -> bool:
    """There under this name, even as a dangling link (which then is reported as one)."""
    return path.exists() or path.is_symlink()


def _pickle(path: Path) -> InputError:
    return InputError(f"{path}: a pickle file (torch.save)", code="pickle", hint=PICKLE_HINT)


def _something_else(folder: Path, *, has_config: bool) -> InputError:
    names = sorted(entry.name for entry in folder.iterdir())
    for pickle in PICKLES:
        if pickle in names:
            return _pickle(folder / pickle)
    suffixes = {Path(name).suffix for name in names}
    if "adapters.safetensors" in names or "adapters.npz" in names:
        return InputError(
            f"{folder}: an MLX-LM adapter (adapters.safetensors), not a PEFT one",
            code="mlx-adapter",
            hint="MLX adapters are not read yet: convert it to PEFT format, or audit the PEFT original",
        )
    if ".gguf" in suffixes:
        return InputError(
            f"{folder}: holds GGUF files, no PEFT adapter",
            code="wrong-format",
            hint="audit the PEFT adapter that the GGUF file was converted from",
        )
    if "pytorch_lora_weights.safetensors" in names or "pytorch_lora_weights.bin" in names:
        return InputError(
            f"{folder}: a diffusers LoRA (pytorch_lora_weights), not a PEFT folder",
            code="diffusers-adapter",
            hint="diffusers adapters are not read yet: load it with diffusers and save the PEFT adapter",
        )
    model = {"model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"} & set(names)
    if model and not has_config:
        return InputError(
            f"{folder}: a full model ({sorted(model)[0]}), not a LoRA adapter",
            code="full-model",
            hint=f"an adapter folder holds {CONFIG} and {WEIGHTS}",
        )
    if not names:
        return InputError(f"{folder}: the folder is empty", code="not-an-adapter", hint="check the path")
    what = f"{CONFIG} but no {WEIGHTS}" if has_config else f"neither {WEIGHTS} nor {CONFIG}"
    return InputError(
        f"{folder}: no adapter here: the folder holds {what} (found: {_listed(names)})",
        code="not-an-adapter",
        hint="point at the folder that save_pretrained() wrote, or at the .safetensors file itself",
    )


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(name[:80] for name in names[:LISTED]) + more


def _sharded(folder: Path, index: Path) -> Location:
    text = read_small(index, MAX_INDEX_BYTES, root=folder)
    refuse_disguise(index, text[:1024])
    content = strict_json.loads(text, index, index.name)
    shard_of = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(shard_of, dict) or not shard_of:
        raise _bad_index(index, "it has no weight_map")
    for name, shard in shard_of.items():
        if not isinstance(shard, str) or not shard.endswith(".safetensors") or Path(shard).name != shard:
            shown = json.dumps(shard)[:80]
            raise _bad_index(
                index, f"tensor {name[:80]!r} lies in {shown}, which is no file name in this folder"
            )
    shards = tuple(folder / shard for shard in sorted(set(shard_of.values())))
    config = folder / CONFIG
    return Location(folder, folder, shards, config if _present(config) else None, shard_of)


def _bad_index(index: Path, what: str) -> InputError:
    return InputError(f"{index}: {what}", code="bad-index", hint="download or save the adapter again")
