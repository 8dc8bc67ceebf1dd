"""The configs that come with Gradience: found by name, or by a path that ends like theirs."""

from collections.abc import Mapping
from pathlib import Path

from gradience.errors import InputError, did_you_mean
from gradience.reading import open_stream

FOLDER = Path(__file__).parent.parent / "configs"
PACKAGED = ("gradience", "bench", "configs")
"""Folder of the shipped configs in a checkout; published commands use this path."""


def shipped_configs() -> Mapping[str, Path]:
    """Return the shipped configs: name -> file."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


def config_titles() -> Mapping[str, str]:
    """Return the title of each shipped config: the comment in its first line."""
    titles = {}
    for name, path in shipped_configs().items():
        with open_stream(path) as file:
            titles[name] = file.readline().decode().removeprefix("# ").rstrip()
    return titles


def find_config(name: str) -> Path:
    """Return the file at the path `name`, or the shipped config that matches it.

    A shipped config matches by name, or if its path in a checkout ends like `name`, or the reverse:
    `minilm_reviews`, `configs/minilm_reviews.yaml` and `/clone/gradience/bench/configs/minilm_reviews.yaml`.
    Raises InputError (`config-not-found`).
    """
    given = Path(name)
    if given.is_file():
        return given
    parts, configs = given.parts, shipped_configs()
    named = configs.get(given.name.removesuffix(".yaml")) if parts else None
    folders = parts[:-1][-len(PACKAGED) :]
    if named is not None and folders == PACKAGED[len(PACKAGED) - len(folders) :]:
        return named
    near = did_you_mean(given.stem, configs, most=3) or f"the bundled ones are {', '.join(configs)}:"
    raise InputError(
        f"{name}: {'a folder, not a file' if given.is_dir() else 'neither a file nor a bundled config'}",
        code="config-not-found",
        hint=f"{near} `gradience bench configs` lists them",
    )
