"""What an evaluation is asked to do: by flags, by keywords of Python, or by a YAML file, under the same names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError

from gradience.artifacts.exact import Exact
from gradience.check.files import read_mapping
from gradience.evaluate.engines import ENGINES
from gradience.models.config_errors import known_keys, refused
from gradience.models.locate import EMBEDDED, is_path
from gradience.models.settings import Positive, Settings
from gradience.models.tokenizers import TokenizerOf
from gradience.tasks.user_code import is_file

PATHS = ("adapters", "data", "output")


def _engine(name: str) -> str:
    if name not in ENGINES:
        raise ValueError(f"{name!r} is not one of {', '.join(ENGINES)}")
    return name


EngineName = Annotated[str, AfterValidator(_engine)]


class Request(Settings):
    """An evaluation as it is asked for; the defaults are those of the command line."""

    adapters: tuple[Path, ...] = ()
    """Folders of adapters; the first is the reference."""
    base_model: str | None = None
    """A folder, a name on the hub, `embedded:minilm` or `embedded:smollm2`; by default what the reference's config
    names."""
    data: Path | None = None
    """Your examples: CSV, TSV or JSON lines, every row of which is evaluated."""
    task: str | None = None
    """A task by its name. One of your own is `path/to/file.py` or an installed entry point and needs `--allow-code`."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Passed on to the task: how rows are scored, names of columns."""
    output: Path | None = None
    """Folder of the result; with the same folder an interrupted evaluation resumes."""
    margin: Exact = Fraction("0.025")
    """The loss that a B excludes, as a share: 0.025 is 2.5 points."""
    with_base: bool = False
    """The base without an adapter as well; of a classifier with the reference's head."""
    role: Literal["confirm", "dev"] = "confirm"
    """Which examples of a `task`; of `data` every row is evaluated."""
    limit: Positive | None = None
    """At most so many examples."""
    batch_size: Positive | None = None
    """Examples that are answered together; by default as many of like length as fit."""
    max_length: Positive | None = None
    """Tokens of a text to label that are read; 512 where it is not given."""
    max_new_tokens: Positive | None = None
    """Of an answer; by default what the task says."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the base's weights. `auto` is what the checkpoint says."""
    quantization: Literal["nf4"] | None = None
    """`nf4`: the base in 4 bits through bitsandbytes, as QLoRA trains on it."""
    revision: str | None = None
    """A commit of the base's repository on the hub."""
    tokenizer: TokenizerOf | None = None
    """Tokenizer and chat template: those of the `base`, or those saved with the reference `adapter`; by default the
    adapter's where it has any."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1`, `mps`; `auto` takes a GPU where there is one."""
    engine: EngineName = "transformers"
    """What answers: `transformers`, or `vllm` in a process of its own, whose Python `--engine-python` names."""
    folder: Path | None = None
    """Where relative paths of this file start: by default its own folder. Itself relative to that."""


def request_of(given: Mapping[str, Any], config: Path | None = None) -> Request:
    """Return the settings in the file `config`, if there is one, with those that are `given` in their place.

    given: by their names; of the options only those that it names are replaced. Paths in the file start at its folder,
    and so do those among the options.
    Raises InputError for the file and UsageError for what is given: config-not-found, bad-yaml, config-key (unknown
    keys, with the nearest known one), config-value.
    """
    values = {} if config is None else read_mapping(config)
    merged = {**values, **given}
    if isinstance(values.get("options"), Mapping) and isinstance(given.get("options"), Mapping):
        merged["options"] = {**values["options"], **given["options"]}
    try:
        request = Request.model_validate(merged)
    except ValidationError as error:
        changes = {f"{name}={value}": {name: value} for name, value in given.items()}
        raise refused(error, tuple(known_keys(Request)), str(config or ""), changes) from None
    if config is None:
        return request
    folder = config.parent / (request.folder or "")
    return request.model_copy(
        update=_seen_from(folder, request, [name for name in values if name not in given])
    )


def _seen_from(folder: Path, request: Request, names: list[str]) -> dict[str, Any]:
    """The settings that hold paths, those of `names` seen from `folder`."""
    seen: dict[str, Any] = {"folder": folder if folder != Path() else None}
    for name in PATHS:
        value = getattr(request, name)
        if name in names and value is not None:
            seen[name] = tuple(folder / one for one in value) if name == "adapters" else folder / value
    if "base_model" in names and request.base_model is not None and request.base_model not in EMBEDDED:
        path = folder / request.base_model
        if os.path.exists(path) or is_path(
            request.base_model
        ):  # False for a name that is too long for a file
            seen["base_model"] = str(path)
    if "task" not in names and request.task is not None and is_file(request.task):
        seen["task"] = os.path.abspath(
            request.task
        )  # given beside the file: seen from where the command is run
    return seen
