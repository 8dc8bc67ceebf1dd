"""Untrusted configuration files: locations and contents. Reading is bounded, nothing is executed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gradience.errors import InputError
from gradience.files import strict_json, strict_yaml
from gradience.reading import read_file

MAX_BYTES = 1_000_000
CONFIG = "adapter_config.json"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle")

TRAINING_NAMES = ("training_args.json", "training_args.yaml", "training_args.yml")
"""File names of the arguments of a Trainer, in search order."""
SHARED_NAMES = ("config.yaml", "config.yml", "train.yaml", "train.yml")
"""Names of training configurations that are also used by other programs."""


def read_mapping(path: Path) -> dict[str, Any]:
    """Read the mapping in a .json, .yaml or .yml file.

    Raises InputError: config-pickle, bad-json, bad-yaml, config-not-a-mapping, and what `read_file` raises.
    """
    if path.suffix.lower() in PICKLES:
        raise _pickle(path)
    text = read_file(path, MAX_BYTES)
    is_json = path.suffix.lower() == ".json"
    value = strict_json.loads(text, path, "configuration") if is_json else strict_yaml.loads(text, path)
    if not isinstance(value, Mapping):
        raise InputError(
            f"{path}: contains no settings",
            code="config-not-a-mapping",
            hint="write `key: value` lines",
        )
    return {str(key): item for key, item in value.items()}


def training_config_in(folder: Path) -> Path:
    """Return the path of a training folder's configuration. Raises InputError (config-not-found, config-pickle)."""
    for name in (*TRAINING_NAMES, *SHARED_NAMES):
        if (folder / name).is_file():
            return folder / name
    if (folder / "training_args.bin").is_file():
        raise _pickle(folder / "training_args.bin")
    raise InputError(
        f"{folder}: no training configuration in it",
        code="config-not-found",
        hint=f"give the file itself; looked for {', '.join((*TRAINING_NAMES, *SHARED_NAMES))}",
    )


def configurations_at(path: Path) -> list[Path]:
    """Return the configuration files that a path means: itself, or those in a folder, the adapter's first.

    Raises InputError (config-not-found, config-pickle).
    """
    if not path.is_dir():
        return [path]
    adapter = path / CONFIG
    if not adapter.is_file():
        return [training_config_in(path)]
    return [adapter, *[path / name for name in TRAINING_NAMES if (path / name).is_file()][:1]]


def _pickle(path: Path) -> InputError:
    return InputError(
        f"{path}: a pickle, not opened because that could run code",
        code="config-pickle",
        hint='write the settings as JSON: open("training_args.json", "w").write(args.to_json_string())',
    )
