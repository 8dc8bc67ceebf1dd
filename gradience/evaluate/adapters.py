"""Adapters of an evaluation: a short name and the facts from the files of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gradience.adapters.adapter import Adapter
from gradience.adapters.config import HEADS_OF_TASK
from gradience.adapters.formats import open_adapter, require_peft
from gradience.adapters.locate import CONFIG, WEIGHTS
from gradience.digests import sha256_file
from gradience.errors import InputError, UsageError
from gradience.models.settings import BaseSettings, ModelSettings, ModelType
from gradience.models.tokenizers import stored_tokens
from gradience.reading import MAX_SETTINGS_BYTES

BASE_ROW = "base"


@dataclass(frozen=True, slots=True)
class AdapterIdentity:
    """An adapter's folder, and digests of its weights and config; empty for a name on a server."""

    folder: Path
    weights_sha256: str = ""
    config_sha256: str = ""

    @classmethod
    def of(cls, folder: Path) -> AdapterIdentity:
        """Hash the files of `folder`. Raises InputError (`not-found`) if one of them is missing."""
        weights = sha256_file(folder / WEIGHTS)
        return cls(folder, weights, sha256_file(folder / CONFIG, limit=MAX_SETTINGS_BYTES))


@dataclass(frozen=True, slots=True)
class AdapterInput:
    """One adapter and the facts from its files; a name on a server has none."""

    name: str
    """Short and unique name."""
    given: Path
    identity: AdapterIdentity
    ranks: tuple[int, int] | None = None
    """Smallest and largest rank; None for a name on a server."""
    lora_params: int = 0
    other_params: int = 0
    base_model: str | None = None
    """Base model that its config names."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Its whole config."""
    modules: Mapping[str, int] = field(default_factory=dict)
    """Rank of each module."""
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Rows and columns of each module's update."""
    tokens: int | None = None
    """Rows of a token embedding or head that it stores whole; None if it stores none."""
    labels: frozenset[int] = frozenset()
    """Rows of the matrices of a classifier's head that it stores."""

    @classmethod
    def of(cls, name: str, given: Path, opened: Adapter) -> AdapterInput:
        """Return the facts of an open adapter. Raises InputError (`no-config`, and what `require_peft` raises)."""
        config = opened.config
        if config is None:
            raise InputError(
                f"{given}: there is no adapter_config.json beside the weights",
                code="no-config",
                hint="give the folder that PEFT wrote, with adapter_config.json and adapter_model.safetensors",
            )
        require_peft(opened)
        shapes = {entry_name: entry.shape for entry_name, entry in opened.entries()}
        modules = {pair.module: pair.rank for pair in opened.pairs}
        lora = opened.lora_params
        return cls(
            name,
            given,
            AdapterIdentity.of(opened.folder),
            ranks=(min(modules.values(), default=0), max(modules.values(), default=0)),
            lora_params=lora,
            other_params=sum(entry.params for _, entry in opened.entries()) - lora,
            base_model=config.base_model,
            fields=config.fields,
            modules=modules,
            sizes={pair.module: (pair.rows, pair.columns) for pair in opened.pairs},
            tokens=stored_tokens(shapes),
            labels=frozenset(
                shape[0]
                for entry_name, shape in shapes.items()
                if entry_name.endswith(".weight")
                and "lora_" not in entry_name
                and len(shape) == 2
                and any(part in HEADS_OF_TASK["SEQ_CLS"] for part in entry_name.split("."))
            ),
        )

    @property
    def folder(self) -> Path:
        """PEFT's folder."""
        return self.identity.folder

    @property
    def named(self) -> tuple[str, Path]:
        """Its name and PEFT's folder, as the evaluator takes them."""
        return self.name, self.folder

    @property
    def bytes(self) -> int:
        """Its size in float32."""
        return 4 * (self.lora_params + self.other_params)


def short_names(paths: Sequence[Path]) -> list[str]:
    """Return a name for each path: its last part, or the part before it if several paths share the last part.

    >>> short_names([Path("/runs/r8"), Path("/runs/r4")])
    ['r8', 'r4']
    >>> short_names([Path("/run/probe/adapter"), Path("/run/small/adapter"), Path("/run/mine")])
    ['probe', 'small', 'mine']

    No adapter gets the base's name. If no single part distinguishes all paths, the last parts are joined.
    """
    named = list(paths)
    while all(path.name for path in named):
        names = [path.name for path in named]
        if _differ(names):
            return names
        shared = Counter(map(str.casefold, names))
        if BASE_ROW in shared:
            break
        named = [path.parent if shared[path.name.casefold()] > 1 else path for path in named]
    for depth in range(2, max(len(path.parts) for path in paths) + 1):
        names = ["-".join(part for part in path.parts[-depth:] if part != path.anchor) for path in paths]
        if _differ(names):
            return names
    return [f"{place}-{path.name}" for place, path in enumerate(paths, start=1)]


def _differ(names: Sequence[str]) -> bool:
    lower = [name.casefold() for name in names]  # some disks know no difference
    return len({*lower}) == len(lower) and BASE_ROW not in lower


def adapter_input(name: str, path: Path, *, tokenizer: bool = False) -> AdapterInput:
    """Read the adapter at `path`, to be called `name`. Raises what `open_adapter` and `AdapterInput.of` raise.

    tokenizer: of a name on the hub, fetch the tokenizer beside the weights as well.
    """
    with open_adapter(path, tokenizer=tokenizer) as opened:
        return AdapterInput.of(name, path, opened)


def model_of(settings: BaseSettings, adapter: AdapterInput, kind: ModelType) -> ModelSettings:
    """Return the base model: the one in the settings, or the one that the adapter's config names.

    Raises UsageError (`no-base`) if neither names one.
    """
    name = adapter.base_model if settings.base_model is None else str(settings.base_model)
    if name is None:
        nothing = "a name tells nothing of its base" if adapter.ranks is None else "its config names no base"
        raise UsageError(
            f"{adapter.given}: {nothing} model",
            code="no-base",
            hint="name it with --base-model: a folder, or a name on the hub or on the server",
        )
    return ModelSettings(
        name=name,
        from_adapter=settings.base_model is None,
        type=kind,
        revision=settings.revision,
        dtype=settings.dtype,
        quantization=settings.quantization,
    )
