"""Settings of the verbs of Bench: flags and keywords of Python under the same names."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator

from gradience.errors import InputError, did_you_mean
from gradience.models.settings import DryRun
from gradience.progress import Watcher
from gradience.reading import open_stream
from gradience.settings import Flag, Integer, Internal, OutputPath, Positive, StrPath, settings_model, several


def _configs() -> list[tuple[str, str]]:
    """Return name and title of each shipped config; files are left to the shell."""
    return [*config_titles().items()]


def existing_folder(folder: Path) -> Path:
    """Return `folder` if it exists, before anything heavy is imported. Raises InputError (`not-a-run`)."""
    if not folder.is_dir():
        problem = "a file, not a folder" if folder.exists() else "no such folder"
        raise InputError(f"{folder}: {problem}", code="not-a-run", hint="name the folder of a run")
    return folder


ConfigName = Annotated[StrPath, Flag("CONFIG", "-c", values=_configs, text=True)]
Overrides = Annotated[str | Sequence[str], BeforeValidator(several), Flag("KEY=VALUE", positional=True)]
Folders = Annotated[StrPath | Sequence[StrPath], BeforeValidator(several), Flag("DIR")]


@settings_model(kw_only=True)
class CommandSettings:
    """Run."""

    command: Annotated[str, Internal] = ""
    """The command line that the report names."""


@settings_model(kw_only=True)
class BenchSettings(CommandSettings, DryRun):
    """Run."""

    config: ConfigName
    """A YAML file, or a name that gradience bench configs lists."""
    output: Annotated[OutputPath | None, Flag("DIR", "-o")] = None
    """Folder of the run; with the same folder an interrupted run resumes."""
    overrides: Overrides = ()
    """Settings that replace those of the config, such as train.lr=1e-4."""
    only_seed: Annotated[Integer | None, Flag("N")] = None
    """Run only this one of the planned seeds."""
    smoke: bool = False
    """Shorten the run to check that everything works. Its results are not evidence."""
    watcher: Annotated[Watcher | None, Internal] = None
    """A callback for each stage and step."""


@settings_model()
class VerifySettings(CommandSettings):
    """Verification."""

    folder: Annotated[StrPath, Flag("DIR")]
    """Folder of a finished run, or of one of its seeds."""
    _: KW_ONLY
    root: Annotated[str | None, Flag("SHA256")] = None
    """Expected sha256 of its digests.json, as published with the result."""
    plan: Annotated[str | None, Flag("SHA256")] = None
    """Expected sha256 of its plan.json, as the run printed it before anything was trained."""
    data: bool = False
    """Also compare every example and gold answer with the task's own data. Needs the data, but no model."""
    regenerate: Annotated[Positive | None, Flag("K")] = None
    """Number of examples to answer again, rounded up to whole batches, with every adapter whose weights are present.
    Needs the model, the data and PyTorch."""
    sample_seed: Annotated[Integer | None, Flag("N")] = None
    """Seed of the sample for `regenerate` (default: random and reported, so nobody can know the sample)."""
    allow_code: bool = False
    """Allow the run's own task code to score answers (also: GRADIENCE_ALLOW_CODE=1)."""


@settings_model()
class AggregateSettings(CommandSettings):
    """Runs."""

    folders: Folders
    """Folders of finished runs: with a bench.json, or with seed_N/bench.json."""
    output: Annotated[OutputPath | None, Flag("DIR", "-o")] = None
    """Folder for bench_aggregate.json and bench_aggregate.md."""
    _: KW_ONLY
    force: bool = False
    """Replace an existing aggregate."""


@settings_model()
class StatusSettings:
    """Run."""

    folder: Annotated[StrPath, Flag("DIR")]
    """Folder of a run, which may be running, stopped or finished."""


@settings_model()
class ExportSettings:
    """Export."""

    folder: Annotated[StrPath, Flag("DIR")]
    """Folder of a finished run."""
    output: Annotated[StrPath, Flag("OUT", "-o")]
    """Folder to write to."""
    _: KW_ONLY
    to: Annotated[Literal["eee", "hub"], Flag("FORMAT")]
    """eee: Every Eval Ever 0.3.0, JSON and JSONL; hub: YAML for .eval_results/."""
    dataset: Annotated[str | None, Flag("ORG/NAME")] = None
    """hub: the data set, if the task does not name it."""


# ---------------------------------------------------------------- shipped configs


FOLDER = Path(__file__).parent / "configs"
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
