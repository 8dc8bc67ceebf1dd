"""The formats of logs, in the order in which they are tried. A new one is a file beside this and a line here."""

from itertools import chain
from pathlib import Path

from gradience.errors import InputError
from gradience.evidence import every_eval_ever, inspect_ai, lm_eval, table
from gradience.evidence.base import Log, LogFormat, Wanted, json_lines
from gradience.reading import check_regular
from gradience.words import listed, printable

FORMATS: tuple[LogFormat, ...] = (
    LogFormat(lm_eval.NAME, lm_eval.fits, lm_eval.read),
    LogFormat(inspect_ai.NAME, inspect_ai.fits, inspect_ai.read),
    LogFormat(every_eval_ever.NAME, every_eval_ever.fits, every_eval_ever.read),
    LogFormat(table.NAME, table.fits, table.read),
)
IN_FOLDERS = ("samples_*.jsonl", "*.eval", f"*{every_eval_ever.SAMPLES}")
"""Logs that are found in a folder, and one level below: there tools put them under the model's name."""


def read_log(path: Path, wanted: Wanted) -> Log:
    """Read the log at `path`; in a folder, the only one there is.

    Raises InputError: `log-format` for what no reader knows, `log-several` and `log-none` for a folder, and what the
    readers raise; UsageError (see `base.choose`).
    """
    file = _in_folder(path) if path.is_dir() else path
    check_regular(file)
    _, first = next(json_lines(file), ("", {})) if file.suffix.lower() == ".jsonl" else ("", {})
    for form in FORMATS:
        if form.fits(file, first):
            return form.read(file, wanted)
    hint = f"known are {', '.join(form.name for form in FORMATS)}; any other: write a CSV with id and score"
    if file.name.startswith("results_"):
        hint = "lm-eval's results hold no examples: name the samples_*.jsonl beside them (--log_samples writes it)"
    elif file.suffix == ".json":
        hint += "; a JSON log of Inspect: `inspect log convert --to eval`"
    raise InputError(f"{file}: not a known log format", code="log-format", hint=hint)


def _in_folder(folder: Path) -> Path:
    places = (folder.glob(f"{above}{kind}") for kind in IN_FOLDERS for above in ("", "*/"))
    matches = sorted(chain.from_iterable(places))
    if len(matches) == 1:
        return matches[0]
    names = [printable(str(match.relative_to(folder))) for match in matches]
    contents = f"{len(matches)} logs in it: {listed(names, 6)}" if names else "no log in it"
    raise InputError(
        f"{folder}: {contents}",
        code="log-several" if matches else "log-none",
        hint="name the file" if matches else f"name a file, or a folder with one of {', '.join(IN_FOLDERS)}",
    )
