"""Settings of an evaluation: flags, keywords of Python and keys of a YAML file under the same names."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator

from gradience import tasks
from gradience.errors import InputError, UsageError, did_you_mean
from gradience.evaluate.engines import ENGINES, OURS
from gradience.files.rows import HUB, Rows, is_on_hub, written
from gradience.files.strict_yaml import loads, read_mapping
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


def named(given: Any) -> list[tuple[str, Any]]:
    """Return names and values: of a mapping, of texts `NAME=VALUE`, or of one value. The name may be missing ("").

    A text that is an existing path has no name.
    """
    if isinstance(given, Mapping):
        return [(str(name), value) for name, value in given.items()]
    are_texts = isinstance(given, list | tuple) and given and all(isinstance(text, str) for text in given)
    pairs = []
    for value in given if are_texts else (given,):
        match = NAMED.fullmatch(value) if isinstance(value, str) and not os.path.exists(value) else None
        pairs.append(("", value) if match is None else (match[1], match[2]))
    return pairs


def data_of(given: Any) -> Any:
    """Return a path, or data sets as `guards_of` does: a single file without a name, or called `task`, stays a path."""
    if given is None or isinstance(given, os.PathLike):
        return given
    sets = guards_of(given, unnamed=TASK)
    source = "" if isinstance(given, Mapping) or [*sets] != [TASK] else sets[TASK]
    return sets if not source or is_task(source) or source.startswith(TEXT) else source


def guards_of(given: Any, *, unnamed: str = "") -> dict[str, str]:
    """Return data sets by name, from a mapping or from texts; rows in memory are written to files.

    A text is `FILE`, `TASK`, `text:FILE`, or one of them after `NAME=`. The default name is `unnamed`, or that of the
    file or task. Raises UsageError (`bad-set`).
    """
    sets: dict[str, str] = {}
    for given_name, value in [] if given is None else named(given):
        if not isinstance(value, os.PathLike | Rows):
            raise ValueError("must be a file, a task or rows")
        source = str(value if isinstance(value, os.PathLike | str) else written(value))
        name = given_name or unnamed or name_of(source)
        if name in sets:
            raise _bad(f"two data sets are called `{name}`", f"name them: {name}2={source}")
        if NAMED.fullmatch(f"{name}=x") is None or name.casefold() in TAKEN:
            raise _bad(f"`{name}` cannot name a data set", f"give another name: my_{TASK}={source}")
        sets[name] = source
    return sets


def margins_of(given: Any) -> Any:
    """Return one margin, or margins by the name of a data set; under "" the one without a name.

    A margin is an exact number, or a text such as `2%`, a perplexity that is so much higher.
    """
    pairs = [] if given is None else named(given)
    margins = {name: _margin(value) for name, value in pairs}
    if len(margins) < len(pairs):
        raise ValueError("two margins for one data set")
    return margins if any(margins) else margins.get("")


def _margin(value: Any) -> Any:
    text = str(value).strip()
    return f"{as_written(text[:-1])}%" if text.endswith("%") else as_written(value)


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
    data = settings.data if isinstance(settings.data, Mapping) else {}
    if data and settings.task is not None:
        raise UsageError(
            f"--task {settings.task} and several data sets",
            code="data-and-task",
            hint=f"give it as another data set: --data {name_of(settings.task)}={settings.task}",
        )
    names = [*(data or (TASK,)), *settings.guards]
    folded = [name.casefold() for name in names]
    twice = next((name for name in names if folded.count(name.casefold()) > 1), None)
    if twice is not None:
        raise _bad(f"two data sets are called `{twice}`", f"name the guard: --guard {twice}2=…")
    by_name = {setting: dict(named(getattr(settings, setting))) for setting in ("margin", "group")}
    for setting, values in by_name.items():
        for name in values.keys() - {"", *names}:
            others = f"the data sets are {listed(names, 5)}"
            problem = f"--{setting} {name}=…: no data set is called `{name}`"
            raise _bad(problem, did_you_mean(name, names, others))
    sets = []
    for name in names:
        is_guard = name in settings.guards
        source = settings.guards[name] if is_guard else data.get(name)
        mine: dict[str, Any] = {"data": settings.data_file}
        if source is not None:
            mine = source_of(source, is_guard=is_guard) | {"prompts": None}
        if (file := mine["data"]) is not None and not is_on_hub(file) and not file.exists():
            raise InputError(f"{file}: no such file", code="task-file", hint="check the path")
        for setting in ("options", "columns"):
            named_values = _own(getattr(settings, setting), name, names, is_guard=is_guard)
            mine[setting] = {**mine.get(setting, {}), **named_values}
        for setting, values in by_name.items():
            mine[setting] = values.get(name, None if is_guard else values.get(""))
        set_name = name if data or settings.guards else ""
        sets.append(replace(settings, guards={}, set_name=set_name, is_guard=is_guard, **mine))
    return tuple(sets)


def source_of(source: str, *, is_guard: bool) -> dict[str, Any]:
    """Return the settings that name one data set, with the options that its kind needs."""
    if is_task(source):
        return {"data": None, "task": source, "options": tasks.GUARDS.get(source, {}) if is_guard else {}}
    options = {"scorer": "nll"} if source.startswith(TEXT) else {}
    return {"data": Path(source.removeprefix(TEXT)), "task": None, "options": options}


def _own(values: Mapping[str, Any], name: str, names: Sequence[str], *, is_guard: bool) -> dict[str, Any]:
    """Return the values of one set: those called `NAME.KEY`, and of the task those without a name."""
    of_key = {key: next((each for each in names if key.startswith(f"{each}.")), "") for key in values}
    mine = (name,) if is_guard else (name, "")
    return {key.removeprefix(f"{name}."): values[key] for key, of in of_key.items() if of in mine}


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
    """Read `NAME=COLUMN,…`; a mapping stays one."""
    if not isinstance(given, str):
        return {} if given is None else given
    pairs = [text.partition("=") for text in given.split(",")]
    if not all(ours and theirs for ours, _, theirs in pairs):
        raise ValueError("not FIELD=COLUMN,…, such as prompt=Q,answer=A")
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
