"""Settings of an evaluation: flags, keywords of Python and keys of a YAML file under the same names."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator
from pydantic.dataclasses import dataclass

from gradience.check.files import read_mapping
from gradience.errors import UsageError
from gradience.evaluate.engines import ENGINES
from gradience.evaluate.sets import data_of, guards_of, margins_of, seen_from
from gradience.files.rows import Rows, is_on_hub
from gradience.files.strict_yaml import loads
from gradience.models.locate import EMBEDDED, is_path
from gradience.models.settings import BaseSettings, DryRun
from gradience.progress import Watcher
from gradience.settings import SETTINGS, Flag, Positive, PythonOnly, StrPath, settings_of, several
from gradience.tasks.user_code import is_file

PATHS = ("adapters", "data", "guards", "prompts", "output")


def _engine(name: str) -> str:
    if name not in ENGINES:
        raise ValueError(f"{name!r} is not one of {', '.join(ENGINES)}")
    return name


def options_of(given: Any) -> Any:
    """Read `KEY=VALUE` texts, each value as YAML reads it; a mapping stays one. Raises UsageError (`bad-option`)."""
    if not isinstance(given, list):
        return {} if given is None else given
    options: dict[str, object] = {}
    for text in given:
        key, sign, value = str(text).partition("=")
        if not sign or not key:
            raise UsageError(
                f"--option {text}: not KEY=VALUE",
                code="bad-option",
                hint="such as --option scorer=contains",
            )
        options[key] = loads(value.encode(), f"--option {key}")
    return options


def columns_of(given: Any) -> Any:
    """Read `NAME=COLUMN,…`; a mapping stays one. Raises UsageError (`bad-columns`)."""
    if not isinstance(given, str):
        return {} if given is None else given
    pairs = [text.partition("=") for text in given.split(",")]
    if not all(ours and theirs for ours, _, theirs in pairs):
        raise UsageError(
            f"--columns {given}: not NAME=COLUMN,…", code="bad-columns", hint="such as prompt=Q,answer=A"
        )
    return {ours.strip(): theirs.strip() for ours, _, theirs in pairs}


Margin = float | str | Fraction


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class AnswerSettings:
    """Examples."""

    columns: Annotated[Mapping[str, str], BeforeValidator(columns_of), Flag("NAME=COLUMN,…", read=str)] = (
        field(default_factory=dict)
    )
    """Column names, if yours are not recognized, such as prompt=Q,answer=A or text=review,label=stars; for a guard,
    general.prompt=Q."""
    options: Annotated[Mapping[str, Any], BeforeValidator(options_of), Flag("KEY=VALUE", name="--option")] = (
        field(default_factory=dict)
    )
    """Options of the task, such as the scorer; for a guard, general.scorer=nll."""
    margin: Annotated[
        Margin | Mapping[str, Margin] | None, BeforeValidator(margins_of), Flag("[NAME=]MARGIN")
    ] = None
    """The largest acceptable drop in accuracy, in points (default: 2.5); for likelihoods in nats per token (0.025), or
    as a higher perplexity such as 2%. With a name, the margin of one data set: general=1."""
    role: Annotated[Literal["confirm", "dev"], Flag("ROLE")] = "confirm"
    """Split of a task: confirm (test) or dev."""
    group: Annotated[str | None, Flag("COLUMN")] = None
    """Column of the file that names each example's document, user or template: the test counts groups. For a
    guard, general=COLUMN."""
    limit: Annotated[Positive | None, Flag("N")] = None
    """Evaluate at most N examples. When a larger plan is resumed, the test ends at its last look within N."""
    all_rows: bool = False
    """Answer all examples at once instead of testing at planned looks, which stop when a result is clear."""
    batch_size: Annotated[Positive | None, Flag("N")] = None
    """Examples per batch (default: as many of similar length as fit)."""
    max_length: Annotated[Positive | None, Flag("N")] = None
    """Maximum tokens read of a text to classify (default: 512)."""
    max_new_tokens: Annotated[Positive | None, Flag("N")] = None
    """Maximum tokens of a generated answer (default: the task's limit)."""
    no_kl: bool = False
    """Do not measure KL and flips on the given responses."""
    engine: Annotated[str, AfterValidator(_engine), Flag("NAME", values=lambda: list(ENGINES))] = (
        "transformers"
    )
    """Engine that generates answers: transformers, vllm in a separate process (--engine-python), or openai for
    adapters on a running server (evaluate --server)."""
    no_ledger: bool = False
    """Do not count this test in `.gradience/ledger.json` beside the output folder."""
    watcher: Annotated[Watcher | None, PythonOnly] = None
    """A callback for each stage and batch."""
    note: Annotated[Callable[[str], None] | None, PythonOnly] = None
    """A callback for each remark about the inputs, before anything is run."""
    command: Annotated[str, PythonOnly] = ""
    """The command line that the report names."""


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class ExampleSettings(AnswerSettings):
    """Examples."""

    data: Annotated[
        StrPath | Mapping[str, Any] | Rows | None, BeforeValidator(data_of), Flag("[NAME=]FILE")
    ] = None
    """Your examples: JSONL, JSON, CSV, TSV, Parquet or text, a folder saved by datasets, or hf://org/name[:split]; in
    Python also a list of dicts, a DataFrame or a Dataset. All rows are evaluated. With several named
    data sets, a candidate must pass on each."""
    guards: Annotated[Mapping[str, Any], BeforeValidator(guards_of), Flag("[NAME=]DATA", name="--guard")] = (
        field(default_factory=dict)
    )
    """Data sets that show what else changed: a file, a task such as text or lm_eval:arc_easy, or text:FILE, which
    compares the likelihood of a text. A candidate must pass on each (default margin: 5 points, or 0.05 nats per
    token)."""
    prompts: Annotated[StrPath | None, Flag("FILE")] = None
    """Prompts without answers. Without --data or --task, the share of changed answers is tested. With them, shrink
    calibrates and distills on these prompts."""
    task: Annotated[str | None, Flag("NAME")] = None
    """A task by its name, such as reviews, gsm8k or lm_eval:arc_easy, or a file of your own (`path/to/file.py`, with
    --allow-code)."""

    @property
    def data_file(self) -> Path | None:
        """`data` as a path: rows in memory were written to one."""
        return self.data if isinstance(self.data, Path) else None


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Preview(DryRun):
    """Options."""

    preview: Annotated[bool, Flag(flag_only=True)] = False
    """Print three rendered examples with what is scored in them; no model is loaded."""


@dataclass(frozen=True, config=SETTINGS)
class EvaluateSettings(BaseSettings, ExampleSettings, Preview):
    """Adapters and output."""

    adapters: Annotated[StrPath | Sequence[StrPath], BeforeValidator(several), Flag("ADAPTER…")] = ()
    """Folders of LoRA adapters, or names on the --server; the first is the reference."""
    _: KW_ONLY
    output: Annotated[StrPath | None, Flag("DIR", "-o")] = None
    """Folder of the result. With the same folder an interrupted evaluation resumes."""
    server: Annotated[str | None, Flag("URL")] = None
    """Address of a running server for --engine openai, such as http://127.0.0.1:8000/v1 (API key:
    GRADIENCE_SERVER_KEY)."""
    with_base: bool = False
    """Evaluate the base without an adapter as well, as with guards; for a classifier with the reference's head."""
    folder: Annotated[StrPath | None, Flag(key_only=True)] = None
    """Base folder of relative paths in the file (default: the file's own folder, which a relative value starts at)."""


def evaluate_settings(given: Mapping[str, Any], config: Path | None = None) -> EvaluateSettings:
    """Return the settings in the file `config`, if there is one, with those that are `given` in their place.

    given: by their names; of the options only those that it names are replaced. Paths in the file start at its folder,
    and so do those among the options.
    Raises InputError for the file and UsageError for what is given: config-not-found, bad-yaml, config-key (unknown
    keys, with the nearest known one), config-value.
    """
    values = {} if config is None else read_mapping(config)
    merged = dict(given)
    if isinstance(values.get("options"), Mapping) and "options" in given:
        merged["options"] = {**values["options"], **options_of(given["options"])}
    settings = settings_of(EvaluateSettings, merged, values, config)
    if config is None:
        return settings
    folder = config.parent / (settings.folder or "")
    return replace(settings, **_seen_from(folder, settings, [name for name in values if name not in given]))


def _seen_from(folder: Path, settings: EvaluateSettings, names: list[str]) -> dict[str, Any]:
    """Return the settings that hold paths, those of `names` seen from `folder`."""
    paths: dict[str, Any] = {"folder": folder if folder != Path() else None}
    for name in PATHS:
        value = getattr(settings, name)
        if name in names and isinstance(value, Mapping):
            paths[name] = {key: seen_from(folder, source) for key, source in value.items()}
        elif name in names and value is not None and not (name == "data" and is_on_hub(value)):
            paths[name] = tuple(folder / path for path in value) if name == "adapters" else folder / value
    base, task = str(settings.base_model or ""), settings.task
    if "base_model" in names and base and base not in EMBEDDED:
        path = folder / base
        if os.path.exists(path) or is_path(base):  # False for a name that is too long for a file
            paths["base_model"] = str(path)
    if "task" not in names and task is not None and is_file(task):
        paths["task"] = os.path.abspath(task)  # relative to the config; made absolute for the command
    return paths
