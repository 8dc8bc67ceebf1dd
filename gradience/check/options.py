"""Settings of a check: flags and keywords of Python under the same names."""

from collections.abc import Sequence
from dataclasses import KW_ONLY
from typing import Annotated

from pydantic import BeforeValidator, SkipValidation
from pydantic.dataclasses import dataclass

from gradience.settings import SETTINGS, Flag, StrPath, several


def _tasks() -> tuple[str, ...]:
    from gradience.check.settings import TASKS

    return TASKS


@dataclass(frozen=True, config=SETTINGS)
class CheckSettings:
    """Configurations."""

    configs: Annotated[StrPath | Sequence[StrPath], BeforeValidator(several), Flag("CONFIG")] = ()
    """Adapter folder, training folder or configuration file (adapter_config.json, Trainer arguments as JSON or YAML,
    YAML of TRL, Axolotl or LLaMA-Factory); several are read as one configuration."""
    _: KW_ONLY
    peft_dir: Annotated[StrPath | None, Flag("DIR")] = None
    """Folder with an adapter_config.json, or org/name."""
    training_dir: Annotated[StrPath | None, Flag("DIR")] = None
    """Folder with a training configuration."""
    task: Annotated[str | None, Flag("NAME", short="--dataset", values=_tasks)] = None
    """Kind of task: classification, generation, reasoning, rl, or a name such as sst2 or gsm8k."""
    lr: Annotated[SkipValidation[float | None], Flag("X")] = None
    """Check this learning rate instead of the file's."""
    r: Annotated[SkipValidation[int | None], Flag("N")] = None
    """Check this rank instead of the file's."""
    alpha: Annotated[SkipValidation[float | None], Flag("X")] = None
    """Check this α instead of the file's."""
    base_config: Annotated[StrPath | None, Flag("PATH")] = None
    """config.json of the base model, or its folder."""
