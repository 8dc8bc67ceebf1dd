"""Verbs that set up: init, env and schema.

init    a starter config for Bench: a commented YAML, filled in with the given values
env     what a bug report needs, and nothing that identifies a person or a machine
schema  the JSON Schema of an artifact
"""

import json
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from gradience.cli.app import DISTRIBUTION, conflict
from gradience.cli.console import show_written
from gradience.cli.shared import JsonOutput, print_facts, print_screen
from gradience.reports.registry import ARTIFACTS, model_of
from gradience.settings import Flag, StrPath, settings_model

LABELS = ("classification", "glue", "reviews")
"""Tasks of a sequence classifier."""
ROWS = ("chat", "classification", "jsonl")
"""Tasks that read a user's own file."""
NEEDED: Mapping[str, Mapping[str, Any]] = {"glue": {"subset": "sst2"}}
"""Required options of a task."""
SCORERS = "exact, normalized, contains, number, regex (with a `pattern`), multiple_choice: docs/tasks.md"

BENCH = """\
# Bench: trains an adapter, makes smaller ones, and tests on the same examples whether they stay within your margin.
#
#   gradience bench run --config {file} --dry-run{code}  # check: prompts, memory, smallest margin
#   gradience bench run --config {file} --output runs/mine{code}
#
# Paths are relative to this file. All keys: docs/reference/configs.md
model:
  name: {model}  # a folder, a name on the hub, embedded:minilm or embedded:smollm2
  type: {type}  # causal_lm (text) or seqcls (labels)
  dtype: auto  # precision of the frozen weights: auto, float32, bfloat16, float16
  # quantization: nf4  # the base in 4 bits, as in QLoRA
task:
{task}
  # eval_samples: 1000  # default: all test examples; --dry-run shows what that sample size can detect
  # probe_gate: {{min_value: 0.5}}  # no conclusion if the probe's accuracy is lower
lora:
  probe_r: 32  # the reference adapter's rank
  alpha: 64
  target_modules: all-linear
train:
  epochs: 1  # or max_steps
  lr: 2e-4
  warmup_ratio: 0.05
  per_device_train_batch_size: 8
  max_length: 512  # tokens; longer examples are left out of training
compression:
  variants: [uniform_median]  # the median rank of the audit
  arms: [truncate]  # add `retrain` to train each variant as well (slow)
  ladder:
    steps: [16, 8, 4, 2, 1]  # truncations, tested in this order down to the smallest rank shown
policy:
  tolerance: 0.025  # the largest acceptable drop: 2.5 points; choose it in advance
seeds: [42]  # three or more for a claim about the next training
"""


@settings_model(kw_only=True)
class StarterSettings:
    """Config."""

    task: Annotated[str | None, Flag("NAME")] = None
    """A task by its name, or path/to/file.py (default: found from the data)."""
    base_model: Annotated[str | None, Flag("ID_OR_PATH", "-b")] = None
    """A folder, a name on the hub, or embedded:minilm."""
    data: Annotated[StrPath | None, Flag("FILE")] = None
    """Your examples: CSV, TSV or JSON lines."""
    output: Annotated[StrPath, Flag("FILE", "-o")] = "bench.yaml"
    """Path of the new file."""
    force: bool = False
    """Replace an existing file."""


def init(settings: StarterSettings) -> None:
    """Without --base-model or --data, edit model.name or task.options.file. Paths are relative to the file.

    Example:

      gradience init --base-model ./base --data rows.jsonl
    """
    from gradience.evaluate.inputs import reader_of
    from gradience.files.whole import already_exists, write_whole
    from gradience.tasks.user_code import is_file

    output, data, profile = Path(settings.output), settings.data, settings.task
    base = settings.base_model or "path/to/base"
    if Path(base).is_dir():
        base = _seen(Path(base), output)
    options: Mapping[str, Any] = {}
    if profile is None:
        profile, options = ("jsonl", {}) if data is None else reader_of(Path(data), {})
    elif is_file(profile):
        profile = _seen(Path(profile), output)
    rows = "rows.jsonl" if data is None else _seen(Path(data), output)
    lines = [f"profile: {scalar(profile)}  # how rows are read and scored: docs/tasks.md"]
    given = {**NEEDED.get(profile, {}), **options}
    if data is not None or profile in ROWS:
        lines += [
            "options:",
            f"  file: {scalar(rows)}  # split by its contents into train, dev and confirm (test)",
            "  # train_file: train.jsonl  # instead of `file`: one file per role",
            "  # confirm_file: test.jsonl",
        ]
    elif given:
        lines.append("options:")
    lines += [f"  {line}" for line in _options(profile, given)]
    text = BENCH.format(
        file=output.name,
        model=scalar(base),
        type="seqcls" if profile in LABELS else "causal_lm",
        task="\n".join(f"  {line}" for line in lines),
        code=" --allow-code" if profile.endswith(".py") else "",
    )
    if output.exists() and not settings.force:
        raise already_exists(output)
    write_whole(output, [text.encode()])
    command = f"gradience bench run --config {shlex.quote(str(output))} --dry-run"
    missing = [] if settings.base_model else ["model.name"]
    if data is None and settings.task in (None, *ROWS):
        missing.append("task.options.file")
    edit = f"edit {' and '.join(missing)}, then run" if missing else "next"
    show_written(f"{output}; {edit}: {command}")


