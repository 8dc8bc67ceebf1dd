"""The YAML of a task of lm-eval, with what it includes: read without lm-eval, and what in it is code.

lm-eval imports the modules of `!function` when it loads a definition, and runs the scripts of metrics that it does not
know. So a definition is looked through first, and its templates are run in a sandbox (`library`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from gradience.digests import sha256_parts
from gradience.errors import InputError, MissingExtra, did_you_mean
from gradience.files import strict_yaml
from gradience.reading import MAX_SETTINGS_BYTES, read_file
from gradience.reports.bench_plan import TaskCode

PREFIX = "lm_eval:"
EXTRA = "lm-eval"
SUFFIXES = (".yaml", ".yml")
FUNCTION = "!function"
_NAMED = re.compile(
    rb"""^["']?(?:task|group)["']?:[ \t]*(["']?)([^"'\n#]+?)\1[ \t]*(?:#.*)?\r?$""", re.MULTILINE
)
PICKLES = "pandas"
"""The builder of `datasets` whose files are pickles, which are code."""
DATA_KEYS = (
    "column_names", "data_dir", "data_files", "delimiter", "encoding", "field", "header", "quotechar", "quoting",
    "revision", "sep", "skiprows", "streaming", "trust_remote_code", "verification_mode",
)  # fmt: skip
"""`dataset_kwargs` that say what is read and how; `trust_remote_code` does nothing since datasets 4."""
CARDS = ("README.md", ".huggingface.yaml")
"""Files in which `datasets` looks for the data files of a folder."""
HUB = "hf://"
MOST_FILES = 32
"""Largest number of files in one definition; lm-eval's own have up to four."""


@dataclass(frozen=True, slots=True)
class Definition:
    """A task as its YAML says it."""

    profile: str
    """As it was given."""
    path: Path
    files: tuple[tuple[str, bytes], ...]
    """Name and content of each file: the YAML, what it includes, the modules beside it that it names."""
    values: Mapping[str, Any] | None
    """Parsed content; None if it contains functions, which only lm-eval can read."""
    reasons: tuple[str, ...]
    """Parts of the definition that are code."""

    @property
    def sha256(self) -> str:
        """Digest of all its files."""
        return sha256_parts([content for _, content in self.files])

    @property
    def code(self) -> TaskCode | None:
        """Return the code it would run; None if it has none."""
        if not self.reasons:
            return None
        return TaskCode(
            source="file", name=f"{self.path.name} ({', '.join(self.reasons)})", sha256=self.sha256
        )


def definition_of(profile: str, folder: Path | None = None) -> Definition:
    """Read the definition behind `lm_eval:…` without running any of it. folder: base of a relative path.

    Raises MissingExtra if a name is given and lm-eval is not installed; InputError: `task-file` (no such
    file, not a mapping, or a circular include), `task-unknown`, `task-group` (several tasks), `bad-yaml`.
    """
    name = profile.removeprefix(PREFIX)
    if name.endswith(SUFFIXES):
        path = Path(name) if folder is None else folder / name
        if not path.is_file():
            raise InputError(
                f"{profile}: cannot read this task: no such file",
                code="task-file",
                hint="check the path; a relative path starts at the working directory, or at the folder of the config",
            )
    else:
        path = _installed(profile, name)
    return _read(profile, path)


def _read(profile: str, path: Path) -> Definition:
    chain: list[tuple[Path, bytes]] = []
    functions: dict[str, Path | None] = {}
    values = _merged(path, (), chain, functions)
    reasons = [f"{FUNCTION} {function}" for function in functions]
    if not functions:
        _check_data(profile, values)
        reasons = list(dict.fromkeys(_code_in(values)))
    if "group" in values or isinstance(values.get("task"), list):
        raise InputError(
            f"{profile}: a group of tasks, whose scores are not comparable",
            code="task-group",
            hint="name one task of it; `lm-eval ls tasks` lists them",
        )
    modules = sorted({module for module in functions.values() if module is not None})
    files = [*chain, *((module, read_file(module, MAX_SETTINGS_BYTES)) for module in modules)]
    return Definition(
        profile,
        path,
        tuple((file.name, content) for file, content in files),
        None if functions else values,
        tuple(reasons),
    )


def _merged(
    path: Path,
    above: tuple[Path, ...],
    chain: list[tuple[Path, bytes]],
    functions: dict[str, Path | None],
) -> dict[str, Any]:
    """Return a file merged with the files it includes. Its own values take precedence, as in lm-eval.

    chain: receives each file with its content.   functions: receives the name after each `!function`, with
    the module beside the file that lm-eval would import. Raises InputError (`bad-yaml`, `task-file`).
    """
    path = path.expanduser().resolve()
    if path in above or len(above) >= MOST_FILES:
        raise InputError(f"{path}: includes itself", code="task-file", hint="remove one `include`")
    content = read_file(path, MAX_SETTINGS_BYTES)
    chain.append((path, content))
    bare = content.replace(FUNCTION.encode(), b"")
    values = strict_yaml.loads(bare, path)  # with its bounds, before anything else reads it
    if not isinstance(values, dict):
        raise InputError(f"{path}: not a mapping", code="task-file", hint="name the YAML of one task")
    tagged = [
        event for event in yaml.parse(content, yaml.SafeLoader) if getattr(event, "tag", None) == FUNCTION
    ]
    if not tagged:
        values = strict_yaml.loads(content, path)  # refuses every other tag
    for event in tagged:
        function = str(getattr(event, "value", "?"))
        module = path.parent / f"{function.rpartition('.')[0].replace('.', '/')}.py"
        functions[function] = module if module.is_file() else None
    included = values.get("include", [])
    merged: dict[str, Any] = {}
    for name in included if isinstance(included, list) else [included]:
        merged |= _merged(path.parent / str(name), (*above, path), chain, functions)
        merged.pop("task_list", None)
    return merged | {key: value for key, value in values.items() if key != "include"}


# ---------------------------------------------------------------- code


def _code_in(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield the parts of a function-free definition that are still code, or that run third-party code."""
    if "class" in values:
        yield "class"
    if values.get("unsafe_code"):
        yield "unsafe_code"
    if values.get("use_prompt"):
        yield "use_prompt"
    data = str(values.get("dataset_path") or "")
    if data.endswith(".py"):
        yield f"dataset_path {Path(data).name}"
    if data == PICKLES:
        yield f"dataset_path {PICKLES}: pickles"
    metrics = values.get("metric_list")
    for metric in metrics if isinstance(metrics, list) else []:
        if isinstance(metric, dict) and metric.get("hf_evaluate"):
            yield f"hf_evaluate {metric.get('metric')}"


def _check_data(profile: str, values: Mapping[str, Any]) -> None:
    """Raise InputError (`task-data`) unless data are read from this machine or the hub, and written nowhere else."""
    given = values.get("dataset_kwargs") or {}
    refused = next((key for key in given if key not in DATA_KEYS), None) if isinstance(given, dict) else given
    if refused is not None:
        raise InputError(
            f"{profile}: `dataset_kwargs` has {refused!r:.80}, which no task needs to read its data",
            code="task-data",
            hint=f"remove it; allowed are {', '.join(DATA_KEYS)}",
        )
    data = values.get("dataset_path")
    cards = [Path(data, name) for name in CARDS] if isinstance(data, str) and Path(data).is_dir() else []
    for text in _texts([data, values.get("dataset_name"), given, *map(_addresses_in, cards)]):
        if "://" in text and not text.startswith(HUB):
            raise InputError(
                f"{profile}: its data are at {text[:200]!r}, but a task may not open an address",
                code="task-data",
                hint="download the file and give its path; give data sets on the hub by name",
            )


def _addresses_in(card: Path) -> list[str]:
    """Return the data addresses in a data set card's metadata, if there are any."""
    if not card.is_file():
        return []
    metadata = read_file(card, MAX_SETTINGS_BYTES).partition(b"\n---")[0]
    return re.findall(r"\w+://\S*", metadata.decode("utf-8", "replace")) if b"data_files" in metadata else []


def _texts(value: Any) -> Iterator[str]:
    """Every text in lists and mappings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


# ---------------------------------------------------------------- names


def _installed(profile: str, name: str) -> Path:
    """The file of lm-eval that defines `name`. Raises MissingExtra, InputError (`task-unknown`)."""
    spec = find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtra(
            "lm_eval is not installed",
            code="missing-extra",
            hint=f'in your clone of Gradience: pip install ".[{EXTRA}]"',
        )
    folder = Path(next(iter(spec.submodule_search_locations))) / "tasks"
    known: dict[str, Path] = {}
    # As lm-eval's own index, which takes ten times as long: sorted, the first file of a name counts.
    for path in sorted(folder.glob("**/*.yaml"), key=Path.as_posix):
        for match in _NAMED.finditer(path.read_bytes()):
            known.setdefault(match[2].decode("utf-8", "replace"), path)
    if name not in known:
        raise InputError(
            f"{profile}: the installed lm-eval has no task with this name",
            code="task-unknown",
            hint=did_you_mean(name, known, "a task of your own is a file: lm_eval:path/to/task.yaml"),
        )
    return known[name]
