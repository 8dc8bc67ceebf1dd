"""`gradience init`: a starter config for Bench, a commented YAML filled in with the given values."""

import json
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from gradience.cli.console import show_written
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
