"""What each tool calls a setting: one file for each tool in this folder, and one line here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gradience.check.dialects.axolotl import AXOLOTL
from gradience.check.dialects.dialect import Dialect
from gradience.check.dialects.llama_factory import LLAMA_FACTORY, LLAMA_FACTORY_V1
from gradience.check.dialects.peft import ADAPTER_SETTINGS, PEFT
from gradience.check.dialects.run import RUN
from gradience.check.dialects.trainer import TRAINER
from gradience.check.dialects.trl import TRL
from gradience.check.dialects.unsloth import UNSLOTH
from gradience.check.settings import Settings
from gradience.check.values import READERS, Unreadable
from gradience.config_errors import value_at
from gradience.errors import InputError

DIALECTS = (
    RUN,
    PEFT,
    UNSLOTH,
    LLAMA_FACTORY,
    LLAMA_FACTORY_V1,
    AXOLOTL,
    TRL,
    TRAINER,
)
"""In the order of asking: the first that recognises a file has written it."""


def dialect_of(values: Mapping[str, Any], path: Path) -> Dialect:
    """Return which tool wrote this. Raises InputError (config-unknown)."""
    if "fine_tune_type" in values or "lora_parameters" in values:
        raise InputError(
            f"{path}: a configuration of MLX-LM",
            code="config-unknown",
            hint="give a config of PEFT, the Trainer, TRL, Axolotl, LLaMA-Factory or Unsloth",
        )
    for dialect in DIALECTS:
        if dialect.is_written_in(values):
            return dialect
    raise InputError(
        f"{path}: not a recognized configuration",
        code="config-unknown",
        hint="give PEFT's adapter_config.json, Trainer arguments, or YAML of TRL, Axolotl, LLaMA-Factory or Unsloth",
    )


def read_settings(values: Mapping[str, Any], dialect: Dialect, path: Path) -> Settings:
    """Return the settings of one file in our vocabulary; values of the wrong kind are kept as unreadable."""
    read: dict[str, Any] = {}
    where: dict[str, str] = {}
    unreadable: list[tuple[str, str, str]] = []
    for key, setting in dialect.keys.items():
        name, reader = setting if isinstance(setting, tuple) else (setting, READERS[setting])
        value = value_at(values, key)
        if value is None:
            continue
        try:
            known = reader(value)
        except Unreadable as error:
            unreadable.append((name, repr(value)[:80], str(error)))
            read.setdefault(name, None)
        else:
            if known is None:
                continue
            read[name] = known
        where[name] = f"{path.name}: {key}"
    adapter, switch = dialect.lora(values)
    read = {**dialect.defaults, **read} if adapter else read
    read |= {name: value for name, value in dialect.more(values, read).items() if value is not None}
    if adapter is False:
        read = {name: value for name, value in read.items() if name not in ADAPTER_SETTINGS}
        where["adapter"] = f"{path.name}: {switch}" if switch else path.name
    aim = dialect.aim(values)
    if aim is not None:
        read |= {"objective": aim.objective, "algorithm": aim.algorithm}
        if aim.key:
            where["objective"] = f"{path.name}: {aim.key}"
    removed = tuple(key for key in dialect.removed if key in values)
    return Settings(**read, adapter=adapter, removed=removed, unreadable=tuple(unreadable), where=where)
