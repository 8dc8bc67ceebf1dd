"""Untrusted configuration files: locations and contents. Reading is bounded, nothing is executed."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradience.arguments import positive_integer
from gradience.errors import InputError
from gradience.files import strict_json, strict_yaml
from gradience.reading import read_file
from gradience.telemetry import TelemetryReader

MAX_BYTES = 1_000_000
CONFIG, RUN_FILE = "adapter_config.json", "run.jsonl"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle")

TRAINING_NAMES = (
    "training_args.json",
    "training_args.yaml",
    "training_args.yml",
    "config.yaml",
    "config.yml",
    "axolotl.yaml",
    "axolotl.yml",
    "llamaboard_config.yaml",
    "train.yaml",
    "train.yml",
)
"""File names of a training configuration, in search order."""


ANYBODYS_NAMES = ("config.yaml", "config.yml", "train.yaml", "train.yml")
"""Those of these names that another program may also have written beside an adapter."""


def read_mapping(path: Path) -> dict[str, Any]:
    """Read the mapping in a .json, .yaml or .yml file, or the configuration that a run.jsonl recorded.

    Raises InputError: config-not-found, config-pickle, config-too-large, bad-json, bad-yaml, config-not-a-mapping.
    """
    if path.suffix.lower() in PICKLES:
        raise _pickle(path)
    if path.suffix.lower() == ".jsonl" and path.is_file():
        return _recorded_config(path)
    if not path.is_file():
        raise InputError(
            f"{path}: {'a folder, not a file' if path.is_dir() else 'no such file'}",
            code="config-not-found",
            hint="check the path; if a folder holds the configuration, name the file in it",
        )
    try:
        text = read_file(path, MAX_BYTES)
    except InputError as error:
        if error.code != "too-large":
            raise
        raise InputError(
            f"{path}: more than {MAX_BYTES:,} bytes, too large for a configuration",
            code="config-too-large",
            hint="name the configuration file itself",
        ) from None
    is_json = path.suffix.lower() == ".json"
    value = strict_json.loads(text, path, "configuration") if is_json else strict_yaml.loads(text, path)
    if not isinstance(value, Mapping):
        raise InputError(
            f"{path}: contains no settings",
            code="config-not-a-mapping",
            hint="write `key: value` lines",
        )
    return {str(key): item for key, item in value.items()}


def _recorded_config(path: Path) -> dict[str, Any]:
    """Return the configuration of the first run in a run.jsonl. Raises InputError (config-unknown)."""
    for record in TelemetryReader(path):
        config = record.data.get("config")
        if record.event == "run_start" and isinstance(config, Mapping):
            return dict(config)
    raise InputError(
        f"{path}: no run_start with a configuration in it",
        code="config-unknown",
        hint="give the training's configuration file, or a run.jsonl that GradienceCallback wrote",
    )


def adapter_config_in(folder: Path) -> Path:
    """Return the path of an adapter folder's `adapter_config.json`. Raises InputError (config-not-found)."""
    path = folder / CONFIG
    if not path.is_file():
        raise InputError(
            f"{folder}: no adapter_config.json in it",
            code="config-not-found",
            hint="give the folder that save_pretrained() wrote, or the file itself",
        )
    return path


def training_config_in(folder: Path) -> Path:
    """Return the path of a training folder's configuration. Raises InputError (config-not-found, config-pickle)."""
    for name in (*TRAINING_NAMES, RUN_FILE):
        if (folder / name).is_file():
            return folder / name
    if (folder / "training_args.bin").is_file():
        raise _pickle(folder / "training_args.bin")
    raise InputError(
        f"{folder}: no training configuration in it",
        code="config-not-found",
        hint=f"give the file itself; looked for {', '.join(TRAINING_NAMES[:4])} …",
    )


def configurations_at(path: Path) -> list[Path]:
    """Return the configuration files that a path means: itself, or those in a folder, the adapter's first.

    A .safetensors file means the adapter_config.json beside it.
    Raises InputError (config-not-found, config-pickle).
    """
    if path.suffix.lower() == ".safetensors":
        return [adapter_config_in(path.parent)]
    if not path.is_dir():
        return [path]
    adapter = path / CONFIG
    if not adapter.is_file():
        return [training_config_in(path)]
    beside = (path / name for name in TRAINING_NAMES if name not in ANYBODYS_NAMES)
    return [adapter, *[file for file in beside if file.is_file()][:1]]


def _pickle(path: Path) -> InputError:
    return InputError(
        f"{path}: a pickle, not opened because that could run code",
        code="config-pickle",
        hint='write the settings as JSON: open("training_args.json", "w").write(args.to_json_string())',
    )


# ---------------------------------------------------------------- the base model


@dataclass(frozen=True, slots=True)
class BaseShape:
    """Shape of the base model, for the rules that need it."""

    model_type: str | None
    hidden_size: int | None


def read_base(path: Path) -> BaseShape:
    """Read a config.json, or the one in a folder. Raises InputError as `read_mapping` does."""
    config = read_mapping(path / "config.json" if path.is_dir() else path)
    model_type = config.get("model_type")
    width = positive_integer(config.get("hidden_size"))
    return BaseShape(model_type if isinstance(model_type, str) else None, width)