def _seen(path: Path, output: Path) -> str:
    """Return `path` relative to the folder of the config; an absolute path is unchanged."""
    return str(path) if path.is_absolute() else os.path.relpath(path, output.parent)


def _options(profile: str, given: Mapping[str, Any]) -> list[str]:
    """The lines of a task's options; what most change is there as a comment."""
    lines = [f"{name}: {scalar(value)}" for name, value in given.items()]
    if profile in ("chat", "jsonl") and "scorer" not in given:
        lines.append(f"# scorer: exact  # {SCORERS}")
    if profile == "classification":
        lines.append("# label_names: [bad, good]  # in the order of the head's outputs (default: sorted)")
    return lines


PLAIN = re.compile(r"(\.{0,2}/)*[A-Za-z_][A-Za-z0-9_.+/-]*(:[A-Za-z0-9_]+)?", re.ASCII)
WORDS = ("true", "false", "null", "yes", "no", "on", "off", "y", "n")


def scalar(value: object) -> str:
    """Return a text as YAML takes it back: plain if that is safe, else quoted.

    >>> scalar("embedded:minilm"), scalar("my rows.csv"), scalar("1e3")
    ('embedded:minilm', '"my rows.csv"', '"1e3"')
    """
    text = str(value)
    if PLAIN.fullmatch(text) and text.lower() not in WORDS:
        return text
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(sign if sign.isprintable() else f"\\U{ord(sign):08x}" for sign in quoted)


# ---------------------------------------------------------------- env


VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
)
Versions = dict[str, str | None]


def environment() -> dict[str, Any]:
    """Return facts about this installation. No paths, no host name, no user name."""
    import platform

    import numpy as np  # noqa: F401  (loads BLAS, so that threadpool_info finds it)
    from threadpoolctl import threadpool_info

    from gradience import __version__
    from gradience.blas import processors

    versions = installed_versions()
    return {
        "gradience": __version__,
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": platform.platform(),
        "cpu": {"count": os.cpu_count(), "usable": processors()},
        "blas": [
            {
                "library": library["internal_api"],
                "version": library["version"],
                "threads": library["num_threads"],
                "architecture": library.get("architecture"),
            }
            for library in threadpool_info()
        ],
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "conflict": conflict(),
        "core": versions.pop("", {}),
        "extras": versions,
    }


def installed_versions() -> dict[str, Versions]:
    """Return the versions of the packages that each extra requires, None if missing; "" is the core."""
    from importlib.metadata import PackageNotFoundError, metadata, version

    from packaging.requirements import Requirement

    def installed(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    try:
        declared = metadata(DISTRIBUTION)
    except PackageNotFoundError:  # run from a source tree that is not installed
        return {}
    lines = [Requirement(line) for line in declared.get_all("Requires-Dist", [])]
    names = {"": [line.name for line in lines if line.marker is None]} | {
        extra: [line.name for line in lines if line.marker and line.marker.evaluate({"extra": extra})]
        for extra in declared.get_all("Provides-Extra", [])
    }
    return {extra: {name: installed(name) for name in required} for extra, required in names.items()}


def env(out: JsonOutput) -> None:
    """No paths, no host name and no user name are printed."""
    facts = environment()
    if out.json:
        print_facts(facts)
    else:
        print_screen(environment_text, facts)


def environment_text(facts: dict[str, Any], *, width: int | None = None, color: bool = False) -> str:
    """Return the facts as lines for a person."""
    from gradience.reports.base import terminal
    from gradience.reports.base.blocks import Facts
    from gradience.words import counted

    def line(versions: Versions) -> str:
        missing = [name for name, version in versions.items() if version is None]
        shown = ", ".join(f"{name} {version or 'missing'}" for name, version in versions.items())
        return f"not installed (missing: {', '.join(missing)})" if missing else shown

    cpu = facts["cpu"]
    rows = [
        ("gradience", facts["gradience"]),
        ("python", f"{facts['python']} ({facts['implementation']})"),
        ("platform", facts["platform"]),
        ("cpu", f"{cpu['usable']} of {cpu['count']} usable"),
    ]
    for library in facts["blas"]:
        kernel = f", {library['architecture']} kernels" if library["architecture"] else ""
        version = f" {library['version']}" if library["version"] else ""
        threads = counted(library["threads"], "thread")
        rows.append(("blas", f"{library['library']}{version}, {threads}{kernel}"))
    rows += [("variable", f"{name}={value}") for name, value in facts["variables"].items()]
    if facts["conflict"]:
        rows.append(("conflict", facts["conflict"]))
    rows.append(("core", line(facts["core"])))
    rows += [("extra", f"{extra}: {line(versions)}") for extra, versions in facts["extras"].items()]
    return terminal.render([Facts(rows)], width=width, color=color)


# ---------------------------------------------------------------- schema


def _known(name: str) -> str:
    if name not in ARTIFACTS:
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(map(repr, ARTIFACTS))}.")
    return name


def schema(
    artifact: Annotated[
        str,
        typer.Argument(
            metavar="ARTIFACT",
            help=f"One of {', '.join(ARTIFACTS)}.",
            parser=_known,
            autocompletion=lambda: list(ARTIFACTS),
        ),
    ],
) -> None:
    """The same files are in the repository, under docs/schemas/."""
    print(schema_text(artifact), end="")


def schema_text(artifact: str) -> str:
    """Return the schema as indented JSON with a final newline."""
    from gradience.reports.registry import json_schema

    return json.dumps(json_schema(model_of(artifact)), indent=2, ensure_ascii=False) + "\n"
