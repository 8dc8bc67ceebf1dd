"""Settings of an evaluation: flags, keywords of Python and keys of a YAML file under the same names."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator

from gradience import tasks
from gradience.check.files import read_mapping
from gradience.errors import InputError, UsageError, did_you_mean
from gradience.evaluate.engines import ENGINES, OURS
from gradience.files.rows import HUB, Rows, is_on_hub, written
from gradience.files.strict_yaml import loads
from gradience.models.locate import EMBEDDED, is_path
from gradience.models.settings import BaseSettings, DryRun
from gradience.progress import Watcher
from gradience.reports.base.exact import as_written
from gradience.settings import (
    Flag,
    Internal,
    OutputPath,
    Positive,
    StrPath,
    settings_model,
    settings_of,
    several,
)
from gradience.tasks.user_code import is_file
from gradience.words import listed

# ---------------------------------------------------------------- data sets of a run


TASK, TEXT = "task", "text:"
NAMED = re.compile(r"([A-Za-z][A-Za-z0-9_-]{0,39})=(.+)", re.DOTALL)
TAKEN = frozenset(("adapter", "base", "candidates", "dev", "records"))
"""Names of other folders of a run."""
OWN_EXAMPLES = frozenset(tasks.PROFILES) - {"chat", "classification", "jsonl"}
"""Tasks that need no file."""


def is_task(source: str) -> bool:
    """Return True if a data set is a task by its name, and not a file.

    >>> is_task("lm_eval:arc_easy"), is_task("rows.jsonl")
    (True, False)
    """
    return source.startswith(tasks.harness.PREFIX) or is_file(source) or source in OWN_EXAMPLES


def data_of(given: Any) -> Any:
    """Return a path, or data sets as `guards_of` does: a single one without a name, or called `task`, stays a path."""
    if isinstance(given, str) or _are_texts(given):
        texts = list(several(given))
        unnamed = [place for place, text in enumerate(texts) if not _split(text)[0]]
        if len(unnamed) == 1:
            texts[unnamed[0]] = f"{TASK}={texts[unnamed[0]]}"
        named = guards_of(texts)
        source = named.get(TASK, "") if len(named) == 1 else ""
        return named if not source or is_task(source) or source.startswith(TEXT) else source
    if isinstance(given, Mapping):
        return guards_of(given)
    return given if given is None or hasattr(given, "__fspath__") else written(given)


def guards_of(given: Any) -> Any:
    """Return data sets by name, from a mapping or from texts; rows in memory are written to files.

    A text is `FILE`, `TASK`, `text:FILE`, or one of them after `NAME=`; without a name the file or task gives it.
    Raises UsageError (`bad-set`).
    """
    if isinstance(given, Mapping):
        sets = {str(name): _source(value) for name, value in given.items()}
    elif isinstance(given, str) or _are_texts(given):
        sets = {}
        for text in several(given):
            name, source = _split(text)
            name = name or name_of(source)
            if name in sets:
                raise _bad(f"two data sets are called `{name}`", f"name them: {name}2={source}")
            sets[name] = source
    else:
        return {} if given is None else given
    for name, source in sets.items():
        if NAMED.fullmatch(f"{name}=x") is None or name.casefold() in TAKEN:
            raise _bad(f"`{name}` cannot name a data set", f"give another name: my_{TASK}={source}")
    return sets


def _split(text: str) -> tuple[str, str]:
    """Return the name before `=`, and the rest; no name for a path that exists."""
    named = None if os.path.exists(text) else NAMED.fullmatch(text)
    return ("", text) if named is None else (named[1], named[2])


def margins_of(given: Any) -> Any:
    """Return one margin, or margins by the name of a data set; under "" the one without a name.

    A margin is an exact number, or a text such as `2%`, a perplexity that is so much higher.
    """
    if isinstance(given, Mapping):
        return {str(name): _margin(value) for name, value in given.items()}
    if not _are_texts(given):
        return None if given is None else _margin(given)
    margins: dict[str, Any] = {}
    for text in given:
        name, value = _split(text)
        if name in margins:
            raise ValueError("two margins for one data set")
        margins[name] = _margin(value)
    return margins if any(margins) else margins[""]


def _margin(value: Any) -> Any:
    text = str(value).strip()
    return f"{as_written(text[:-1])}%" if text.endswith("%") else as_written(value)


def _are_texts(given: Any) -> bool:
    return isinstance(given, list | tuple) and bool(given) and all(isinstance(text, str) for text in given)


def _source(value: Any) -> str:
    """Return a data set as a text; rows in memory by the file that they are written to."""
    return str(value) if isinstance(value, str) or hasattr(value, "__fspath__") else str(written(value))


def name_of(source: str) -> str:
    """Return the name of a data set that was given none: `lm_eval:arc_easy` -> `arc_easy`, `a/notes.txt` -> `notes`."""
    path = source.partition("//")[2].partition(":")[0] if source.startswith(HUB) else source
    last = path.replace("\\", "/").rstrip("/").rpartition("/")[2].rpartition(":")[2]
    return re.sub(r"[^A-Za-z0-9_-]+", "_", last.partition(".")[0]).strip("_") or "data"


def _bad(problem: str, hint: str) -> UsageError:
    return UsageError(problem, code="bad-set", hint=hint)


# ---------------------------------------------------------------- settings of each data set


def sets_of(settings: EvaluateSettings) -> tuple[EvaluateSettings, ...]:
    """Return the settings of each data set of a run, the task before its guards; a single set has no name.

    Raises UsageError (`bad-set`, `data-and-task`), InputError (`task-file`) for a file that is missing.
    """
    several = isinstance(settings.data, Mapping)
    if several and settings.task is not None:
        raise UsageError(
            f"--task {settings.task} and several data sets",
            code="data-and-task",
            hint=f"give it as another data set: --data {name_of(settings.task)}={settings.task}",
        )
    data = dict(settings.data) if isinstance(settings.data, Mapping) else {TASK: ""}
    names = [*data, *settings.guards]
    folded = [name.casefold() for name in names]
    twice = next((name for name in names if folded.count(name.casefold()) > 1), None)
    if twice is not None:
        raise _bad(f"two data sets are called `{twice}`", f"name the guard: --guard {twice}2=…")
    _refuse_unknown(settings, names)
    sets = []
    for name in names:
        is_guard = name in settings.guards
        source = settings.guards[name] if is_guard else data[name]
        mine: dict[str, Any] = {"data": settings.data_file, "task": settings.task, "options": {}}
        mine |= source_of(source, is_guard=is_guard) if source else {}
        mine["options"] |= _own(settings.options, name, names, plain=not is_guard)
        mine |= {
            "columns": _own(settings.columns, name, names, plain=not is_guard),
            "prompts": None if source else settings.prompts,
            "group": _group(settings.group, name, names, plain=not is_guard),
            "margin": _own_margin(settings.margin, name, plain=not is_guard),
        }
        _refuse_missing(mine["data"])
        set_name = name if several or settings.guards else ""
        sets.append(replace(settings, guards={}, set_name=set_name, is_guard=is_guard, **mine))
    return tuple(sets)


def source_of(source: str, *, is_guard: bool) -> dict[str, Any]:
    """Return the settings that name one data set, with the options that its kind needs."""
    if source.startswith(TEXT):
        return {"data": Path(source.removeprefix(TEXT)), "task": None, "options": {"scorer": "nll"}}
    if is_task(source):
        return {
            "data": None,
            "task": source,
            "options": dict(tasks.GUARDS.get(source, {}) if is_guard else {}),
        }
    return {"data": Path(source), "task": None, "options": {}}


def _own(values: Mapping[str, Any], name: str, names: Sequence[str], *, plain: bool) -> dict[str, Any]:
    """Return the values of one set: those called `NAME.KEY`, and if `plain` those without a name."""
    named = {key.partition(".")[2]: value for key, value in values.items() if key.startswith(f"{name}.")}
    others = tuple(f"{other}." for other in names)
    shared = {key: value for key, value in values.items() if not key.startswith(others)}
    return {**shared, **named} if plain else named


def _group(given: str | None, name: str, names: Iterable[str], *, plain: bool) -> str | None:
    parts = [] if given is None else [text.partition("=") for text in given.split(",")]
    column_of_set = next((column for set_name, _, column in parts if set_name == name and column), None)
    whole = given is not None and not any(set_name in names and column for set_name, _, column in parts)
    return given if column_of_set is None and plain and whole else column_of_set


def _own_margin(given: Any, name: str, *, plain: bool) -> Any:
    if not isinstance(given, Mapping):
        return given if plain else None
    return given.get(name, given.get("") if plain else None)


def _refuse_unknown(settings: ExampleSettings, names: Sequence[str]) -> None:
    margin = settings.margin
    for name in margin if isinstance(margin, Mapping) else ():
        if name and name not in names:
            raise _bad(
                f"--margin {name}=…: no data set is called `{name}`",
                did_you_mean(name, names, f"the data sets are {listed(names, 5)}"),
            )


def _refuse_missing(data: Path | None) -> None:
    if data is not None and not is_on_hub(data) and not data.exists():
        raise InputError(f"{data}: no such file", code="task-file", hint="check the path")


def seen_from(folder: Path, source: str) -> str:
    """Return a data set with its file relative to `folder`."""
    if source.startswith(TEXT):
        return f"{TEXT}{folder / source.removeprefix(TEXT)}"
    return source if is_task(source) or source.startswith(HUB) else str(folder / source)


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
                hint="write KEY=VALUE, such as --option scorer=contains",
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
            f"--columns {given}: not NAME=COLUMN,…",
            code="bad-columns",
            hint="write FIELD=COLUMN pairs, such as --columns prompt=Q,answer=A",
        )
    return {ours.strip(): theirs.strip() for ours, _, theirs in pairs}


Margin = float | str | Fraction


@settings_model(kw_only=True)
class AnswerSettings:
    """Examples."""

    columns: Annotated[Mapping[str, str], BeforeValidator(columns_of), Flag("NAME=COLUMN,…", read=str)] = (
        field(default_factory=dict)
    )
    """Names of your columns, if they are not recognized, such as `{"prompt": "Q", "answer": "A"}`. For a data set named
    general: `{"general.prompt": "Q"}`."""
    options: Annotated[Mapping[str, Any], BeforeValidator(options_of), Flag("KEY=VALUE", name="--option")] = (
        field(default_factory=dict)
    )
    """Options of the task, such as `{"scorer": "contains"}`. For a data set named general: `{"general.scorer":
    "nll"}`."""
    margin: Annotated[
        Margin | Mapping[str, Margin] | None, BeforeValidator(margins_of), Flag("[NAME=]MARGIN")
    ] = None
    """Largest acceptable drop in accuracy, in points (default: 2.5). For likelihoods: nats per token (default: 0.025),
    or the increase in perplexity, such as '2%'. For a data set named general: `{"general": 1}`."""
    role: Annotated[Literal["test", "dev"], Flag("ROLE")] = "test"
    """Split of the task. Result files call the test split confirm."""
    group: Annotated[str | None, Flag("COLUMN")] = None
    """Column that names each example's document, user or template: each group counts as one example. For the data
    set named general only: `"general=COLUMN"`."""
    limit: Annotated[Positive | None, Flag("N")] = None
    """Maximum number of examples. A resumed larger plan ends at its last look with at most N examples, or at its
    first look if that has more."""
    all_rows: bool = False
    """Answer all examples, instead of stopping at the first planned look with a clear result."""
    batch_size: Annotated[Positive | None, Flag("N")] = None
    """Examples per batch (default: as many as fit in memory)."""
    max_length: Annotated[Positive | None, Flag("N")] = None
    """For classifiers: tokens to which texts are truncated (default: 512)."""
    max_new_tokens: Annotated[Positive | None, Flag("N")] = None
    """Maximum tokens of a generated answer (default: the task's limit)."""
    no_kl: bool = False
    """Skip KL and flips; for free text, they need another pass over the gold responses."""
    engine: Annotated[str, AfterValidator(_engine), Flag("NAME", values=lambda: sorted(OURS))] = (
        "transformers"
    )
    """Engine that generates answers: transformers, or vllm in a separate process (GRADIENCE_ENGINE_PYTHON)."""
    no_ledger: bool = False
    """Do not count this test in `.gradience/ledger.json`, which warns of repeated tests on the same examples."""
    watcher: Annotated[Watcher | None, Internal] = None
    """A callback for each stage and batch."""
    note: Annotated[Callable[[str], None] | None, Internal] = None
    """A callback for each remark about the inputs, before anything is run."""
    command: Annotated[str, Internal] = ""
    """The command line that the report names."""


@settings_model(kw_only=True)
class ExampleSettings(AnswerSettings):
    """Examples."""

    data: Annotated[
        StrPath | Mapping[str, Any] | Rows | None, BeforeValidator(data_of), Flag("[NAME=]FILE")
    ] = None
    """Your examples: JSONL, JSON, CSV, TSV, Parquet or text, a folder saved by datasets, or hf://org/name[:split]; in
    Python also a list of dicts, a DataFrame or a Dataset. With several named data sets, a
    candidate must pass on each."""
    guards: Annotated[Mapping[str, Any], BeforeValidator(guards_of), Flag("[NAME=]DATA", name="--guard")] = (
        field(default_factory=dict)
    )
    """Further data sets by name, to detect forgetting: a file, a task, such as `{"general": "lm_eval:arc_easy"}`, or
    text:FILE for the likelihood of a text. A candidate must stay within the margin on every one (default: 5 points, or
    0.05 nats per token)."""
    prompts: Annotated[StrPath | None, Flag("FILE")] = None
    """Prompts without answers, for a causal language model: the share of changed answers is tested."""
    task: Annotated[str | None, Flag("NAME")] = None
    """Name of a task, such as reviews, gsm8k or lm_eval:arc_easy, or a Python file of your own, allowed by
    GRADIENCE_ALLOW_CODE=1 (`path/to/file.py`)."""

    @property
    def data_file(self) -> Path | None:
        """`data` as a path: rows in memory were written to one."""
        return self.data if isinstance(self.data, Path) else None


@settings_model(kw_only=True)
class Preview(DryRun):
    """Options."""

    preview: Annotated[bool, Flag(flag_only=True)] = False
    """A dry run that also shows three rendered examples and their scored answers."""


@settings_model()
class EvaluateSettings(BaseSettings, ExampleSettings, Preview):
    """Adapters and output."""

    adapters: Annotated[StrPath | Sequence[StrPath], BeforeValidator(several), Flag("ADAPTER…")] = ()
    """Folders of LoRA adapters, or names on the `server`; the first is the reference."""
    _: KW_ONLY
    output: Annotated[OutputPath | None, Flag("DIR", "-o")] = None
    """Folder of the result. With the same folder an interrupted evaluation resumes."""
    engine: Annotated[str, AfterValidator(_engine), Flag("NAME", values=lambda: list(ENGINES))] = (
        "transformers"
    )
    """Engine that generates answers: transformers, vllm in a separate process (GRADIENCE_ENGINE_PYTHON), or openai for
    adapters on a running `server`."""
    server: Annotated[str | None, Flag("URL")] = None
    """Address of a running server for the engine openai, such as http://127.0.0.1:8000/v1 (API key:
    GRADIENCE_SERVER_KEY)."""
    with_base: bool = False
    """Also evaluate the base without an adapter (always on with `guards`); for a classifier, the
    reference with its LoRA off and its own head."""
    folder: Annotated[StrPath | None, Flag(key_only=True)] = None
    """Folder that relative paths in the config start at (default: the folder of the config)."""
    set_name: Annotated[str, Internal] = ""
    """Name of the data set, if these are the settings of one of several."""
    is_guard: Annotated[bool, Internal] = False
    """True for a guard, which detects forgetting and has wider default margins."""


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
